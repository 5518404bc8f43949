"""Conformal p-values, and decisions that follow them."""

import numpy as np
import pytest
from assertions import naive_p_value
from conftest import CellStatistics
from scipy.stats import false_discovery_control, kstest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import FixedThresholdClassifier

from sklearn_exdd import BaseDefectDetector, ExDDDetector, scoring
from sklearn_exdd.datasets import make_surface_defects


class Value(BaseDefectDetector):
    """Detector of feature rows whose score is the first feature."""

    def __init__(self, *, max_false_alarm_rate=0.1, pos_label=None):
        self.max_false_alarm_rate = max_false_alarm_rate
        self.pos_label = pos_label

    def _fit(self, normal, defect):
        self._set_threshold(self._score(normal.samples), normal.indices)

    def _score(self, samples):
        return samples[:, 0].astype(np.float32)


class Uncalibrated(Value):
    def _fit(self, normal, defect):
        self.threshold_ = 0.0


@pytest.mark.parametrize("rate", [0.05, 0.07, 0.1, 1 / 3, 0.9, 1 - 0.9, 0.001])
@pytest.mark.parametrize("grouped", [False, True], ids=["images", "groups"])
@pytest.mark.parametrize("n_values", [3, 1000], ids=["ties", "no ties"])
def test_a_defect_is_exactly_what_has_a_p_value_of_at_most_the_rate(rate, grouped, n_values):
    for seed in range(30):
        rng = np.random.RandomState(seed)
        X = rng.randint(n_values, size=(rng.randint(2, 60), 1)) / 7
        groups = rng.randint(rng.randint(1, 20), size=len(X)) if grouped else None
        X_new = np.concatenate([X, np.nextafter(X, 9999), np.nextafter(X, -1), rng.uniform(-1, n_values, (50, 1))])
        detector = Value(max_false_alarm_rate=rate).fit(X, groups=groups)
        p_values = detector.p_values(X_new)
        np.testing.assert_array_equal(detector.predict(X_new) == 1, p_values <= detector.false_alarm_rate_)
        n_groups = len(np.unique(groups)) if grouped else len(X)
        assert detector.false_alarm_rate_ == max(rate, 1 / (1 + n_groups))


@pytest.mark.parametrize("grouped", [False, True], ids=["images", "groups"])
def test_p_values_are_the_shares_of_calibration_scores_that_are_as_high(grouped):
    rng = np.random.RandomState(0)
    scores, groups = rng.randint(10, size=30).astype(float), rng.randint(7, size=30)
    expected = [naive_p_value(score, scores, groups if grouped else np.arange(30)) for score in range(-1, 12)]
    found = scoring.conformal_p_values(np.arange(-1, 12), scores, groups if grouped else None)
    np.testing.assert_allclose(found, expected)
    assert found[0] == 1
    assert np.isnan(scoring.conformal_p_values([np.nan], scores)).all()


def test_copies_of_a_calibrating_sample_in_its_group_change_nothing():
    rng = np.random.RandomState(0)
    X, X_new = rng.normal(size=(30, 1)), rng.normal(size=(100, 1))
    copied = np.repeat(np.arange(30), rng.randint(1, 6, size=30))
    once, often = Value().fit(X), Value().fit(X[copied], groups=copied)
    np.testing.assert_allclose(often.p_values(X_new), once.p_values(X_new))
    assert often.threshold_ == once.threshold_
    assert often.false_alarm_rate_ == once.false_alarm_rate_


def test_the_rate_is_kept_for_groups_of_all_sizes_where_images_alone_would_break_it():
    rng, alarms, ungrouped = np.random.RandomState(0), [], []
    for _ in range(4000):
        sizes = rng.choice([1, 8], size=10)
        groups = np.repeat(np.arange(10), sizes)
        parts = rng.normal(size=11)
        X = parts[groups] + 0.01 * rng.normal(size=len(groups))
        for own, rows in ((alarms, groups), (ungrouped, None)):
            own.append(parts[10] > scoring.conformal_threshold(X, 0.1, rows)[0])
    assert np.mean(alarms) <= 1 / 11 + 3 * np.sqrt(0.1 / 4000) + 0.01
    assert np.mean(ungrouped) > 0.13


