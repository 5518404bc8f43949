"""Base class of the detectors."""

from sklearn_exdd.detectors.base.detector import BaseDefectDetector

__all__ = ["BaseDefectDetector"]
