"""Threshold, and the maximum false alarm rate that it promises."""

import numpy as np
import pytest
from naive_exdd import EVERYTHING, naive_distances, naive_threshold, patch_rows
from sklearn.base import clone

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects


@pytest.mark.slow
@pytest.mark.parametrize("image_score", ["top_mean", "exdd", "exdd_code"])
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("grouped", [False, True], ids=["images", "groups"])
def test_the_threshold_is_that_of_refits_without_each_image_or_its_group(image_score, dual, grouped, squares, cells):
    X, y, masks = squares
    groups = np.arange(len(X)) % 7 if grouped else np.arange(len(X))
    if not dual:
        X, masks, groups, y = X[y == 0], None, groups[y == 0], None
    detector = ExDDDetector(
        cells, n_neighbors=2, epsilon=0.1, image_score=image_score, max_false_alarm_rate=0.2, **EVERYTHING
    )
    scores = []
    for image in range(len(X)) if y is None else np.flatnonzero(y == 0):
        rest = groups != groups[image]
        refitted = clone(detector).fit(X[rest], None if y is None else y[rest], masks=masks[rest] if dual else None)
        scores.append(refitted.score_samples(X[[image]])[0])
    detector.fit(X, y, masks=masks, groups=[f"part {group}" for group in groups])
    normal_groups = groups if y is None else groups[y == 0]
    assert detector.threshold_ == pytest.approx(naive_threshold(scores, 0.2, normal_groups), rel=1e-4)
    assert detector.false_alarm_rate_ == 0.2


def test_the_threshold_leaves_an_image_its_own_coreset_rows_only(surfaces):
    X, y, masks = surfaces
    params = {"normal_coreset": 300, "n_neighbors": 3, "n_top_patches": 3, "border_rings": 0}
    detector = ExDDDetector(
        GaborFeatureExtractor(whiten=False), **params, max_false_alarm_rate=0.25, random_state=0
    ).fit(X, y, masks=masks)
    normals, normal, defect, scores = np.flatnonzero(y == 0), [], [], []
    for image in normals:
        patches, _ = patch_rows(detector, X[image])
        kept = detector.normal_bank_.provenance["image"] != image
        assert 0 < (~kept).sum() < 64
        normal.append(naive_distances(detector.normal_bank_, patches, 3, kept))
        defect.append(naive_distances(detector.defect_bank_, patches, 3))
    for i in range(len(normals)):
        epsilon = 0.5 * np.median(np.delete(defect, i, axis=0))
        scores.append(np.sort(normal[i] / (defect[i] + epsilon))[-3:].mean())
    np.testing.assert_allclose(detector.calibration_scores_[normals], scores, rtol=1e-4)
    assert detector.threshold_ == pytest.approx(naive_threshold(scores, 0.25), rel=1e-4)


@pytest.mark.parametrize("extractor", ["gabor", "efficientnet_lite0"])
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
def test_calibration_scores_are_those_of_refits_that_whiten_without_the_image(extractor, dual, surfaces):
    X, y, masks = surfaces
    detector = ExDDDetector(extractor, normal_coreset=1.0, defect_coreset=1.0, max_defect_patches=None, random_state=0)
    X, y, masks = (X, y, masks) if dual else (X[y == 0], y[y == 0], masks[y == 0])
    detector.fit(X, y, masks=masks)
    refits = []
    for image in np.flatnonzero(y == 0):
        rest = np.arange(len(X)) != image
        refits.append(clone(detector).fit(X[rest], y[rest], masks=masks[rest]).score_samples(X[[image]])[0])
    own = detector.calibration_scores_[y == 0]
    np.testing.assert_allclose(own, refits, rtol=0.05)  # not equal, because leaving out one image changes the whitening
    assert np.mean(own / refits) == pytest.approx(1, abs=0.015)
    assert np.isnan(detector.calibration_scores_[y == 1]).all()
    assert (own > detector.score_samples(X[y == 0])).all()


@pytest.mark.parametrize("extractor", ["auto", "gabor", "cells"])
def test_the_promised_rate_is_kept_on_new_images(extractor, cells):
    extractor = cells if extractor == "cells" else extractor
    X, _, _ = make_surface_defects(10 * 60, defect_fraction=0, image_shape=(64, 64), random_state=3)
    rates = []
    for seed, own in enumerate(np.split(X, 10)):
        detector = ExDDDetector(extractor, max_false_alarm_rate=0.1, random_state=seed).fit(own[:19])
        rates.append((detector.decision_function(own[19:]) > 0).mean())
    assert np.mean(rates) < 0.1 + 2 * np.std(rates, ddof=1) / np.sqrt(len(rates))


