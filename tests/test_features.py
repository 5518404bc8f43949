import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.nn import functional
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import (
    BaseFeatureExtractor,
    ForeignFeatureExtractor,
    GaborFeatureExtractor,
    ModuleFeatureExtractor,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
    make_feature_extractor,
)


class CellMeans(BaseFeatureExtractor):
    """Mean and peak of cells of 4 x 4 pixels; counts the images it is given."""

    stride = 4
    offset = 1.5
    min_size = 4
    n_extracted = 0

    def _extract(self, images):
        type(self).n_extracted += len(images)
        height, width = (size // 4 * 4 for size in images.shape[1:3])
        cells = images[:, :height, :width].reshape(len(images), height // 4, 4, width // 4, 4, -1)
        return np.concatenate([cells.mean(axis=(2, 4)), cells.max(axis=(2, 4))], axis=3)


class Pixels(BaseFeatureExtractor):
    """Every pixel is a patch, its channels are the features."""

    stride = 1

    def _extract(self, images):
        return images


@pytest.fixture
def count(monkeypatch):
    """How many images CellMeans has extracted since the count was last asked for."""
    monkeypatch.setattr(CellMeans, "n_extracted", 0)

    def since_last_asked():
        n_extracted, CellMeans.n_extracted = CellMeans.n_extracted, 0
        return n_extracted

    return since_last_asked


def random_images(seed, *shape):
    return np.random.RandomState(seed).uniform(size=shape).astype(np.float32)


def random_pixels(seed, *shape):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def resnet18(**options):
    return TorchvisionFeatureExtractor("resnet18", weights=None, **{"precision": "float32", **options})


def assert_same_maps(maps, expected, **tolerance):
    assert [feature_map.shape for feature_map in maps] == [feature_map.shape for feature_map in expected]
    for feature_map, same in zip(maps, expected):
        assert feature_map.dtype == np.float32
        np.testing.assert_allclose(feature_map, same, **tolerance)


# torchvision


def torchvision_outputs(images, layers, seed=0):
    """What torchvision itself gives for images (n, height, width, 3), pooled; a tensor a layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create_feature_extractor(models.resnet18(weights=None).eval(), return_nodes=list(layers))
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        outputs = network((batch - mean) / std)
        return [functional.avg_pool2d(outputs[layer], 3, 1, 1) for layer in layers]


def as_maps(outputs):
    return list(torch.cat(outputs, dim=1).permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("shape", [(96, 128), (64, 64), (33, 65), (97, 71)])
@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3"])
def test_maps_of_one_layer_are_the_pooled_outputs_of_torchvision(layer, shape):
    X = random_images(0, 2, *shape, 3)
    expected = as_maps(torchvision_outputs(X, [layer]))
    assert_same_maps(resnet18(layers=(layer,)).transform(X), expected, rtol=1e-5, atol=1e-5)


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
    for size in (0, 2, -1):
        with pytest.raises(ValueError, match=rf"^pool_size: expected an odd integer of at least 1, got {size}"):
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
    with pytest.raises(ValueError, match=r"^precision: expected 'auto', 'float32' or 'bfloat16', got 'float16'"):
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


def test_random_weights_follow_their_seed_and_leave_the_global_generator_alone():
    X = random_images(0, 1, 64, 64)
    state = torch.random.get_rng_state()
    first, other = resnet18(random_state=101).transform(X)[0], resnet18(random_state=102).transform(X)[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.allclose(first, other)


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

SMALL = {"layers": ("stage2",)}  # of shufflenet_v2_x0_5, the smallest backbone


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(33)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), path)
    torch.random.set_rng_state(torch_state)
    return path


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
    """Unpickled by a careless reader, this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_weights_file_cannot_run_code(tmp_path):
    torch.save({"conv1.weight": Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
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


# timm


def test_a_timm_model_works_by_name():
    X = random_images(0, 2, 64, 96, 3)
    extractor = TimmFeatureExtractor("resnet18", weights=None)
    maps = extractor.transform(X)
    assert maps[0].shape == (8, 12, 384)
    assert extractor.stride == 8
    assert_same_maps(clone(extractor).transform(X), maps, rtol=1e-6)
    other = TimmFeatureExtractor("resnet18", weights=None, random_state=1).transform(X)
    assert not np.allclose(other[0], maps[0])


def test_a_timm_model_takes_a_local_file(tmp_path):
    import timm

    X = random_images(0, 1, 64, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.pth")
    extractor = TimmFeatureExtractor("resnet10t", weights=tmp_path / "weights.pth")
    expected = TimmFeatureExtractor("resnet10t", weights=None, random_state=7).transform(X)
    assert_same_maps(extractor.transform(X), expected, rtol=1e-6)
    with pytest.raises(FileNotFoundError, match=r"^weights: expected one of \['pretrained'\] or an existing file, got"):
        TimmFeatureExtractor("resnet10t", weights="nowhere.pth").transform(X)


def test_without_timm_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm: pip install 'sklearn_exdd\[timm\]'"):
        TimmFeatureExtractor("resnet18", weights=None, random_state=99).transform(random_images(0, 1, 64, 64))


# Any torch module


def tiny_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Linear(7, 7)
        )


def flat_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())


def box_network():
    """Every output is the mean over a window around pixel 8 * i."""
    layers = [nn.Conv2d(3, 1, 3, stride=2, padding=1), *(nn.Conv2d(1, 1, 3, stride=2, padding=1) for _ in range(2))]
    for layer in layers:
        nn.init.constant_(layer.weight, 1 / 9)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def patch_network():
    """Every output is the mean over a cell of 8 x 8 pixels, as in networks that cut an image into patches."""
    layer = nn.Conv2d(3, 1, 8, stride=8)
    nn.init.constant_(layer.weight, 1 / 64)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer)


def unpadded_network():
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.ReLU())


SHARED = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())


