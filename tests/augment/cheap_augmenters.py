"""Augmenters without a diffusion model, and simple augmenters for tests."""

import numpy as np
import pytest
from conftest import name_of

from sklearn_exdd.augment import (
    BaseDefectAugmenter,
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
)

AUGMENTERS = [
    CutPasteDefectAugmenter(min_contrast=0.3, random_state=0),
    DefectPasteAugmenter(min_contrast=0.3, random_state=0),
    MixedDefectAugmenter([("offset", OffsetDefectAugmenter()), ("perlin", PerlinDefectAugmenter())], random_state=0),
    OffsetDefectAugmenter(random_state=0),
    PerlinDefectAugmenter(random_state=0),
]

ALONE = [augmenter for augmenter in AUGMENTERS if isinstance(augmenter, BaseDefectAugmenter)]

NEED_NO_DEFECTS = [augmenter for augmenter in AUGMENTERS if not isinstance(augmenter, DefectPasteAugmenter)]


each_augmenter = pytest.mark.parametrize("augmenter", AUGMENTERS, ids=name_of)

each_augmenter_alone = pytest.mark.parametrize("augmenter", ALONE, ids=name_of)

each_that_needs_no_defects = pytest.mark.parametrize("augmenter", NEED_NO_DEFECTS, ids=name_of)


class Shift(OffsetDefectAugmenter):
    """Augmenter that changes the value of every pixel of the region by half of the value range."""

    def _paint(self, image, region, random_state):
        return np.where(image > 0.5, image - 0.5, image + 0.5), {}


def colour_of(X):
    return np.stack([X, X // 2, 255 - X], axis=3)


def in_form_of_samples(source):
    """Convert a source image to the form of the samples: drop the alpha channel, and convert bool to uint8."""
    source = np.asarray(source)
    if source.dtype == bool:
        source = source.astype(np.uint8) * 255
    return source[..., :3] if source.ndim == 3 else source


def assert_outside_the_masks_all_is_as_it_was(synthetic, X):
    assert len(synthetic.images) == len(synthetic.masks) == len(synthetic.provenance)
    for image, mask, provenance in zip(synthetic.images, synthetic.masks, synthetic.provenance):
        source = in_form_of_samples(X[provenance["source"]])
        assert image.dtype == source.dtype
        assert image.shape == source.shape
        assert mask.dtype == bool
        assert mask.shape == source.shape[:2]
        np.testing.assert_array_equal(image[~mask], source[~mask])
        changed = (image != source).reshape(*mask.shape, -1).any(axis=2)
        assert mask.sum() >= 4
        assert changed[mask].mean() > 0.6
