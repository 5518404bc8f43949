"""Detectors inside scikit-learn's searches, cross-validation and pipelines."""

import os

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RandomizedSearchCV,
    StratifiedKFold,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_exdd import (
    CutPasteDefectAugmenter,
    EfficientNetLiteFeatureExtractor,
    ExDDDetector,
    MemoryBank,
    PatchClassifierDetector,
)
from sklearn_exdd.banks.dual_bank import DualBank
from sklearn_exdd.features import BaseFeatureExtractor, make_feature_extractor
from sklearn_exdd.metrics import per_region_overlap_scorer, pixel_roc_auc_score, pixel_roc_auc_scorer

pytestmark = pytest.mark.slow


@pytest.fixture
def count_extracted(monkeypatch):
    """Return a function that starts counting the images that an extractor really extracts."""

    def start(extractor):
        counts = []
        extract = type(extractor)._extract

        def counting(self, images):
            counts.append(len(images))
            return extract(self, images)

        monkeypatch.setattr(type(extractor), "_extract", counting)
        return counts

    return start


def darken(X):
    return X // 2


GRID = {"n_neighbors": [1, 2, 3], "epsilon": ["scale", 1e-2, 1.0, 10.0]}


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "cells"])
def test_a_search_with_memory_extracts_every_image_once(embedded, surfaces, cells, count_extracted, tmp_path):
    X, y, _ = surfaces
    counts = count_extracted(make_feature_extractor("auto") if embedded else cells)
    detector = ExDDDetector("auto" if embedded else cells, memory=str(tmp_path), random_state=0)
    search = GridSearchCV(detector, GRID, cv=5, scoring="roc_auc").fit(X, y)
    assert len(search.cv_results_["params"]) == 12
    assert sum(counts) == len(X)
    search.predict(X)
    assert sum(counts) == len(X)
    search.predict(X[:3] // 2)
    assert sum(counts) == len(X) + 3


def test_a_search_with_memory_finds_what_one_without_finds(squares, cells, count_extracted, tmp_path):
    X, y, _ = squares
    counts = count_extracted(cells)
    grid = {"n_neighbors": [1, 2], "epsilon": [1e-2, 1.0]}
    results = []
    for memory in (None, str(tmp_path / "by name"), joblib.Memory(tmp_path / "object", verbose=0)):
        search = GridSearchCV(ExDDDetector(cells, memory=memory, random_state=0), grid, cv=3, scoring="roc_auc")
        results.append(search.fit(X, y))
    # Without memory, 4 candidates on 3 folds and the refit extract every image. Each of the two searches with memory
    # extracts every image once.
    assert sum(counts) == (4 * 3 + 1) * len(X) + 2 * len(X)
    for cached in results[1:]:
        for i in range(3):
            key = f"split{i}_test_score"
            np.testing.assert_array_equal(results[0].cv_results_[key], cached.cv_results_[key])
        np.testing.assert_array_equal(results[0].decision_function(X), cached.decision_function(X))


def test_paths_go_through_a_search(surfaces, write_images):
    X, y, _ = surfaces
    paths = write_images(X)
    searches = [
        GridSearchCV(ExDDDetector(random_state=0), {"n_neighbors": [1, 3]}, cv=3, scoring="roc_auc").fit(images, y)
        for images in (X, paths, [str(path) for path in paths], list(X))
    ]
    for search in searches[1:]:
        np.testing.assert_array_equal(search.cv_results_["mean_test_score"], searches[0].cv_results_["mean_test_score"])
        np.testing.assert_array_equal(search.decision_function(paths), searches[0].decision_function(X))


def test_the_score_of_cross_validation_is_that_of_fitting_each_fold_by_hand(surfaces):
    X, y, _ = surfaces
    detector = ExDDDetector(random_state=0)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    scores = cross_val_score(detector, X, y, cv=folds, scoring="roc_auc")
    by_hand = [
        roc_auc_score(y[test], detector.fit(X[train], y[train]).decision_function(X[test]))
        for train, test in folds.split(X, y)
    ]
    np.testing.assert_allclose(scores, by_hand)
    assert scores.mean() > 0.9


def test_folds_are_stratified_because_it_is_a_classifier(squares, cells):
    X, y, _ = squares
    result = cross_validate(ExDDDetector(cells), X, y, cv=3, return_indices=True, error_score="raise")
    for test in result["indices"]["test"]:
        assert y[test].sum() == 2


def test_predictions_come_from_folds_without_the_image(squares, cells):
    X, y, _ = squares
    scores = cross_val_predict(ExDDDetector(cells, random_state=0), X, y, cv=3, method="decision_function")
    assert scores.shape == (len(X),)
    assert roc_auc_score(y, scores) == 1


def test_two_processes_score_as_one_does(surfaces):
    X, y, _ = surfaces
    detector = ExDDDetector(random_state=0)
    one, two = (cross_val_score(detector, X, y, cv=2, scoring="roc_auc", n_jobs=n_jobs) for n_jobs in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_a_seed_makes_a_search_repeatable(squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells, coreset="random", normal_coreset=20, random_state=0)
    grid = {"epsilon": [1e-3, 1e-2, 1e-1], "random_state": [0, 1]}
    first, again = (
        RandomizedSearchCV(detector, grid, n_iter=4, cv=3, scoring="average_precision", random_state=0).fit(X, y)
        for _ in range(2)
    )
    assert first.best_params_ == again.best_params_
    np.testing.assert_array_equal(first.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(first.decision_function(X), again.decision_function(X))


def test_extractors_and_their_parameters_can_be_searched(surfaces, cells):
    X, y, _ = surfaces
    search = GridSearchCV(
        ExDDDetector(cells, random_state=0), {"feature_extractor__whiten": [False, True]}, cv=3, scoring="roc_auc"
    ).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]
    by_hand = ExDDDetector(type(cells)(whiten=True), random_state=0)
    assert cross_val_score(by_hand, X, y, cv=3, scoring="roc_auc").mean() == pytest.approx(scores[1])
    search = GridSearchCV(
        ExDDDetector(random_state=0), {"feature_extractor": ["auto", cells]}, cv=3, scoring="roc_auc"
    ).fit(X, y)
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(scores[0])


# Pipelines


def test_a_pipeline_is_the_same_as_its_two_steps(squares, unseen_squares, cells):
    X, y, _ = squares
    pipeline = make_pipeline(FunctionTransformer(darken), ExDDDetector(cells, random_state=0)).fit(X, y)
    detector = ExDDDetector(cells, random_state=0).fit(X // 2, y)
    np.testing.assert_array_equal(
        pipeline.decision_function(unseen_squares[0]), detector.decision_function(unseen_squares[0] // 2)
    )
    np.testing.assert_array_equal(pipeline.predict(unseen_squares[0]), detector.predict(unseen_squares[0] // 2))
    assert pipeline.score(*unseen_squares[:2]) == detector.score(unseen_squares[0] // 2, unseen_squares[1])


def test_parameters_are_searched_through_a_pipeline(squares, cells):
    X, y, _ = squares
    pipeline = make_pipeline(FunctionTransformer(darken), ExDDDetector(cells, random_state=0))
    grid = {"exdddetector__n_neighbors": [1, 3], "exdddetector__epsilon": [1e-6, 1.0]}
    search = GridSearchCV(pipeline, grid, cv=3, scoring="roc_auc").fit(X, y)
    assert search.best_score_ == 1
    assert search.best_estimator_[-1].epsilon_ == search.best_params_["exdddetector__epsilon"]


# Metadata


def wrap(detector, in_pipeline):
    return Pipeline([("darken", FunctionTransformer(darken)), ("detect", detector)]) if in_pipeline else detector


in_and_out_of_a_pipeline = pytest.mark.parametrize("in_pipeline", [False, True], ids=["alone", "in a pipeline"])


@in_and_out_of_a_pipeline
@pytest.mark.parametrize("as_list", [False, True], ids=["array", "list with None"])
@pytest.mark.usefixtures("routing")
def test_masks_are_cut_to_the_fold(in_pipeline, as_list, squares, cells):
    X, y, masks = squares
    given = [mask if mask.any() else None for mask in masks] if as_list else masks
    detector = ExDDDetector(cells, random_state=0)
    result = cross_validate(
        wrap(detector, in_pipeline),
        X,
        y,
        cv=3,
        params={"masks": given},
        return_estimator=True,
        return_indices=True,
        error_score="raise",
    )
    without = ExDDDetector(cells, random_state=0)
    for fitted, train in zip(result["estimator"], result["indices"]["train"]):
        images = X[train] // 2 if in_pipeline else X[train]
        expected = detector.fit(images, y[train], masks=masks[train]).defect_bank_
        bank = (fitted[-1] if in_pipeline else fitted).defect_bank_
        np.testing.assert_array_equal(bank.features, expected.features)
        assert without.fit(images, y[train]).defect_bank_.features.shape != expected.features.shape


@in_and_out_of_a_pipeline
@pytest.mark.usefixtures("routing")
def test_a_search_can_choose_by_pixels(in_pipeline, squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, random_state=0)
    name = "detect__epsilon" if in_pipeline else "epsilon"
    folds = StratifiedKFold(3)
    scoring = {"image": "roc_auc", "pixel": pixel_roc_auc_scorer, "region": per_region_overlap_scorer}
    search = GridSearchCV(
        wrap(detector, in_pipeline), {name: [1e-3, 1.0]}, cv=folds, scoring=scoring, refit="pixel", error_score="raise"
    ).fit(X, y, masks=masks)
    images = X // 2 if in_pipeline else X
    for i, epsilon in enumerate([1e-3, 1.0]):
        by_hand = []
        for train, test in folds.split(X, y):
            detector.set_params(epsilon=epsilon).fit(images[train], y[train], masks=masks[train])
            by_hand.append(pixel_roc_auc_score(masks[test], detector.predict_map(images[test])))
        assert search.cv_results_["mean_test_pixel"][i] == pytest.approx(np.mean(by_hand))
    assert search.best_score_ > 0.9
    assert search.cv_results_["mean_test_image"][0] == 1
    assert 0 < search.cv_results_["mean_test_region"][0] <= 1


@in_and_out_of_a_pipeline
@pytest.mark.usefixtures("routing")
def test_groups_reach_the_splitter_and_the_threshold(in_pipeline, squares, cells):
    X, y, _ = squares
    groups = np.arange(len(X)) // 2
    detector = ExDDDetector(cells, max_false_alarm_rate=0.3, n_neighbors=1, random_state=0)
    result = cross_validate(
        wrap(detector, in_pipeline),
        X,
        y,
        cv=GroupKFold(3),
        params={"groups": groups},
        return_estimator=True,
        return_indices=True,
        error_score="raise",
    )
    differ = []
    for fitted, train, test in zip(result["estimator"], result["indices"]["train"], result["indices"]["test"]):
        assert not set(groups[train]) & set(groups[test])
        images = X[train] // 2 if in_pipeline else X[train]
        threshold = (fitted[-1] if in_pipeline else fitted).threshold_
        assert threshold == detector.fit(images, y[train], groups=groups[train]).threshold_
        differ.append(threshold != detector.fit(images, y[train]).threshold_)
    assert any(differ)


@pytest.mark.usefixtures("routing")
def test_defect_images_apart_are_not_routed(squares, cells):
    X, y, _ = squares
    detector = ExDDDetector(cells)
    with pytest.raises(TypeError, match="X_defect"):
        detector.set_fit_request(X_defect=True)
    assert "X_defect" not in detector.get_metadata_routing().fit.requests
    with pytest.raises(TypeError, match="X_defect"):
        GridSearchCV(detector, {"n_neighbors": [1]}, cv=KFold(2)).fit(X[y == 0], X_defect=X[y == 1])


@pytest.mark.usefixtures("routing")
def test_requests_can_be_turned_off(squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, random_state=0).set_fit_request(masks=False, groups=False)
    result = cross_validate(
        detector,
        X,
        y,
        cv=GroupKFold(2),
        scoring=pixel_roc_auc_scorer,
        params={"groups": np.arange(len(X)), "masks": masks},
        return_estimator=True,
        return_indices=True,
        error_score="raise",
    )
    for fitted, train in zip(result["estimator"], result["indices"]["train"]):
        expected = ExDDDetector(cells, random_state=0).fit(X[train], y[train])
        np.testing.assert_array_equal(fitted.defect_bank_.features, expected.defect_bank_.features)


# Thresholds and probabilities


def test_the_threshold_can_be_tuned_on_labels(surfaces, unseen_surfaces):
    X, y, _ = surfaces
    detector = ExDDDetector(max_false_alarm_rate=0.5, random_state=0)
    tuned = TunedThresholdClassifierCV(detector, scoring="balanced_accuracy", cv=3).fit(X[..., None], y)
    decisions = tuned.estimator_.decision_function(unseen_surfaces[0][..., None])
    np.testing.assert_array_equal(tuned.predict(unseen_surfaces[0][..., None]), decisions >= tuned.best_threshold_)
    assert tuned.best_threshold_ > 0  # every other normal image raised an alarm
    accuracy = tuned.score(unseen_surfaces[0][..., None], unseen_surfaces[1])
    assert accuracy > tuned.estimator_.score(unseen_surfaces[0][..., None], unseen_surfaces[1])


@pytest.mark.parametrize("ensemble", [True, False])
def test_scores_can_be_calibrated_to_probabilities(ensemble, surfaces, unseen_surfaces):
    X, y, _ = surfaces
    calibrated = CalibratedClassifierCV(ExDDDetector(random_state=0), cv=3, ensemble=ensemble).fit(X[..., None], y)
    probabilities = calibrated.predict_proba(unseen_surfaces[0][..., None])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert roc_auc_score(unseen_surfaces[1], probabilities[:, 1]) > 0.9
    if not ensemble:
        scores = ExDDDetector(random_state=0).fit(X, y).decision_function(unseen_surfaces[0])
        np.testing.assert_array_equal(np.argsort(probabilities[:, 1]), np.argsort(scores))


def test_with_memory_a_bank_is_searched_once_for_all_candidates(squares, cells, tmp_path, monkeypatch):
    X, y, masks = squares
    searched = []
    kneighbors = MemoryBank.kneighbors

    def counting(self, queries, n_neighbors=1, *, exclude=None):
        searched.append(len(queries))
        return kneighbors(self, queries, n_neighbors, exclude=exclude)

    monkeypatch.setattr(MemoryBank, "kneighbors", counting)
    first = ExDDDetector(cells, memory=str(tmp_path), random_state=0).fit(X, y, masks=masks)
    scores = first.score_samples(X)
    assert sum(searched) >= 2 * 64 * (len(X) + (y == 0).sum()), "both banks are searched, in fit and for the scores"
    searched.clear()
    again = ExDDDetector(cells, memory=str(tmp_path), random_state=0, epsilon=1e-3).fit(X, y, masks=masks)
    again.score_samples(X)
    assert searched == []
    again.set_params(epsilon="scale").fit(X, y, masks=masks)
    np.testing.assert_array_equal(again.score_samples(X), scores)
    again.partial_fit(X[y == 1][:1], [1], masks=masks[y == 1][:1])
    again.score_samples(X)
    assert len(searched) > 0, "the changed bank is searched anew"


def test_a_search_over_synthetic_defects_with_memory_finds_what_one_without_finds(squares, cells, tmp_path):
    X, y, _ = squares
    grid = {
        "cutpastedefectaugmenter__n_synthetic": [2, 5],
        "exdddetector__n_neighbors": [1, 3],
        "exdddetector__epsilon": ["scale", 1e-2],
        "exdddetector__image_score": ["top_mean", "exdd"],
    }
    results = []
    for memory in (None, str(tmp_path)):
        pipeline = make_pipeline(
            CutPasteDefectAugmenter(min_contrast=0, random_state=0),
            ExDDDetector(type(cells)(whiten=True), coreset="greedy", normal_coreset=0.5, memory=memory, random_state=0),
            memory=memory,
        )
        search = GridSearchCV(pipeline, grid, cv=2, scoring={"auc": "roc_auc", "score": mean_score}, refit="auc")
        results.append(search.fit(X, y))
    plain, cached = results
    for i in range(2):
        for name in ("auc", "score"):
            key = f"split{i}_test_{name}"
            np.testing.assert_array_equal(cached.cv_results_[key], plain.cv_results_[key])
    np.testing.assert_array_equal(cached.decision_function(X), plain.decision_function(X))
    one, other = (search.best_estimator_[-1] for search in results)
    assert one.threshold_ == other.threshold_
    assert one.explain(X[:2]) == other.explain(X[:2])
    for name in ("normal_bank_", "defect_bank_", "_calibration"):
        np.testing.assert_array_equal(getattr(one, name).features, getattr(other, name).features)


def mean_score(estimator, X, y):
    return estimator.decision_function(X).mean()


@pytest.mark.parametrize("excluding", [False, True])
def test_a_bank_searched_in_its_parts_gives_what_it_gives_as_a_whole(excluding, tmp_path):
    rng = np.random.RandomState(0)
    features, queries = rng.randn(120, 4).astype(np.float32), rng.randn(50, 4).astype(np.float32)
    features[60:80] = queries[:20] = features[:20]  # includes ties
    synthetic = rng.rand(120) < 0.5
    bank = MemoryBank(features, {"synthetic": synthetic, "group": np.arange(120) // 6})
    exclude = np.arange(50) // 6 if excluding else None
    for n_neighbors in (1, 3, 9, 20):
        plain, cached = (
            DualBank(bank, None, None, None, n_neighbors, "top_mean", 1, 1, 0, memory)
            for memory in (None, str(tmp_path))
        )
        for expected, found in zip(plain.distances(bank, queries, exclude), cached.distances(bank, queries, exclude)):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype


def test_other_images_other_folds_and_other_parameters_are_not_taken_for_known_ones(squares, cells, tmp_path):
    X, y, _ = squares
    whitening = type(cells)(whiten=True)
    half = np.arange(len(X)) % 2 == 0
    cases = [
        (X, y, {}),
        (X[half], y[half], {}),
        (X[::-1], y[::-1], {}),
        (255 - X, y, {}),
        (X, y, {"normal_coreset": 50}),
        (X, y, {"random_state": 1, "normal_coreset": 50}),
        (X, y, {"n_neighbors": 9}),
        (X, y, {"n_neighbors": 17}),
        (X, y, {"feature_extractor": cells}),
    ]
    for images, labels, params in cases:
        scores = []
        for memory in (None, str(tmp_path)):
            detector = ExDDDetector(whitening, random_state=0).set_params(**params, memory=memory)
            scores.append(detector.fit(images, labels).score_samples(images))
        np.testing.assert_array_equal(*scores)


def test_a_file_that_was_written_anew_is_read_anew(squares, cells, write_images, tmp_path):
    X, y, _ = squares
    paths = write_images(X)
    detector = ExDDDetector(cells, memory=str(tmp_path / "cache"), random_state=0).fit(paths, y)
    before = detector.score_samples(paths[-2:])
    stat = os.stat(paths[-1])
    Image.fromarray(np.asarray(X[0])).save(paths[-1])
    os.utime(paths[-1], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if the clock had gone back
    after = detector.score_samples(paths[-2:])
    assert after[0] == before[0]
    assert after[1] == detector.score_samples(X[:1])[0] != before[1]


def test_a_candidate_whose_neighbours_are_known_reads_no_feature_map(squares, cells, tmp_path, monkeypatch):
    X, y, masks = squares
    detector = ExDDDetector(type(cells)(whiten=True), memory=str(tmp_path), random_state=0)
    scores = detector.fit(X, y, masks=masks).score_samples(X)
    monkeypatch.setattr(BaseFeatureExtractor, "_raw_maps", None)  # on the base: the keys contain the code of `cells`
    detector.set_params(epsilon=1.0, n_neighbors=2).fit(X, y, masks=masks).score_samples(X)
    np.testing.assert_array_equal(
        detector.set_params(epsilon="scale", n_neighbors="auto").fit(X, y, masks=masks).score_samples(X), scores
    )


def test_what_is_kept_grows_with_the_patches_and_not_with_the_candidates(squares, cells, tmp_path):
    X, y, _ = squares
    sizes = []
    for epsilons in (["scale"], [1e-2, 0.1, 1.0, 10.0]):
        detector = ExDDDetector(cells, memory=str(tmp_path), random_state=0)
        GridSearchCV(detector, {"epsilon": epsilons, "n_neighbors": [1, 2, 9]}, cv=2, refit=False).fit(X, y)
        sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("output.pkl")))
    assert sizes[1] == sizes[0]


def test_a_path_object_serves_as_memory(squares, cells, tmp_path):
    X, y, masks = squares
    detector = ExDDDetector(cells, memory=tmp_path / "cache", random_state=0).fit(X, y, masks=masks)
    expected = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks).score_samples(X)
    np.testing.assert_allclose(detector.score_samples(X), expected)
    assert (tmp_path / "cache" / "joblib").is_dir()


@pytest.mark.parametrize(
    "detector", [ExDDDetector(), PatchClassifierDetector(augmenter=CutPasteDefectAugmenter())], ids=str
)
def test_parameters_of_an_extractor_that_is_given_by_name_can_be_searched(detector, squares):
    X, y, _ = squares
    detector = clone(detector).set_params(random_state=0)
    search = GridSearchCV(detector, {"feature_extractor__image_size": [None, 96]}, cv=2, scoring="roc_auc").fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert detector.feature_extractor == "auto"
    changed = clone(detector).set_params(feature_extractor__image_size=96)
    given = clone(detector).set_params(feature_extractor=EfficientNetLiteFeatureExtractor(image_size=96))
    np.testing.assert_array_equal(changed.fit(X, y).score_samples(X), given.fit(X, y).score_samples(X))


@pytest.mark.parametrize(("part", "value"), [("augmenter", None), ("augmenter", "none")])
def test_parameters_of_a_part_that_is_not_there_are_refused(part, value):
    detector = ExDDDetector()
    with pytest.raises(ValueError, match=rf"^{part}: expected an estimator whose parameters can be set, got {value!r}"):
        detector.set_params(**{part: value, f"{part}__n_synthetic": 3})
    with pytest.raises(ValueError, match="Invalid parameter 'size'"):
        detector.set_params(feature_extractor__size=3)