def shared_network():
    return SHARED


CALLS = []


def counted_network():
    CALLS.append(1)
    return tiny_network()


def test_layers_of_any_module_are_used_and_nothing_past_the_last_is_computed():
    X = random_images(0, 2, 32, 48, 3)
    extractor = ModuleFeatureExtractor(tiny_network, layers=("1", "2"), pool_size=1, mean=(0, 0, 0), std=(1, 1, 1))
    extractor.set_params(precision="float32")
    network = tiny_network()
    with torch.inference_mode():
        fine = network[1](network[0](torch.from_numpy(X).permute(0, 3, 1, 2)))
        coarse = network[2](fine)
    expected = as_maps([fine, functional.interpolate(coarse, size=(16, 24), mode="bilinear")])
    assert_same_maps(extractor.transform(X), expected, atol=1e-6)
    # Its last layer would not fit, so the maps above were made without it.
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        ModuleFeatureExtractor(tiny_network, layers=("3",)).transform(X)


def test_nothing_past_the_last_layer_of_a_backbone_is_kept(monkeypatch):
    def get_model(name, weights):
        module = models.resnet18(weights=weights)
        module.layer4, module.fc = nn.Linear(1, 1), nn.Linear(1, 1)  # neither fits
        return module

    monkeypatch.setattr(models, "get_model", get_model)
    extractor = resnet18(random_state=555)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        clone(extractor).set_params(layers=("layer4",)).transform(random_images(0, 1, 64, 64))
    extractor.set_params(layers=("layer2", "layer3"))
    assert extractor.transform(random_images(0, 1, 64, 64))[0].shape == (8, 8, 384)
    kept = {name.split(".")[0] for name, _ in extractor._network()[0].named_parameters()}
    assert kept == {"conv1", "layer1", "layer2", "layer3"}


class Normalised(nn.Module):
    """Batch normalisations that can be folded into a convolution, and some that cannot."""

    def __init__(self):
        super().__init__()
        self.plain, self.twice, self.seen = (nn.Conv2d(n, 4, 3, padding=1, bias=n == 4) for n in (3, 4, 4))
        self.plain_norm, self.norm, self.first, self.second, self.seen_norm = (nn.BatchNorm2d(4) for _ in range(5))

    def forward(self, x):
        x = self.plain_norm(self.plain(x)).relu()
        x = self.second(self.twice(self.first(self.twice(self.norm(x)))))
        return self.seen_norm(self.seen(x))


def normalised_network():
    generator = torch.Generator().manual_seed(0)
    network = Normalised()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + ("var" in name))
    return network


