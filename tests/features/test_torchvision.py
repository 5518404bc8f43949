"""Backbones of torchvision and their weights."""

import hashlib
import os
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from assertions import assert_same_maps
from sklearn.base import clone
from tiny_extractors import as_maps, random_images, resnet18
from torch.nn import functional
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from sklearn_exdd.features import TorchvisionFeatureExtractor

# Comparison with the outputs of torchvision


def torchvision_outputs(images, layers, seed=0):
    """Return the pooled outputs of the torchvision model, one tensor per layer, for images (n, height, width, 3)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_feature_extractor(models.resnet18(weights=None).eval(), return_nodes=list(layers))
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        outputs = network((batch - mean) / std)
        return [functional.avg_pool2d(outputs[layer], 3, 1, 1) for layer in layers]


@pytest.mark.parametrize("shape", [(96, 128), (64, 64), (33, 65), (97, 71)])
@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3"])
def test_maps_of_one_layer_are_the_pooled_outputs_of_torchvision(layer, shape):
    X = random_images(0, 2, *shape, 3)
    expected = as_maps(torchvision_outputs(X, [layer]))
    assert_same_maps(resnet18(layers=(layer,)).transform(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5])
def test_layers_are_joined_on_the_finest_grid_as_in_torchvision(seed):
    X = random_images(1, 3, 96, 160, 3)
    fine, coarse = torchvision_outputs(X, ["layer2", "layer3"], seed)
    expected = as_maps([fine, functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear")])
    assert expected[0].shape == (12, 20, 128 + 256)
    assert_same_maps(resnet18(random_state=seed).transform(X), expected, rtol=1e-5, atol=1e-5)


def test_pooling_can_be_left_out_and_its_size_is_checked():
    X = random_images(0, 1, 64, 64, 3)
    without, with_pooling = (resnet18(layers=("layer2",), pool_size=size).transform(X)[0] for size in (1, 3))
    by_hand = functional.avg_pool2d(torch.from_numpy(without).permute(2, 0, 1), 3, 1, 1).permute(1, 2, 0)
    np.testing.assert_allclose(with_pooling, by_hand, atol=1e-5)
    with pytest.raises(ValueError, match=r"^pool_size: expected an odd integer, got 2"):
        resnet18(pool_size=2).transform(X)
    for size in (0, -1):
        with pytest.raises(ValueError, match=rf"The 'pool_size' parameter of .* range \[1, inf\). Got {size} instead"):
            resnet18(pool_size=size).transform(X)


@pytest.mark.parametrize("shape", [(64, 96), (65, 96), (71, 103), (57, 121)])
def test_odd_sizes_give_a_patch_for_each_begun_cell(shape):
    assert resnet18().transform(random_images(0, 1, *shape))[0].shape == (-(-shape[0] // 8), -(-shape[1] // 8), 384)


def test_grey_images_are_rgb_images_of_equal_channels():
    X = random_images(0, 2, 64, 80)
    repeated = np.repeat(X[..., None], 3, axis=3)
    assert_same_maps(resnet18().transform(X), resnet18().transform(repeated), atol=1e-5)


def test_bfloat16_comes_close_to_float32():
    X = random_images(0, 2, 64, 64, 3)
    exact, rough = (np.stack(resnet18(precision=name).transform(X)) for name in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    error = np.linalg.norm(rough - exact, axis=3) / np.linalg.norm(exact, axis=3)
    assert 0 < error.max() < 0.05
    with pytest.raises(
        ValueError, match=r"The 'precision' parameter of Torch.* must be a str among {.*}. Got 'float16'"
    ):
        resnet18(precision="float16").transform(X)


@pytest.mark.parametrize("supported", [True, False])
def test_auto_is_bfloat16_where_the_processor_has_it_and_stays_what_it_was_in_fit(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    X = random_images(0, 2, 64, 64, 3)
    here, there = ("bfloat16", "float32") if supported else ("float32", "bfloat16")
    expected, other = (resnet18(precision=name).transform(X) for name in (here, there))
    extractor = resnet18(precision="auto")
    assert_same_maps(extractor.transform(X), expected, rtol=0)
    assert_same_maps(extractor.fit_transform(X), expected, rtol=0)
    assert extractor.precision_ == here

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not supported)
    moved = pickle.loads(pickle.dumps(extractor))
    assert_same_maps(moved.transform(X), expected, rtol=0)
    assert_same_maps(clone(extractor).transform(X), other, rtol=0)
    assert moved.fit(X).precision_ == there
    assert_same_maps(moved.set_params(precision=here).transform(X), expected, rtol=0)


def test_features_of_another_precision_are_other_entries_of_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    X = random_images(0, 1, 64, 64, 3)
    for supported, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        cached = resnet18(precision="auto", memory=str(tmp_path)).transform(X)
        assert_same_maps(cached, resnet18(precision=name).transform(X), rtol=0)


@pytest.mark.slow
def test_random_weights_follow_their_seed_and_leave_the_global_generator_alone():
    X = random_images(0, 1, 64, 64)
    state = torch.random.get_rng_state()
    first, other = resnet18(random_state=101).transform(X)[0], resnet18(random_state=102).transform(X)[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("backbone", ["swin_t", "swin_v2_b", "vit_b_16", "maxvit_t"])
def test_transformers_are_refused_by_name_in_favour_of_those_of_timm(backbone):
    message = rf"^backbone: expected a convolutional .*, got the transformer '{backbone}'\. Use .* of timm"
    with pytest.raises(ValueError, match=message):
        TorchvisionFeatureExtractor(backbone, weights=None).transform(random_images(0, 1, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_other_backbones_of_torchvision_work_by_name(backbone):
    extractor = TorchvisionFeatureExtractor(backbone, weights=None)
    (feature_map,) = extractor.transform(random_images(0, 1, 64, 96))
    assert feature_map.shape[:2] == (8, 12)
    assert np.isfinite(feature_map).all()
    assert feature_map.std() > 0
    assert extractor.stride == 8


def test_an_unknown_backbone_is_refused():
    with pytest.raises(
        ValueError, match=r"^backbone: expected a name of torchvision\.models\.list_models\(\), got 'r'"
    ):
        TorchvisionFeatureExtractor("r").transform(random_images(0, 1, 64, 64))


# Weights


SMALL = {"layers": ("stage2",)}  # a layer of shufflenet_v2_x0_5, which is the smallest backbone


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(33)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), path)
    torch.random.set_rng_state(torch_state)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", [str, Path])
def test_weights_can_be_a_local_file(weights_file, kind):
    X = random_images(0, 1, 64, 64)
    sha256 = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    expected = TorchvisionFeatureExtractor("shufflenet_v2_x0_5", weights=None, random_state=33, **SMALL).transform(X)
    for options in ({}, {"weights_sha256": sha256}, {"weights_sha256": sha256.upper()}):
        extractor = TorchvisionFeatureExtractor("shufflenet_v2_x0_5", weights=kind(weights_file), **options, **SMALL)
        assert_same_maps(clone(extractor).transform(X), expected, rtol=1e-6)


def test_a_file_with_another_hash_is_refused(weights_file):
    extractor = TorchvisionFeatureExtractor("shufflenet_v2_x0_5", weights=weights_file, weights_sha256="ab" * 32)
    with pytest.raises(ValueError, match=r"^weights: expected SHA-256 (ab){32} of .*weights\.pth, got [0-9a-f]{64}\."):
        extractor.transform(random_images(0, 1, 64, 64))


@pytest.mark.parametrize("weights", ["IMAGENET1K_V9", "nowhere/weights.pth", Path("nowhere.pth")])
def test_weights_that_are_neither_a_name_nor_a_file_are_refused(weights):
    extractor = TorchvisionFeatureExtractor("resnet18", weights=weights)
    message = r"^weights: expected one of \['IMAGENET1K_V1', 'DEFAULT'\] or an existing file, got '.*(V9|pth)'"
    with pytest.raises(FileNotFoundError, match=message):
        extractor.transform(random_images(0, 1, 64, 64))


class Trap:
    """Object that creates a file when it is unpickled, to detect a reader that unpickles files."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_weights_file_cannot_run_code(tmp_path):
    torch.save({"conv1.weight": Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=r"weights\.pth, got a file that is damaged or of another kind \(UnpicklingError"
    ):
        resnet18().set_params(weights=tmp_path / "weights.pth").transform(random_images(0, 1, 64, 64))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("error", [URLError("no route to host"), OSError("disk full")])
def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch, error):
    def refuse(name, weights):
        raise error

    monkeypatch.setattr(models, "get_model", refuse)
    message = r"^weights: resnet18's IMAGENET1K_V1 could not be downloaded \(.*\)\. Give a local file as weights=path"
    with pytest.raises(OSError, match=message):
        TorchvisionFeatureExtractor("resnet18").transform(random_images(0, 1, 64, 64))


@pytest.mark.slow
def test_other_weights_in_the_same_file_are_other_features(tmp_path):
    X, path, cache = random_images(0, 1, 64, 64), tmp_path / "weights.pth", str(tmp_path / "cache")
    maps = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), path)
        os.utime(path, (1e9 + seed, 1e9 + seed))
        extractor = TorchvisionFeatureExtractor("shufflenet_v2_x0_5", weights=path, memory=cache, **SMALL)
        maps.append(extractor.transform(X)[0])
    assert not np.allclose(*maps)
