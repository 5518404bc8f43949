"""Labels and masks passed to fit."""

import joblib
import numpy as np
import pytest
from assertions import assert_same_samples
from cheap_augmenters import (
    Shift,
    colour_of,
    each_augmenter,
    each_augmenter_alone,
    each_that_needs_no_defects,
)
from sklearn.base import clone

from sklearn_exdd.augment import DefectPasteAugmenter, PerlinRegions


@each_that_needs_no_defects
def test_without_labels_all_images_are_normal(augmenter, surfaces):
    X, y, _ = surfaces
    normal = X[y == 0]
    without = clone(augmenter).fit(normal).sample(4)
    assert_same_samples(without, clone(augmenter).fit(normal, np.zeros(len(normal), dtype=int)).sample(4))
    assert_same_samples(without, clone(augmenter).fit(normal, ["good"] * len(normal)).sample(4))
    assert "MaskRegions" not in {one["region"] for one in without.provenance}


@each_augmenter_alone
@pytest.mark.parametrize(
    ("names", "pos_label"),
    [((0, 1), None), ((0, 1), 1), ((3, 7), None), (("good", "scratched"), None), (("ok", "bad"), "bad"), ((1, -1), -1)],
    ids=str,
)
def test_labels_tell_normals_from_defects(augmenter, names, pos_label, surfaces):
    X, y, masks = surfaces
    labels = np.array(names)[y]
    augmenter = clone(augmenter).set_params(pos_label=pos_label).fit(X, labels, masks=masks)
    np.testing.assert_array_equal(augmenter.sources_, np.flatnonzero(y == 0))
    expected = clone(augmenter).set_params(pos_label=None).fit(X, y, masks=masks)
    assert_same_samples(augmenter.sample(3), expected.sample(3))


@pytest.mark.parametrize(
    ("labels", "pos_label", "message"),
    [
        ([1] * 24, None, "^y: expected at least one normal image to make defects on, got defects only"),
        (["bad"] * 24, "bad", "^y: expected at least one normal image to make defects on, got defects only"),
        ([0, 1] * 11, None, "^y: expected 24 labels, one for each sample of X, got 22"),
        ([0, 1, 2] * 8, None, "^y: expected two classes, normal and defect, got 3"),
        ([0, 1, 2] * 8, 1, "^y: expected two classes, normal and defect, got 3"),
        (["ok", "bad"] * 12, "bda", r"^pos_label: expected one of the classes \['bad', 'ok'\], got 'bda'"),
    ],
)
@each_augmenter_alone
def test_labels_that_make_no_sense_are_refused(augmenter, labels, pos_label, message, surfaces):
    X, _, masks = surfaces
    with pytest.raises(ValueError, match=message):
        clone(augmenter).set_params(pos_label=pos_label).fit(X, labels, masks=masks)


@each_augmenter
def test_masks_that_do_not_fit_the_images_are_refused(augmenter, surfaces):
    X, y, masks = surfaces
    with pytest.raises(ValueError, match=r"^masks: expected one mask for each of the 24 images, got 23"):
        clone(augmenter).fit(X, y, masks=masks[1:])
    first = np.flatnonzero(y)[0]
    turned = [mask[:60] if i == first else mask for i, mask in enumerate(masks)]
    with pytest.raises(
        ValueError, match=rf"^masks\[{first}\]: expected the shape of its image, \(64, 64\), got \(60, 64\)"
    ):
        clone(augmenter).fit(X, y, masks=turned)


def test_masks_of_real_defects_become_the_regions(surfaces):
    X, y, masks = surfaces
    augmenter = Shift(random_state=0).fit(X, y, masks=masks)
    np.testing.assert_array_equal(augmenter.masks_, masks[y == 1])
    synthetic = augmenter.sample(6)
    assert {one["region"] for one in synthetic.provenance} == {"MaskRegions"}
    assert 0.3 < synthetic.masks.sum(axis=(1, 2)).mean() / masks[y == 1].sum(axis=(1, 2)).mean() < 3
    own = Shift(regions=PerlinRegions(), random_state=0).fit(X, y, masks=masks).sample(6)
    assert {one["region"] for one in own.provenance} == {"PerlinRegions"}


def test_defects_without_a_mask_or_with_an_empty_one_give_no_region(surfaces):
    X, y, masks = surfaces
    first, second, *_ = np.flatnonzero(y)
    some = [mask if i == second else None for i, mask in enumerate(masks)]
    some[first] = np.zeros((64, 64), dtype=bool)
    augmenter = Shift(random_state=0).fit(X, y, masks=some)
    np.testing.assert_array_equal(augmenter.masks_, masks[[second]])
    some[second] = None
    augmenter = Shift(random_state=0).fit(X, y, masks=some)
    assert augmenter.masks_ == []
    assert "MaskRegions" not in {one["region"] for one in augmenter.sample(4).provenance}


def test_real_defects_without_masks_cannot_be_pasted(surfaces):
    X, y, masks = surfaces
    empty = np.zeros_like(masks)
    for labels, their_masks in [(None, None), (y, None), (y, [None] * len(y)), (y, empty)]:
        with pytest.raises(ValueError, match=r"^masks: expected at least one defect image with a mask to paste from"):
            DefectPasteAugmenter().fit(X, labels, masks=their_masks)


@each_augmenter_alone
def test_grey_images_beside_colour_are_painted_in_colour(augmenter, surfaces, tmp_path):
    X, y, masks = surfaces
    images = list(X)
    images[np.flatnonzero(y)[0]] = colour_of(X[:1])[0]
    first, again = (
        clone(augmenter).set_params(memory=tmp_path, random_state=0).fit(images, y, masks=masks).sample(2)
        for _ in range(2)
    )
    assert first.images[0].shape == (*X.shape[1:], 3)
    np.testing.assert_array_equal(first.images, again.images)


@each_augmenter
def test_input_is_left_as_it_is(augmenter, surfaces):
    # Use writeable copies. Writing to the fixture's arrays raises an error, which an augmenter could catch.
    X, y, masks = (array.copy() for array in surfaces)
    X_float = X / np.float32(255)
    before = joblib.hash([X, y, masks, X_float])
    for images in (X, X_float):
        augmenter = clone(augmenter).set_params(n_synthetic=3)
        augmenter.fit_transform(images, y, masks=masks)
        samples = augmenter.sample(3)
        samples.images[:] = 0  # would change X if the images were a view of X
        if hasattr(augmenter, "paint"):
            augmenter.paint(images[0], masks[y == 1][0])
    assert joblib.hash([X, y, masks, X_float]) == before
