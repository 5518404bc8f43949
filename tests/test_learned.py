"""The learned extractor: tiny training runs, and properties that hold for every run."""

import itertools
import pickle
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from assertions import assert_same_maps, each_way_to_store
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector, OffsetDefectAugmenter, _training
from sklearn_exdd._images import Images, Masks
from sklearn_exdd._torch import resize, resolve_precision
from sklearn_exdd._training_set import TrainingSet
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import segmentation_network
from sklearn_exdd.features.learned import LearnedFeatureExtractor
from sklearn_exdd.features.training_crops import training_crops

TINY = {"max_steps": 3, "n_synthetic": 4, "crop_size": 32, "train_batch_size": 4, "precision": "float32"}


def tiny(**params):
    return LearnedFeatureExtractor(**{**TINY, **params})


@pytest.fixture(scope="module")
def fitted(surfaces):
    """Return an extractor fitted on normal images only. No test may change it."""
    X, y, _ = surfaces
    return tiny().fit(X[y == 0])


@pytest.fixture
def n_trainings(monkeypatch):
    """Return a list that grows by one with each training run."""
    done, train = [], segmentation_network.train
    monkeypatch.setattr(segmentation_network, "train", lambda *args, **kwargs: done.append(1) or train(*args, **kwargs))
    return done


# The network


@pytest.mark.parametrize("n_planes", [1, 3])
def test_the_maps_of_the_network_have_the_strides_it_says(n_planes):
    network = segmentation_network.segmentation_network(n_planes).eval()
    shapes = [tuple(maps.shape) for maps in network.levels(torch.zeros(2, n_planes, 32, 48))]
    assert shapes == [(2, 24, 8, 12), (2, 48, 4, 6), (2, 64, 4, 6), (2, 1, 8, 12)]


def test_the_network_sees_no_farther_than_its_margin():
    network = segmentation_network.segmentation_network(1).eval()
    planes = torch.rand(1, 1, 16, 720, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = network(planes)
    cell = 89  # centred at pixel 357.5
    logits[..., cell].sum().backward()
    influence = planes.grad.abs().sum(dim=(0, 1, 2)).numpy()
    seen = np.flatnonzero(influence > 1e-12 * influence.max())  # running sums leave rounding errors behind
    center = 4 * cell + 1.5
    assert 100 < max(center - seen[0], seen[-1] - center) <= LearnedFeatureExtractor().margin


def test_maps_are_centred_where_the_extractor_says():
    network = segmentation_network.segmentation_network(1).eval()
    planes = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    mirrored = planes.flip(3)
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):  # symmetric filters
            module.weight.data = (module.weight.data + module.weight.data.flip(3)) / 2
            assert module.kernel_size[1] % 2 == module.stride[1] % 2, name
    for maps, other in zip(network.levels(planes), network.levels(mirrored)):
        torch.testing.assert_close(other.flip(3), maps, rtol=1e-4, atol=1e-4)


def test_the_loss_falls_as_logits_come_nearer_to_the_targets():
    targets = torch.zeros(2, 1, 8, 8)
    targets[0, 0, 2:5, 3:6] = 1
    losses = [
        float(segmentation_network.segmentation_loss(scale * (2 * targets - 1), targets)) for scale in (-5, 0, 1, 5, 20)
    ]
    assert losses == sorted(losses, reverse=True)
    assert 0 <= losses[-1] < 1e-3


def test_bfloat16_is_used_where_it_is_asked_for_or_fast(monkeypatch):
    cpu = torch.device("cpu")
    assert not resolve_precision("float32", cpu)
    assert resolve_precision("bfloat16", cpu)
    for supported in (True, False):
        monkeypatch.setattr(
            torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported, raising=False
        )
        assert resolve_precision("auto", cpu) is supported
    assert not resolve_precision("auto", torch.device("meta"))


# Training


@pytest.mark.slow
def test_a_short_training_tells_unseen_real_defects_from_normal_images(surfaces, unseen_surfaces):
    X, y, masks = surfaces
    extractor = tiny(max_steps=80, crop_size=48, train_batch_size=8, n_synthetic=20).fit(X, y, masks=masks)
    assert extractor.losses_[-10:].mean() < extractor.losses_[:10].mean() / 1.5
    logits = extractor.defect_logits(unseen_surfaces[0])
    assert roc_auc_score(unseen_surfaces[2].ravel(), logits.ravel()) > 0.8


