"""Detectors. Each detector has its own file or folder and does not import any other detector."""
