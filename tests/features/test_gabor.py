"""Gabor features."""

import numpy as np
import pytest
from tiny_extractors import random_images

from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import GaborFeatureExtractor, gabor


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
    X = (0.5 + X / 510).astype(np.float32)  # bright, so that the offset of the logarithm has little effect
    bright, dim = (np.stack(GaborFeatureExtractor(whiten=False).transform(share * X)) for share in (1, 0.8))
    assert abs(bright - dim).max() < 0.05 * abs(bright).max()


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_pixels_of_one_value_have_no_deviation(value, n_channels):
    X = random_images(0, 1, 256, 128, n_channels)
    X[:, 128:] = value / 255  # reach: 15 pixels for the widest window, 44 for the widest filter
    (feature_map,) = GaborFeatureExtractor(whiten=False, response="linear").transform(X)
    constant = feature_map[-6:]
    means = slice(0, n_channels), slice(2 * n_channels, 3 * n_channels)
    deviations = np.delete(constant, np.r_[means], axis=2)
    assert abs(deviations).max() < 2e-6
    assert abs(constant[..., means[0]] - constant[..., means[1]]).max() < 1e-6


@pytest.mark.parametrize("n_channels", [1, 3])
def test_strips_give_what_the_whole_image_gives(n_channels, monkeypatch):
    X = random_images(0, 2, 100, 130, n_channels)
    maps = []
    for n_pixels in (1, 10_000, 10**9):  # single rows of cells, several rows together, all rows together
        monkeypatch.setattr(gabor, "_N_PIXELS", n_pixels)
        maps.append(np.stack(GaborFeatureExtractor(whiten=False).transform(X)))
    np.testing.assert_allclose(maps[0], maps[2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(maps[1], maps[2], rtol=1e-5, atol=1e-5)


def test_gabor_features_see_a_change_of_colour_alone():
    X = np.full((2, 64, 64, 3), 0.4, dtype=np.float32)
    X[1, 24:40, 24:40] = [0.6, 0.2, 0.4]  # same brightness as the other pixels
    plain, coloured = GaborFeatureExtractor(whiten=False).transform(X)
    difference = np.linalg.norm(plain - coloured, axis=2)
    assert difference[3:5, 3:5].min() > 0.1


def test_the_logarithm_is_taken_of_all_but_the_means_of_the_image():
    X, _, _ = make_surface_defects(2, image_shape=(64, 64), random_state=0)
    responses, logs = (
        np.stack(GaborFeatureExtractor(whiten=False, response=response).transform(X)) for response in ("linear", "log")
    )
    is_mean = np.isin(np.arange(responses.shape[-1]), [0, 2])  # means over 8 pixels and over 32 pixels
    np.testing.assert_array_equal(logs[..., is_mean], responses[..., is_mean])
    np.testing.assert_allclose(logs[..., ~is_mean], np.log(responses[..., ~is_mean] + 0.004), atol=1e-4)


def test_an_unknown_response_is_refused():
    with pytest.raises(ValueError, match=r"The 'response' parameter of Gabor.* must be a str among {.*}. Got 'square'"):
        GaborFeatureExtractor(response="square").fit(random_images(0, 2, 64, 64))


@pytest.mark.parametrize("n_levels", [0, 9])
def test_a_number_of_levels_that_does_not_fit_the_grid_is_refused(n_levels):
    with pytest.raises(
        ValueError, match=rf"The 'n_levels' parameter of .* an int in the range \[1, 4\]. Got {n_levels}"
    ):
        GaborFeatureExtractor(n_levels=n_levels).fit(random_images(0, 2, 64, 64))
