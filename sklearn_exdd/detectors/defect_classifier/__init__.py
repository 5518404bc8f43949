"""DIAG's classifier: a network that tells normal images from defects."""

from sklearn_exdd.detectors.defect_classifier.detector import DefectClassifier

__all__ = ["DefectClassifier"]
