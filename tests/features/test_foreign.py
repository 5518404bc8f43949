"""Feature extractors that are not from this library, and feature extractors given by name."""

import numpy as np
import pytest
from assertions import assert_same_maps
from PIL import Image
from sklearn.exceptions import NotFittedError
from tiny_extractors import CellMeans, patches_of, random_images, random_pixels, tiny_network

from sklearn_exdd.features import (
    EfficientNetLiteFeatureExtractor,
    ForeignFeatureExtractor,
    GaborFeatureExtractor,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
    make_feature_extractor,
)


class Halves:
    """Foreign extractor that has only a transform method."""

    def transform(self, images):
        assert images.dtype == np.float32
        return images[:, ::2, ::2].astype(np.float64)


class Centred:
    """Foreign extractor that learns the mean of the images."""

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
    # An extractor fitted on other images is a different extractor. It must not use cache entries of the first one.
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
        ("auto", EfficientNetLiteFeatureExtractor, "efficientnet_lite0"),
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
