"""Operating points: thresholds, and the numbers of mistakes that they cause on labelled images."""

import sys
from dataclasses import dataclass
from numbers import Real

import numpy as np
from sklearn.utils import column_or_1d

from sklearn_exdd import scoring
from sklearn_exdd._training_set import group_numbers


@dataclass(frozen=True)
class OperatingPoint:
    """Threshold, and the numbers of mistakes that it causes on labelled images.

    An image is called defective if its score is above the threshold.

    Attributes
    ----------
    rate : float or None
        Requested false-alarm rate, in (0, 1). None for the point with the lowest cost.
    promised_rate : float or None
        False-alarm rate that the calibration scores can promise. It is higher than `rate` if there are too few
        calibration scores. None for the point with the lowest cost.
    threshold : float
    n_false_alarms, n_normal : int
        Number of normal images called defective, and number of all normal images.
    n_misses, n_defects : int
        Number of defects called normal, and number of all defects.
    cost : float
        Total cost, ``cost_false_alarm * n_false_alarms + cost_miss * n_misses``.

    Examples
    --------
    >>> from sklearn_exdd.metrics import operating_points
    >>> operating_points([0, 0, 1], [1.0, 2.0, 3.0])
    [OperatingPoint(rate=None, promised_rate=None, threshold=2.5, n_false_alarms=0, n_normal=2, n_misses=0, n_defects=1,
                    cost=0.0)]
    """

    rate: float | None
    promised_rate: float | None
    threshold: float
    n_false_alarms: int
    n_normal: int
    n_misses: int
    n_defects: int
    cost: float


def operating_points(
    y_true,
    scores,
    calibration_scores=None,
    *,
    calibration_groups=None,
    rates=(0.01, 0.05, 0.1, 0.2),
    cost_false_alarm=1,
    cost_miss=1,
):
    """Count false alarms and misses at the thresholds for given rates, and at the threshold with the lowest cost.

    Parameters
    ----------
    y_true : array-like of shape (n_images,)
        Label of each image: 1 (or True) for a defect, 0 (or False) for a normal image. Both labels must occur.
    scores : array-like of shape (n_images,)
        Scores of images that `fit` has not seen. Higher scores mean more defective.
    calibration_scores : array-like of shape (n_calibration,), default=None
        Attribute `calibration_scores_` of the detector. The thresholds for the rates are computed from these scores.
        NaN values are skipped. If it is None, `rates` is ignored.
    calibration_groups : array-like of shape (n_calibration,), default=None
        Group of each calibration score, if `groups` was passed to `fit`. All scores of a group together count as much
        as one score without a group. If None, each image forms a separate group.
    rates : sequence of float, default=(0.01, 0.05, 0.1, 0.2)
        False-alarm rates for which thresholds are computed, each in (0, 1).
    cost_false_alarm, cost_miss : float, default=1
        Cost of a false alarm and cost of a miss, both > 0 and in the same unit.

    Returns
    -------
    points : list of OperatingPoint
        One point for each rate, in the given order, followed by the point with the lowest cost.

    Raises
    ------
    ValueError
        If y_true and scores differ in length, one class is missing, a score is not finite, no calibration score is
        left, a rate is outside (0, 1), or a cost is not a finite number > 0.

    Notes
    -----
    The threshold for a rate is computed by :func:`~sklearn_exdd.scoring.conformal_threshold`, as in `fit`. A rate can
    be promised only with at least ``1 / rate - 1`` calibration scores, or groups of calibration scores. For a rate of
    0.01, 99 scores or groups are needed. If there are fewer, the threshold is the highest calibration score, and
    `promised_rate` is ``1 / (n + 1)``, where n is the number of scores or groups.

    The threshold with the lowest cost lies halfway between two scores. If several thresholds cost the same, the highest
    is chosen. This threshold is chosen on the given images. It therefore causes fewer mistakes on them than on new
    images, and this difference is larger if there are fewer images.
    :class:`~sklearn.model_selection.TunedThresholdClassifierCV` chooses a threshold by cross-validation instead.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.metrics import operating_points
    >>> points = operating_points(
    ...     [0, 0, 0, 1, 1], [1.0, 2.0, 5.0, 4.0, 9.0], np.arange(19) / 2, rates=[0.05], cost_miss=10
    ... )
    >>> [(point.threshold, point.n_false_alarms, point.n_misses, point.cost) for point in points]
    [(9.0, 0, 2, 20.0), (3.0, 1, 0, 1.0)]
    """
    is_defect, scores = _checked_pairs(y_true, scores)
    costs = [_checked_cost(name, cost) for name, cost in (("false_alarm", cost_false_alarm), ("miss", cost_miss))]
    thresholds = [(None, None, _cheapest(is_defect, scores, *costs))]
    if calibration_scores is not None:
        known = _checked_calibration(calibration_scores, calibration_groups)
        rates = [float(rate) for rate in _checked_rates(rates)]
        of_rates = [(rate, *scoring.conformal_threshold(known[0], rate, known[1])) for rate in rates]
        thresholds = [(rate, promised, threshold) for rate, threshold, promised in of_rates] + thresholds
    return [_point(is_defect, scores, costs, *one) for one in thresholds]