def test_folded_normalisations_change_nothing():
    X = random_images(0, 2, 16, 24, 3)
    layers = ("plain_norm", "second", "seen", "seen_norm")
    plain = dict(pool_size=1, mean=(0, 0, 0), std=(1, 1, 1), precision="float32")
    extractor = ModuleFeatureExtractor(normalised_network, layers=layers, **plain)
    network = create_feature_extractor(normalised_network().eval(), return_nodes=list(layers))
    with torch.inference_mode():
        expected = as_maps(list(network(torch.from_numpy(X).permute(0, 3, 1, 2)).values()))
    assert_same_maps(extractor.transform(X), expected, rtol=1e-4, atol=1e-5)
    kept = {name for name, module in extractor._network()[0].named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert kept == {"norm", "first", "second", "seen_norm"}


def test_a_process_holds_one_module_for_all_clones_and_fits():
    CALLS.clear()
    X = random_images(0, 3, 32, 32)
    extractor = ModuleFeatureExtractor(counted_network, layers=("2",), batch_size=1)
    extractor.fit(X)
    for same in (extractor, clone(extractor), pickle.loads(pickle.dumps(extractor))):
        same.transform(X)
        same.patch_centers((8, 8), (32, 32))
    assert len(CALLS) == 1


def test_equal_backbones_are_built_once(monkeypatch):
    built = []

    def get_model(name, weights):
        built.append(name)
        return models.resnet18(weights=weights)

    monkeypatch.setattr(models, "get_model", get_model)
    X = random_images(0, 1, 64, 64)
    for extractor in (resnet18(random_state=777), resnet18(random_state=777, batch_size=3, image_size=64)):
        extractor.transform(X)
    assert built == ["resnet18"]
    resnet18(random_state=778).transform(X)
    assert len(built) == 2


def test_a_module_is_neither_copied_into_parameters_nor_into_pickles():
    extractor = resnet18().fit(random_images(0, 1, 64, 64))
    assert not any(
        isinstance(value, nn.Module) for value in [*extractor.get_params().values(), *vars(extractor).values()]
    )
    assert len(pickle.dumps(extractor)) < 2000
    assert clone(extractor).get_params() == extractor.get_params()


@pytest.mark.parametrize("build", [tiny_network(), None, "resnet18"], ids=["module", "None", "name"])
def test_a_module_itself_is_refused_in_favour_of_a_function(build):
    message = r"^build: expected a function that returns a torch module, got (Sequential|NoneType|str)\. Wrap a module"
    with pytest.raises(TypeError, match=message):
        ModuleFeatureExtractor(build, layers=("0",)).transform(random_images(0, 1, 32, 32))


def test_unknown_layers_are_refused_and_the_known_ones_listed():
    message = r"^layers: expected names of layers of Sequential \(at the top: \['0', '1', '2', '3'\]\), got \('9',\)"
    with pytest.raises(ValueError, match=message):
        ModuleFeatureExtractor(tiny_network, layers=("9",)).transform(random_images(0, 1, 32, 32))


def test_layers_without_maps_are_refused():
    with pytest.raises(
        ValueError, match=r"^layers: expected outputs of shape \(n, channels, height, width\), got \(1, "
    ):
        ModuleFeatureExtractor(flat_network, layers=("1",)).transform(random_images(0, 1, 32, 32))
    with pytest.raises(ValueError, match=r"^layers: Sequential has no outputs at strides 8 or 16; name the layers"):
        ModuleFeatureExtractor(flat_network).transform(random_images(0, 1, 32, 32))


def test_a_module_of_other_channels_is_told_apart():
    def five_channels():
        return nn.Sequential(nn.Conv2d(5, 2, 1))

    extractor = ModuleFeatureExtractor(five_channels, layers=("0",), n_input_channels=5, mean=(0,) * 5, std=(1,) * 5)
    assert extractor.transform(random_images(0, 1, 8, 8))[0].shape == (8, 8, 2)
    with pytest.raises(ValueError, match=r"^images: expected 1 or 5 channels for this module, got 3"):
        extractor.transform(random_images(0, 1, 8, 8, 3))


def test_the_users_own_module_stays_as_it_was():
    SHARED.train()
    X = random_images(0, 1, 16, 16)
    expected = ModuleFeatureExtractor(shared_network, layers=("2",)).transform(X)
    ModuleFeatureExtractor(shared_network, layers=("2",), precision="bfloat16").transform(X)
    assert_same_maps(ModuleFeatureExtractor(shared_network, layers=("2",)).transform(X), expected)
    assert SHARED.training
    assert all(parameter.requires_grad for parameter in SHARED.parameters())
    assert {parameter.dtype for parameter in SHARED.parameters()} == {torch.float32}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_network_can_be_loaded_where_gradients_are_switched_off(mode):
    X = random_images(0, 1, 64, 64)
    with mode():
        maps = resnet18(random_state=303 + (mode is torch.no_grad)).transform(X)
    assert_same_maps(resnet18(random_state=303 + (mode is torch.no_grad)).transform(X), maps)


def test_a_network_first_loaded_by_several_threads_is_the_same(tmp_path):
    # In a process of its own: a trace that fails half-way leaves torch.fx unusable.
    code = (
        "import numpy as np; from sklearn_exdd import TorchvisionFeatureExtractor as T; "
        "X = np.random.RandomState(0).uniform(size=(8, 64, 64)); "
        "options = dict(weights=None, batch_size=1, layers=('stage2',)); "
        "at_once = T('shufflenet_v2_x0_5', n_jobs=4, **options).transform(X); "
        "from sklearn_exdd.features import module; module._load.cache_clear(); "
        "one_by_one = T('shufflenet_v2_x0_5', **options).transform(X); "
        "print(max(abs(a - b).max() for a, b in zip(at_once, one_by_one)) < 1e-5)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr[-500:]


# Where patches lie


def dot_errors(extractor, shape, n_dots=24, border=24):
    """How far from one-pixel dots the patches lie that see most of them, in pixels of the image."""
    rng = np.random.RandomState(0)
    dots = np.stack([rng.randint(border, size - border, n_dots) for size in shape], axis=1)
    X = np.full((n_dots + 1, *shape), 0.5, dtype=np.float32)
    X[np.arange(1, n_dots + 1), dots[:, 0], dots[:, 1]] = 1
    without, *maps = extractor.transform(X)
    rows, columns = extractor.patch_centers(without.shape, shape)
    assert (len(rows), len(columns)) == without.shape[:2]
    found = []
    for feature_map in maps:
        difference = np.linalg.norm(feature_map - without, axis=2)
        row, column = np.unravel_index(difference.argmax(), difference.shape)
        found.append((rows[row], columns[column]))
    return np.array(found) - dots


SIZES = [None, 112, (144, 168)]
SHAPES = [(96, 112), (97, 131), (150, 83)]


def size_of_a_step(extractor, shape):
    """Stride in pixels of the image, along each axis."""
    if extractor.image_size is None:
        return extractor.stride
    if isinstance(extractor.image_size, int):
        return extractor.stride * min(shape) / extractor.image_size
    return extractor.stride * np.array(shape) / extractor.image_size


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gabor_filters_find_a_dot_where_it_is(shape, image_size):
    extractor = GaborFeatureExtractor(whiten=False, image_size=image_size)
    errors = dot_errors(extractor, shape) / size_of_a_step(extractor, shape)
    assert abs(errors).max() < 0.75
    assert np.median(abs(errors)) < 0.5
    assert abs(errors.mean(axis=0)).max() < 0.2


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("build", [box_network, patch_network])
def test_a_module_finds_a_dot_exactly_where_it_is(build, shape, image_size):
    extractor = ModuleFeatureExtractor(build, layers=("2" if build is box_network else "0",), pool_size=1)
    extractor.set_params(image_size=image_size)
    assert (extractor.stride, extractor.offset) == (8, 0 if build is box_network else 3.5)
    errors = dot_errors(extractor, shape) / size_of_a_step(extractor, shape)
    assert abs(errors).max() < 0.6


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_random_backbone_finds_a_dot_about_where_it_is(shape, image_size):
    # Random filters are lopsided, each in its own way: a tenth of the dots is seen best by the patch beside.
    extractor = resnet18(image_size=image_size)
    errors = dot_errors(extractor, shape) / size_of_a_step(extractor, shape)
    assert abs(errors).max() < 1.5
    assert np.median(abs(errors)) < 0.5
    assert abs(errors.mean(axis=0)).max() < 0.5


def test_patches_of_a_network_that_fits_no_grid_are_spread_evenly():
    extractor = ModuleFeatureExtractor(unpadded_network, layers=("1",), pool_size=1)
    assert extractor.stride is None
    # Without padding the outermost patches lie 2 pixels inside and see 2 pixels around them.
    assert abs(dot_errors(extractor, (97, 131), border=8)).max() <= 2 + 2 + 1
    rows, columns = extractor.patch_centers((4, 2, 9), (8, 5, 3))
    np.testing.assert_allclose(rows, [0.5, 2.5, 4.5, 6.5])
    np.testing.assert_allclose(columns, [0.75, 3.25])


@pytest.mark.parametrize(
    ("image_size", "map_shape"),
    [(None, (10, 15)), (20, (5, 7)), (80, (20, 30)), ((16, 100), (4, 25)), (np.int64(20), (5, 7))],
)
def test_an_image_size_is_the_shorter_side_or_both(image_size, map_shape):
    extractor = CellMeans(image_size=image_size)
    (feature_map,) = extractor.transform(random_images(0, 1, 40, 60))
    assert feature_map.shape[:2] == map_shape
    rows, columns = extractor.patch_centers(feature_map.shape, (40, 60))
    # Patches cover the image from end to end, whatever the size they were computed at.
    assert rows[0] - 0.5 * (rows[1] - rows[0]) == pytest.approx(-0.5)
    assert columns[0] - 0.5 * (columns[1] - columns[0]) == pytest.approx(-0.5)
    assert rows[-1] <= 39.5
    assert columns[-1] <= 59.5


def test_resizing_keeps_constants_and_averages_what_it_shrinks():
    X = np.stack([np.full((64, 64), 0.25), np.indices((64, 64)).sum(axis=0) % 2]).astype(np.float32)
    plain, checkered = Pixels(image_size=16).transform(X)
    np.testing.assert_allclose(plain, 0.25, rtol=1e-6)
    np.testing.assert_allclose(checkered[2:-2, 2:-2], 0.5, atol=0.02)


# Tiles


@pytest.mark.parametrize("tile_size", [64, 100, 128])
@pytest.mark.parametrize("shape", [(256, 320), (333, 401), (257, 129), (300, 90)])
def test_gabor_maps_of_tiles_are_those_of_the_whole(shape, tile_size):
    X = random_images(0, 2, *shape)
    whole = GaborFeatureExtractor(whiten=False, tile_size=1024).transform(X)
    tiled = GaborFeatureExtractor(whiten=False, tile_size=tile_size).transform(X)
    assert_same_maps(tiled, whole, atol=1e-5)


@pytest.mark.parametrize("shape", [(576, 80), (72, 592)])
def test_backbone_maps_of_tiles_are_those_of_the_whole(shape):
    X = random_images(0, 1, *shape)
    assert_same_maps(resnet18(tile_size=128).transform(X), resnet18(tile_size=1024).transform(X), atol=1e-4)


@pytest.mark.parametrize("layer", ["layer2", "layer3"])
@pytest.mark.parametrize("shape", [(600, 77), (75, 581)])
def test_maps_of_one_layer_are_stitched_at_any_size(shape, layer):
    X = random_images(0, 1, *shape)
    whole = resnet18(layers=(layer,), tile_size=1024).transform(X)
    assert_same_maps(resnet18(layers=(layer,), tile_size=128).transform(X), whole, atol=1e-4)


@pytest.mark.parametrize("shape", [(600, 77), (75, 581)])
def test_joined_layers_are_stitched_at_any_size(shape):
    X = random_images(0, 1, *shape)
    whole, tiled = resnet18(tile_size=1024).transform(X)[0], resnet18(tile_size=128).transform(X)[0]
    assert whole.shape == tiled.shape
    error = np.linalg.norm(tiled - whole) / np.linalg.norm(whole - whole.mean(axis=(0, 1)))
    assert error < 0.01


def test_tiles_change_nothing_for_detached_cells_and_are_never_too_small():
    X = random_images(0, 1, 131, 70)
    seen = []

    class Watched(CellMeans):
        def _extract(self, images):
            seen.append(images.shape[1:3])
            return super()._extract(images)

    tiled = Watched(tile_size=32).transform(X)
    assert len(seen) > 4
    assert min(min(shape) for shape in seen) >= Watched.min_size
    assert_same_maps(tiled, CellMeans().transform(X), atol=1e-6)


def test_an_image_no_larger_than_a_tile_is_extracted_at_once(monkeypatch):
    seen = []

    def extract(self, images):
        seen.append(images.shape)
        return images[:, ::8, ::8]

    monkeypatch.setattr(GaborFeatureExtractor, "_extract", extract)
    GaborFeatureExtractor(whiten=False, tile_size=64).transform(random_images(0, 1, 64, 50))
    assert [shape[1:3] for shape in seen] == [(64, 50)]


# Batches, sizes and order


@pytest.mark.parametrize("make", [lambda **o: GaborFeatureExtractor(whiten=False, **o), resnet18, CellMeans])
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 2, "n_jobs": 2}])
def test_maps_do_not_depend_on_batches_and_jobs(make, options):
    X = random_images(0, 7, 64, 72)
    expected = make().transform(X)
    assert_same_maps(make(**options).transform(X), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [lambda **o: GaborFeatureExtractor(whiten=False, **o), resnet18, CellMeans])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "n_jobs": 2}])
