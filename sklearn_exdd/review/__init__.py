"""Review by an expert: a local page to make, accept and correct defects, and the folder of decisions."""

from sklearn_exdd.review.store import ReviewFolder, load_review

__all__ = ["ReviewFolder", "load_review"]
