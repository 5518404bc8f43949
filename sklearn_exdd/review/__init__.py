"""Review by an expert: a local page to make defects and to correct a detector, and the folder of decisions."""

from sklearn_exdd.review.store import ReviewFolder, load_review

__all__ = ["ReviewFolder", "load_review"]