def test_an_extractor_that_learns_does_not_see_the_images_of_the_threshold(squares, cells):
    X, y, masks = squares
    seen = []

    class Learning(type(cells)):
        def fit(self, X, y=None):
            seen.append(len(X))
            return super().fit(X)

        def fit_transform(self, X, y=None):
            seen.append({X[i].tobytes() for i in range(len(X))})
            return super().fit_transform(X)

    detector = ExDDDetector(Learning(), validation_fraction=0.25, max_false_alarm_rate=0.3, random_state=0)
    detector.fit(X, y, masks=masks)
    (trained_on,) = seen
    calibrating = np.flatnonzero(~np.isnan(detector.calibration_scores_))
    assert len(calibrating) == 3
    assert len(trained_on) == 9
    assert not trained_on & {np.float32(X[i] / 255)[..., None].tobytes() for i in calibrating}
    assert not np.isin(calibrating, detector.normal_bank_.provenance["image"]).any()
    np.testing.assert_allclose(detector.calibration_scores_[calibrating], detector.score_samples(X[calibrating]))
    assert detector.threshold_ == detector.calibration_scores_[calibrating].max()


def test_groups_are_held_out_whole_from_an_extractor_that_learns(squares, cells):
    X, y, masks = squares

    class Learning(type(cells)):
        fits_in_shards = False

    groups = np.arange(len(X)) // 3
    detector = ExDDDetector(Learning(), random_state=0).fit(X, y, masks=masks, groups=groups)
    calibrating = ~np.isnan(detector.calibration_scores_)
    assert not set(groups[calibrating]) & set(groups[detector.normal_bank_.provenance["image"]])


def test_with_few_normal_images_the_attainable_rate_is_told(squares, cells):
    X, y, _ = squares
    few = ExDDDetector(cells, max_false_alarm_rate=0.01).fit(X[y == 0])
    assert few.false_alarm_rate_ == pytest.approx(1 / 13)
    assert few.threshold_ == ExDDDetector(cells, max_false_alarm_rate=1 / 13).fit(X[y == 0]).threshold_
    looser = ExDDDetector(cells, max_false_alarm_rate=0.5).fit(X[y == 0])
    assert looser.false_alarm_rate_ == 0.5
    assert looser.threshold_ < few.threshold_


@pytest.mark.slow
@pytest.mark.parametrize("dual", [False, True], ids=["one class", "dual"])
@pytest.mark.parametrize("params", [{"n_neighbors": 1}, {"n_neighbors": 3, "normal_coreset": 0.5}], ids=str)
def test_new_normal_samples_raise_no_more_false_alarms_than_promised(dual, params):
    rates = []
    for seed in range(30):
        rng = np.random.RandomState(seed)
        X, X_test = rng.normal(size=(199, 3)), rng.normal(size=(1000, 3))
        X_defect = rng.normal(2, 1, size=(30, 3)) if dual else None
        detector = ExDDDetector(max_false_alarm_rate=0.05, random_state=seed, defect_coreset=1.0, **params)
        rates.append(detector.fit(X, X_defect=X_defect).predict(X_test).mean())
    # The standard deviation of the rate is 0.015 for one fit and 0.003 for the mean of 30 fits. Allow four deviations.
    assert np.mean(rates) < 0.05 + 4 * 0.003
    assert np.mean(rates) > 0.02


@pytest.mark.slow
def test_groups_keep_the_promise_where_samples_of_a_group_are_alike():
    with_groups, without = [], []
    for seed in range(20):
        rng = np.random.RandomState(seed)
        groups = np.repeat(np.arange(40), 5)
        X = rng.normal(size=(40, 3))[groups] + 0.05 * rng.normal(size=(200, 3))
        X_test = rng.normal(size=(500, 3))
        detector = ExDDDetector(n_neighbors=1, normal_coreset=1.0, max_false_alarm_rate=0.1)
        with_groups.append(clone(detector).fit(X, groups=groups).predict(X_test).mean())
        without.append(clone(detector).fit(X).predict(X_test).mean())
    # With about 40 independent values, the standard deviation of the rate is 0.047 for one fit and 0.011 for the mean.
    assert np.mean(with_groups) < 0.1 + 4 * 0.011
    assert np.mean(without) > 0.5


def test_a_defect_image_of_the_same_group_does_not_help_the_threshold(squares, cells):
    X, y, masks = squares
    X_twice = np.concatenate([X, X[y == 0]])
    labels = np.concatenate([y, np.ones((y == 0).sum(), dtype=int)])
    everywhere = np.concatenate([masks, np.ones(((y == 0).sum(), 64, 64), dtype=bool)])
    groups = np.concatenate([np.arange(len(X)), np.flatnonzero(y == 0)])
    detector = ExDDDetector(cells, n_neighbors=1, epsilon=1e-6, max_false_alarm_rate=0.2, **EVERYTHING)
    left_out = clone(detector).fit(X_twice, labels, masks=everywhere, groups=groups).threshold_
    # Without groups, the nearest defect of each normal image is the image itself, at distance 0.
    assert left_out < 0.01 * clone(detector).fit(X_twice, labels, masks=everywhere).threshold_