def test_images_of_mixed_sizes_keep_their_order(make, options):
    shapes = [(64, 64), (50, 72), (64, 64), (72, 50), (50, 72), (64, 64)]
    X = [random_images(i, *shape) for i, shape in enumerate(shapes)]
    one_by_one = [make().transform([image])[0] for image in X]
    assert_same_maps(make(**options).transform(X), one_by_one, rtol=1e-4, atol=1e-4)


def test_a_cpu_computes_few_pixels_at_a_time_with_the_same_maps(monkeypatch):
    X, extractor = random_images(0, 5, 64, 96), GaborFeatureExtractor(whiten=False)
    whole, together = extractor.transform(X), []
    extract = GaborFeatureExtractor._extract
    monkeypatch.setattr(
        GaborFeatureExtractor, "_extract", lambda self, images: together.append(len(images)) or extract(self, images)
    )
    for n_pixels, n_threads, expected in (
        (2 * 64 * 96, 1, [2, 2, 1]),
        (64 * 96, 2, [4, 1]),
        (1, 1, [1] * 5),
        (None, 1, [5]),
    ):
        monkeypatch.setattr(GaborFeatureExtractor, "_n_pixels", n_pixels)
        monkeypatch.setattr(torch, "get_num_threads", lambda n_threads=n_threads: n_threads)
        together.clear()
        assert_same_maps(extractor.transform(X), whole, rtol=1e-4, atol=1e-4)
        assert together == expected


