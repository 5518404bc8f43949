"""Reading and writing of model files, which hold fitted detectors."""

import os
from pathlib import Path

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd import persistence

_SIDE = 256  # height and width, in pixels, of the image on which a model is tried out


def check_place(path):
    """Check that a file can be written. This is done before a long run, because its result would be lost otherwise.

    Parameters
    ----------
    path : str
        File to write, such as a model.

    Returns
    -------
    path : pathlib.Path
        Path of the file. The home directory "~" is expanded.
    """
    path = Path(path).expanduser()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        came = "it is a folder" if path.is_dir() else f"no folder {str(path.parent)!r} that can be written to"
        raise ValueError(f"--out: expected a file to write, got {str(path)!r}: {came}.")
    return path


def save(detector, path):
    """Write a fitted detector."""
    persistence.dump(detector, path)


def load(path, threshold=None):
    """Read a detector that can score images and locate defects. Code in the file is never run.

    Parameters
    ----------
    path : str
        Model file.
    threshold : float, default=None
        Score that replaces the attribute `threshold_`. The attribute `pixel_threshold_` does not change. If None, both
        are left unchanged.

    Returns
    -------
    detector : BaseDefectDetector
        Detector fitted on images.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        came = "got a folder" if path.is_dir() else "found no such file"
        raise FileNotFoundError(f"{path}: expected a model file written by fit, {came}.")
    detector = persistence.load(path)
    if not hasattr(detector, "predict_map"):
        raise ValueError(f"{path}: expected a detector with predict_map, got {type(detector).__name__}.")
    check_is_fitted(detector)
    if hasattr(detector, "n_features_in_"):
        raise ValueError(f"{path}: expected a detector fitted on images, got one fitted on feature rows.")
    _silence(detector)
    _try_out(detector, path)
    if threshold is not None:
        detector.threshold_ = float(threshold)
    return detector


def _try_out(detector, path):
    """Score an image of noise, so that a model that cannot run is reported once instead of once per image."""
    roi = getattr(detector, "roi_", np.empty((_SIDE, _SIDE)))
    if roi is None:
        raise ValueError(
            f"{path}: expected a detector with one region of interest for all images, got a detector whose training "
            "images had different regions. Predict in Python, on with_roi(X, roi)."
        )
    shape = (*roi.shape, detector.n_channels_) if detector.n_channels_ > 1 else roi.shape
    try:
        detector.score_samples([np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)])
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: this model cannot be used here. {error}") from error


def _silence(estimator):
    """Switch off the progress bars of the model. Only the progress bars of the command are shown."""
    if hasattr(estimator, "verbose"):
        estimator.verbose = 0
    extractors = getattr(estimator, "feature_extractors_", [getattr(estimator, "feature_extractor_", None)])
    for part in (*extractors, *getattr(estimator, "detectors_", ())):
        if part is not None:
            _silence(part)
