"""Checks that refuse detectors whose predictions an ONNX file cannot reproduce. The messages say what to do instead."""

from importlib.util import find_spec

from sklearn.utils.validation import check_is_fitted

from sklearn_exdd.detectors.combined import CombinedDefectDetector
from sklearn_exdd.detectors.exdd import ExDDDetector
from sklearn_exdd.detectors.linear_probe import LinearProbeDetector
from sklearn_exdd.export.detectors import DETECTORS, ON_NETWORKS, bare, extractors_of
from sklearn_exdd.features import GaborFeatureExtractor, LearnedFeatureExtractor


def check_packages():
    """Check that the packages needed to write and run an ONNX file are installed."""
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise ImportError(f"to_onnx needs {package}: pip install {package}.")


def check_exportable(detector, where="detector", is_member=False):
    """Raise an error if a detector cannot be exported, or if the ONNX file would give different scores.

    Parameters
    ----------
    detector : object
    where : str, default="detector"
        Name of the detector in error messages.
    is_member : bool, default=False
        Whether the detector belongs to a combination.
    """
    if type(detector) not in DETECTORS:
        names = [kind.__name__ for kind in DETECTORS]
        raise TypeError(
            f"{where}: expected a detector of one of the classes {', '.join(names)}, got {type(detector).__name__}. "
            "For a Pipeline or a search, pass fitted_detector(estimator). Save detectors of other classes with "
            "persistence.dump or skops.io."
        )
    check_is_fitted(detector)
    if hasattr(detector, "n_features_in_"):
        raise ValueError(f"{where}: expected a detector fitted on images, got one fitted on feature rows.")
    if hasattr(detector, "roi_"):
        _check_region(detector, where, is_member)
    if isinstance(detector, CombinedDefectDetector):
        _check_members(detector, where)
    elif isinstance(detector, ExDDDetector):
        _check_banks(detector, where)
    for extractor in extractors_of(detector):
        _check_extractor(extractor, f"{where}.{_parameter_of(detector)}")


def _check_region(detector, where, is_member):
    remedy = "Crop the images to the region, fit a detector on the crops, and export this detector."
    if is_member or not isinstance(detector, (ExDDDetector, LinearProbeDetector)):
        owner = "a member of a combination" if is_member else type(detector).__name__
        raise ValueError(
            f"{where}: expected a detector without a region of interest, got {owner} fitted with roi. An ONNX file can "
            f"only apply the region of an ExDDDetector or a LinearProbeDetector outside a combination. {remedy}"
        )
    if detector.roi_ is None:
        raise ValueError(
            f"{where}: expected one region of interest for all images, got a detector fitted with a separate "
            f"region for each image. An ONNX file cannot apply these regions. {remedy} If one region suits all images, "
            "pass it to fit as roi instead."
        )


def _check_members(detector, where):
    names = [name for name, member in detector.detectors if member != "drop"]
    for name, member in zip(names, map(bare, detector.detectors_), strict=True):
        check_exportable(member, f"{where}.{name}", is_member=True)
        if member.n_channels_ != detector.n_channels_:
            raise ValueError(
                f"{where}.{name}: expected a member that takes the {detector.n_channels_} channels of the images, got "
                f"a member that takes {member.n_channels_}. Set image_channels='grey' or 'colour' on the combination, "
                "not on its members."
            )


def _check_banks(detector, where):
    for bank in (detector.normal_bank_, detector.defect_bank_):
        if bank is not None and not bank.is_exact:
            raise ValueError(
                f"{where}: expected memory banks that are searched exactly, got a bank of {len(bank)} rows with "
                f"algorithm={detector.algorithm!r}. Its search is approximate, and an ONNX file cannot reproduce it. "
                "Fit with algorithm='brute', or with a smaller coreset."
            )


def _check_extractor(extractor, where):
    if type(extractor) is LearnedFeatureExtractor:
        if extractor.encoder is not None:
            _check_extractor(extractor._encoder_extractor(), f"{where}.encoder")
        return
    if type(extractor) is GaborFeatureExtractor:
        return
    if type(extractor) not in ON_NETWORKS:
        known = ", ".join(kind.__name__ for kind in (GaborFeatureExtractor, LearnedFeatureExtractor, *ON_NETWORKS))
        raise TypeError(
            f"{where}: expected a feature extractor of one of the classes {known}, got {extractor._name}. An ONNX file "
            "cannot contain its code. If it runs a torch network, use a ModuleFeatureExtractor instead."
        )
    if extractor._resolved_precision() == "bfloat16":
        raise ValueError(
            f"{where}: expected {extractor._name} in float32, got {extractor._name} fitted in bfloat16. An ONNX file "
            "cannot reproduce its scores. Fit the detector again with "
            f"{where.partition('.')[2].replace('.', '__')}={type(extractor).__name__}(..., precision='float32')."
        )


def _parameter_of(detector):
    return "teacher" if hasattr(detector, "teacher_") else "feature_extractor"