def test_maps_come_one_by_one_and_only_a_batch_is_read(tmp_path):
    paths = []
    for i in range(4):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(random_pixels(i, 8, 8)).save(paths[-1])
    maps = CellMeans(batch_size=2).iter_transform([*paths, tmp_path / "missing.png"])
    assert [next(maps).shape for _ in range(4)] == [(2, 2, 2)] * 4
    with pytest.raises(FileNotFoundError, match=r"^X\[4\] \(.*missing\.png\)"):
        next(maps)


def test_arrays_lists_and_files_give_the_same_maps(tmp_path):
    X = random_pixels(0, 3, 48, 56, 3)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, X):
        Image.fromarray(pixels).save(path)
    expected = GaborFeatureExtractor().fit_transform(X)
    for same in (list(X), paths, np.asfortranarray(X), X / 255):
        assert_same_maps(GaborFeatureExtractor().fit_transform(same), expected, atol=2e-3)


def test_images_with_other_channels_than_in_fit_are_refused():
    extractor = CellMeans().fit(random_images(0, 2, 8, 8))
    with pytest.raises(
        ValueError, match=r"^X\[0\]: expected 1 channel \(grey\) as in the other images, got 3 channels"
    ):
        extractor.transform(random_images(0, 2, 8, 8, 3))


@pytest.mark.parametrize("image_size", [None, 40])
def test_an_image_smaller_than_the_largest_filter_is_named(image_size):
    extractor = GaborFeatureExtractor(image_size=image_size)
    X = [random_images(0, 64, 64), random_images(1, 64, extractor.min_size - 1)]
    which = 1 if image_size is None else 0
    message = rf"^X\[{which}\]: expected at least {extractor.min_size} pixels a side for Gabor.*, or set image_size"
    with pytest.raises(ValueError, match=message):
        extractor.fit(X)


