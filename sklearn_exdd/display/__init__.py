"""Displays: anomaly maps, scores and synthetic defects as pictures."""

from sklearn_exdd.display.histogram import ScoreHistogramDisplay
from sklearn_exdd.display.maps import DefectMapDisplay
from sklearn_exdd.display.synthetic import SyntheticDefectsDisplay

__all__ = ["DefectMapDisplay", "ScoreHistogramDisplay", "SyntheticDefectsDisplay"]
