"""Operating points: thresholds for promised rates and for the lowest cost, and their mistakes."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest

from sklearn_exdd import ExDDDetector
from sklearn_exdd.metrics import operating_points


@pytest.fixture
def answers():
    rng = np.random.RandomState(0)
    y = rng.permutation(np.repeat([0, 1], [60, 20]))
    return y, (rng.normal(0, 1, 80) + 1.5 * y).round(1)  # rounded, so that some scores are equal


def test_mistakes_are_those_of_scores_above_the_threshold(answers):
    y, scores = answers
    for point in operating_points(y, scores, np.arange(-2, 3, 0.01), cost_false_alarm=2, cost_miss=7):
        called = scores > point.threshold
        assert (point.n_false_alarms, point.n_normal) == (called[y == 0].sum(), 60)
        assert (point.n_misses, point.n_defects) == ((~called)[y == 1].sum(), 20)
        assert point.cost == 2 * point.n_false_alarms + 7 * point.n_misses


@pytest.mark.parametrize(("cost_false_alarm", "cost_miss"), [(1, 1), (1, 5), (3, 0.5), (1e-9, 1), (1, 1e-9)])
def test_no_threshold_costs_less_than_the_one_of_the_lowest_cost(answers, cost_false_alarm, cost_miss):
    y, scores = answers
    (point,) = operating_points(y, scores, cost_false_alarm=cost_false_alarm, cost_miss=cost_miss)
    for threshold in [-np.inf, *scores, *(scores + 0.05)]:
        called = scores > threshold
        assert point.cost <= cost_false_alarm * called[y == 0].sum() + cost_miss * (~called)[y == 1].sum() + 1e-12
    assert point.rate is point.promised_rate is None


def test_among_thresholds_of_equal_cost_the_highest_is_taken_halfway_between_scores():
    (point,) = operating_points([0, 1, 0, 1], [1.0, 2.0, 3.0, 4.0])
    assert (point.threshold, point.n_false_alarms, point.n_misses) == (3.5, 0, 1)


def test_neighbouring_floats_are_told_apart():
    low = 1.0
    high = np.nextafter(low, 2)
    (point,) = operating_points([0, 1], [low, high])
    assert (point.threshold, point.cost) == (low, 0)
    (point,) = operating_points([1, 0], [low, high], cost_miss=9)
    assert (point.threshold < low, point.cost) == (True, 1)


def test_the_rates_are_those_of_a_detector_fitted_for_them(surfaces, unseen_surfaces, cells):
    X, y, masks = surfaces
    detector = ExDDDetector(cells, max_false_alarm_rate=0.2, random_state=0).fit(X, y, masks=masks)
    scores = detector.score_samples(unseen_surfaces[0])
    points = operating_points(unseen_surfaces[1], scores, detector.calibration_scores_, rates=(0.01, 0.2))
    assert points[1].threshold == detector.threshold_
    assert points[1].promised_rate == points[1].rate == 0.2
    # 16 normal images cannot promise .01, so the threshold is the highest of their scores.
    assert points[0].threshold == np.nanmax(detector.calibration_scores_)
    assert points[0].promised_rate == pytest.approx(1 / 17)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": [0, 0, 0]}, "y_true: expected normal images and defects, got normal images only"),
        ({"y_true": [1, 1, 1]}, "y_true: expected normal images and defects, got defects only"),
        ({"y_true": [], "scores": []}, "y_true: expected normal images and defects, got no images"),
        ({"y_true": [0, 1, 2]}, "y_true: expected 1 (or True) for a defect and 0 for a normal image, got 2"),
        ({"y_true": ["good", "bad", "bad"]}, "got 'good'. Pass y == <label of defects>"),
        ({"y_true": [0, 1]}, "y_true, scores: expected one of each for every image, got 2 and 3"),
        ({"scores": [1.0, np.nan, 2.0]}, "scores[1]: expected a finite number, got nan. Leave the image out"),
        ({"scores": [1.0, 2.0, np.inf]}, "scores[2]: expected a finite number, got inf"),
        ({"scores": ["a", "b", "c"]}, "scores: expected a list or an array of numbers"),
        ({"calibration_scores": []}, "calibration_scores: expected finite scores of normal images"),
        ({"calibration_scores": [np.nan, np.nan]}, "(NaN are skipped), got none"),
        ({"calibration_scores": [1.0, np.inf]}, "got an infinite score"),
        ({"rates": [0.05, 0]}, "rates[1]: expected a number in (0, 1), such as 0.05, got 0"),
        ({"rates": [1]}, "rates[0]: expected a number in (0, 1)"),
        ({"rates": [np.nan]}, "rates[0]: expected a number in (0, 1)"),
        ({"rates": 0.05}, "rates: expected a list of numbers in (0, 1), got 0.05. Put a single rate in a list"),
        *(
            ({f"cost_{name}": cost}, f"cost_{name}: expected a finite number > 0, got {cost!r}")
            for name in ("false_alarm", "miss")
            for cost in (0, -1, np.nan, np.inf, "1", None, True)
        ),
    ],
)
def test_what_is_wrong_is_named(change, message):
    given = {"y_true": [0, 1, 1], "scores": [1.0, 2.0, 3.0], "calibration_scores": [0.5, 1.5]} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        operating_points(**given)


def test_calibration_images_of_one_group_share_a_vote(surfaces):
    X, y, _ = surfaces
    groups = np.arange(len(y)) // 4
    detector = ExDDDetector("gabor", max_false_alarm_rate=0.05, random_state=0).fit(X, y, groups=groups)
    known = detector.calibration_scores_
    points = operating_points(y, detector.score_samples(X), known, calibration_groups=groups, rates=[0.05])
    assert (points[0].threshold, points[0].promised_rate) == (detector.threshold_, detector.false_alarm_rate_)
    alone = operating_points(y, detector.score_samples(X), known, rates=[0.05])
    assert alone[0].promised_rate < points[0].promised_rate
    with pytest.raises(ValueError, match="groups: expected one group for each of the 24"):
        operating_points(y, detector.score_samples(X), known, calibration_groups=groups[1:])


def test_rates_and_thresholds_can_be_written_as_json():
    points = operating_points([0, 1], [1.0, 2.0], np.arange(99.0), rates=np.array([0.01], dtype=np.float32))
    assert json.loads(json.dumps([asdict(point) for point in points]))[0]["promised_rate"] == pytest.approx(0.01)
