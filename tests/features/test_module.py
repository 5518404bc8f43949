"""Layers of any torch module."""

import pickle
import subprocess
import sys

import pytest
import torch
from assertions import assert_same_maps
from sklearn.base import clone
from tiny_extractors import as_maps, random_images, resnet18, tiny_network
from torch import nn
from torch.nn import functional
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from sklearn_exdd.features import ModuleFeatureExtractor


def flat_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())


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
    # The last layer raises an error for this input, so the extractor did not run it above.
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        ModuleFeatureExtractor(tiny_network, layers=("3",)).transform(X)


def test_nothing_past_the_last_layer_of_a_backbone_is_kept(monkeypatch):
    def get_model(name, weights):
        module = models.resnet18(weights=weights)
        module.layer4, module.fc = nn.Linear(1, 1), nn.Linear(1, 1)  # both raise an error if they are run
        return module

    monkeypatch.setattr(models, "get_model", get_model)
    extractor = resnet18(random_state=555)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        clone(extractor).set_params(layers=("layer4",)).transform(random_images(0, 1, 64, 64))
    extractor.set_params(layers=("layer2", "layer3"))
    assert extractor.transform(random_images(0, 1, 64, 64))[0].shape == (8, 8, 384)
    kept = {name.split(".")[0] for name, _ in extractor.network()[0].named_parameters()}
    assert kept == {"conv1", "layer1", "layer2", "layer3"}


class Normalised(nn.Module):
    """Network in which some batch normalisations can be folded into a convolution, and others cannot."""

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
    kept = {name for name, module in extractor.network()[0].named_modules() if isinstance(module, nn.BatchNorm2d)}
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


@pytest.mark.slow
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
    message = r"^build: expected a function that returns a torch module, got (Sequential|NoneType|str)\. Wrap the"
    with pytest.raises(TypeError, match=message):
        ModuleFeatureExtractor(build, layers=("0",)).transform(random_images(0, 1, 32, 32))


def test_unknown_layers_are_refused_and_the_known_ones_listed():
    message = r"^layers: expected names of layers of Sequential \(top level: \['0', '1', '2', '3'\]\), got \('9',\)"
    with pytest.raises(ValueError, match=message):
        ModuleFeatureExtractor(tiny_network, layers=("9",)).transform(random_images(0, 1, 32, 32))


def test_layers_without_maps_are_refused():
    with pytest.raises(
        ValueError, match=r"^layers: expected outputs of shape \(n, channels, height, width\), got \(1, "
    ):
        ModuleFeatureExtractor(flat_network, layers=("1",)).transform(random_images(0, 1, 32, 32))
    with pytest.raises(ValueError, match=r"^layers: Sequential has no outputs at strides 8 or 16; name the layers"):
        ModuleFeatureExtractor(flat_network).transform(random_images(0, 1, 32, 32))


class ChannelsLast(nn.Module):
    """Network whose feature maps have the shape (n, height, width, channels), as in Swin."""

    def __init__(self, n_channels):
        super().__init__()
        self.conv = nn.Conv2d(3, n_channels, 4, stride=4)
        self.norm = nn.Identity()

    def forward(self, x):
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("n_channels", [8, 32])  # 32 is also the side of the layer's map for the probe image
def test_layers_with_the_channels_last_are_refused(n_channels):
    message = (
        r"^layers: expected outputs of shape \(n, channels, height, width\), got \(n, height, width, channels\) from "
    )
    with pytest.raises(ValueError, match=message + r"'norm', with the channels last\. Permute the axes"):
        ModuleFeatureExtractor(lambda: ChannelsLast(n_channels), layers=("norm",)).transform(
            random_images(0, 1, 64, 64)
        )
    extractor = ModuleFeatureExtractor(lambda: ChannelsLast(n_channels), layers=("conv",))
    assert extractor.transform(random_images(0, 1, 64, 64))[0].shape == (16, 16, n_channels)


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


@pytest.mark.slow
def test_a_network_first_loaded_by_several_threads_is_the_same(tmp_path):
    # The test runs in a separate process, because torch.fx is unusable after a trace that fails halfway.
    code = (
        "import numpy as np; from sklearn_exdd import TorchvisionFeatureExtractor as T; "
        "X = np.random.RandomState(0).uniform(size=(8, 64, 64)); "
        "options = dict(weights=None, batch_size=1, layers=('stage2',)); "
        "at_once = T('shufflenet_v2_x0_5', n_jobs=4, **options).transform(X); "
        "from sklearn_exdd.features import network; network._load.cache_clear(); "
        "one_by_one = T('shufflenet_v2_x0_5', **options).transform(X); "
        "print(max(abs(a - b).max() for a, b in zip(at_once, one_by_one)) < 1e-5)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr[-500:]
