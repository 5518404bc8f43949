"""LinearProbeDetector: pooled features, and maps that add up to the scores."""

import numpy as np
import pytest
from conftest import CellStatistics
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_exdd import CombinedDefectDetector, ExDDDetector, LinearProbeDetector, OffsetDefectAugmenter


def pooled(X):
    maps = CellStatistics().fit(X).transform(X)
    return np.array([np.concatenate([m.mean(axis=(0, 1)), m.std(axis=(0, 1))]) for m in maps], dtype=float)


@pytest.fixture
def probe(surfaces):
    X, y, _ = surfaces
    return LinearProbeDetector(CellStatistics(), validation_fraction=0, random_state=0).fit(X, y)


def test_scores_are_those_of_a_logistic_regression_on_means_and_deviations(surfaces, unseen_surfaces, probe):
    X, y, _ = surfaces
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced"))
    expected = regression.fit(pooled(X), y).decision_function(pooled(unseen_surfaces[0]))
    np.testing.assert_allclose(probe.score_samples(unseen_surfaces[0]), expected, atol=1e-4)


def test_the_score_is_the_mean_of_what_the_patches_contribute(unseen_surfaces, probe):
    X = unseen_surfaces[0]
    probe.set_params(blur=0)
    stride, offset = 8, 3.5
    centers = [np.arange(offset, side, stride) for side in X.shape[1:3]]
    rows, columns = (np.floor(center).astype(int) for center in centers)
    for image_map, score in zip(probe.predict_map(X), probe.score_samples(X)):
        # Patches are centred between pixels, and upsampling is linear.
        corners = [image_map[np.ix_(rows + i, columns + j)] for i in (0, 1) for j in (0, 1)]
        assert np.mean(corners) == pytest.approx(score, abs=1e-3)


def test_image_labels_are_enough_to_find_defects(surfaces, unseen_surfaces):
    X, y, _ = surfaces
    detector = LinearProbeDetector("gabor", random_state=0).fit(X, y)
    assert roc_auc_score(unseen_surfaces[1], detector.score_samples(unseen_surfaces[0])) > 0.85
    held_out = ~np.isnan(detector.calibration_scores_)
    assert held_out.sum() == round(0.2 * np.sum(y == 0))
    assert not y[held_out].any()


def test_synthetic_defects_take_the_place_of_real_ones(surfaces):
    X, y, _ = surfaces
    detector = LinearProbeDetector(CellStatistics(), augmenter=OffsetDefectAugmenter(), n_synthetic=6, random_state=0)
    assert len(detector.fit(X[y == 0]).synthetic_.images) == 6
    step = OffsetDefectAugmenter(n_synthetic=6, random_state=0)
    pipeline = make_pipeline(step, LinearProbeDetector(CellStatistics(), random_state=0)).fit(X[y == 0])
    held_out = np.flatnonzero(~np.isnan(pipeline[-1].calibration_scores_))
    n_left = sum(record["source"] not in held_out for record in pipeline[0].sample(6).provenance)
    assert len(pipeline[-1].synthetic_.images) == n_left < 6


def test_it_can_be_searched_and_combined(surfaces):
    X, y, _ = surfaces
    search = GridSearchCV(LinearProbeDetector(CellStatistics(), random_state=0), {"C": [0.001, 0.1]}, cv=2)
    assert np.isfinite(search.fit(X, y).cv_results_["mean_test_score"]).all()
    members = [
        ("banks", ExDDDetector(CellStatistics())),
        ("probe", LinearProbeDetector(CellStatistics(), validation_fraction=0)),
    ]
    combined = CombinedDefectDetector(members, weights=[1, 0.5], random_state=0).fit(X, y)
    assert combined.predict_map(X).shape == X.shape[:3]


def test_without_defects_or_images_there_is_nothing_to_learn_from(surfaces):
    X, y, _ = surfaces
    with pytest.raises(ValueError, match=r"^X: expected defects for the classifier to learn from, got normal images"):
        LinearProbeDetector(CellStatistics()).fit(X[y == 0])
    with pytest.raises(ValueError, match=r"^X: expected images to pool features over, got feature rows"):
        LinearProbeDetector().fit(np.random.default_rng(0).normal(size=(10, 3)), [0, 1] * 5)


def test_a_feature_that_never_varies_counts_for_nothing(surfaces):
    X, y, _ = surfaces
    flat = np.full_like(X, 90)
    detector = LinearProbeDetector(CellStatistics(), random_state=0).fit(flat, y)
    scores = detector.score_samples(flat)
    assert np.isfinite(scores).all()
    assert np.isfinite(detector.predict_map(flat)).all()
