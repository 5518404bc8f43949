"""Checks that every estimator passes: scikit-learn's own, and checks on images.

A new detector, feature extractor or augmenter is one more line in DETECTORS, EXTRACTORS or AUGMENTERS.
"""

import joblib
import numpy as np
import pytest
from assertions import STORES, assert_same_maps, through_joblib, through_pickle, through_skops
from conftest import name_of
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    DefectClassifier,
    DefectPasteAugmenter,
    EfficientNetLiteFeatureExtractor,
    ExDDDetector,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    LinearProbeDetector,
    MixedDefectAugmenter,
    ModuleFeatureExtractor,
    OffsetDefectAugmenter,
    PatchClassifierDetector,
    PerlinDefectAugmenter,
    SegmentationDetector,
    StudentTeacherDetector,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
)
from sklearn_exdd.augment import RidgedRegions
from sklearn_exdd.datasets import make_surface_defects


def build_network():
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())


DETECTORS = [
    ExDDDetector(random_state=0),
    CombinedDefectDetector([("mean", ExDDDetector()), ("maximum", ExDDDetector(n_top_patches=1))], random_state=0),
    DefectClassifier(
        "resnet18",
        weights=None,
        layer="layer1",
        image_size=None,
        augmenter=OffsetDefectAugmenter(random_state=0),
        n_synthetic=8,
        train_batch_size=4,
        max_steps=3,
        patience=None,
        random_state=0,
    ),
    LinearProbeDetector("gabor", augmenter=OffsetDefectAugmenter(), n_synthetic=8, random_state=0),
    PatchClassifierDetector(
        classifier=LogisticRegression(max_iter=1000), augmenter=OffsetDefectAugmenter(), n_synthetic=8, random_state=0
    ),
    SegmentationDetector(
        LearnedFeatureExtractor(max_steps=3, n_synthetic=4, crop_size=32, train_batch_size=4), random_state=0
    ),
    StudentTeacherDetector(
        channels=(8, 16), n_synthetic=8, max_steps=6, train_batch_size=4, crop_size=64, random_state=0
    ),
]
EXTRACTORS = [
    GaborFeatureExtractor(),
    LearnedFeatureExtractor(max_steps=3, n_synthetic=4, crop_size=32, train_batch_size=4),
    EfficientNetLiteFeatureExtractor(whiten=True),
    ModuleFeatureExtractor(build_network, layers=("1",), whiten=True),
    TorchvisionFeatureExtractor("resnet18", weights=None),
    TimmFeatureExtractor("resnet18", weights=None),
]
AUGMENTERS = [
    CutPasteDefectAugmenter(min_contrast=0.3, random_state=0),
    DefectPasteAugmenter(min_contrast=0.3, random_state=0),
    MixedDefectAugmenter([("offset", OffsetDefectAugmenter()), ("perlin", PerlinDefectAugmenter())], random_state=0),
    OffsetDefectAugmenter(regions=["perlin", RidgedRegions(width=(2, 4))], random_state=0),
    PerlinDefectAugmenter(random_state=0),
]
METHODS = [
    "score_samples",
    "decision_function",
    "predict",
    "p_values",
    "predict_map",
    "predict_mask",
    "inspect",
    "explain",
]


each_detector = pytest.mark.parametrize("detector", DETECTORS, ids=name_of)
each_extractor = pytest.mark.parametrize("extractor", EXTRACTORS, ids=name_of)
each_augmenter = pytest.mark.parametrize("augmenter", AUGMENTERS, ids=name_of)
each_estimator = pytest.mark.parametrize("estimator", [*DETECTORS, *EXTRACTORS, *AUGMENTERS], ids=name_of)


@pytest.fixture(scope="module")
def fit_once(surfaces):
    """Return a function that fits each detector on `surfaces` only once; no test may change its result."""
    done = {}

    def fit(detector):
        key = repr(detector)
        if key not in done:
            X, y, masks = surfaces
            done[key] = clone(detector).fit(X, y, masks=masks)
        return done[key]

    return fit


