"""Detector of ExDD, which compares patches with a bank of normal patches and a bank of defect patches."""

from sklearn_exdd.detectors.exdd.detector import ExDDDetector

__all__ = ["ExDDDetector"]
