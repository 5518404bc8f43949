"""Detectors. Each has its own file or folder and imports no other detector."""