def is_trained_briefly(detector):
    """Return whether the detector trains in steps; here it takes too few of them to recognise defects."""
    return any(name.split("__")[-1] == "max_steps" for name in detector.get_params())


def fit_on(estimator, surfaces):
    X, y, masks = surfaces
    return estimator.fit(X, y, masks=masks) if hasattr(estimator, "sample") else estimator.fit(X, y)


def results_of(estimator, X):
    """Return the synthetic defects, scores or features that an estimator computes."""
    if hasattr(estimator, "sample"):
        synthetic = estimator.sample(2)
        return [synthetic.images, synthetic.masks, synthetic.provenance]
    return estimator.score_samples(X) if hasattr(estimator, "score_samples") else estimator.transform(X)


def assert_same_predictions(first, second, X):
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    np.testing.assert_array_equal(first.predict_map(X), second.predict_map(X))
    assert first.threshold_ == second.threshold_


def through_skops_with_networks(estimator):
    return through_skops(estimator, ours=("sklearn_exdd.", f"{__name__}.build_network"))


each_way_to_store = pytest.mark.parametrize(
    "through", [through_pickle, through_joblib, through_skops_with_networks], ids=STORES
)


@pytest.mark.slow
@parametrize_with_checks([ExDDDetector(), ExDDDetector(n_neighbors=1, epsilon=1e-6, image_score="exdd_code")])
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)


# Detectors and feature extractors


@each_estimator
def test_clone_and_set_params_keep_every_parameter(estimator):
    params = estimator.get_params()
    fresh = type(estimator)([]) if {"augmenters", "detectors"} & set(params) else type(estimator)()
    copies = [clone(estimator), fresh.set_params(**params)]
    for copy in copies:
        assert copy is not estimator
        assert repr(copy.get_params()) == repr(params)
        assert repr(copy) == repr(estimator)


@each_estimator
def test_an_unknown_parameter_is_refused(estimator):
    with pytest.raises(ValueError, match="Invalid parameter 'n_neighbours'"):
        clone(estimator).set_params(n_neighbours=1)


@each_estimator
def test_fit_returns_the_estimator_and_leaves_its_parameters(estimator, surfaces):
    estimator = clone(estimator)
    before = joblib.hash(estimator.get_params())
    assert fit_on(estimator, surfaces) is estimator
    assert joblib.hash(estimator.get_params()) == before


@pytest.mark.slow
@each_estimator
def test_the_global_random_generators_are_neither_read_nor_moved(estimator, surfaces):
    import torch

    hashes = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = joblib.hash([np.random.get_state(), torch.get_rng_state().numpy()])  # noqa: NPY002
        fitted = fit_on(clone(estimator), surfaces)
        hashes.append(joblib.hash(results_of(fitted, surfaces[0])))
        assert joblib.hash([np.random.get_state(), torch.get_rng_state().numpy()]) == before  # noqa: NPY002
    assert hashes[0] == hashes[1]


@each_estimator
def test_the_html_representation_names_the_estimator(estimator, surfaces):
    assert name_of(estimator) in clone(estimator)._repr_html_()
    assert name_of(estimator) in fit_on(clone(estimator), surfaces)._repr_html_()


# Detectors


@each_detector
@pytest.mark.parametrize("method", METHODS)
def test_an_unfitted_detector_says_so(detector, method, surfaces):
    if not hasattr(detector, method):
        pytest.skip(f"{name_of(detector)} has no {method}")
    with pytest.raises(NotFittedError, match=f"This {name_of(detector)} instance is not fitted yet"):
        getattr(clone(detector), method)(surfaces[0])


