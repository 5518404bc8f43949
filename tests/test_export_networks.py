"""ONNX files of detectors on torch networks."""

import copy
import os
import sys
from importlib import metadata

import numpy as np
import pytest
from assertions import assert_onnx_agrees, run_onnx

from sklearn_exdd import (
    CombinedDefectDetector,
    EfficientNetLiteFeatureExtractor,
    ExDDDetector,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    ModuleFeatureExtractor,
    SegmentationDetector,
    StudentTeacherDetector,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
)
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.export import networks, to_onnx, tracing

TRAINING = {"max_steps": 3, "n_synthetic": 4, "crop_size": 32, "train_batch_size": 4, "precision": "float32"}


def lite(**params):
    return EfficientNetLiteFeatureExtractor(precision="float32", **params)


def in_colour(images):
    return np.clip(images[..., None] * np.array([1, 0.9, 0.8]), 0, 255).astype(images.dtype)


def surfaces_of(shape, n_images=2, seed=5):
    return make_surface_defects(n_images, image_shape=shape, random_state=seed)[0]


def exported(detector, tmp_path, **options):
    to_onnx(detector, tmp_path / "detector.onnx", **options)
    return tmp_path / "detector.onnx"


def metadata_of(path):
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def build_far_sighted():
    """Return a network whose patches depend on the mean of the whole image."""
    import torch
    from torch import nn

    class Relative(nn.Module):
        def forward(self, x):
            return x - x.mean(dim=(2, 3), keepdim=True)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), Relative(), nn.ReLU())


@pytest.fixture(scope="module")
def default(surfaces):
    X, y, masks = surfaces
    return ExDDDetector(lite(), random_state=0).fit(X, y, masks=masks)


@pytest.fixture(scope="module")
def default_path(default, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "default.onnx"
    to_onnx(default, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(64, 64), (33, 70), (97, 133), (40, 1200)])
def test_the_default_features_are_repeated_at_any_size_in_tiles_too(shape, default, default_path):
    assert_onnx_agrees(default_path, default, surfaces_of(shape, 3))


@pytest.mark.slow
def test_constant_areas_and_images_of_fit_are_repeated(default, default_path, surfaces):
    images = np.array(surfaces[0][:5])
    images[0, :32], images[1, 20:40, 20:40], images[2] = 0, 255, 128
    assert_onnx_agrees(default_path, default, images, tolerance=2e-5)


@pytest.mark.slow
def test_an_image_scores_the_same_alone_and_in_a_batch(default_path, unseen_surfaces):
    X = unseen_surfaces[0][:4]
    alone = [run_onnx(default_path, X[i : i + 1])["score"][0] for i in range(4)]
    np.testing.assert_allclose(alone, run_onnx(default_path, X)["score"], rtol=1e-6)


@pytest.mark.slow
def test_a_file_with_a_network_is_small_names_no_place_and_is_the_same_again(default, default_path, tmp_path):
    content = default_path.read_bytes()
    weights = default.feature_extractor_._loaded().module.state_dict().values()
    banks = (default.normal_bank_.features, default.defect_bank_.features)
    n_bytes = sum(array.nbytes for array in banks) + sum(4 * array.numel() for array in weights)
    assert len(content) < 1.1 * n_bytes + 300_000
    for text in (os.getcwd(), sys.prefix, "site-packages", "timm", "File "):
        assert text.encode() not in content
    networks.network_of.cache_clear()  # forces another trace
    assert exported(default, tmp_path).read_bytes() == content
    assert os.listdir(tmp_path) == ["detector.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "extractor",
    [
        lite(brightness="both", strides=(4, 8, 32), image_size=72, whiten=True),
        TorchvisionFeatureExtractor("resnet18", weights=None, precision="float32"),
        TimmFeatureExtractor("resnet18", weights=None, precision="float32", pool_size=1),
    ],
    ids=lambda extractor: type(extractor).__name__,
)
def test_colour_and_other_backbones_are_repeated(extractor, surfaces, tmp_path):
    X, y, masks = surfaces
    detector = ExDDDetector(extractor, random_state=0).fit(in_colour(X), y, masks=masks)
    path = exported(detector, tmp_path, layout="NCHW")
    for shape in ((64, 64), (90, 133)):
        assert_onnx_agrees(path, detector, in_colour(surfaces_of(shape)), "NCHW")


@pytest.mark.slow
def test_images_whose_tiles_would_differ_are_an_error(tiny, tmp_path):
    path = exported(tiny, tmp_path)
    assert metadata_of(path)["max_size"] == "128"
    assert_onnx_agrees(path, tiny, surfaces_of((64, 128)))
    with pytest.raises(Exception, match="expected at most 128 pixels a side"):
        run_onnx(path, np.zeros((1, 64, 129, 1), np.uint8))


@pytest.mark.slow
def test_learned_features_with_an_encoder_are_repeated(surfaces, tmp_path):
    X, y, masks = surfaces
    encoder = TorchvisionFeatureExtractor("resnet18", weights=None, layers=("layer1", "layer2"), precision="float32")
    detector = ExDDDetector(LearnedFeatureExtractor(**TRAINING, encoder=encoder), random_state=0)
    path = exported(detector.fit(X, y, masks=masks), tmp_path)
    assert_onnx_agrees(path, detector, surfaces_of((50, 97)))