def test_an_image_of_the_smallest_size_is_enough():
    size = GaborFeatureExtractor().min_size
    X = random_images(0, 3, size, size)
    assert np.isfinite(GaborFeatureExtractor().fit_transform(X)).all()
    (feature_map,) = GaborFeatureExtractor(whiten=False, image_size=size).transform(random_images(0, 1, 20, 30))
    assert feature_map.shape[0] == -(-size // 8)


def test_gabor_features_do_not_depend_on_the_strength_of_the_light():
    X, _, _ = make_surface_defects(2, image_shape=(64, 64), random_state=0)
    X = (0.5 + X / 510).astype(np.float32)  # bright enough for the offset of the logarithm not to matter
    bright, dim = (np.stack(GaborFeatureExtractor(whiten=False).transform(share * X)) for share in (1, 0.8))
    assert abs(bright - dim).max() < 0.05 * abs(bright).max()


def test_gabor_features_see_a_change_of_colour_alone():
    X = np.full((2, 64, 64, 3), 0.4, dtype=np.float32)
    X[1, 24:40, 24:40] = [0.6, 0.2, 0.4]  # as bright as the rest
    plain, coloured = GaborFeatureExtractor(whiten=False).transform(X)
    difference = np.linalg.norm(plain - coloured, axis=2)
    assert difference[3:5, 3:5].min() > 0.1


def test_the_logarithm_is_taken_of_all_but_the_means_of_the_image():
    X, _, _ = make_surface_defects(2, image_shape=(64, 64), random_state=0)
    responses, logs = (
        np.stack(GaborFeatureExtractor(whiten=False, response=response).transform(X)) for response in ("linear", "log")
    )
    is_mean = np.isin(np.arange(responses.shape[-1]), [0, 2])  # over 8 and over 32 pixels
    np.testing.assert_array_equal(logs[..., is_mean], responses[..., is_mean])
    np.testing.assert_allclose(logs[..., ~is_mean], np.log(responses[..., ~is_mean] + 0.004), atol=1e-4)


def test_an_unknown_response_is_refused():
    with pytest.raises(ValueError, match=r"^response: expected 'log' or 'linear', got 'square'"):
        GaborFeatureExtractor(response="square").fit(random_images(0, 2, 64, 64))


@pytest.mark.parametrize("n_levels", [0, 9])
def test_a_number_of_levels_that_does_not_fit_the_grid_is_refused(n_levels):
    with pytest.raises(ValueError, match=rf"^n_levels: expected an integer in \[1, 4\], got {n_levels}"):
        GaborFeatureExtractor(n_levels=n_levels).fit(random_images(0, 2, 64, 64))


def test_a_progress_bar_is_shown_only_when_asked_for(capsys):
    X = random_images(0, 5, 8, 8)
    CellMeans().transform(X)
    assert capsys.readouterr().err == ""
    CellMeans(verbose=1, batch_size=2).transform(X)
    assert "5/5" in capsys.readouterr().err


# Cache


def test_a_second_call_extracts_nothing(tmp_path, count):
    X = random_pixels(0, 5, 16, 16)
    extractor = CellMeans(memory=str(tmp_path))
    expected = CellMeans().transform(X)
    assert count() == 5
    assert_same_maps(extractor.transform(X), expected)
    assert count() == 5
    assert_same_maps(extractor.transform(X), expected)
    assert_same_maps(extractor.fit_transform(X[::-1]), expected[::-1])
    assert_same_maps(clone(extractor).transform(list(X[2:])), expected[2:])
    assert count() == 0


def test_only_a_changed_image_is_extracted_again(tmp_path, count):
    X = random_pixels(0, 5, 16, 16)
    extractor = CellMeans(memory=joblib.Memory(tmp_path, verbose=0))
    extractor.transform(X)
    X[3, 7, 7] += 1
    count()
    assert_same_maps(extractor.transform(X), CellMeans().transform(X))
    assert count() == 1 + 5


def test_arrays_and_files_share_their_entries(tmp_path, count):
    X = random_pixels(0, 3, 16, 16)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, pixels in zip(paths, X):
        Image.fromarray(pixels).save(path)
    extractor = CellMeans(memory=str(tmp_path / "cache"))
    extractor.transform(X)
    extractor.transform(paths)
    assert count() == 3


@pytest.mark.parametrize(
    ("params", "n_extracted"),
    [
        ({"batch_size": 1}, 0),
        ({"n_jobs": 2}, 0),
        ({"verbose": 1}, 0),
        ({"whiten": True}, 0),
        ({"image_size": 12}, 4),
        ({"tile_size": 2000}, 4),
    ],
    ids=str,
)
def test_entries_are_kept_for_what_changes_the_features(tmp_path, count, params, n_extracted):
    X = random_pixels(0, 4, 16, 16)
    CellMeans(memory=str(tmp_path)).transform(X)
    count()
    CellMeans(memory=str(tmp_path)).set_params(**params).fit_transform(X)
    assert count() == n_extracted


def test_extractors_of_other_kinds_do_not_share_entries(tmp_path):
    X = random_pixels(0, 2, 16, 16)
    maps = [make(memory=str(tmp_path)).transform(X)[0] for make in (CellMeans, Pixels)]
    assert maps[0].shape != maps[1].shape


def test_backbones_of_other_seeds_do_not_share_entries(tmp_path):
    X = random_images(0, 1, 64, 64)
    first, other = (resnet18(random_state=seed, memory=str(tmp_path)).transform(X)[0] for seed in (0, 1))
    assert not np.allclose(first, other)


@pytest.mark.parametrize("damage", [b"damaged", b""])
def test_a_damaged_entry_is_made_again(tmp_path, count, caplog, damage):
    X = random_pixels(0, 3, 16, 16)
    extractor = CellMeans(memory=str(tmp_path))
    expected = extractor.transform(X)
    files = sorted(tmp_path.rglob("output.pkl"))
    assert len(files) == 3
    for file in files[:2]:
        file.write_bytes(damage)
    count()
    assert_same_maps(extractor.transform(X), expected)
    assert "Exception while loading results" in caplog.text  # joblib says so
    assert count() == 2
    assert_same_maps(extractor.transform(X), expected)
    assert count() == 0


def test_a_lost_entry_is_made_again(tmp_path, count):
    X = random_pixels(0, 3, 16, 16)
    extractor = CellMeans(memory=str(tmp_path))
    expected = extractor.transform(X)
    sorted(tmp_path.rglob("output.pkl"))[0].unlink()
    count()
    assert_same_maps(extractor.transform(X), expected)
    assert count() == 1


def test_an_image_that_fails_leaves_the_others_cached(tmp_path, count):
    X = [random_images(0, 16, 16), random_images(1, 16, 16), random_images(2, 3, 3)]
    extractor = CellMeans(memory=str(tmp_path), batch_size=1)
    with pytest.raises(ValueError, match=r"^X\[2\]: expected at least 4 pixels a side"):
        extractor.transform(X)
    assert count() == 2
    extractor.transform(X[:2])
    assert count() == 0


# Whitening


def patches_of(maps):
    return np.concatenate([feature_map.reshape(-1, feature_map.shape[2]) for feature_map in maps])


def correlated_images(seed):
    """Pixels whose three channels vary together, each on a scale of its own."""
    rng = np.random.RandomState(seed)
    mixing = np.array([[1.0, 0.8, 0.1], [0.0, 0.5, -0.3], [0.0, 0.0, 0.4]])
    return np.clip(0.5 + rng.normal(size=(3, 40, 50, 3)) @ mixing * [0.1, 0.01, 0.03], 0, 1).astype(np.float32)


def test_whitened_patches_have_no_mean_and_no_correlation_and_variances_nearer_to_one():
    X = correlated_images(0)
    patches = patches_of(Pixels(whiten=True).fit_transform(X))
    np.testing.assert_allclose(patches.mean(axis=0), 0, atol=1e-4)
    covariance = np.cov(patches.T, bias=True)
    whitened = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(whitened), atol=1e-3)
    # Those of the standardised features, whose mean is one, divided by something between them and their mean.
    variances = np.linalg.eigvalsh(np.corrcoef(patches_of(Pixels().transform(X)).T))[::-1]
    shrinkage = (variances[0] / whitened[0] - variances[0]) / (1 - variances[0])
    assert 0 < shrinkage < 1
    np.testing.assert_allclose(whitened, variances / ((1 - shrinkage) * variances + shrinkage), rtol=1e-3)


