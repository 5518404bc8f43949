"""Several detectors as one: the combination, its members, and the images that it holds out."""

from sklearn_exdd.detectors.combined.detector import CombinedDefectDetector
from sklearn_exdd.detectors.combined.held_out import HeldOut

__all__ = ["CombinedDefectDetector", "HeldOut"]
