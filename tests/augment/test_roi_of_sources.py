"""Augmenters on images with a region of interest."""

import numpy as np
from cheap_augmenters import each_augmenter

from sklearn_exdd.datasets import make_surface_defects, with_roi


@each_augmenter
def test_augmenters_paint_only_in_the_region(augmenter):
    X, y, masks = make_surface_defects(20, image_shape=(64, 96), random_state=0)
    roi = np.zeros((64, 96), dtype=bool)
    roi[6:58, 10:70] = True
    masks = [mask if label and (mask & roi).any() else None for mask, label in zip(masks, y)]
    made = augmenter.fit(with_roi(X, roi), y, masks=masks).sample(5, random_state=0)
    for image, mask, provenance in zip(made.images, made.masks, made.provenance):
        assert mask.any()
        assert not mask[~roi].any()
        np.testing.assert_array_equal(image[~mask], X[provenance["source"]][~mask])
