"""Detectors inside pipelines, searches and other estimators, and the data that reaches them there."""

import pickle

import numpy as np
import pandas as pd
import pytest
from conftest import CellStatistics
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import sklearn_exdd
from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    ExDDDetector,
    GaborFeatureExtractor,
    MixedDefectAugmenter,
    SegmentationDetector,
    explain,
    fitted_detector,
    inspect,
    iter_inspect,
    partial_fit,
    predict_map,
)
from sklearn_exdd.datasets import make_surface_defects

CELLS = CellStatistics()  # cheap
X, y, masks = make_surface_defects(40, image_shape=(64, 64), random_state=0)
X_new, y_new, _ = make_surface_defects(10, image_shape=(64, 64), random_state=1)


def augmenter():
    return CutPasteDefectAugmenter(n_synthetic=5, random_state=0)


def pipeline():
    return make_pipeline(augmenter(), ExDDDetector(CELLS, random_state=0))


def search(estimator):
    return GridSearchCV(estimator, {}, cv=2, scoring="roc_auc")


def darker(images):
    return images // 2


AROUND = {
    "detector": (ExDDDetector(CELLS, random_state=0), lambda fitted: fitted),
    "pipeline": (pipeline(), lambda fitted: fitted[-1]),
    "search": (search(ExDDDetector(CELLS, random_state=0)), lambda fitted: fitted.best_estimator_),
    "search of a pipeline": (search(pipeline()), lambda fitted: fitted.best_estimator_[-1]),
    "random search": (
        RandomizedSearchCV(pipeline(), {"exdddetector__blur": [0, 2]}, n_iter=1, cv=2, random_state=0),
        lambda fitted: fitted.best_estimator_[-1],
    ),
    "pipeline in a pipeline": (
        make_pipeline(FunctionTransformer(darker), pipeline()),
        lambda fitted: fitted[-1][-1],
    ),
    "tuned threshold": (
        TunedThresholdClassifierCV(ExDDDetector(CELLS, random_state=0), cv=2, scoring="f1"),
        lambda fitted: fitted.estimator_,
    ),
    "fixed threshold": (
        FixedThresholdClassifier(pipeline(), response_method="decision_function"),
        lambda fitted: fitted.estimator_[-1],
    ),
}


@pytest.fixture(scope="module")
def fitted():
    return {name: (clone(estimator).fit(X, y), inner) for name, (estimator, inner) in AROUND.items()}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("frozen", [False, True])
def test_all_that_a_detector_can_do_is_reached(name, frozen, fitted):
    estimator, inner = fitted[name]
    detector = inner(estimator)
    seen = darker(X_new) if name == "pipeline in a pipeline" else X_new
    estimator = FrozenEstimator(estimator) if frozen else estimator
    assert fitted_detector(estimator) is detector
    np.testing.assert_array_equal(predict_map(estimator, X_new), detector.predict_map(seen))
    assert explain(estimator, X_new) == detector.explain(seen)


@pytest.mark.parametrize("name", AROUND)
def test_a_correction_reaches_the_detector_through_the_steps_before_it(name):
    estimator, inner = AROUND[name]
    estimator = clone(estimator).fit(X, y)
    expected = pickled(inner(estimator))
    expected.partial_fit(darker(X_new) if name == "pipeline in a pipeline" else X_new, y_new)
    assert partial_fit(estimator, X_new, y_new) is estimator
    assert inner(estimator).threshold_ == expected.threshold_
    np.testing.assert_array_equal(inner(estimator).normal_bank_.features, expected.normal_bank_.features)


def pickled(estimator):
    return pickle.loads(pickle.dumps(estimator))


def test_a_frozen_detector_is_not_corrected(fitted):
    estimator, _ = fitted["pipeline"]
    with pytest.raises(TypeError, match=r"^partial_fit: a FrozenEstimator does not learn. Pass the estimator inside"):
        partial_fit(FrozenEstimator(estimator), X_new, y_new)


@pytest.mark.parametrize("function", [predict_map, explain, lambda estimator, X: partial_fit(estimator, X, y_new)])
@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (IsolationForest(), "got IsolationForest. Fit the estimator"),
        (
            make_pipeline(FunctionTransformer(), IsolationForest()),
            "got Pipeline around IsolationForest. Fit",
        ),
        (search(ExDDDetector(CELLS)), "got GridSearchCV. Fit the estimator"),
        (GridSearchCV(ExDDDetector(CELLS), {}, refit=False), "got GridSearchCV. Fit the estimator"),
    ],
)
def test_what_holds_no_fitted_detector_is_named(function, estimator, message):
    with pytest.raises(TypeError, match=rf"^estimator: expected a fitted detector .*, {message}"):
        function(estimator, X_new)


def test_an_unfitted_detector_says_so():
    with pytest.raises(NotFittedError):
        predict_map(ExDDDetector(CELLS), X_new)


