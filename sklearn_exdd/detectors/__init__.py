"""The detectors, a file or a folder each; they never import each other."""
