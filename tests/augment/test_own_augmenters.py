"""Error messages for augmenters of the user that break the rules."""

import numpy as np
import pytest

from sklearn_exdd import BaseDefectAugmenter, PerlinDefectAugmenter


def augmenter_of(result):
    """Return an augmenter that applies a function to the image and paints the result."""

    class Own(PerlinDefectAugmenter):
        def _paint(self, image, region, random_state):
            return result(image)

    return Own(random_state=0)


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (lambda image: None, TypeError, r"expected \(image, dict of provenance\), got NoneType"),
        (lambda image: image, TypeError, r"expected \(image, dict of provenance\), got ndarray"),
        (lambda image: (image, {}, 1), TypeError, r"expected \(image, dict of provenance\), got a tuple of 3"),
        (lambda image: (image, None), TypeError, r"expected \(image, dict of provenance\), got a tuple of 2"),
        (
            lambda image: (image[..., 0], {}),
            ValueError,
            r"expected floats .* with the shape of the image, \(64, 64, 1\), got float32 with shape",
        ),
        (lambda image: ((255 * image).astype(np.uint8), {}), ValueError, r"expected floats in \[0, 1\] .* got uint8"),
        (
            lambda image: (1 - image, {"source": 1}),
            ValueError,
            r"expected provenance keys other .* got \['source'\]",
        ),
    ],
)
def test_what_is_no_painted_image_is_refused(result, error, match, surfaces):
    X, y, _ = surfaces
    with pytest.raises(error, match=rf"^Own\._paint: {match}"):
        augmenter_of(result).fit(X[y == 0]).sample(1)


def test_missing_default_regions_are_told(surfaces):
    class Own(BaseDefectAugmenter):
        regions, foreground, min_contrast, max_redraws, n_synthetic = "auto", None, 1.0, 3, 2
        memory = pos_label = random_state = None
        verbose = 0

        def _paint(self, image, region, random_state):
            return 1 - image, {}

    with pytest.raises(
        TypeError, match=r"^Own\._default_regions: expected a region drawer or a list of them, got None"
    ):
        Own().fit(surfaces[0])