@pytest.mark.parametrize("function", ["explain", "partial_fit"])
def test_a_detector_without_the_method_is_named(function):
    arguments = (SegmentationDetector(), X_new, y_new)[: 3 if function == "partial_fit" else 2]
    message = f"^estimator: expected a detector with the method {function}, got SegmentationDetector.$"
    with pytest.raises(TypeError, match=message):
        getattr(sklearn_exdd, function)(*arguments)


# Normal and defect images as separate arguments of a Pipeline


@pytest.mark.parametrize("container", [np.asarray, list, tuple])
@pytest.mark.parametrize(
    "step", [augmenter(), MixedDefectAugmenter([("paste", augmenter())], n_synthetic=5, random_state=0)]
)
def test_a_pipeline_takes_normal_and_defect_images_apart(container, step):
    both = make_pipeline(clone(step), ExDDDetector(CELLS, random_state=0))
    apart = clone(both).fit(container(X[y == 0]), container(X[y == 1]))
    ordered = np.argsort(y, kind="stable")
    labelled = both.fit(X[ordered], y[ordered])
    np.testing.assert_array_equal(apart.decision_function(X_new), labelled.decision_function(X_new))
    np.testing.assert_array_equal(apart[-1].synthetic_.images, labelled[-1].synthetic_.images)


def test_masks_belong_to_the_defect_images_that_are_apart():
    ordered = np.argsort(y, kind="stable")
    apart = augmenter().set_params(regions="masks").fit(X[y == 0], X[y == 1], masks=masks[y == 1])
    labelled = augmenter().set_params(regions="masks").fit(X[ordered], y[ordered], masks=masks[ordered])
    np.testing.assert_array_equal(apart.sample(3).images, labelled.sample(3).images)
    with pytest.raises(
        ValueError, match=rf"^masks: expected one mask for each of the {(y == 1).sum()} images, got {len(X)}"
    ):
        augmenter().fit(X[y == 0], X[y == 1], masks=masks)


def test_defect_images_in_the_place_of_labels_are_named_where_labels_are_needed():
    with pytest.raises(ValueError, match=r"^y: expected labels, one for each image of X, got images. Add them to X"):
        sklearn_exdd.LearnedFeatureExtractor().fit(X[y == 0], X[y == 1])


# Extractors as steps


def test_an_extractor_as_a_step_is_refused_with_what_to_write_instead():
    with pytest.raises(ValueError, match=r"Feature maps\? Pass images, and the extractor .* as feature_extractor="):
        make_pipeline(GaborFeatureExtractor(), ExDDDetector()).fit(X, y)


def test_features_have_names():
    extractor = GaborFeatureExtractor().fit(X)
    names = extractor.get_feature_names_out()
    assert names[0] == "gaborfeatureextractor0"
    assert len(names) == extractor.n_features_out_
    with pytest.raises(NotFittedError):
        GaborFeatureExtractor().get_feature_names_out()


@pytest.mark.parametrize("output", ["pandas", "default"])
def test_maps_and_images_do_not_become_tables(output):
    plain = pipeline().fit(X, y).decision_function(X_new)
    maps = GaborFeatureExtractor().fit_transform(X[:3])
    with config_context(transform_output=output):
        np.testing.assert_array_equal(pipeline().fit(X, y).decision_function(X_new), plain)
        np.testing.assert_array_equal(GaborFeatureExtractor().fit_transform(X[:3]), maps)
    assert not hasattr(GaborFeatureExtractor(), "set_output")


# Members of a combination


def combination(*members):
    return CombinedDefectDetector([(f"member {i}", member) for i, member in enumerate(members)], random_state=0)


@pytest.mark.parametrize("wrap", [FrozenEstimator, lambda one: FrozenEstimator(FrozenEstimator(one))])
def test_a_frozen_member_keeps_what_it_has_learned(wrap):
    frozen = ExDDDetector(CELLS, random_state=0).fit(X_new[y_new == 0])
    combined = combination(wrap(frozen), ExDDDetector(CELLS, blur=0)).fit(X, y)
    assert fitted_detector(combined.detectors_[0]) is frozen
    again = combination(wrap(frozen), ExDDDetector(CELLS, blur=0)).fit(X, y)
    np.testing.assert_array_equal(again.decision_function(X_new), combined.decision_function(X_new))
    maps = [fitted_detector(one).predict_map(X_new) for one in combined.detectors_]
    expected = sum(
        (one - center) / scale / 2 for one, center, scale in zip(maps, combined.map_centers_, combined.map_scales_)
    )
    np.testing.assert_allclose(combined.predict_map(X_new), expected, atol=1e-4)


@pytest.mark.parametrize("around", [lambda one: one, lambda one: make_pipeline(FunctionTransformer(), one)])
def test_a_frozen_member_that_knows_the_images_held_out_is_refused(around):
    frozen = FrozenEstimator(around(ExDDDetector(CELLS, random_state=0)).fit(X[y == 0]))
    with pytest.raises(
        ValueError,
        match=r"^detectors: expected the FrozenEstimator 'member 0' to be .* on other images, .* fitted on (\d) of the",
    ):
        combination(frozen, ExDDDetector(CELLS, blur=0)).fit(X, y)


