"""Functions for the members of a combination: find out what they can do, fit them and correct them."""

import copy
from contextlib import contextmanager
from inspect import signature

import numpy as np
from sklearn import get_config
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import gen_batches
from sklearn.utils.validation import has_fit_parameter

from sklearn_exdd._composition import explain, fitted_detector, follow_to_detector, predict_map, reaches
from sklearn_exdd.detectors.base import BaseDefectDetector

_BATCH_SIZE = 16  # number of images that a detector from another library scores at a time


def is_dropped(detector):
    return isinstance(detector, str) and detector == "drop"


def is_frozen(detector):
    while isinstance(detector, Pipeline):
        detector = detector[-1]
    return isinstance(detector, FrozenEstimator)


def has(detector, method):
    """Tell whether a member or the detector inside it has a method. Frozen detectors never have `partial_fit`."""
    return reaches(detector, method, allow_frozen=method != "partial_fit")


def where_a_member_has(method):
    """Return a function that tells whether any detector of a combination has a method, before and after `fit`."""

    def check(combination):
        members = getattr(combination, "detectors_", None)
        if members is None:
            items = combination.detectors if isinstance(combination.detectors, list) else []
            members = [item[1] for item in items if isinstance(item, tuple) and len(item) == 2]
        return any(has(member, method) for member in members)

    return check


def inner_detector(detector):
    """Return the detector inside Pipelines and FrozenEstimators."""
    while isinstance(detector, (Pipeline, FrozenEstimator)):
        detector = detector[-1] if isinstance(detector, Pipeline) else detector.estimator
    return detector


def has_maps(detector):
    return hasattr(inner_detector(detector), "predict_map")


def takes_kinds(detector):
    return not is_frozen(detector) and has_fit_parameter(inner_detector(detector), "kinds")


def learns_kinds(detector):
    """Tell whether `partial_fit` of a member accepts kinds."""
    return has(detector, "partial_fit") and "kinds" in signature(_to_correct(detector)[0].partial_fit).parameters


def inspected(detector, images):
    """Yield the results of a fitted member for each image. Use a single pass if possible.

    Parameters
    ----------
    detector : object
    images : Images

    Yields
    ------
    score : float
    pixel_map : ndarray of shape (height, width) or None
    explanation : dict or None
    votes : dict or None
        Votes for kinds of defects.
    """
    with_map = has_maps(detector)
    inner, X = follow_to_detector(detector, images.raw()) if with_map else (None, None)
    if isinstance(inner, BaseDefectDetector):
        samples = inner._samples(X)
        for i, (score, pixel_map, explanation, *votes) in enumerate(inner._inspected(samples)):
            if explanation is None and hasattr(inner, "explain"):
                explanation = inner.explain(samples.take([i]).raw())[0]
            yield score, pixel_map, explanation, votes[0] if votes else None
        return
    for batch in gen_batches(len(images), _BATCH_SIZE):
        X = images.take(range(batch.start, batch.stop)).raw()
        none = [None] * len(X)
        maps = predict_map(detector, X) if with_map else none
        yield from zip(
            detector.score_samples(X), maps, explain(detector, X) if has(detector, "explain") else none, none
        )


@contextmanager
def naming(name):
    """Add the name of a detector to errors that occur inside the context."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This is the detector {name!r} of a CombinedDefectDetector.")
        raise


def check_frozen(members, held_out):
    """Raise an error if a frozen detector was fitted on any of the held-out images."""
    for name, detector in members:
        if isinstance(detector, FrozenEstimator) and held_out.has_images and has_maps(detector):
            inner = fitted_detector(detector)
            is_known = getattr(inner, "is_training_image", lambda X: np.zeros(len(X), dtype=bool))
            n_known = int(is_known(held_out.samples.raw()).sum())
            if n_known:
                raise ValueError(
                    f"detectors: expected the FrozenEstimator {name!r} to be fitted on other images, got one "
                    f"that was fitted on {n_known} of the {len(held_out)} normal images held out for the threshold. "
                    "Fit the combination on other images, or pass the detector without FrozenEstimator to fit it again."
                )


def fitted(name, detector, X, y, params):
    """Fit a detector with the parameters that it accepts, and return it."""
    if not takes_kinds(detector):
        params = {param: value for param, value in params.items() if param != "kinds"}
    with naming(name):
        if isinstance(detector, Pipeline) and not get_config()["enable_metadata_routing"]:
            steps = [(step, param) for step, _ in detector.steps for param in params]
            params = {
                f"{step}__{param}": params[param]
                for step, param in steps
                if has_fit_parameter(detector.named_steps[step], param)
            }
        return detector.fit(X, y, **params)


def corrected(name, detector, X, y, **params):
    """Return a corrected copy of a detector. `params` contains masks and kinds, which may be None."""
    detector = copy.deepcopy(detector)
    with naming(name):
        inner, X = _to_correct(detector, X)
        taken = signature(inner.partial_fit).parameters
        inner.partial_fit(X, y, **{key: value for key, value in params.items() if value is not None and key in taken})
    return detector


def _to_correct(detector, X=None):
    return follow_to_detector(detector, X, method="partial_fit", allow_frozen=False)


def renumbered(explanation, numbers):
    """Replace the indices of training images in an explanation. Index i of a member becomes ``numbers[i]``."""
    known = {"normal_image"} if explanation.get("synthetic") else {"normal_image", "defect_image"}
    return {
        key: renumbered(value, numbers)
        if isinstance(value, dict)
        else int(numbers[value])
        if key in known and value is not None
        else value
        for key, value in explanation.items()
    }