def _point(is_defect, scores, costs, rate, promised_rate, threshold):
    called = scores > threshold
    n_false_alarms, n_misses = int((called & ~is_defect).sum()), int((~called & is_defect).sum())
    n_defects = int(is_defect.sum())
    return OperatingPoint(
        rate=rate,
        promised_rate=promised_rate,
        threshold=float(threshold),
        n_false_alarms=n_false_alarms,
        n_normal=len(scores) - n_defects,
        n_misses=n_misses,
        n_defects=n_defects,
        cost=costs[0] * n_false_alarms + costs[1] * n_misses,
    )


def _cheapest(is_defect, scores, cost_false_alarm, cost_miss):
    """Return the highest threshold with the lowest cost."""
    values = np.unique(scores)
    middles = values[:-1] / 2 + values[1:] / 2
    middles = np.where(
        (middles >= values[:-1]) & (middles < values[1:]), middles, values[:-1]
    )  # the mean of two neighbouring floats is rounded to one of the two
    candidates = np.concatenate([[np.nextafter(values[0], -np.inf)], middles, values[-1:]])
    normal, defect = np.sort(scores[~is_defect]), np.sort(scores[is_defect])
    false_alarms = len(normal) - np.searchsorted(normal, candidates, side="right")
    misses = np.searchsorted(defect, candidates, side="right")
    costs = cost_false_alarm * false_alarms + cost_miss * misses
    return candidates[np.flatnonzero(costs == costs.min())[-1]]


def _checked_pairs(y_true, scores):
    y, scores = column_or_1d(y_true), _numbers("scores", scores)
    if len(y) != len(scores):
        raise ValueError(f"y_true, scores: expected one of each for every image, got {len(y)} and {len(scores)}.")
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"scores[{index}]: expected a finite number, got {scores[index]}. Leave the image out.")
    others = [label for label in y.tolist() if label not in (0, 1)]
    if others:
        raise ValueError(
            f"y_true: expected 1 (or True) for a defect and 0 for a normal image, got {others[0]!r}. Pass "
            "y == <label of defects>."
        )
    y = y.astype(bool)
    if not y.any() or y.all():
        came = "no images" if not len(y) else "defects only" if y.all() else "normal images only"
        raise ValueError(f"y_true: expected normal images and defects, got {came}.")
    return y, scores


def _numbers(name, values):
    try:
        return column_or_1d(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a list or an array of numbers, one for each image: {error}") from error


def _checked_calibration(calibration_scores, groups):
    """Return the scores that are not NaN, and their groups."""
    known = _numbers("calibration_scores", calibration_scores)
    groups = np.arange(len(known)) if groups is None else group_numbers(groups, len(known))
    groups, known = groups[~np.isnan(known)], known[~np.isnan(known)]
    if not len(known) or not np.isfinite(known).all():
        came = "an infinite score" if len(known) else "none"
        raise ValueError(f"calibration_scores: expected finite scores of normal images (NaN are skipped), got {came}.")
    return known, groups


def _checked_rates(rates):
    if isinstance(rates, (str, Real)) or not hasattr(rates, "__iter__"):
        raise ValueError(f"rates: expected a list of numbers in (0, 1), got {rates!r}. Put a single rate in a list.")
    rates = list(rates)
    for index, rate in enumerate(rates):
        if not isinstance(rate, Real) or not 0 < rate < 1:
            raise ValueError(f"rates[{index}]: expected a number in (0, 1), such as 0.05, got {rate!r}.")
    return rates


def _checked_cost(name, cost):
    if isinstance(cost, bool) or not isinstance(cost, Real) or not 0 < cost <= sys.float_info.max:
        raise ValueError(f"cost_{name}: expected a finite number > 0, got {cost!r}.")
    return float(cost)