def test_whitening_is_learned_in_fit_and_only_applied_later():
    X, new = correlated_images(0), correlated_images(1)
    extractor = Pixels(whiten=True)
    fitted = extractor.fit_transform(X)
    assert_same_maps(extractor.transform(X), fitted, atol=1e-6)
    expected = (patches_of(Pixels().transform(new)) - extractor.mean_) @ extractor.components_
    np.testing.assert_allclose(patches_of(extractor.transform(new)), expected, atol=1e-5)
    assert extractor.n_features_out_ == 3


def test_features_that_repeat_others_add_no_dimension():
    X = correlated_images(0)
    X[..., 2] = 0.3 + X[..., 0] / 2
    extractor = Pixels(whiten=True).fit(X)
    assert extractor.n_features_out_ == 2
    assert extractor.transform(X)[0].shape == (40, 50, 2)


def test_gabor_features_are_whitened_on_the_images_of_fit():
    X, _, _ = make_surface_defects(6, defect_fraction=0, image_shape=(96, 96), random_state=0)
    patches = patches_of(GaborFeatureExtractor().fit_transform(X)).astype(np.float64)
    np.testing.assert_allclose(patches.mean(axis=0), 0, atol=1e-3)
    covariance = np.cov(patches.T, bias=True)
    variances = np.diag(covariance)
    assert abs(covariance - np.diag(variances)).max() < 0.01
    assert (variances > 0).all()
    assert (np.diff(variances) < 1e-3).all()  # the directions are in the order of what they vary


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("n_images", [1, 3])
def test_constant_images_have_finite_features(value, n_images):
    X = np.full((n_images, 64, 64), value)
    for extractor in (GaborFeatureExtractor(), CellMeans(whiten=True), resnet18(whiten=True)):
        assert np.isfinite(extractor.fit_transform(X)).all()
        assert np.isfinite(extractor.transform(random_images(0, 2, 64, 64))).all()


def test_a_channel_that_never_varies_does_not_spoil_the_others():
    X = correlated_images(0)
    X[..., 1] = 0.3
    patches = patches_of(Pixels(whiten=True).fit_transform(X))
    assert np.isfinite(patches).all()
    spread = patches.std(axis=0)
    assert spread[:2].min() > 0.5
    assert spread[:2].max() < 1.5
    assert spread[2:].max(initial=0) < 0.01


def test_fewer_patches_than_features_are_whitened_without_overflow():
    rng = np.random.RandomState(0)
    maps = resnet18(whiten=True).fit_transform(rng.uniform(size=(1, 32, 32)))
    assert np.isfinite(maps).all()
    assert maps[0].shape[2] <= 16


def test_features_cannot_be_whitened_before_fit():
    for extractor in (GaborFeatureExtractor(), CellMeans(whiten=True)):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            extractor.transform(random_images(0, 1, 64, 64))


