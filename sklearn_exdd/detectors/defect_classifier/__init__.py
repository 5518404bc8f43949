"""Classifier of DIAG: a network that distinguishes normal images from defect images."""

from sklearn_exdd.detectors.defect_classifier.detector import DefectClassifier

__all__ = ["DefectClassifier"]
