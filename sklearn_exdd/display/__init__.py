"""Displays: anomaly maps and synthetic defects as pictures."""

from sklearn_exdd.display.maps import DefectMapDisplay
from sklearn_exdd.display.synthetic import SyntheticDefectsDisplay

__all__ = ["DefectMapDisplay", "SyntheticDefectsDisplay"]
