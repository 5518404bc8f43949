"""Detector that combines the scores and maps of several detectors."""

from sklearn_exdd.detectors.combined.detector import CombinedDefectDetector
from sklearn_exdd.detectors.combined.held_out import HeldOut

__all__ = ["CombinedDefectDetector", "HeldOut"]
