"""Error messages for feature extractors of the user that break the rules."""

import numpy as np
import pytest

from sklearn_exdd import ExDDDetector
from sklearn_exdd.features import BaseFeatureExtractor


def extractor_of(result, stride=8):
    """Return an extractor that applies a function to the images and returns the result as feature maps."""

    class Own(BaseFeatureExtractor):
        def _extract(self, images):
            return result(images)

    Own.stride = stride
    return Own()


@pytest.mark.parametrize("tile_size", [1024, 32])
@pytest.mark.parametrize(
    ("result", "got"),
    [
        (lambda images: None, r"object of shape \(\)"),
        (lambda images: images[:, ::8, ::8, 0], r"float32 of shape \(\d+, \d+, \d+\)"),
        (lambda images: images[:1, ::8, ::8], r"float32 of shape \(1, \d+, \d+, 1\)"),
        (lambda images: images[:, :0], r"float32 of shape \(\d+, 0, \d+, 1\)"),
        (lambda images: images[:, ::8, ::8] + 0j, r"complex64 of shape"),
    ],
)
def test_what_is_no_feature_map_is_refused(result, got, tile_size, surfaces):
    extractor = extractor_of(result).set_params(tile_size=tile_size)
    with pytest.raises(ValueError, match=rf"^Own\._extract: expected float32 of shape .* with n = \d+ .*, got {got}"):
        extractor.fit(surfaces[0][:4])


def test_a_stride_that_leads_out_of_the_image_is_refused(surfaces):
    match = r"^Own\.stride: expected about 8, the number of pixels between two of the 8 patches along 64 pixels, got 16"
    with pytest.raises(ValueError, match=match):
        ExDDDetector(extractor_of(lambda images: images[:, ::8, ::8], stride=16)).fit(surfaces[0])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, bool])
def test_maps_become_float32(dtype, surfaces):
    maps = extractor_of(lambda images: (images[:, ::8, ::8] > 0.5).astype(dtype)).fit_transform(surfaces[0][:2])
    assert {feature_map.dtype for feature_map in maps} == {np.dtype(np.float32)}
