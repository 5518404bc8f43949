"""Choice of a detector for given images."""

from sklearn_exdd.recommendation.rules import recommended

__all__ = ["recommended"]