@pytest.mark.slow
def test_wide_contrast_finds_more_in_images_of_low_contrast(surfaces, unseen_surfaces):
    X, y, masks = surfaces
    logs = np.log(unseen_surfaces[0] / 255 + 0.03)
    medians = np.median(logs, axis=(1, 2), keepdims=True)
    pale = np.clip(np.exp(medians + 0.3 * (logs - medians)) - 0.03, 0, 1)
    found = []
    for contrast in ((1, 1), (0.4, 1.6)):
        extractor = tiny(max_steps=80, crop_size=48, train_batch_size=8, n_synthetic=20, contrast=contrast)
        logits = extractor.fit(X, y, masks=masks).defect_logits(pale)
        found.append(roc_auc_score(unseen_surfaces[2].ravel(), logits.ravel()))
    assert found[1] > found[0] + 0.02


@pytest.mark.slow
def test_the_same_seed_gives_the_same_maps_and_another_does_not(fitted, surfaces):
    X, y, _ = surfaces
    normal = X[y == 0]
    expected = fitted.transform(X[:3])
    assert_same_maps(clone(fitted).fit(normal).transform(X[:3]), expected)
    # Raw features are compared, because whitening amplifies the rounding of channels that are nearly constant.
    one, other = (tiny(batch_size=size, whiten=False).fit(normal).transform(X[:3]) for size in (5, 16))
    assert_same_maps(one, other, atol=1e-6)
    other = tiny(random_state=1).fit(normal)
    assert other.weights_key_ != fitted.weights_key_


def test_the_order_of_the_images_makes_no_difference(surfaces):
    X, y, masks = surfaces
    order = np.random.RandomState(0).permutation(len(X))
    expected = tiny().fit(X, y, masks=masks).weights_key_
    assert tiny().fit(X[order], y[order], masks=[masks[i] for i in order]).weights_key_ == expected


def test_a_random_state_object_and_none_are_accepted(surfaces):
    X, y, _ = surfaces
    same = [tiny(random_state=np.random.RandomState(5)).fit(X[y == 0]) for _ in range(2)]
    assert same[0].weights_key_ == same[1].weights_key_
    assert tiny(random_state=None).fit(X[y == 0]).weights_key_ != same[0].weights_key_


def test_neither_the_images_nor_the_global_generators_nor_the_parameters_are_touched(surfaces):
    X, y, masks = (array.copy() for array in surfaces)
    augmenter = CutPasteDefectAugmenter()
    extractor = tiny(augmenter=augmenter)
    before = joblib.hash([X, y, masks, augmenter.get_params(), np.random.get_state()])  # noqa: NPY002
    state = torch.get_rng_state()
    extractor.fit(X, y, masks=masks).transform(X)
    after = joblib.hash([X, y, masks, augmenter.get_params(), np.random.get_state()])  # noqa: NPY002
    assert after == before
    assert torch.equal(torch.get_rng_state(), state)
    assert extractor.augmenter is augmenter
    assert not hasattr(augmenter, "seed_")


def test_only_normal_images_and_marked_defects_are_learned_from(fitted, surfaces):
    X, y, masks = surfaces
    unmarked = tiny().fit(X, y)
    assert unmarked.weights_key_ == fitted.weights_key_
    np.testing.assert_array_equal(unmarked.mean_, fitted.mean_)
    marked = tiny().fit(X, y, masks=masks)
    assert marked.weights_key_ != fitted.weights_key_
    some = [mask if i < 12 else None for i, mask in enumerate(masks)]
    assert tiny().fit(X, y, masks=some).weights_key_ != marked.weights_key_


def test_the_label_of_defects_can_be_named(surfaces):
    X, y, masks = surfaces
    expected = tiny().fit(X, y, masks=masks).weights_key_
    words = np.where(y == 1, "bad", "good")
    assert tiny(pos_label="bad").fit(X, words, masks=masks).weights_key_ == expected


