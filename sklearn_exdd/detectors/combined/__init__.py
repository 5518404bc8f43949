"""Combinations of detectors, their members, and the images that they hold out."""

from sklearn_exdd.detectors.combined.detector import CombinedDefectDetector
from sklearn_exdd.detectors.combined.held_out import HeldOut

__all__ = ["CombinedDefectDetector", "HeldOut"]
