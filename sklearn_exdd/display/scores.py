"""Scores on an axis: what they measure, which of them are of defects, and the bins of a histogram."""

import numpy as np


def score_label(detector):
    """What the scores and maps of a detector measure, with the unit, for an axis."""
    if getattr(detector, "defect_bank_", None) is not None:
        return r"ratio score $d_\mathrm{normal}\,/\,d_\mathrm{defect}$ (no unit)"
    if hasattr(detector, "normal_bank_"):
        return "distance to the normal bank (a.u.)"
    return "anomaly score (no unit)"


def are_defects(detector, y):
    """Whether labels, in the classes of a fitted detector, mean defect; an ndarray of bool."""
    pos_label = getattr(detector, "pos_label_", getattr(detector, "pos_label", None))
    return np.asarray(y) == (detector.classes_[-1] if pos_label is None else pos_label)


def score_edges(scores, threshold=None, n_bins=30):
    """Edges of bins of equal width, one of which is the threshold.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    threshold : float, default=None
    n_bins : int, default=30
        From the lowest to the highest of scores and threshold; there may be one more.

    Returns
    -------
    edges : ndarray of shape (n_bins + 1,) or (n_bins + 2,)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.display.scores import score_edges
    >>> score_edges(np.array([0.0, 4.0]), threshold=1.5, n_bins=4).tolist()
    [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    """
    low, high = np.min(scores), np.max(scores)
    anchor = low if threshold is None else threshold
    low, high = min(low, anchor), max(high, anchor)
    width = (high - low) / n_bins if high > low else 1.0
    n_below, n_above = (int(np.ceil(span / width - 1e-9)) for span in (anchor - low, high - anchor))
    return anchor + width * np.arange(-n_below, max(n_above, 1 - n_below) + 1)


def count_scores(scores, edges):
    """Scores in each bin, an upper edge included: what equals the threshold is normal.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Those outside count in the outer bins.
    edges : ndarray of shape (n_bins + 1,)

    Returns
    -------
    counts : ndarray of shape (n_bins,), dtype int
    """
    n_bins = len(edges) - 1
    return np.bincount(np.clip(np.searchsorted(edges, scores) - 1, 0, n_bins - 1), minlength=n_bins)
