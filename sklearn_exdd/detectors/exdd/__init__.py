"""ExDD: the detector by two memory banks, its predictions and its corrections."""

from sklearn_exdd.detectors.exdd.detector import ExDDDetector

__all__ = ["ExDDDetector"]
