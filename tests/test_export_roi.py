"""ONNX files of detectors that look only at a region of interest."""

import json
import os

import numpy as np
import pytest
from assertions import assert_onnx_agrees, run_onnx
from sklearn.frozen import FrozenEstimator

from sklearn_exdd import (
    CombinedDefectDetector,
    ExDDDetector,
    GaborFeatureExtractor,
    LinearProbeDetector,
    TorchvisionFeatureExtractor,
)
from sklearn_exdd.datasets import make_surface_defects, with_roi
from sklearn_exdd.export import to_onnx

DETECTORS = {
    "banks": ExDDDetector("gabor", random_state=0),
    "one neighbourhood": ExDDDetector("gabor", image_score="exdd", blur=0, random_state=0),
    "resized": ExDDDetector(GaborFeatureExtractor(image_size=72), n_top_patches=1000, border_rings=1, random_state=0),
    "probe": LinearProbeDetector("gabor", random_state=0),
}


@pytest.fixture(scope="module")
def roi():
    region = np.zeros((64, 96), dtype=bool)
    region[6:58, 10:70] = True
    region[20:30, 30:40] = False
    return region


@pytest.fixture(scope="module")
def images():
    return make_surface_defects(20, image_shape=(64, 96), random_state=2)[:2]


def exported(detector, tmp_path, **options):
    to_onnx(detector, tmp_path / "detector.onnx", **options)
    return tmp_path / "detector.onnx"


@pytest.mark.parametrize("detector", DETECTORS.values(), ids=DETECTORS)
def test_a_region_is_repeated_and_nothing_outside_it_counts(detector, images, roi, tmp_path):
    X, y = images
    detector.fit(X, y, roi=roi)
    path = exported(detector, tmp_path)
    assert_onnx_agrees(path, detector, X[:6], level=abs(getattr(detector, "intercept_", 0)))
    found = run_onnx(path, X)
    noise = np.random.default_rng(0).integers(0, 256, X.shape).astype(np.uint8)
    disturbed = run_onnx(path, np.where(roi, X, noise))
    for name, values in found.items():
        np.testing.assert_array_equal(disturbed[name], values)
    assert not found["mask"][:, ~roi].any()
    np.testing.assert_array_equal(found["mask"].any(axis=(1, 2)), found["is_defect"])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_pixels_outside_are_filled_alike_in_every_type(dtype, images, roi, tmp_path):
    X, y = images
    colour = np.clip(X[..., None] * np.array([1, 0.9, 0.8]), 0, 255).astype(np.uint8)
    detector = ExDDDetector("gabor", random_state=0).fit(colour, y, roi=roi)
    path = exported(detector, tmp_path, dtype=dtype, layout="NCHW")
    own = colour[:5].astype(np.uint16) * 257 if dtype == "uint16" else (colour[:5] / 255).astype(np.float32)
    assert_onnx_agrees(path, detector, own, "NCHW")


def test_a_region_smaller_than_a_patch(images, tmp_path):
    X, y = images
    roi = np.zeros((64, 96), dtype=bool)
    roi[30:32, 40:43] = True
    detector = ExDDDetector("gabor", random_state=0).fit(X[y == 0], roi=roi)
    assert_onnx_agrees(exported(detector, tmp_path), detector, X[:4])


def test_a_file_takes_images_of_the_size_of_the_region(images, roi, tmp_path):
    import onnx

    X, y = images
    path = exported(ExDDDetector("gabor", random_state=0).fit(X, y, roi=roi), tmp_path, check=X[:2])
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["size"]) == [64, 96]
    assert run_onnx(path, X[:3])["anomaly_map"].shape == (3, 64, 96)
    with pytest.raises(Exception, match=r"(?i)invalid dimensions"):
        run_onnx(path, X[:1, :, :90])


@pytest.mark.slow
def test_a_region_with_a_network_is_repeated(images, roi, tmp_path):
    X, y = images
    extractor = TorchvisionFeatureExtractor("resnet18", weights=None, layers=("layer1",), precision="float32")
    detector = ExDDDetector(extractor, random_state=0).fit(X, y, roi=roi)
    assert_onnx_agrees(exported(detector, tmp_path), detector, X[:3])


def test_other_regions_are_refused(images, roi, tmp_path):
    X, y = images
    own = ExDDDetector("gabor", random_state=0).fit(with_roi(X, [roi] * len(X)), y)
    others = make_surface_defects(8, image_shape=(64, 96), random_state=3)[0]
    alone = ExDDDetector("gabor", random_state=0).fit(others, roi=roi)
    combined = CombinedDefectDetector([("a", ExDDDetector("gabor"))], random_state=0).fit(X, y, roi=roi)
    member = CombinedDefectDetector([("a", FrozenEstimator(alone))], random_state=0).fit(X, y)
    cases = [
        (own, "expected one region of interest for all images.*Crop the images"),
        (combined, "got CombinedDefectDetector fitted with roi"),
        (member, r"detector\.a: .* got a member of a combination fitted with roi"),
    ]
    for detector, message in cases:
        with pytest.raises(ValueError, match=message):
            exported(detector, tmp_path)
    assert os.listdir(tmp_path) == []
