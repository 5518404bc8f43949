"""One defect on a given image in a given region."""

import numpy as np
import pytest
from assertions import assert_same_samples
from cheap_augmenters import Shift, colour_of, each_augmenter_alone
from conftest import name_of
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sklearn_exdd.datasets import make_surface_defects


@each_augmenter_alone
def test_a_given_image_is_painted_in_the_given_region_and_nowhere_else(augmenter, surfaces, write_images):
    X, y, masks = surfaces
    augmenter = clone(augmenter).set_params(min_contrast=0).fit(X, y, masks=masks)
    image = make_surface_defects(1, defect_fraction=0, image_shape=(70, 90), random_state=5)[0][0]
    region = np.zeros((70, 90), dtype=bool)
    region[30:44, 40:60] = True
    synthetic = augmenter.paint(image, region, random_state=0)
    assert synthetic.images.shape == synthetic.masks.shape == (1, 70, 90)
    assert synthetic.images.dtype == np.uint8
    assert synthetic.masks.any()
    assert not (synthetic.masks[0] & ~region).any()
    np.testing.assert_array_equal(synthetic.images[0][~synthetic.masks[0]], image[~synthetic.masks[0]])
    (provenance,) = synthetic.provenance
    assert provenance["source"] is None
    assert provenance["region"] == "given"
    assert provenance["augmenter"] == name_of(augmenter)
    assert_same_samples(augmenter.paint(image, region.astype(np.uint8) * 255, random_state=0), synthetic)
    (path,) = write_images([image])
    (region_path,) = write_images([region], "regions")
    assert_same_samples(augmenter.paint(path, region_path, random_state=0), synthetic)
    assert augmenter.paint(image, region, random_state=0).provenance[0]["seed"] == provenance["seed"]
    assert augmenter.paint(image, region, random_state=1).provenance[0]["seed"] != provenance["seed"]


def test_the_whole_region_is_painted_where_all_of_it_changes(surfaces):
    X, _, _ = surfaces
    region = np.random.RandomState(0).uniform(size=(8, 8)).repeat(8, 0).repeat(8, 1) > 0.7
    synthetic = Shift().fit(X).paint(X[0], region)
    np.testing.assert_array_equal(synthetic.masks[0], region)
    assert ((synthetic.images[0] != X[0]) == region).all()


@each_augmenter_alone
def test_a_region_that_marks_nothing_or_has_another_shape_is_refused(augmenter, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    with pytest.raises(ValueError, match=r"^region: expected a mask that marks where the defect goes, got an"):
        augmenter.paint(X[0], np.zeros((64, 64), dtype=bool))
    with pytest.raises(ValueError, match=r"^region: expected the shape of its image, \(64, 64\), got \(64, 65\)"):
        augmenter.paint(X[0], np.ones((64, 65), dtype=bool))
    with pytest.raises(ValueError, match=r"^image\[0\]: expected 1 channel \(grey\) as in fit, got 3"):
        augmenter.paint(colour_of(X)[0], np.ones((64, 64), dtype=bool))
    with pytest.raises(NotFittedError, match=f"This {name_of(augmenter)} instance is not fitted yet"):
        clone(augmenter).paint(X[0], np.ones((64, 64), dtype=bool))