def test_any_augmenter_makes_the_defects_and_gets_the_real_ones(surfaces):
    X, y, masks = surfaces

    class Recorder(CutPasteDefectAugmenter):
        calls = []

        def fit(self, X, y=None, *, masks=None):
            self.calls.append((len(X), list(y), masks))
            return super().fit(X, y, masks=masks)

    without = tiny(augmenter=Recorder()).fit(X, y)
    with_defects = tiny(augmenter=Recorder()).fit(X, y, masks=masks)
    (n_normal, labels, no_masks), (n_all, all_labels, all_masks) = Recorder.calls
    assert (n_normal, set(labels), set(no_masks)) == ((y == 0).sum(), {0}, {None})
    assert (n_all, sum(all_labels), len(all_masks)) == (len(X), y.sum(), len(X))
    assert without.weights_key_ != with_defects.weights_key_


def as_training_set(X, masks=None):
    return TrainingSet(Images(X), np.arange(len(X)), np.arange(len(X)), masks)


def test_crops_show_defects_in_their_share_and_targets_lie_on_them():
    X = np.full((12, 64, 80), 0.5)
    masks = np.zeros(X.shape, dtype=bool)
    masks[:4, 20:30, 30:50] = True
    X[masks] = 1.0
    marked, normal = as_training_set(X[:4], Masks(masks[:4], 4)), as_training_set(X[4:])
    augmenter = OffsetDefectAugmenter(sign="bright", regions="rectangle", min_contrast=0)
    options = {"n_synthetic": 5, "n_crops": 200, "size": 48, "stride": 4, "planes_of": lambda image: image, "seed": 0}
    for real in (None, marked):
        planes, targets = training_crops(normal, real, augmenter, **options)
        assert planes.shape == (200, 1, 48, 48)
        assert targets.shape == (200, 1, 12, 12)
        assert abs(targets.any(axis=(1, 2, 3)).mean() - 0.75) < 0.03
        cells = planes.reshape(200, 1, 12, 4, 12, 4).mean(axis=(3, 5), dtype=float)
        assert cells[targets].mean() > 0.6
        np.testing.assert_allclose(cells[~targets], 0.5, atol=0.2)


def test_crops_reach_the_border_more_often_than_uniform_ones():
    X = np.full((1, 200, 200), 0.2)
    X[:, 0] = 1
    options = {"n_synthetic": 1, "n_crops": 1600, "size": 48, "stride": 4, "planes_of": lambda image: image, "seed": 0}
    augmenter = OffsetDefectAugmenter(min_contrast=0)
    planes, targets = training_crops(as_training_set(X), None, augmenter, **options)
    clean = planes[~targets.any(axis=(1, 2, 3))]
    assert 0.08 < (clean[:, 0, 0].min(axis=1) > 0.3).mean() < 0.3


def test_crops_end_within_a_cell_as_images_do():
    X = np.tile(np.linspace(0.2, 0.8, 128), (1, 128, 1))  # brightness encodes the column
    options = {"n_synthetic": 1, "n_crops": 1600, "size": 48, "stride": 4, "planes_of": lambda image: image, "seed": 0}
    planes, targets = training_crops(as_training_set(X), None, OffsetDefectAugmenter(min_contrast=0), **options)
    clean = planes[~targets.any(axis=(1, 2, 3)), 0].astype(float)
    at_end = clean[clean.max(axis=(1, 2)) > 0.79]
    n_mirrored = 48 - 1 - at_end[:, 24].argmax(axis=1)
    assert n_mirrored.min() < 3
    assert 10 < n_mirrored.max() <= 16 * 1.4


@pytest.mark.parametrize("shape", [(40, 200), (33, 35)])
def test_images_smaller_than_a_crop_are_mirrored(shape):
    X = make_surface_defects(4, defect_fraction=0, image_shape=shape, random_state=0)[0]
    extractor = tiny(crop_size=64).fit(X)
    assert extractor.defect_logits(X).shape == (4, *shape)


def test_a_loss_that_is_not_finite_is_reported(monkeypatch, surfaces):
    X, y, _ = surfaces
    monkeypatch.setattr(segmentation_network, "segmentation_loss", lambda logits, marks: logits.mean() * np.nan)
    with pytest.raises(FloatingPointError, match="network on the normal images: expected a finite loss, got nan"):
        tiny().fit(X[y == 0])


