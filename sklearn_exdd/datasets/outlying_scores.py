"""Search for normal images that a detector, fitted on normal images, scores far higher than the others."""

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import InvalidParameterError

from sklearn_exdd.datasets.photographs import MIN_IMAGES, far_out

# Distance from the quartiles up to which a score is never far out. If all scores are > 0, the distance refers to the
# logarithms of the scores.
_LEAST = 0.1


def outlying_scores(detector, items, groups, has_both_colours, max_scored):
    """Fit a detector on normal images and find images with outlying scores.

    The score of an image is computed as if the detector had not been fitted on the image.

    Parameters
    ----------
    detector : BaseDefectDetector or Pipeline that ends in one
        Detector to clone and fit.
    items : list of path or ndarray
        Normal images.
    groups : ndarray of shape (n_images,), dtype int
        Group of each image. The score of an image is computed without all images of its group.
    has_both_colours : bool
        Whether some images are grey and others are in colour.
    max_scored : int or None
        Maximum number of images to fit the detector on. If None, it is fitted on all images.

    Returns
    -------
    rows : ndarray of int
        Positions of the outlying images, in order of decreasing score.
    message : str or None
        Message of the finding, or None if no score is outlying.
    not_checked : list of str
        Checks that were skipped, each with the reason.
    """
    rows, not_checked = _chosen(groups, max_scored), []
    if len(rows) < MIN_IMAGES <= len(items):
        message = f"scores: the groups of the {len(items)} normal images are too large for max_scored={max_scored}."
        return np.array([], dtype=int), None, [message]
    if len(rows) < MIN_IMAGES:
        return (
            np.array([], dtype=int),
            None,
            [f"scores: expected at least {MIN_IMAGES} normal images, got {len(rows)}."],
        )
    if len(rows) < len(items):
        not_checked.append(
            f"scores of {len(items) - len(rows)} normal images: the detector was fitted on the other {len(rows)}. "
            "Raise max_scored to include all."
        )
    before, detector = split_pipeline(clone(detector))
    if has_both_colours and "image_channels" in detector.get_params() and detector.image_channels is None:
        detector.set_params(image_channels="colour")
    images = [items[row] for row in rows]
    try:
        for step in before:
            images = step.fit_transform(images)
        detector.fit(images, groups=groups[rows])
    except InvalidParameterError:
        raise
    except ValueError as error:  # the detector cannot be fitted on these images
        return np.array([], dtype=int), None, [f"scores: the detector cannot be fitted on these images. {error}"]
    scores = detector.calibration_scores_
    is_scored = ~np.isnan(scores)
    if is_scored.sum() < MIN_IMAGES:
        return (
            np.array([], dtype=int),
            None,
            [f"scores: the detector gave left-out scores to only {is_scored.sum()} images."],
        )
    if not is_scored.all():
        not_checked.append(f"scores of {(~is_scored).sum()} normal images: the detector was trained on them.")
    rows, scores = rows[is_scored], scores[is_scored]
    _, above, _ = far_out(np.log(scores) if scores.min() > 0 else scores, _LEAST)
    order = np.argsort(-scores[above], kind="stable")
    if not above.any():
        return np.array([], dtype=int), None, not_checked
    low, high = np.quantile(scores, [0.25, 0.75])
    top = scores[above]
    came = f"{top.min():.3g} to {top.max():.3g}" if len(top) > 1 else f"{top[0]:.3g}"
    message = (
        f"{len(top)} normal image{' stands' if len(top) == 1 else 's stand'} out. {type(detector).__name__}, fitted "
        f"without {'it' if len(top) == 1 else 'each of them'}, gives a score of {came}, while half of the normal "
        f"images have scores of {low:.3g} to {high:.3g}. Look for a defect, another product or a bad photograph. Label "
        "the image as a defect or remove it."
    )
    return rows[above][order], message, not_checked


def split_pipeline(estimator):
    """Separate the detector at the end of a Pipeline from the steps before it.

    Parameters
    ----------
    estimator : object
        Detector, or Pipeline that ends in one. Pipelines may be nested.

    Returns
    -------
    before : list of transformer
        Steps before the detector. Empty if the estimator is not a Pipeline.
    detector : object
        Last step, or the estimator itself if it is not a Pipeline.
    """
    before = []
    while isinstance(estimator, Pipeline):
        before += [step for _, step in estimator.steps[:-1] if step not in (None, "passthrough")]
        estimator = estimator.steps[-1][1]
    return before, estimator


def _chosen(groups, max_scored):
    """Draw whole groups with at most `max_scored` images in total, and return the positions of their images."""
    if max_scored is None or len(groups) <= max_scored:
        return np.arange(len(groups))
    rows, rng = [], np.random.RandomState(0)
    for group in rng.permutation(np.unique(groups)):
        own = np.flatnonzero(groups == group)
        if len(rows) + len(own) <= max_scored:
            rows.extend(own)
    return np.sort(np.array(rows, dtype=int))
