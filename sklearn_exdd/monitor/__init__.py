"""Monitoring: check whether a stream of images still resembles the training images."""

from sklearn_exdd.monitor.drift import DriftMonitor

__all__ = ["DriftMonitor"]
