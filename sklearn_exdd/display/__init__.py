"""Displays: plots of anomaly maps, scores, drift and synthetic defects."""

from sklearn_exdd.display.drift import DriftDisplay
from sklearn_exdd.display.histogram import ScoreHistogramDisplay
from sklearn_exdd.display.maps import DefectMapDisplay
from sklearn_exdd.display.synthetic import SyntheticDefectsDisplay

__all__ = ["DefectMapDisplay", "DriftDisplay", "ScoreHistogramDisplay", "SyntheticDefectsDisplay"]
