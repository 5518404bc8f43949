"""PatchClassifierDetector: the patches it learns from, and the results of its classifier."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_exdd import OffsetDefectAugmenter, PatchClassifierDetector
from sklearn_exdd.features import BaseFeatureExtractor
from sklearn_exdd.metrics import pixel_roc_auc_score


class Cells(BaseFeatureExtractor):
    """Extractor of the means of cells of 8 x 8 pixels."""

    stride = 8
    offset = 3.5
    min_size = 8

    def _extract(self, images):
        n, height, width, channels = images.shape
        cells = images[:, : height // 8 * 8, : width // 8 * 8].reshape(n, height // 8, 8, width // 8, 8, channels)
        return cells.mean(axis=(2, 4))


class Recorder(LogisticRegression):
    """Classifier that keeps its training data."""

    def fit(self, X, y):
        self.X_, self.y_ = X, y
        return super().fit(X, y)


@pytest.fixture
def bright_squares():
    """Return twelve grey images of 32 x 32 pixels. Four of them contain one bright cell."""
    X = np.full((12, 32, 32), 100, dtype=np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None]
    masks = np.zeros(X.shape, dtype=bool)
    masks[8:, 8:16, 16:24] = True
    X[masks] = 250
    return X, masks.any(axis=(1, 2)).astype(int), masks


@parametrize_with_checks([PatchClassifierDetector(random_state=0)])
def test_on_feature_rows_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)


def test_it_finds_and_locates_defects_that_it_has_not_seen(surfaces, unseen_surfaces):
    X, y, masks = surfaces
    X_test, y_test, masks_test = unseen_surfaces
    detector = PatchClassifierDetector("gabor", random_state=0).fit(X, y, masks=masks)
    assert roc_auc_score(y_test, detector.decision_function(X_test)) > 0.9
    assert pixel_roc_auc_score(masks_test, detector.predict_map(X_test)) > 0.9


def test_only_the_marked_patches_of_a_defect_image_are_defect_ones(bright_squares):
    X, y, masks = bright_squares
    detector = PatchClassifierDetector(Cells(), classifier=Recorder(), random_state=0).fit(X, y, masks=masks)
    defects = detector.classifier_.X_[detector.classifier_.y_ == 1]
    np.testing.assert_allclose(defects, 250 / 255, atol=1e-6)
    assert len(defects) == 4


def test_without_masks_the_patches_unlike_normal_ones_are_taken(bright_squares):
    X, y, _ = bright_squares
    detector = PatchClassifierDetector(Cells(), classifier=Recorder(), random_state=0).fit(X, y)
    defects = detector.classifier_.X_[detector.classifier_.y_ == 1]
    assert np.isclose(defects, 250 / 255).sum() == 4


def test_an_image_gives_no_more_patches_than_asked_for(surfaces):
    X, y, masks = surfaces
    detector = PatchClassifierDetector(
        Cells(), classifier=Recorder(), max_normal_patches=3, max_defect_patches=2, random_state=0
    ).fit(X, y, masks=masks)
    counts = np.bincount(detector.classifier_.y_)
    n_learning = np.sum(y == 0) - round(0.2 * np.sum(y == 0))
    assert counts[0] == 3 * n_learning
    assert counts[1] <= 2 * np.sum(y == 1)


def test_the_threshold_comes_from_normal_images_that_the_classifier_has_not_seen(bright_squares):
    X, y, masks = bright_squares
    detector = PatchClassifierDetector(Cells(), classifier=Recorder(), max_false_alarm_rate=0.3, random_state=0)
    detector.fit(X, y, masks=masks)
    seen = detector.classifier_.X_[detector.classifier_.y_ == 0]
    held_out = [i for i in np.flatnonzero(y == 0) if not np.isclose(seen, X[i, 0, 0] / 255, atol=1e-4).any()]
    assert len(held_out) == 2
    assert detector.threshold_ == pytest.approx(detector.score_samples(X[held_out]).max())


@pytest.mark.slow
def test_synthetic_defects_are_enough(surfaces, unseen_surfaces):
    X, y, _ = surfaces
    augmenter = OffsetDefectAugmenter(min_contrast=0.3)
    alone = PatchClassifierDetector(augmenter=augmenter, n_synthetic=20, random_state=0).fit(X[y == 0])
    assert len(alone.synthetic_.images) == 20
    step = OffsetDefectAugmenter(n_synthetic=20, min_contrast=0.3, random_state=0)
    pipeline = make_pipeline(step, PatchClassifierDetector(random_state=0)).fit(X[y == 0])
    X_test, y_test, _ = unseen_surfaces
    for detector in (alone, pipeline):
        assert roc_auc_score(y_test, detector.decision_function(X_test)) > 0.8


@pytest.mark.slow
def test_a_search_tunes_the_classifier(surfaces):
    X, y, _ = surfaces
    search = GridSearchCV(
        PatchClassifierDetector(Cells(), classifier=LogisticRegression(), random_state=0),
        {"classifier__C": [0.01, 1], "n_top_patches": [1, 5]},
        scoring="roc_auc",
        cv=3,
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_certain_probabilities_give_finite_scores(surfaces):
    X, y, masks = surfaces
    classifier = DummyClassifier(strategy="constant", constant=1)
    detector = PatchClassifierDetector(Cells(), classifier=classifier, random_state=0).fit(X, y, masks=masks)
    np.testing.assert_allclose(detector.score_samples(X), np.log((1 - 1e-6) / 1e-6), rtol=1e-6)


def test_normal_images_alone_are_refused(surfaces):
    X, y, _ = surfaces
    with pytest.raises(ValueError, match=r"^X: expected defects for the classifier to learn from, got normal samples"):
        PatchClassifierDetector(Cells()).fit(X[y == 0])


def test_an_empty_mask_of_a_defect_is_refused(bright_squares):
    X, y, masks = bright_squares
    masks[9] = False
    with pytest.raises(ValueError, match=r"^masks\[9\]: expected a mask of the defect, got an empty one"):
        PatchClassifierDetector(Cells()).fit(X, y, masks=masks)
