"""Export of fitted detectors to ONNX files, which run without this library."""

from sklearn_exdd.export.file import to_onnx

__all__ = ["to_onnx"]