@pytest.mark.slow
@each_detector
def test_a_detector_leaves_its_input_as_it_is(detector, surfaces):
    # Use writeable copies: writing to the fixture's arrays would raise, which a detector could catch.
    X, y, masks = (array.copy() for array in surfaces)
    X_float = X / 255
    before = joblib.hash([X, y, masks, X_float])
    detector = clone(detector).fit(X, y, masks=masks)
    for method in METHODS:
        if hasattr(detector, method):
            getattr(detector, method)(X_float)
    assert joblib.hash([X, y, masks, X_float]) == before


@each_detector
def test_the_same_seed_gives_the_same_detector(detector, fit_once, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    assert_same_predictions(clone(detector).fit(X, y, masks=masks), fit_once(detector), unseen_surfaces[0])


@each_detector
def test_scores_rank_unseen_defects_first(detector, fit_once, unseen_surfaces):
    from sklearn.metrics import roc_auc_score

    if is_trained_briefly(detector):
        pytest.skip(f"{name_of(detector)} is trained too briefly here; its own tests train longer")
    X, y, _ = unseen_surfaces
    assert roc_auc_score(y, fit_once(detector).decision_function(X)) > 0.8


@each_detector
def test_decisions_are_scores_minus_the_threshold_and_labels_their_sign(detector, fit_once, unseen_surfaces):
    X, y, _ = unseen_surfaces
    detector = fit_once(detector)
    decisions = detector.decision_function(X)
    assert decisions.shape == (len(X),)
    np.testing.assert_array_equal(decisions, detector.score_samples(X) - detector.threshold_)
    np.testing.assert_array_equal(detector.predict(X), detector.classes_[(decisions > 0).astype(int)])
    assert detector.score(X, y) == (detector.predict(X) == y).mean()
    weights = np.arange(len(X))
    assert detector.score(X, y, weights) == pytest.approx(weights @ (detector.predict(X) == y) / weights.sum())


@each_detector
def test_other_images_in_the_batch_and_their_order_change_nothing(detector, fit_once, unseen_surfaces):
    X = unseen_surfaces[0]
    detector = fit_once(detector)
    scores, maps = detector.score_samples(X), detector.predict_map(X)
    order = np.random.RandomState(0).permutation(len(X))
    for rows in (order, [3], [0, 7, 7]):
        np.testing.assert_allclose(detector.score_samples(X[rows]), scores[rows], rtol=1e-4)
        np.testing.assert_allclose(detector.predict_map(X[rows]), maps[rows], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@each_detector
@pytest.mark.parametrize("params", [{"batch_size": 5}, {"n_jobs": 2, "batch_size": 5}], ids=str)
def test_batches_and_jobs_change_nothing(detector, params, fit_once, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    params = {name: value for name, value in params.items() if name in detector.get_params(deep=False)}
    other = clone(detector).set_params(**params).fit(X, y, masks=masks)
    scores = fit_once(detector).score_samples(unseen_surfaces[0])
    np.testing.assert_allclose(other.score_samples(unseen_surfaces[0]), scores, rtol=1e-3)
    assert other.threshold_ == pytest.approx(fit_once(detector).threshold_, rel=1e-3)


@pytest.mark.slow
@each_detector
def test_an_array_a_list_and_paths_are_the_same(detector, fit_once, surfaces, unseen_surfaces, write_images):
    X, y, masks = surfaces
    X_test = unseen_surfaces[0]
    paths, test_paths, mask_paths = write_images(X), write_images(X_test, "test"), write_images(masks, "masks")
    from_list = clone(detector).fit(list(X), list(y), masks=list(masks))
    from_paths = clone(detector).fit(paths, y, masks=mask_paths)
    from_names = clone(detector).fit(np.array([str(path) for path in paths]), y, masks=masks)
    for other in (from_list, from_paths, from_names):
        assert_same_predictions(other, fit_once(detector), X_test)
    for same_images in (list(X_test), test_paths, [str(path) for path in test_paths]):
        np.testing.assert_array_equal(
            fit_once(detector).score_samples(same_images), fit_once(detector).score_samples(X_test)
        )


@pytest.mark.slow
@each_detector
@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X[..., None],
        lambda X: X / 255,
        lambda X: (X / 255).astype(np.float32),
        lambda X: X.astype(np.uint16) * 257,
        lambda X: np.asfortranarray(X),
    ],
    ids=["one channel", "float64", "float32", "uint16", "Fortran order"],
)
def test_the_same_grey_pixels_in_another_form_score_the_same(detector, convert, fit_once, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    X_test = unseen_surfaces[0]
    scores = fit_once(detector).score_samples(X_test)
    np.testing.assert_allclose(fit_once(detector).score_samples(convert(X_test)), scores, rtol=1e-4, atol=1e-5)
    refitted = clone(detector).fit(convert(X), y, masks=masks)
    np.testing.assert_allclose(refitted.score_samples(X_test), scores, rtol=1e-3)


@pytest.mark.slow
@each_detector
def test_an_alpha_channel_is_ignored(detector, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    X_rgb, X_test = (np.stack([images, images // 2, images // 3], axis=3) for images in (X, unseen_surfaces[0]))
    alpha = np.random.RandomState(0).randint(256, size=(len(X), 64, 64, 1)).astype(np.uint8)
    with_alpha = clone(detector).fit(np.concatenate([X_rgb, alpha], axis=3), y, masks=masks)
    assert_same_predictions(with_alpha, clone(detector).fit(X_rgb, y, masks=masks), X_test)


@each_detector
def test_maps_have_the_size_of_their_images_also_where_it_is_odd_or_differs(detector, fit_once):
    shapes = [(64, 64), (65, 97), (131, 64), (77, 77)]
    images = [make_surface_defects(1, image_shape=shape, random_state=0)[0][0] for shape in shapes]
    maps = fit_once(detector).predict_map(images)
    assert [pixel_map.shape for pixel_map in maps] == shapes
    assert all(pixel_map.dtype == np.float32 and np.isfinite(pixel_map).all() for pixel_map in maps)
    for image, pixel_map in zip(images, maps):
        (alone,) = fit_once(detector).predict_map([image])
        np.testing.assert_allclose(alone, pixel_map, rtol=1e-3)
    assert fit_once(detector).predict_map(np.stack([images[1]] * 2)).shape == (2, 65, 97)


@each_detector
def test_images_of_different_sizes_can_be_fitted(detector):
    images, labels, masks = [], [], []
    for seed, shape in enumerate([(64, 64), (65, 97), (131, 64), (77, 77)]):
        for fraction in (0, 1):
            X, y, M = make_surface_defects(2, defect_fraction=fraction, image_shape=shape, random_state=seed)
            images, labels, masks = [*images, *X], [*labels, *y], [*masks, *M]
    detector = clone(detector).fit(images, labels, masks=masks)
    scores = detector.score_samples(images)
    assert np.isfinite(scores).all()
    if not is_trained_briefly(detector):
        assert scores[np.array(labels) == 1].mean() > scores[np.array(labels) == 0].mean()


@pytest.mark.slow
@each_detector
@each_way_to_store
def test_a_stored_detector_comes_back_bit_for_bit(detector, through, fit_once, unseen_surfaces):
    assert_same_predictions(through(fit_once(detector)), fit_once(detector), unseen_surfaces[0])


@each_detector
@each_way_to_store
def test_an_unfitted_detector_can_be_stored(detector, through):
    assert repr(through(clone(detector)).get_params()) == repr(detector.get_params())


@pytest.mark.slow
@each_detector
def test_a_second_fit_keeps_nothing_of_the_first(detector, fit_once, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    X_other, y_other, _ = make_surface_defects(12, image_shape=(72, 80), texture="fabric", random_state=2)
    X_colour = np.stack([X_other] * 3, axis=3)
    labels = np.where(y_other == 1, "scratched", "good")
    detector_again = clone(detector).fit(X_colour, labels).fit(X, y, masks=masks)
    assert vars(detector_again).keys() == vars(fit_once(detector)).keys()
    np.testing.assert_array_equal(detector_again.classes_, [0, 1])
    assert_same_predictions(detector_again, fit_once(detector), unseen_surfaces[0])
    one_class = clone(detector).fit(X[y == 0])
    assert_same_predictions(detector_again.fit(X[y == 0]), one_class, unseen_surfaces[0])


# Feature extractors


@each_extractor
def test_maps_are_finite_float32_and_their_patches_lie_in_the_image_at_any_size(extractor):
    shapes = [(64, 64), (65, 97), (131, 64), (77, 77)]
    images = [make_surface_defects(1, image_shape=shape, random_state=0)[0][0] for shape in shapes]
    extractor = clone(extractor)
    maps = extractor.fit_transform(images)
    for shape, feature_map in zip(shapes, maps):
        assert feature_map.dtype == np.float32
        assert np.isfinite(feature_map).all()
        assert feature_map.shape[2] == extractor.n_features_out_
        for size, n_patches, centers in zip(
            shape, feature_map.shape, extractor.patch_centers(feature_map.shape, shape)
        ):
            assert centers.shape == (n_patches,)
            assert (np.diff(centers) > 0).all()
            # The last cell may reach beyond the border.
            assert centers[0] >= 0
            assert centers[-1] <= size - 1 + np.diff(centers)[0] / 2


@each_extractor
def test_fit_transform_is_fit_then_transform(extractor, surfaces):
    X = surfaces[0]
    both = clone(extractor)
    maps = both.fit_transform(X)
    assert_same_maps(clone(extractor).fit(X).transform(X), maps)
    assert_same_maps(both.transform(X), maps)


@each_extractor
def test_whitening_has_to_be_fitted(extractor, surfaces):
    with pytest.raises(NotFittedError, match=f"This {name_of(extractor)} instance is not fitted yet"):
        clone(extractor).set_params(whiten=True).transform(surfaces[0])


@each_extractor
def test_whitened_features_have_no_mean_and_no_correlation(extractor):
    # The images are large enough to have more patches than features.
    X, _, _ = make_surface_defects(20, image_shape=(128, 128), random_state=0)
    extractor = clone(extractor).set_params(whiten=True)
    features = np.concatenate([one.reshape(-1, one.shape[2]) for one in extractor.fit_transform(X)])
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=0.01)
    covariance = np.cov(features, rowvar=False)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.01 * covariance.max()


@each_extractor
def test_an_extractor_leaves_its_input_as_it_is(extractor, surfaces):
    X = surfaces[0].copy()
    X_float = X / 255
    before = joblib.hash([X, X_float])
    clone(extractor).fit(X).transform(X_float)
    assert joblib.hash([X, X_float]) == before


@each_extractor
def test_the_order_and_the_number_of_images_do_not_change_a_map(extractor, surfaces, unseen_surfaces):
    X = unseen_surfaces[0]
    extractor = clone(extractor).fit(surfaces[0])
    maps = extractor.transform(X)
    for params in ({"batch_size": 1}, {"batch_size": 5, "n_jobs": 2}):
        for i, feature_map in enumerate(extractor.set_params(**params).transform(X[::-1])):
            np.testing.assert_allclose(feature_map, maps[-1 - i], rtol=1e-3, atol=1e-3)


@each_extractor
def test_an_array_a_list_paths_and_other_dtypes_give_the_same_maps(extractor, surfaces, unseen_surfaces, write_images):
    X = unseen_surfaces[0]
    extractor = clone(extractor).fit(surfaces[0])
    maps = extractor.transform(X)
    for same in (list(X), write_images(X), X[..., None], X.astype(np.uint16) * 257):
        assert_same_maps(extractor.transform(same), maps)
    for feature_map, expected in zip(extractor.transform(X / 255), maps):
        np.testing.assert_allclose(feature_map, expected, rtol=1e-4, atol=1e-4)


@each_extractor
def test_a_cache_changes_no_map_and_is_read(extractor, surfaces, tmp_path, monkeypatch):
    X = surfaces[0]
    without = clone(extractor).fit_transform(X)
    cached = clone(extractor).set_params(memory=str(tmp_path))
    assert_same_maps(cached.fit_transform(X), without)
    larger = clone(extractor).set_params(image_size=80).fit_transform(X)
    assert_same_maps(clone(cached).set_params(image_size=80).fit_transform(X), larger)

    def extract(self, images):
        raise AssertionError("expected maps from the cache")

    monkeypatch.setattr(type(cached), "_extract", extract)
    assert_same_maps(clone(cached).fit_transform(X), without)
    turned = clone(cached).set_params(batch_size=3).fit_transform(X[::-1])[::-1]
    # Whitening sums over the images, whose order affects how the sums are rounded.
    assert_same_maps(turned, without, **({"rtol": 1e-4, "atol": 1e-5} if extractor.get_params().get("whiten") else {}))


@each_extractor
@each_way_to_store
def test_a_stored_extractor_comes_back_bit_for_bit(extractor, through, surfaces, unseen_surfaces):
    extractor = clone(extractor).fit(surfaces[0])
    assert_same_maps(through(extractor).transform(unseen_surfaces[0]), extractor.transform(unseen_surfaces[0]))


@each_extractor
def test_a_second_fit_of_an_extractor_keeps_nothing_of_the_first(extractor, surfaces, unseen_surfaces):
    X_other = np.stack([make_surface_defects(6, image_shape=(72, 80), texture="fabric", random_state=2)[0]] * 3, axis=3)
    again = clone(extractor).fit(X_other).fit(surfaces[0])
    once = clone(extractor).fit(surfaces[0])
    assert vars(again).keys() == vars(once).keys()
    assert_same_maps(again.transform(unseen_surfaces[0]), once.transform(unseen_surfaces[0]))


# Augmenters


@each_augmenter
@pytest.mark.parametrize("method", ["sample", "transform"])
def test_an_unfitted_augmenter_says_so(augmenter, method):
    with pytest.raises(NotFittedError, match=f"This {name_of(augmenter)} instance is not fitted yet"):
        getattr(clone(augmenter), method)(1)


@each_augmenter
@each_way_to_store
def test_a_stored_augmenter_comes_back_bit_for_bit(augmenter, through, surfaces):
    augmenter = fit_on(clone(augmenter), surfaces)
    back = through(augmenter)
    assert joblib.hash(results_of(back, None)) == joblib.hash(results_of(augmenter, None))
    assert repr(back) == repr(augmenter)


@each_augmenter
@each_way_to_store
def test_an_unfitted_augmenter_can_be_stored(augmenter, through):
    assert repr(through(clone(augmenter))) == repr(augmenter)


@each_augmenter
def test_a_second_fit_of_an_augmenter_keeps_nothing_of_the_first(augmenter, surfaces):
    X, y, masks = make_surface_defects(12, image_shape=(72, 80), texture="fabric", random_state=2)
    X_colour, labels = np.stack([X] * 3, axis=3), np.where(y == 1, "scratched", "good")
    again = fit_on(clone(augmenter).fit(X_colour, labels, masks=masks), surfaces)
    once = fit_on(clone(augmenter), surfaces)
    assert vars(again).keys() == vars(once).keys()
    assert joblib.hash(results_of(again, None)) == joblib.hash(results_of(once, None))


@each_augmenter
def test_scikit_learn_knows_what_an_augmenter_takes(augmenter):
    from sklearn.utils import get_tags

    tags = get_tags(augmenter)
    assert tags.input_tags.three_d_array
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required
    assert tags.transformer_tags is not None