def test_p_values_of_new_normal_images_are_uniform():
    X, _, _ = make_surface_defects(12 * 20, defect_fraction=0, image_shape=(32, 32), random_state=5)
    p_values = []
    for own in np.split(X, 12):
        detector = ExDDDetector(CellStatistics(), random_state=0).fit(own[:19])
        # Smooth each p-value over its step of 1 / 20, so that the distribution is continuous.
        rng = np.random.RandomState(len(p_values))
        p_values.append(detector.p_values(own[19:20]) - rng.uniform(0, 1 / 20))
    assert kstest(np.concatenate(p_values), "uniform").pvalue > 0.01


def test_a_changed_threshold_decides_and_leaves_the_p_values(squares, unseen_squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells, max_false_alarm_rate=0.2, random_state=0).fit(X[y == 0])
    X_new = np.concatenate([unseen_squares[0], X])
    before, scores = detector.p_values(X_new), detector.score_samples(X_new)
    calibration = detector.calibration_scores_
    tuned = FixedThresholdClassifier(detector, threshold=0.05, response_method="decision_function").fit(X, y)
    np.testing.assert_array_equal(tuned.estimator_.p_values(X_new) <= 0.2, tuned.estimator_.predict(X_new) == 1)
    for threshold in (np.median(calibration), calibration.max() + 1, scores[0]):
        detector.threshold_ = threshold
        np.testing.assert_array_equal(detector.predict(X_new), (scores > threshold).astype(int))
        np.testing.assert_array_equal(detector.p_values(X_new), before)
        promise = (1 + (calibration > threshold).sum()) / (1 + len(calibration))
        assert (before[detector.predict(X_new) == 1] <= promise).all()


def test_corrections_change_p_values_and_decisions_alike(squares, unseen_squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, max_false_alarm_rate=0.2, random_state=0)
    detector.fit(X, y, masks=masks, groups=np.arange(len(X)) // 2)
    n_groups = len(np.unique(np.flatnonzero(y == 0) // 2))
    before = detector.p_values(unseen_squares[0])
    assert before.min() == 1 / (1 + n_groups)
    detector.partial_fit(unseen_squares[0][unseen_squares[1] == 0][:2], [0, 0])
    after = detector.p_values(unseen_squares[0])
    assert after.min() == 1 / (1 + n_groups + 2)  # each new image is a group of its own
    np.testing.assert_array_equal(detector.predict(unseen_squares[0]) == 1, after <= 0.2)


def test_the_rate_of_false_discoveries_is_controlled_over_a_batch():
    rng, false, found = np.random.RandomState(0), [], []
    for _ in range(60):
        X, y = rng.normal(size=(1000, 1)), np.repeat([0, 1], [900, 100])
        X_new = rng.normal(size=(1000, 1)) + 4 * y[:, None]
        called = false_discovery_control(Value().fit(X).p_values(X_new)) <= 0.1
        false.append((called & (y == 0)).sum() / max(called.sum(), 1))
        found.append(called[y == 1].mean())
    assert np.mean(false) <= 0.1
    assert np.mean(found) > 0.8


def test_p_values_need_a_fit_that_calibrates():
    X = np.random.RandomState(0).normal(size=(9, 2))
    with pytest.raises(NotFittedError, match="not fitted yet"):
        Value().p_values(X)
    with pytest.raises(
        ValueError, match=r"^p_values: expected a detector with calibration_scores_, got a Uncalibrated"
    ):
        Uncalibrated().fit(X).p_values(X)
    with pytest.raises(ValueError, match=r"X: expected feature rows of shape \(n, 2\)"):
        Value().fit(X).p_values(np.zeros((2, 8, 8)))
