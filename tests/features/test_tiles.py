"""Features of large images, computed in tiles."""

import numpy as np
import pytest
from assertions import assert_same_maps
from tiny_extractors import CellMeans, random_images, resnet18

from sklearn_exdd.features import GaborFeatureExtractor


@pytest.mark.slow
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


@pytest.mark.slow
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