def test_training_in_bfloat16_is_close_to_float32(fitted, surfaces):
    X, y, _ = surfaces
    other = tiny(precision="bfloat16").fit(X[y == 0])
    assert other.weights_key_ != fitted.weights_key_
    np.testing.assert_allclose(other.losses_, fitted.losses_, rtol=0.1)


@pytest.mark.slow
def test_a_budget_in_seconds_ends_the_training(surfaces, monkeypatch):
    X, y, _ = surfaces
    clock = itertools.count()  # one second per step; the first step begins at second 1
    monkeypatch.setattr(_training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    extractor = tiny(max_steps=10_000, n_synthetic=2, max_seconds=5).fit(X[y == 0][:3])
    assert len(extractor.losses_) == 4


# Memory


@pytest.mark.slow
def test_with_memory_a_network_is_trained_once_for_all_that_share_it(tmp_path, n_trainings, surfaces):
    X, y, masks = surfaces
    normal = X[y == 0]
    expected = tiny().fit(normal)
    for params in ({}, {"whiten": False}, {"batch_size": 3}, {"tile_size": 64}, {"verbose": 0}):
        again = tiny(memory=str(tmp_path), **params).fit(normal)
        assert again.weights_key_ == expected.weights_key_
        assert again.seconds_ > 0
    assert len(n_trainings) == 2
    tiny(memory=joblib.Memory(str(tmp_path), verbose=0)).fit(list(normal[::-1]))
    assert len(n_trainings) == 2
    for count, (images, labels, marks, params) in enumerate(
        [
            (255 - normal, None, None, {}),
            (normal, None, None, {"max_steps": 4}),
            (normal, None, None, {"random_state": 1}),
            (normal, None, None, {"augmenter": CutPasteDefectAugmenter()}),
            (normal, None, None, {"augmenter": CutPasteDefectAugmenter(jitter=0.2)}),
            (normal, None, None, {"image_size": 48}),
            (normal, None, None, {"precision": "bfloat16"}),
            (X, y, masks, {}),
            (X, y, np.roll(masks, 1, axis=2), {}),
        ],
        start=3,
    ):
        tiny(memory=str(tmp_path), **params).fit(images, labels, masks=marks)
        assert len(n_trainings) == count


@pytest.mark.slow
def test_maps_in_memory_are_those_of_the_own_network(tmp_path, surfaces):
    X, y, _ = surfaces
    for seed in (0, 1):
        cached = tiny(memory=str(tmp_path), random_state=seed).fit(X[y == 0])
        fresh = tiny(random_state=seed).fit(X[y == 0])
        for _ in range(2):
            assert_same_maps(cached.transform(X[:3]), fresh.transform(X[:3]), atol=1e-4)
            assert_same_maps(cached.defect_logits(X[:3]), fresh.defect_logits(X[:3]), atol=1e-4)


def test_an_interrupted_training_is_not_kept(tmp_path, n_trainings, surfaces, monkeypatch):
    X, y, _ = surfaces
    loss, calls = segmentation_network.segmentation_loss, []

    def interrupted(logits, marks):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(logits, marks)

    monkeypatch.setattr(segmentation_network, "segmentation_loss", interrupted)
    with pytest.warns(RuntimeWarning, match="interrupted after 2 of 3 steps"):
        tiny(memory=str(tmp_path)).fit(X[y == 0])
    assert len(tiny(memory=str(tmp_path)).fit(X[y == 0]).losses_) == 3
    assert len(n_trainings) == 2


# Maps


@pytest.mark.parametrize("shape", [(64, 64), (33, 97), (131, 47), (32, 32)])
def test_there_is_a_patch_for_each_begun_cell_and_a_logit_for_each_pixel(fitted, shape):
    X = make_surface_defects(2, image_shape=shape, random_state=0)[0]
    for feature_map in fitted.transform(X):
        assert feature_map.shape == (-(-shape[0] // 8), -(-shape[1] // 8), fitted.n_features_out_)
        assert feature_map.dtype == np.float32
    logits = fitted.defect_logits(X)
    assert logits.shape == (2, *shape)
    assert logits.dtype == np.float32


def test_images_of_different_sizes_are_learned_from_and_keep_their_own():
    shapes = [(64, 80), (40, 100), (71, 53), (64, 80)]
    X = [
        make_surface_defects(1, defect_fraction=0, image_shape=shape, random_state=i)[0][0]
        for i, shape in enumerate(shapes)
    ]
    extractor = tiny(whiten=False).fit(X)  # whitening amplifies the rounding of channels that are nearly constant
    assert [pixel_map.shape for pixel_map in extractor.defect_logits(X)] == shapes
    maps = extractor.transform(X)
    for image, expected in zip(X, maps):
        assert_same_maps(extractor.transform([image]), [expected], atol=1e-6)


def test_colour_is_seen_and_equal_channels_are_not_grey(surfaces):
    X, y, _ = surfaces
    colour = np.stack([X, X // 2, X // 3], axis=3)
    extractor = tiny().fit(colour[y == 0])
    other = colour.copy()
    other[:, 20:40, 20:40, 0] //= 2
    assert np.abs(extractor.transform(other)[0] - extractor.transform(colour)[0]).max() > 0.1
    with pytest.raises(ValueError, match=r"X\[0\]: expected 3 channels as in fit, got 1 channel"):
        extractor.transform(X)


def test_the_strength_of_the_light_changes_little(fitted, surfaces):
    X = surfaces[0][:2] / 255 * 0.9
    dark, bright = fitted.defect_logits(0.6 * X), fitted.defect_logits(X)
    assert np.corrcoef(dark.ravel(), bright.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("shape", [(150, 523), (417, 97)])
def test_maps_of_tiles_are_those_of_the_whole(fitted, shape):
    X = make_surface_defects(1, image_shape=shape, random_state=0)[0]
    tiled = pickle.loads(pickle.dumps(fitted)).set_params(tile_size=128)
    assert_same_maps(tiled.transform(X), fitted.transform(X), atol=1e-3)
    assert_same_maps(tiled.defect_logits(X), fitted.defect_logits(X), atol=1e-4)


@pytest.mark.parametrize("axis", [1, 2])
def test_the_logits_of_a_mirrored_image_are_mirrored_where_crops_were(fitted, surfaces, axis):
    X = surfaces[0][:4]
    mirrored = np.flip(fitted.defect_logits(np.flip(X, axis)), axis)
    np.testing.assert_allclose(mirrored, fitted.defect_logits(X), atol=1e-4)
    one_sided = pickle.loads(pickle.dumps(fitted)).set_params(flip=False)
    mirrored = np.flip(one_sided.defect_logits(np.flip(X, axis)), axis)
    assert np.abs(mirrored - one_sided.defect_logits(X)).max() > 1e-3


def test_an_image_size_resizes_images_and_masks_for_training_and_logits_come_back(surfaces):
    X, y, masks = surfaces
    extractor = tiny(image_size=(48, 40)).fit(X, y, masks=masks)
    assert extractor.transform(X)[0].shape[:2] == (6, 5)
    assert extractor.defect_logits(X).shape == X.shape


def test_fit_transform_returns_the_maps_of_all_images_in_their_order(surfaces):
    X, y, masks = surfaces
    extractor = tiny()
    assert_same_maps(extractor.fit_transform(X, y, masks=masks), extractor.transform(X), atol=1e-3)


def test_the_features_of_normal_images_are_whitened(fitted, surfaces):
    X, y, _ = surfaces
    patches = np.concatenate(
        [feature_map.reshape(-1, feature_map.shape[2]) for feature_map in fitted.transform(X[y == 0])]
    )
    np.testing.assert_allclose(patches.mean(axis=0), 0, atol=1e-2)
    covariance = np.cov(patches.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-2
    raw = tiny(whiten=False).fit(X[y == 0]).transform(X[:1])
    assert raw[0].shape[2] == 160


def test_the_position_map_is_the_mean_of_the_normal_logits(fitted, surfaces):
    X, y, _ = surfaces
    assert fitted.position_map_.shape == (16, 16)
    np.testing.assert_allclose(fitted.position_map_, fitted.position_map_[::-1, ::-1], atol=1e-5)
    logits = fitted.defect_logits(X[y == 0])
    centered = logits - resize(fitted.position_map_[..., None], logits.shape[1:])[..., 0]
    assert fitted.position_map_.mean() == pytest.approx(logits.mean(), abs=0.02)
    assert abs(centered.mean()) < 0.02
    one_sided = tiny(flip=False).fit(X[y == 0])
    assert np.abs(one_sided.position_map_ - one_sided.position_map_[::-1]).max() > 1e-4


# Storing and refusals


def test_an_unfitted_extractor_says_so(surfaces, tmp_path):
    for method in ("transform", "defect_logits"):
        for params in ({}, {"whiten": False}, {"whiten": False, "memory": str(tmp_path)}):
            with pytest.raises(NotFittedError, match="This LearnedFeatureExtractor instance is not fitted yet"):
                getattr(tiny(**params), method)(surfaces[0])


@each_way_to_store
def test_a_stored_extractor_comes_back_bit_for_bit_and_without_torch(fitted, surfaces, through):
    X = surfaces[0][:2]
    fitted.transform(X)
    assert b"torch" not in pickle.dumps(fitted)
    back = through(fitted)
    assert_same_maps(back.transform(X), fitted.transform(X))
    assert_same_maps(back.defect_logits(X), fitted.defect_logits(X))
    assert repr(back) == repr(fitted)


def test_several_jobs_share_one_network(fitted, surfaces):
    X = surfaces[0]
    jobs = pickle.loads(pickle.dumps(fitted)).set_params(n_jobs=2, batch_size=3)
    assert_same_maps(jobs.transform(X), fitted.transform(X), atol=1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"crop_size": 40}, "crop_size: expected a multiple of 16, got 40"),
        ({"contrast": (0, 1)}, r"contrast: expected two numbers in ascending order, at least 0.01, got \(0, 1\)"),
        ({"contrast": 0.4}, "The 'contrast' parameter of LearnedFeatureExtractor must be"),
        ({"max_steps": 0}, "The 'max_steps' parameter of LearnedFeatureExtractor must be"),
        ({"precision": "float16"}, "The 'precision' parameter of LearnedFeatureExtractor must be"),
        ({"augmenter": "cutpaste"}, "The 'augmenter' parameter of LearnedFeatureExtractor must be"),
    ],
)
def test_a_wrong_parameter_is_refused(surfaces, params, message):
    with pytest.raises(ValueError, match=message):
        tiny(**params).fit(surfaces[0])


def test_images_that_are_too_small_are_named_before_anything_is_learned(n_trainings):
    X = [np.zeros((64, 64)), np.zeros((64, 31))]
    with pytest.raises(
        ValueError, match=r"X\[1\]: expected at least 32 pixels a side for LearnedFeatureExtractor, got 64 x 31"
    ):
        tiny().fit(X)
    assert not n_trainings


def test_wrong_labels_and_masks_are_refused(surfaces):
    X, y, masks = surfaces
    with pytest.raises(ValueError, match="y: expected at least one normal image to learn from, got defects only"):
        tiny().fit(X, np.ones(len(X), dtype=int))
    with pytest.raises(ValueError, match="y: expected 24 labels, one for each sample of X, got 3"):
        tiny().fit(X, y[:3])
    with pytest.raises(ValueError, match="y: expected two classes, normal and defect, got 24"):
        tiny().fit(X, np.arange(24))
    with pytest.raises(ValueError, match=r"pos_label: expected one of the classes \[0, 1\], got 'bad'"):
        tiny(pos_label="bad").fit(X, y)
    number = np.flatnonzero(y)[0]
    with pytest.raises(ValueError, match=rf"masks\[{number}\]: expected None or an empty mask for a normal image"):
        tiny().fit(X, np.where(np.arange(24) == number, 0, y), masks=masks)


def test_a_detector_works_on_learned_features(surfaces, unseen_surfaces):
    X, y, _ = surfaces
    detector = ExDDDetector(tiny(), random_state=0).fit(X[y == 0])
    assert detector.score_samples(unseen_surfaces[0]).shape == (12,)
    assert detector.predict_map(unseen_surfaces[0]).shape == unseen_surfaces[0].shape
    again = clone(detector).fit(X[y == 0])
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
