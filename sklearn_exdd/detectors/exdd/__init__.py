"""ExDD: the detector with two memory banks, its predictions and its corrections."""

from sklearn_exdd.detectors.exdd.detector import ExDDDetector

__all__ = ["ExDDDetector"]
