"""Outlying scores: normal images that a detector, fitted on the others, finds unlike them."""

import numpy as np
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from sklearn_exdd.datasets.photographs import MIN_IMAGES, far_out

_LEAST = 0.1  # of the score, or of its logarithm, that is not far from the others in any case


def outlying_scores(detector, items, groups, has_both_colours, max_scored):
    """Fit a detector on normal images, and find those whose left-out scores stand out.

    Parameters
    ----------
    detector : BaseDefectDetector
        It is cloned.
    items : list of path or ndarray
        Normal images.
    groups : ndarray of shape (n_images,), dtype int
        Images of one group are left out together.
    has_both_colours : bool
        Whether some images are grey and some are not.
    max_scored : int or None
        Number of images at most.

    Returns
    -------
    rows : ndarray of int
        Positions of the outlying images, the highest score first.
    message : str or None
        None if no image stands out.
    not_checked : list of str
    """
    rows, not_checked = _chosen(groups, max_scored), []
    if len(rows) < MIN_IMAGES <= len(items):
        message = f"scores: the groups of the {len(items)} normal images are too large for max_scored={max_scored}."
        return np.array([], dtype=int), None, [message]
    if len(rows) < MIN_IMAGES:
        return np.array([], dtype=int), None, [f"scores: expected {MIN_IMAGES} normal images or more, got {len(rows)}."]
    if len(rows) < len(items):
        not_checked.append(
            f"scores of {len(items) - len(rows)} normal images: the detector was fitted on {len(rows)} of them. Raise "
            "max_scored to include all."
        )
    detector = clone(detector)
    if has_both_colours and "image_channels" in detector.get_params() and detector.image_channels is None:
        detector.set_params(image_channels="colour")
    try:
        detector.fit([items[row] for row in rows], groups=groups[rows])
    except InvalidParameterError:
        raise
    except ValueError as error:  # images that this detector cannot use
        return np.array([], dtype=int), None, [f"scores: the detector cannot be fitted on these images. {error}"]
    scores = detector.calibration_scores_
    is_scored = ~np.isnan(scores)
    if is_scored.sum() < MIN_IMAGES:
        return np.array([], dtype=int), None, [f"scores: the detector left out {is_scored.sum()} images only."]
    if not is_scored.all():
        not_checked.append(f"scores of {(~is_scored).sum()} normal images, on which the detector was trained.")
    rows, scores = rows[is_scored], scores[is_scored]
    _, above, _ = far_out(np.log(scores) if scores.min() > 0 else scores, _LEAST)
    order = np.argsort(-scores[above], kind="stable")
    if not above.any():
        return np.array([], dtype=int), None, not_checked
    low, high = np.quantile(scores, [0.25, 0.75])
    top = scores[above]
    came = f"{top.min():.3g} to {top.max():.3g}" if len(top) > 1 else f"{top[0]:.3g}"
    message = (
        f"{len(top)} normal image{' stands' if len(top) == 1 else 's stand'} out: {type(detector).__name__}, fitted "
        f"without {'it' if len(top) == 1 else 'each of them'}, gives a score of {came}, and half of the normal images "
        f"have {low:.3g} to {high:.3g}. Look for a defect, another product or a bad photograph, and label it as a "
        "defect or remove it."
    )
    return rows[above][order], message, not_checked


def _chosen(groups, max_scored):
    """Return the images of as many whole groups, in random order, as there is room for."""
    if max_scored is None or len(groups) <= max_scored:
        return np.arange(len(groups))
    rows, rng = [], np.random.RandomState(0)
    for group in rng.permutation(np.unique(groups)):
        own = np.flatnonzero(groups == group)
        if len(rows) + len(own) <= max_scored:
            rows.extend(own)
    return np.sort(np.array(rows, dtype=int))
