"""Helpers to plot scores: the label of the axis, the true classes of images, and the bins of a histogram."""

import numpy as np


def score_label(detector):
    """Return the axis label, including the unit, for the scores and maps of a detector."""
    if getattr(detector, "defect_bank_", None) is not None:
        return r"ratio score $d_\mathrm{normal}\,/\,d_\mathrm{defect}$ (no unit)"
    if hasattr(detector, "normal_bank_"):
        return "distance to the normal bank (a.u.)"
    return "anomaly score (no unit)"


def are_defects(detector, y):
    """Return a boolean ndarray that is True for labels that mean defect in the classes of a fitted detector."""
    pos_label = getattr(detector, "pos_label_", getattr(detector, "pos_label", None))
    return np.asarray(y) == (detector.classes_[-1] if pos_label is None else pos_label)


def score_edges(scores, threshold=None, n_bins=30):
    """Return the edges of bins of equal width. If a threshold is given, one edge lies at the threshold.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores that the bins must cover.
    threshold : float, default=None
        Value that the bins must cover and at which an edge must lie.
    n_bins : int, default=30
        Number of bins between the lowest and the highest of the scores and the threshold. One more bin is added if
        this is necessary to put an edge at the threshold.

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
    """Count the scores in each bin.

    The upper edge belongs to the bin, because a score that equals the threshold is normal.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores to count. Scores below all bins are counted in the first bin, scores above all bins in the last bin.
    edges : ndarray of shape (n_bins + 1,)
        Edges of the bins, in ascending order.

    Returns
    -------
    counts : ndarray of shape (n_bins,), dtype int
    """
    n_bins = len(edges) - 1
    return np.bincount(np.clip(np.searchsorted(edges, scores) - 1, 0, n_bins - 1), minlength=n_bins)
