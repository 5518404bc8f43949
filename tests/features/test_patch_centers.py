"""Positions of patches in the image."""

import numpy as np
import pytest
from tiny_extractors import CellMeans, Pixels, random_images, resnet18
from torch import nn

from sklearn_exdd.features import GaborFeatureExtractor, ModuleFeatureExtractor


def box_network():
    """Return a network that averages pixels. Output i is the mean over a window around pixel 8 * i."""
    layers = [nn.Conv2d(3, 1, 3, stride=2, padding=1), *(nn.Conv2d(1, 1, 3, stride=2, padding=1) for _ in range(2))]
    for layer in layers:
        nn.init.constant_(layer.weight, 1 / 9)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def patch_network():
    """Return a network that averages cells of 8 x 8 pixels, as networks do that cut an image into patches."""
    layer = nn.Conv2d(3, 1, 8, stride=8)
    nn.init.constant_(layer.weight, 1 / 64)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer)


def unpadded_network():
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.ReLU())


def dot_errors(extractor, shape, n_dots=24, border=24):
    """Return the offset, in pixels, from each one-pixel dot to the patch with the strongest response to the dot."""
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
    """Return the stride along each axis, in pixels of the image."""
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


@pytest.mark.slow
@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_random_backbone_finds_a_dot_about_where_it_is(shape, image_size):
    # Random filters are asymmetric. For a tenth of the dots, a neighbouring patch has the strongest response.
    extractor = resnet18(image_size=image_size)
    errors = dot_errors(extractor, shape) / size_of_a_step(extractor, shape)
    assert abs(errors).max() < 1.5
    assert np.median(abs(errors)) < 0.5
    assert abs(errors.mean(axis=0)).max() < 0.5


def test_patches_of_a_network_that_fits_no_grid_are_spread_evenly():
    extractor = ModuleFeatureExtractor(unpadded_network, layers=("1",), pool_size=1)
    assert extractor.stride is None
    # Without padding, the outermost patches lie 2 pixels inside the image. A patch sees 2 pixels on each side.
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
    # Patches cover the whole image, whatever the size at which the features were computed.
    assert rows[0] - 0.5 * (rows[1] - rows[0]) == pytest.approx(-0.5)
    assert columns[0] - 0.5 * (columns[1] - columns[0]) == pytest.approx(-0.5)
    assert rows[-1] <= 39.5
    assert columns[-1] <= 59.5


def test_resizing_keeps_constants_and_averages_what_it_shrinks():
    X = np.stack([np.full((64, 64), 0.25), np.indices((64, 64)).sum(axis=0) % 2]).astype(np.float32)
    plain, checkered = Pixels(image_size=16).transform(X)
    np.testing.assert_allclose(plain, 0.25, rtol=1e-6)
    np.testing.assert_allclose(checkered[2:-2, 2:-2], 0.5, atol=0.02)