def test_a_fitted_member_is_fitted_again():
    fitted_before = ExDDDetector(CELLS, random_state=0).fit(X_new[y_new == 0])
    combined = combination(fitted_before, ExDDDetector(CELLS, blur=0)).fit(X, y)
    fresh = combination(ExDDDetector(CELLS, random_state=0), ExDDDetector(CELLS, blur=0)).fit(X, y)
    np.testing.assert_array_equal(combined.decision_function(X_new), fresh.decision_function(X_new))


@pytest.mark.parametrize("routing", [False, True])
def test_a_pipeline_is_a_member_with_maps_masks_and_a_seed(routing):
    member = make_pipeline(CutPasteDefectAugmenter(n_synthetic=5), ExDDDetector(CELLS))
    with config_context(enable_metadata_routing=routing):
        combined = combination(member, ExDDDetector(CELLS, blur=0)).fit(X, y, masks=masks, groups=np.arange(len(X)))
        again = combination(member, ExDDDetector(CELLS, blur=0)).fit(X, y, masks=masks, groups=np.arange(len(X)))
    assert len(combined.detectors_[0][-1].synthetic_.images) == 5
    assert len(combined.detectors_[0][0].masks_) == (y == 1).sum()
    assert not np.isnan(combined.map_scales_).any()
    np.testing.assert_array_equal(again.predict_map(X_new), combined.predict_map(X_new))


# Training images


def test_training_images_are_recognised_whatever_dtype_they_come_in():
    detector = ExDDDetector(CELLS, random_state=0).fit(X, y)
    for given in (X, X / 255, X.astype(np.int64), list(X), np.asfortranarray(X), np.stack([X] * 3, axis=-1)[..., :1]):
        assert detector.is_training_image(given).all()
    assert not detector.is_training_image(X_new).any()
    assert not detector.is_training_image(X[:, ::-1]).any()
    detector.partial_fit(X_new, y_new)
    assert detector.is_training_image(X_new).all()
    assert detector.is_training_image(X).all()


def test_training_images_are_recognised_as_files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(X_new))]
    for path, image in zip(paths, X_new):
        Image.fromarray(image).save(path)
    moved = [path.rename(tmp_path / f"moved {path.name}") for path in paths]
    by_arrays = ExDDDetector(CELLS, random_state=0).fit(X_new[y_new == 0])
    np.testing.assert_array_equal(by_arrays.is_training_image(moved), y_new == 0)
    by_files = ExDDDetector(CELLS, random_state=0, image_channels="colour").fit(pd.Series(moved)[y_new == 0])
    np.testing.assert_array_equal(by_files.is_training_image(moved), y_new == 0)


def test_score_warns_of_training_images():
    detector = ExDDDetector(CELLS, random_state=0).fit(X, y)
    with pytest.warns(UserWarning, match=r"^score: 3 of 13 images were used in fit. .* see calibration_scores_"):
        accuracy = detector.score(np.concatenate([X[:3], X_new]), np.concatenate([y[:3], y_new]))
    assert 0 <= accuracy <= 1
    detector.score(X_new, y_new)  # must not warn: a warning is an error here


def test_rows_and_files_of_earlier_versions_have_no_training_images():
    rows = np.random.RandomState(0).normal(size=(30, 3))
    with pytest.raises(ValueError, match=r"^is_training_image: expected images, got feature rows"):
        ExDDDetector(random_state=0).fit(rows).is_training_image(rows)
    detector = ExDDDetector(CELLS, random_state=0).fit(X, y)
    del detector.training_digests_
    assert not detector.is_training_image(X).any()


# Inspection


def test_inspection_reaches_the_detector_in_pipelines_and_searches(squares, unseen_squares, cells):
    X, y, _ = squares
    mirror = FunctionTransformer(lambda images: [image[:, ::-1] for image in images])
    pipeline = make_pipeline(mirror, ExDDDetector(cells, random_state=0)).fit(X, y)
    expected = pipeline[-1].inspect(mirror.transform(unseen_squares[0]))
    for estimator in (pipeline, FrozenEstimator(pipeline)):
        for results in (
            inspect(estimator, unseen_squares[0]),
            list(iter_inspect(estimator, iter(unseen_squares[0]))),
        ):
            assert [result.score for result in results] == pytest.approx([result.score for result in expected])
            np.testing.assert_array_equal([result.mask for result in results], [result.mask for result in expected])
    bad = [*unseen_squares[0][:3], unseen_squares[0][3] * np.nan]
    with pytest.raises(ValueError, match=r"^X\[3\]: expected finite values"):
        list(iter_inspect(pipeline, iter(bad)))


def test_inspection_refuses_a_threshold_that_is_not_the_detectors(squares, cells):
    X, y, _ = squares
    fixed = FixedThresholdClassifier(ExDDDetector(cells), threshold=0.5, response_method="decision_function").fit(X, y)
    assert len(predict_map(fixed, X[:1])) == 1
    with pytest.raises(TypeError, match=r"^iter_inspect: expected .* got a FixedThresholdClassifier, which has its"):
        inspect(fixed, X[:1])
