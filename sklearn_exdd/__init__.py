"""Detection and localization of surface defects in images of parts, with the interface of scikit-learn."""

from importlib import import_module

__version__ = "0.1.0"

# Module of each public name. A module is imported only when one of its names is used for the first time, so that
# importing the package is fast.
_HOME = {
    "BaseDefectAugmenter": "augment",
    "BaseDefectDetector": "detectors.base",
    "BaseFeatureExtractor": "features",
    "CombinedDefectDetector": "detectors.combined",
    "CutPasteDefectAugmenter": "augment",
    "DDPMDefectAugmenter": "augment",
    "DefectClassifier": "detectors.defect_classifier",
    "DefectMapDisplay": "display",
    "DefectPasteAugmenter": "augment",
    "DiffusionDefectAugmenter": "augment",
    "DriftDisplay": "display",
    "DriftMonitor": "monitor",
    "EfficientNetLiteFeatureExtractor": "features",
    "ExDDDetector": "detectors.exdd",
    "GaborFeatureExtractor": "features",
    "LearnedFeatureExtractor": "features",
    "LinearProbeDetector": "detectors.linear_probe",
    "MemoryBank": "banks.memory_bank",
    "MixedDefectAugmenter": "augment",
    "ModuleFeatureExtractor": "features",
    "OffsetDefectAugmenter": "augment",
    "PatchClassifierDetector": "detectors.patch_classifier",
    "PerlinDefectAugmenter": "augment",
    "PixelScorer": "metrics",
    "ScoreHistogramDisplay": "display",
    "SegmentationDetector": "detectors.segmentation",
    "StudentTeacherDetector": "detectors.student_teacher",
    "SyntheticDefectsDisplay": "display",
    "TimmFeatureExtractor": "features",
    "TorchvisionFeatureExtractor": "features",
    "explain": "_composition",
    "fitted_detector": "_composition",
    "inspect": "_composition",
    "iter_inspect": "_composition",
    "partial_fit": "_composition",
    "predict_map": "_composition",
    "recommended": "recommendation",
    "show_versions": "_versions",
}
_MODULES = ["augment", "coreset", "datasets", "export", "features", "metrics", "persistence", "scoring"]

__all__ = sorted([*_HOME, *_MODULES, "__version__"])


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
