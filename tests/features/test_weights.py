"""Weights files that are missing or damaged, or that belong to another model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from assertions import assert_same_maps
from safetensors.torch import save_file
from tiny_extractors import random_images
from torchvision import models

from sklearn_exdd import DefectClassifier
from sklearn_exdd.features import TimmFeatureExtractor, TorchvisionFeatureExtractor

X = random_images(0, 1, 64, 64)
TORCHVISION, TIMM = "shufflenet_v2_x0_5", "resnet10t"


def extractor(library, **params):
    if library == "timm":
        return TimmFeatureExtractor(TIMM, layers=(2,), **params)
    return TorchvisionFeatureExtractor(TORCHVISION, layers=("stage2",), **params)


@pytest.fixture(scope="module")
def states():
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        modules = {"torchvision": models.get_model(TORCHVISION, weights=None), "timm": timm.create_model(TIMM)}
    return {library: module.state_dict() for library, module in modules.items()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Provide empty download caches for torch's hub and Hugging Face's hub, and disable the network."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


DAMAGES = {
    "empty": lambda content: b"",
    "cut early": lambda content: content[:100],
    "cut": lambda content: content[: len(content) // 2],
    "cut late": lambda content: content[:-2000],
    "a web page": lambda content: b"<!DOCTYPE html><html>404</html>",
    "zeros": lambda content: bytes(5000),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_damaged_local_file_is_named(library, suffix, damage, states, tmp_path):
    path = save(states[library], tmp_path / f"w{suffix}")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    message = rf"^weights: expected weights in .*w\{suffix}, got a file that is damaged or of another kind \(.*Delete"
    with pytest.raises(ValueError, match=message):
        extractor(library, weights=path).transform(X)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_local_file_of_safetensors_is_read(library, states, tmp_path):
    paths = [save(states[library], tmp_path / f"w{suffix}") for suffix in (".pth", ".safetensors")]
    assert_same_maps(*(extractor(library, weights=path).transform(X) for path in paths), rtol=0)


@pytest.mark.parametrize(
    ("content", "came"),
    [
        (lambda state: {"state_dict": state, "epoch": 3}, r"got a dict with the keys \['state_dict', 'epoch'\]"),
        (lambda state: list(state.values()), "got list"),
        (lambda state: torch.zeros(3), "got Tensor"),
    ],
)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_file_that_holds_more_or_less_than_a_state_dict_is_named(library, content, came, states, tmp_path):
    torch.save(content(states[library]), tmp_path / "w.pth")
    message = rf"expected a state dict \(a dict of names and tensors\) in .*w\.pth, .*{came}\. Save module\.state_dict"
    with pytest.raises(ValueError, match=message):
        extractor(library, weights=tmp_path / "w.pth").transform(X)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("library", "other"), [("torchvision", "timm"), ("timm", "torchvision")])
def test_the_weights_of_another_model_are_named(library, other, suffix, states, tmp_path):
    path = save(states[other], tmp_path / f"w{suffix}")
    name = TIMM if library == "timm" else TORCHVISION
    with pytest.raises(
        ValueError, match=rf"expected the weights of {name} in .*w\{suffix}, got those of another model"
    ):
        extractor(library, weights=path).transform(X)


def test_a_folder_is_not_a_file_of_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"or an existing file, got '.*', a folder\."):
        extractor("torchvision", weights=tmp_path).transform(X)


@pytest.mark.parametrize("damage", [*DAMAGES, "of another model"])
def test_a_damaged_download_of_torchvision_is_named(damage, states, hub):
    url = models.get_model_weights(TORCHVISION)["IMAGENET1K_V1"].url
    file = save(states["timm" if damage == "of another model" else "torchvision"], hub / Path(url).name)
    file.write_bytes(DAMAGES.get(damage, bytes)(file.read_bytes()))
    file = file.rename(hub / "hub" / "checkpoints" / file.name)
    for weights in ("IMAGENET1K_V1", "DEFAULT"):
        message = rf"^weights: expected weights of {TORCHVISION} in .*checkpoints.{file.name}, got .* Delete the file"
        with pytest.raises(ValueError, match=message):
            extractor("torchvision", weights=weights).transform(X)
    assert file.is_file()


def test_a_detector_on_a_damaged_download_names_it(hub):
    name = Path(models.get_model_weights("resnet18")["IMAGENET1K_V1"].url).name
    (hub / "hub" / "checkpoints" / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=rf"expected weights of resnet18 in .*{name}, got a file that is damaged"):
        DefectClassifier("resnet18").fit(random_images(0, 4, 64, 64), np.array([0, 0, 1, 1]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_download_of_timm_is_named(damage, states, hub):
    import timm

    config = timm.models.get_pretrained_cfg(TIMM)
    cache = hub / "hf" / ("models--" + config.hf_hub_id.replace("/", "--"))
    for place, text in (("refs/main", "0" * 40), (f"snapshots/{'0' * 40}/README.md", "")):
        (cache / place).parent.mkdir(parents=True)
        (cache / place).write_text(text)
    file = save(states["timm"], cache / "snapshots" / ("0" * 40) / "model.safetensors")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"expected weights of {TIMM} in .*model\.safetensors, got .* Delete the file"
    ):
        extractor("timm").transform(X)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_without_a_network_a_local_file_is_the_remedy(library, hub, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(OSError, match=r"^weights: .* could not be downloaded \(.*Give a local file as weights=path"):
        extractor(library, **({} if library == "timm" else {"weights": "DEFAULT"})).transform(X)


@pytest.mark.parametrize("weights", [None, "pretrained", "w.pth"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet_18", r"got 'resnet_18'\. Similar names: .*resnet18"),
        ("", "got ''"),
        ("resnet18.nope", r"got 'resnet18\.nope': Invalid pretrained tag"),
        ("x" * 50, "got 'x{50}'"),
    ],
)
def test_a_name_that_timm_does_not_know_is_refused(name, message, weights, hub):
    with pytest.raises(ValueError, match=rf"^backbone: expected a name of timm\.list_models\(\), {message}"):
        TimmFeatureExtractor(name, weights=weights).transform(X)
