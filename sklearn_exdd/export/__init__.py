"""Export of fitted detectors to files for other runtimes."""

from sklearn_exdd.export.file import to_onnx

__all__ = ["to_onnx"]
