"""Monitoring: whether the images of a stream still resemble those of fit."""

from sklearn_exdd.monitor.drift import DriftMonitor

__all__ = ["DriftMonitor"]
