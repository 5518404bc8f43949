"""Metrics of anomaly maps, of thresholds and of synthetic defects."""

from sklearn_exdd.metrics.inception import inception_distance
from sklearn_exdd.metrics.operating_points import OperatingPoint, operating_points
from sklearn_exdd.metrics.pixels import (
    per_region_overlap_score,
    pixel_average_precision_score,
    pixel_roc_auc_score,
)
from sklearn_exdd.metrics.scorers import (
    PixelScorer,
    per_region_overlap_scorer,
    pixel_average_precision_scorer,
    pixel_roc_auc_scorer,
)
from sklearn_exdd.metrics.synthesis import frechet_distance, kernel_distance

__all__ = [
    "OperatingPoint",
    "PixelScorer",
    "frechet_distance",
    "inception_distance",
    "kernel_distance",
    "operating_points",
    "per_region_overlap_score",
    "per_region_overlap_scorer",
    "pixel_average_precision_score",
    "pixel_average_precision_scorer",
    "pixel_roc_auc_score",
    "pixel_roc_auc_scorer",
]
