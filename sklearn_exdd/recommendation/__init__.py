"""Which detector to take for which images."""

from sklearn_exdd.recommendation.rules import recommended

__all__ = ["recommended"]
