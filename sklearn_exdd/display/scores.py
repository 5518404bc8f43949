"""Scores on an axis: their label, their true classes, and the bins of a histogram."""

import numpy as np


def score_label(detector):
    """Return an axis label, with the unit, for the scores and maps of a detector."""
    if getattr(detector, "defect_bank_", None) is not None:
        return r"ratio score $d_\mathrm{normal}\,/\,d_\mathrm{defect}$ (no unit)"
    if hasattr(detector, "normal_bank_"):
        return "distance to the normal bank (a.u.)"
    return "anomaly score (no unit)"


def are_defects(detector, y):
    """Return an ndarray of bool: whether each label, in the classes of a fitted detector, means defect."""
    pos_label = getattr(detector, "pos_label_", getattr(detector, "pos_label", None))
    return np.asarray(y) == (detector.classes_[-1] if pos_label is None else pos_label)


def score_edges(scores, threshold=None, n_bins=30):
    """Return edges of bins of equal width, with one edge at the threshold.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    threshold : float, default=None
    n_bins : int, default=30
        Number of bins from the lowest to the highest value of scores and threshold; there may be one more.

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
    """Count the scores in each bin. Bins include their upper edge, as a score equal to the threshold is normal.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores to count. Those outside all bins count in the outer ones.
    edges : ndarray of shape (n_bins + 1,)

    Returns
    -------
    counts : ndarray of shape (n_bins,), dtype int
    """
    n_bins = len(edges) - 1
    return np.bincount(np.clip(np.searchsorted(edges, scores) - 1, 0, n_bins - 1), minlength=n_bins)
