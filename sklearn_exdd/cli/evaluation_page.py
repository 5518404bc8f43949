"""Page of an evaluation: scores of normal images and defects, and the mistakes at each threshold."""

from math import ceil

import numpy as np

from sklearn_exdd.cli.pages import write_page
from sklearn_exdd.display.scores import count_scores, score_edges

_N_BINS = 48
_SPREAD = 5  # interquartile ranges above the third quartile; higher scores count in the last bar


def percent(rate):
    """Format a rate in percent."""
    return f"{100 * rate:.2g} %"


def n_needed(rate):
    """Return the number of calibration scores needed to promise a rate."""
    return ceil(1 / rate - 1 - 1e-9)


def write_evaluation(path, facts, figures, points, is_defect, scores):
    """Write the page.

    Parameters
    ----------
    path : pathlib.Path
    facts : dict
        Folder, model and detector.
    figures : dict
        Figures that the command prints.
    points : list of OperatingPoint or None
        Operating points; None if normal images or defects are missing.
    is_defect : ndarray of shape (n,), dtype bool
    scores : ndarray of shape (n,)
    """
    points = points or []
    write_page(
        path,
        "evaluation.html",
        **facts,
        figures=figures,
        points=[(point, _name(point)) for point in points],
        histogram=_histogram(is_defect, scores, points) if points else None,
        short=[(percent(point.rate), n_needed(point.rate)) for point in points if _is_short(point)],
    )


def _is_short(point):
    return point.rate is not None and point.promised_rate > point.rate


def _name(point):
    return "lowest cost" if point.rate is None else f"promised {percent(point.promised_rate)}"


def _histogram(is_defect, scores, points):
    """Return the bars as percentages of the highest bar of the same class, and the positions of the thresholds."""
    thresholds = np.array([point.threshold for point in points])
    # A single huge score must not squeeze all others into one bar.
    first, last = np.quantile(scores, [0.25, 0.75])
    end = max(last + _SPREAD * (last - first), thresholds.max())
    edges = score_edges(np.concatenate([np.minimum(scores, end), thresholds]), n_bins=_N_BINS)
    counts = [count_scores(scores[chosen], edges) for chosen in (~is_defect, is_defect)]
    low, high = float(edges[0]), float(edges[-1])
    return {
        "low": low,
        "high": high,
        "is_cut": bool(scores.max() > high),
        "width": 100 / (len(edges) - 1),
        "bars": [[100 * n / max(one.max(), 1) for n in one] for one in counts],
        "tops": [int(one.max()) for one in counts],
        "places": [100 * (threshold - low) / (high - low) for threshold in thresholds],
    }
