"""Page of an evaluation. It shows the scores of normal images and defects, and the mistakes at several thresholds."""

from math import ceil

import numpy as np

from sklearn_exdd.cli.pages import write_page
from sklearn_exdd.display.scores import count_scores, score_edges

_N_BINS = 48
# Length of the score axis above the third quartile, in interquartile ranges. Higher scores are counted in the last bar.
_SPREAD = 5


def percent(rate):
    """Format a rate in percent."""
    return f"{100 * rate:.2g} %"


def n_needed(rate):
    """Return the number of calibration scores that are needed to promise a false-alarm rate."""
    return ceil(1 / rate - 1 - 1e-9)


def write_evaluation(path, facts, figures, points, is_defect, scores):
    """Write the page.

    Parameters
    ----------
    path : pathlib.Path
    facts : dict
        Names of the folder, model and detector.
    figures : dict
        Metrics that the command prints.
    points : list of OperatingPoint or None
        Operating points, or None if normal images or defects are missing.
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
    """Return the bars of the histogram and the positions of the thresholds, for the template.

    The height of a bar is given as a percentage of the highest bar of the same class.
    """
    thresholds = np.array([point.threshold for point in points])
    # Limit the axis. Otherwise, a single huge score would squeeze all other scores into one bar.
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
