"""ONNX files of linear probes, alone and next to memory banks."""

import numpy as np
import pytest
from assertions import assert_onnx_agrees, run_onnx

from sklearn_exdd import (
    CombinedDefectDetector,
    EfficientNetLiteFeatureExtractor,
    ExDDDetector,
    GaborFeatureExtractor,
    LinearProbeDetector,
)
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.export import comparison, to_onnx


def surfaces_of(shape, n_images=3, seed=5):
    return make_surface_defects(n_images, image_shape=shape, random_state=seed)[0]


def in_colour(images):
    return np.clip(images[..., None] * np.array([1, 0.9, 0.8]), 0, 255).astype(images.dtype)


def exported(detector, tmp_path, **options):
    to_onnx(detector, tmp_path / "detector.onnx", **options)
    return tmp_path / "detector.onnx"


@pytest.fixture(scope="module")
def probe(surfaces):
    X, y, _ = surfaces
    return LinearProbeDetector("gabor", random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def path(probe, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "probe.onnx"
    to_onnx(probe, path)
    return path


@pytest.mark.parametrize("shape", [(48, 48), (64, 64), (97, 133), (80, 1100)])
def test_a_probe_is_repeated_at_any_size_in_tiles_too(shape, probe, path):
    assert_onnx_agrees(path, probe, surfaces_of(shape), level=abs(probe.intercept_))


def test_images_of_fit_and_constant_areas_are_repeated(probe, path, surfaces):
    images = np.array(surfaces[0][:6])
    images[0, :32], images[1, :, 50:], images[2] = 128, 255, 0
    assert_onnx_agrees(path, probe, images, tolerance=2e-5, level=abs(probe.intercept_))


def test_an_image_scores_the_same_alone_and_in_a_batch(path, unseen_surfaces):
    X = unseen_surfaces[0][:4]
    alone = [run_onnx(path, X[i : i + 1])["score"][0] for i in range(4)]
    np.testing.assert_allclose(alone, run_onnx(path, X)["score"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("params", [{"blur": 0.0, "C": 1.0}, {"blur": 12.0, "validation_fraction": 0}], ids=str)
def test_parameters_and_colours_are_repeated(params, surfaces, tmp_path):
    X, y, _ = surfaces
    detector = LinearProbeDetector(GaborFeatureExtractor(image_size=(56, 72)), random_state=0, **params)
    path = exported(detector.fit(in_colour(X), y), tmp_path, layout="NCHW")
    assert_onnx_agrees(path, detector, in_colour(surfaces_of((72, 97))), "NCHW", level=abs(detector.intercept_))


def test_a_feature_that_does_not_vary_contributes_its_mean(probe, surfaces, tmp_path):
    # Without whitening, some features of a constant image are exactly the same everywhere.
    X, y, _ = surfaces
    detector = LinearProbeDetector(GaborFeatureExtractor(whiten=False), random_state=0).fit(X, y)
    images = np.zeros((2, 64, 64), dtype=np.uint8)
    found = run_onnx(exported(detector, tmp_path), images)
    np.testing.assert_allclose(found["score"], detector.score_samples(images), atol=1e-5 * abs(detector.intercept_))
    np.testing.assert_allclose(found["anomaly_map"], detector.predict_map(images), atol=1e-4)


def combined(extractor):
    """Return banks and a probe of half their weight, as `recommended` does for defects without masks."""
    members = [
        ("banks", ExDDDetector(extractor)),
        ("probe", LinearProbeDetector(extractor, validation_fraction=0)),
    ]
    return CombinedDefectDetector(members, weights=[1.0, 0.5], random_state=0)


def test_banks_and_a_probe_are_combined(surfaces, tmp_path):
    X, y, _ = surfaces
    detector = combined(GaborFeatureExtractor()).fit(X, y)
    path = exported(detector, tmp_path)
    level = comparison.cancelling(detector)
    assert level > 0
    for shape in ((64, 64), (70, 97)):
        assert_onnx_agrees(path, detector, surfaces_of(shape), level=level)


@pytest.mark.slow
def test_the_recommended_combination_is_repeated_and_stores_its_network_once(surfaces, tmp_path):
    X, y, _ = surfaces
    extractor = EfficientNetLiteFeatureExtractor(strides=(8, 16, 32), precision="float32")
    detector = combined(extractor).fit(X, y)
    path = exported(detector, tmp_path)
    assert_onnx_agrees(path, detector, surfaces_of((64, 97)), level=comparison.cancelling(detector))
    banks = detector.detectors_[0]
    weights = banks.feature_extractor_._loaded().module.state_dict().values()
    n_bytes = banks.normal_bank_.features.nbytes + banks.defect_bank_.features.nbytes
    assert path.stat().st_size < 1.1 * (n_bytes + sum(4 * array.numel() for array in weights)) + 300_000