@pytest.mark.slow
def test_a_segmentation_of_two_networks_on_resized_images_is_repeated(surfaces, tmp_path):
    X, y, masks = surfaces
    network = LearnedFeatureExtractor(**TRAINING, image_size=80)
    detector = SegmentationDetector(network, image_weight=0.5, top_share=0.0031, random_state=0)
    path = exported(detector.fit(in_colour(X), y, masks=masks), tmp_path)
    level = np.abs(detector._position_map()).max()
    for shape in ((64, 64), (50, 97)):
        assert_onnx_agrees(path, detector, in_colour(surfaces_of(shape)), level=level)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        {"channels": (8, 16), "position_map": True, "map_source": "both"},
        {"teacher": "resnet18", "weights": None, "layers": ("layer1", "layer2"), "map_source": "cosine"},
        {"teacher": GaborFeatureExtractor(n_levels=2)},
    ],
    ids=["learned", "torchvision", "extractor"],
)
def test_a_student_teacher_is_repeated(params, surfaces, tmp_path):
    X, y, masks = surfaces
    detector = StudentTeacherDetector(
        n_synthetic=4, max_steps=4, crop_size=64, train_batch_size=4, precision="float32", random_state=0, **params
    )
    path = exported(detector.fit(X, y, masks=masks), tmp_path)
    level = max(1.0, float(np.abs(detector.map_scale_[:, 0] / detector.map_scale_[:, 1]).sum()))
    for shape in ((64, 64), (50, 97)):
        assert_onnx_agrees(path, detector, surfaces_of(shape), level=level)
    sees_tiles = isinstance(params.get("teacher"), GaborFeatureExtractor)
    assert metadata_of(path).get("max_size") == ("1024" if sees_tiles else None)


@pytest.mark.slow
def test_members_of_all_kinds_are_combined(surfaces, tmp_path):
    X, y, masks = surfaces
    members = [
        ("banks", ExDDDetector(lite(), blur=0)),
        ("worst", ExDDDetector(lite(), n_top_patches=1)),
        ("network", SegmentationDetector(LearnedFeatureExtractor(**TRAINING), n_networks=1)),
    ]
    detector = CombinedDefectDetector(members, weights=[1, 2, 0.1], random_state=0).fit(X, y, masks=masks)
    path = exported(detector, tmp_path)
    level = float((np.abs(detector.score_centers_) / detector.score_scales_).max())
    assert_onnx_agrees(path, detector, surfaces_of((64, 97), 4), level=level)
    weights = detector.detectors_[0].feature_extractor_._loaded().module.state_dict().values()
    banks = [bank.features for one in detector.detectors_[:2] for bank in (one.normal_bank_, one.defect_bank_)]
    network = 4 * sum(array.numel() for array in weights) + 2_000_000  # the pretrained network must be stored only once
    assert path.stat().st_size < 1.1 * (sum(array.nbytes for array in banks) + network) + 300_000


def test_bfloat16_is_refused_with_the_parameter_to_set(tiny, tmp_path):
    detector = copy.deepcopy(tiny)
    detector.feature_extractor_.set_params(precision="bfloat16")
    with pytest.raises(ValueError, match=r"feature_extractor=ModuleFeatureExtractor\(\.\.\., precision='float32'\)"):
        exported(detector, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def tiny(surfaces):
    """Return a detector on a network with one convolution."""
    extractor = ModuleFeatureExtractor(build_far_sighted, layers=("2",), precision="float32", tile_size=128)
    return ExDDDetector(extractor, random_state=0).fit(surfaces[0][:8])


@pytest.mark.parametrize(
    ("package", "installed", "found"),
    [("torch", "2.7.1+cu126", r"2\.7\.1\+cu126"), ("onnxscript", "0.6.0", r"0\.6\.0"), ("onnxscript", None, "none")],
)
def test_a_network_needs_versions_whose_exporter_works(package, installed, found, tiny, tmp_path, monkeypatch):
    def version(name):
        if name != package:
            return metadata.version(name)
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    networks.network_of.cache_clear()
    monkeypatch.setattr(tracing, "version", version)
    message = rf"expected {package} \S+ or later for a detector with a network, got {found}\. Run: pip install"
    with pytest.raises(ImportError, match=message):
        exported(tiny, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_network_that_torch_cannot_export_is_refused(tiny, tmp_path, monkeypatch):
    import torch.onnx

    def fail(*_, **__):
        raise RuntimeError("no such operator\nand more")

    networks.network_of.cache_clear()
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ValueError, match=r"got an error \(RuntimeError: no such operator\)\. Choose another"):
        exported(tiny, tmp_path)


def test_convolutions_with_the_padding_of_tensorflow_are_the_same_with_a_fixed_one():
    import torch

    module = lite()._loaded().module
    fixed = tracing.with_fixed_padding(module)
    assert fixed is not module
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one, other in zip(fixed.levels(images), module(images), strict=True):
            assert torch.equal(one, other)
