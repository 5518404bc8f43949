"""Rows of features instead of images."""

import numpy as np
import pytest
from naive_exdd import distances_to
from sklearn.datasets import make_blobs

from sklearn_exdd import ExDDDetector


@pytest.fixture
def blobs():
    return make_blobs([150, 50], centers=[[0, 0, 0], [3, 3, 0]], random_state=0)


def test_rows_of_features_make_a_classifier_on_vectors(blobs):
    X, y = blobs
    detector = ExDDDetector(max_false_alarm_rate=0.05, random_state=0).fit(X, y)
    X_test, y_test = make_blobs([150, 50], centers=[[0, 0, 0], [3, 3, 0]], random_state=1)
    assert detector.n_features_in_ == 3
    assert not hasattr(detector, "feature_extractor_")
    assert detector.score(X_test, y_test) > 0.93
    assert detector.score(X_test, y_test) > ExDDDetector(max_false_alarm_rate=0.05).fit(X[y == 0]).score(X_test, y_test)
    apart = ExDDDetector(max_false_alarm_rate=0.05, random_state=0).fit(X[y == 0], X_defect=X[y == 1])
    np.testing.assert_array_equal(apart.decision_function(X_test), detector.decision_function(X_test))


def test_scores_of_rows_are_ratios_of_distances(blobs):
    X, y = blobs
    detector = ExDDDetector(n_neighbors=2, epsilon=0.5, normal_coreset=1.0, defect_coreset=1.0).fit(X, y)
    X_test, _ = make_blobs(20, centers=2, n_features=3, random_state=1)
    expected = [
        np.sort(distances_to(X[y == 0], row))[:2].mean() / (np.sort(distances_to(X[y == 1], row))[:2].mean() + 0.5)
        for row in X_test
    ]
    np.testing.assert_allclose(detector.score_samples(X_test), expected, rtol=1e-9)


def test_rows_are_explained_by_rows(blobs):
    X, y = blobs
    detector = ExDDDetector(n_neighbors=1, normal_coreset=1.0, defect_coreset=1.0).fit(X, y)
    for index, explanation in zip(np.flatnonzero(y)[:5], detector.explain(X[y == 1][:5])):
        assert explanation["defect_image"] == index
        assert explanation["defect_distance"] == 0
        assert explanation["normal_image"] in np.flatnonzero(y == 0)


def test_rows_can_be_corrected(blobs):
    X, y = blobs
    detector = ExDDDetector(n_neighbors=1, max_false_alarm_rate=0.05, random_state=0).fit(X, y)
    alarm = np.array([[-20.0, 0.0, 0.0]])
    one_class = ExDDDetector(n_neighbors=1, max_false_alarm_rate=0.05, random_state=0).fit(X[y == 0])
    assert one_class.predict(alarm) == [1]
    assert one_class.partial_fit(alarm, [0]).predict(alarm) == [0]
    before = detector.score_samples(alarm)
    assert detector.partial_fit(alarm, [1]).score_samples(alarm) > 5 * before
    assert detector.predict(alarm) == [1]
