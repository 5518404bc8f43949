"""The detectors. Each has its own file or folder, and none imports another."""