# Extractors of other kinds, and names


class Halves:
    """A foreign extractor: something with transform, no more."""

    def transform(self, images):
        assert images.dtype == np.float32
        return images[:, ::2, ::2].astype(np.float64)


class Centred:
    """A foreign extractor that learns."""

    def fit(self, images):
        self.shapes_ = [image.shape for image in images]
        self.dtypes_ = {image.dtype for image in images}
        self.mean_ = np.mean([image.mean() for image in images])
        return self

    def transform(self, images):
        return images[:, ::4, ::4] - self.mean_


class Wrong:
    def __init__(self, shape):
        self.shape = shape

    def transform(self, images):
        return np.zeros(self.shape)


def test_anything_with_transform_is_an_extractor():
    X = random_pixels(0, 3, 16, 20, 3)
    extractor = make_feature_extractor(Halves(), memory=None)
    maps = extractor.fit_transform(X)
    assert_same_maps(maps, X[:, ::2, ::2] / np.float32(255))
    assert_same_maps(extractor.transform(X), maps)
    rows, columns = extractor.patch_centers(maps[0].shape, X.shape[1:])
    np.testing.assert_allclose(rows, 0.5 + 2 * np.arange(8))
    np.testing.assert_allclose(columns, 0.5 + 2 * np.arange(10))


@pytest.mark.parametrize("kind", ["array", "list", "paths"])
def test_a_foreign_extractor_is_fitted_on_the_images_it_is_promised(tmp_path, kind):
    X = random_pixels(0, 3, 16, 20)
    given = X if kind == "array" else list(X)
    if kind == "paths":
        given = [tmp_path / f"{i}.png" for i in range(3)]
        for path, pixels in zip(given, X):
            Image.fromarray(pixels).save(path)
    foreign = Centred()
    extractor = make_feature_extractor(foreign).fit(given)
    assert extractor.extractor_.shapes_ == [(16, 20, 1)] * 3
    assert extractor.extractor_.dtypes_ == {np.dtype(np.float32)}
    assert extractor.extractor_.mean_ == pytest.approx((X / 255).mean(), rel=1e-5)
    assert vars(foreign) == {}


def test_a_foreign_extractor_must_be_fitted_first():
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        make_feature_extractor(Halves()).transform(random_images(0, 1, 16, 16))


def test_a_foreign_extractor_can_be_cached_resized_and_whitened(tmp_path):
    X = random_images(0, 4, 16, 20, 3)
    options = {"image_size": 32, "whiten": True, "memory": str(tmp_path)}
    first = ForeignFeatureExtractor(Centred(), **options).fit(X)
    maps = first.transform(X)
    assert maps[0].shape == (8, 10, 3)
    np.testing.assert_allclose(patches_of(maps).mean(axis=0), 0, atol=1e-4)
    # Fitted on other images it is another extractor, and takes none of the first one's entries.
    other = ForeignFeatureExtractor(Centred(), **options).set_params(whiten=False).fit(X[:1])
    without_cache = ForeignFeatureExtractor(Centred(), image_size=32).fit(X[:1])
    assert_same_maps(other.transform(X), without_cache.transform(X), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 4, 4, 2), (2,)])
def test_a_foreign_extractor_that_returns_no_maps_is_refused(shape):
    message = r"expected transform to return \(n, height', width', n_features\) with n = 2, got shape \(\d.* from Wrong"
    with pytest.raises(ValueError, match=message):
        make_feature_extractor(Wrong(shape)).fit(random_images(0, 2, 16, 16))


@pytest.mark.parametrize(
    ("name", "kind", "backbone"),
    [
        ("auto", GaborFeatureExtractor, None),
        ("gabor", GaborFeatureExtractor, None),
        ("resnet50", TorchvisionFeatureExtractor, "resnet50"),
        ("timm:resnet18", TimmFeatureExtractor, "resnet18"),
    ],
)
def test_a_name_means_an_extractor(name, kind, backbone):
    extractor = make_feature_extractor(name, batch_size=3, n_jobs=2, device="cpu")
    assert type(extractor) is kind
    assert getattr(extractor, "backbone", None) == backbone
    assert (extractor.batch_size, extractor.n_jobs) == (3, 2)
    assert getattr(extractor, "device", "cpu") == "cpu"


def test_the_timm_model_of_a_name_can_be_used():
    extractor = make_feature_extractor("timm:resnet18").set_params(weights=None)
    assert extractor.transform(random_images(0, 1, 64, 64))[0].shape == (8, 8, 384)


def test_an_extractor_object_keeps_what_it_says_and_gets_the_rest():
    own = CellMeans(batch_size=5, n_jobs=1, image_size=16)
    made = make_feature_extractor(own, batch_size=3, n_jobs=2, memory="cache", device="cpu", verbose=None)
    assert made is not own
    assert own.memory is None
    assert made.get_params() == {**own.get_params(), "memory": "cache"}


@pytest.mark.parametrize("extractor", [3, None, object(), tiny_network])
def test_what_cannot_extract_is_refused(extractor):
    with pytest.raises(
        TypeError, match=r"^feature_extractor: expected a name or an object with transform\(images\), got"
    ):
        make_feature_extractor(extractor)
