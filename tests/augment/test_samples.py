"""Pixels, masks and provenance of the samples."""

import numpy as np
import pytest
from assertions import assert_same_samples
from cheap_augmenters import (
    Shift,
    assert_outside_the_masks_all_is_as_it_was,
    colour_of,
    each_augmenter,
    each_augmenter_alone,
    each_that_needs_no_defects,
    in_form_of_samples,
)
from conftest import name_of
from PIL import Image
from sklearn.base import clone

from sklearn_exdd.augment import BoxRegions, OffsetDefectAugmenter, RectangleRegions
from sklearn_exdd.datasets import make_surface_defects

# Pixels


FORMS = {
    "uint8": lambda X: X,
    "one channel": lambda X: X[..., None],
    "uint16": lambda X: X.astype(np.uint16) * 256 + X[:, ::-1],
    "float32": lambda X: (X / 255).astype(np.float32),
    "float64": lambda X: X / 255,
    "float16": lambda X: (X / 255).astype(np.float16),
    "bool": lambda X: np.median(X, axis=(1, 2), keepdims=True) < X,
    "RGB": colour_of,
    "RGBA": lambda X: np.concatenate([colour_of(X), X[:, ::-1, :, None]], axis=3),
    "RGB of 16 bits": lambda X: colour_of(X).astype(np.uint16) * 257,
    "float RGB": lambda X: colour_of(X) / 255,
}


@each_augmenter
@pytest.mark.parametrize("form", FORMS)
def test_outside_the_mask_every_pixel_is_the_sources_in_its_own_dtype_and_shape(augmenter, form, surfaces):
    X, y, masks = surfaces
    X = FORMS[form](X)
    augmenter = clone(augmenter)
    if form == "bool":  # in a black and white texture, few defects would reach the minimum
        names = [name for name in augmenter.get_params() if name.split("__")[-1] == "min_contrast"]
        augmenter.set_params(**dict.fromkeys(names, 0))
    synthetic = augmenter.fit(X, y, masks=masks).sample(6)
    assert isinstance(synthetic.images, np.ndarray)
    assert synthetic.images.shape == (6, *in_form_of_samples(X[0]).shape)
    assert synthetic.masks.shape == (6, 64, 64)
    assert_outside_the_masks_all_is_as_it_was(synthetic, X)


@each_augmenter
def test_the_source_is_the_normal_image_whose_pixels_are_there(augmenter, surfaces):
    X, y, masks = surfaces  # X holds normal and defect images in random order
    synthetic = clone(augmenter).fit(X, y, masks=masks).sample(12)
    sources = [one["source"] for one in synthetic.provenance]
    for image, mask, source in zip(synthetic.images, synthetic.masks, sources):
        assert [i for i in range(len(X)) if np.array_equal(X[i][~mask], image[~mask])] == [source]
    assert (y[sources] == 0).all()
    assert len(set(sources)) > 3


@each_augmenter
def test_images_of_different_sizes_come_as_lists(augmenter):
    images, labels, masks = [], [], []
    for seed, shape in enumerate([(64, 64), (65, 97), (131, 64)]):
        X, y, M = make_surface_defects(4, defect_fraction=0.5, image_shape=shape, random_state=seed)
        images, labels, masks = [*images, *X], [*labels, *y], [*masks, *M]
    synthetic = clone(augmenter).fit(images, labels, masks=masks).sample(9)
    assert isinstance(synthetic.images, list)
    assert isinstance(synthetic.masks, list)
    assert len({image.shape for image in synthetic.images}) > 1
    assert_outside_the_masks_all_is_as_it_was(synthetic, images)


@each_augmenter
def test_an_array_a_list_and_paths_give_the_same_samples(augmenter, surfaces, write_images):
    X, y, masks = surfaces
    paths, mask_paths = write_images(X), write_images(masks, "masks")
    expected = clone(augmenter).fit(X, y, masks=masks).sample(4)
    for images, labels, their_masks in [
        (list(X), list(y), list(masks)),
        (paths, y, mask_paths),
        ([str(path) for path in paths], y, masks),
        (np.asfortranarray(X), y, masks.astype(np.uint8) * 255),
    ]:
        assert_same_samples(clone(augmenter).fit(images, labels, masks=their_masks).sample(4), expected)


def test_files_of_all_kinds_come_back_as_they_are_decoded(tmp_path, surfaces):
    X, y, _ = surfaces
    X = X[y == 0][:3]
    for mode, pixels in {
        "L": X,
        "RGB": colour_of(X),
        "RGBA": np.concatenate([colour_of(X), X[..., None]], axis=3),
        "I;16": X.astype(np.uint16) * 257,
        "1": np.median(X) < X,
    }.items():
        paths = [tmp_path / f"{mode}-{i}.png".replace(";", "") for i in range(len(X))]
        for path, image in zip(paths, pixels):
            Image.fromarray(image).save(path)
        synthetic = OffsetDefectAugmenter(min_contrast=0, random_state=0).fit(paths).sample(3)
        assert_outside_the_masks_all_is_as_it_was(synthetic, pixels)


@pytest.mark.parametrize("shape", [(16, 16), (5, 40), (33, 9)])
@each_that_needs_no_defects
def test_tiny_images_do(augmenter, shape):
    X = np.random.RandomState(0).randint(80, 100, size=(3, *shape)).astype(np.uint8)
    augmenter = clone(augmenter)
    names = [name for name in augmenter.get_params() if name.split("__")[-1] == "min_contrast"]
    if name_of(augmenter) == "CutPasteDefectAugmenter":  # in these small images, scars would have no pixels
        augmenter.set_params(regions=RectangleRegions(area=(0.2, 0.3)))
    synthetic = augmenter.set_params(**dict.fromkeys(names, 0)).fit(X).sample(4)
    for image, mask, provenance in zip(*synthetic, synthetic.provenance):
        np.testing.assert_array_equal(image[~mask], X[provenance["source"]][~mask])
        assert mask.any()


# Masks, contrast and provenance


@each_augmenter_alone
def test_the_mask_lies_in_the_region_that_was_drawn(augmenter, surfaces, monkeypatch):
    X, y, masks = surfaces
    drawn = []
    draw = type(augmenter)._draw

    def recording(self, random_state):
        drawn.append(draw(self, random_state))
        return drawn[-1]

    monkeypatch.setattr(type(augmenter), "_draw", recording)
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    for number in range(8):
        drawn.clear()
        _, mask, provenance = augmenter._one(number, seed=3)
        assert len(drawn) == 1 + provenance["n_redraws"]
        assert not (mask & ~drawn[-1].region).any()
        assert augmenter.sources_[drawn[-1].index] == provenance["source"]


def test_what_is_painted_beyond_the_region_is_not_taken(surfaces):
    X, y, _ = surfaces
    box = np.zeros((64, 64), dtype=bool)
    box[20:30, 5:60] = True
    synthetic = Shift(regions=BoxRegions([(20, 5, 30, 60)]), random_state=0).fit(X[y == 0]).sample(3)
    assert_outside_the_masks_all_is_as_it_was(synthetic, X[y == 0])
    for mask in synthetic.masks:
        np.testing.assert_array_equal(mask, box)


def test_the_mask_covers_what_really_changed_and_no_more(surfaces):
    X, y, _ = surfaces

    class Left(OffsetDefectAugmenter):
        def _paint(self, image, region, random_state):
            painted = np.where(image > 0.5, image - 0.5, image + 0.5)
            painted[:, 32:] = image[:, 32:]
            painted[40, 50] = 1 - image[40, 50]  # a single pixel
            return painted, {}

    synthetic = Left(regions=BoxRegions([(10, 10, 54, 54)]), random_state=0).fit(X[y == 0]).sample(2)
    for image, mask, provenance in zip(*synthetic, synthetic.provenance):
        assert mask[10:54, 10:32].all()
        assert mask.sum() == 44 * 22
        assert image[40, 50] == X[y == 0][provenance["source"]][40, 50]


def test_a_change_beyond_the_region_does_not_widen_the_mask(surfaces):
    X, _, _ = surfaces

    class Gap(OffsetDefectAugmenter):
        def _paint(self, image, region, random_state):
            painted = np.where(image > 0.5, image - 0.5, image + 0.5)
            painted[:, 28:30] = image[:, 28:30]
            return painted, {}

    (mask,) = Gap(regions=BoxRegions([(10, 10, 54, 30)]), random_state=0).fit(X).sample(1).masks
    assert mask[10:54, 10:28].all()
    assert mask.sum() == 44 * 18


@each_augmenter_alone
def test_the_provenance_says_all_that_was_promised(augmenter, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    for number, (image, mask, provenance) in enumerate(zip(*augmenter.sample(6), augmenter.sample(6).provenance)):
        assert provenance["augmenter"] == name_of(augmenter)
        assert provenance["region"] == ("defect" if name_of(augmenter) == "DefectPasteAugmenter" else "MaskRegions")
        assert provenance["seed"] == augmenter.seed_
        assert provenance["number"] == number
        assert provenance["prompt"] is None
        assert provenance["model"] is None
        assert provenance["visible"] is True
        assert 0 <= provenance["n_redraws"] <= augmenter.max_redraws
        source = X[provenance["source"]] / 255
        change = np.abs(image / 255 - source)[mask].mean()
        padded = np.pad(source, 7, mode="symmetric")
        around = [[padded[i : i + 15, j : j + 15].mean() for j in range(64)] for i in range(64)]
        assert provenance["contrast"] == pytest.approx(change / (1.4826 * np.median(np.abs(source - around))), rel=1e-3)
        assert provenance["contrast"] >= augmenter.min_contrast
        alone, alone_mask, _ = augmenter._one(number, provenance["seed"])
        np.testing.assert_array_equal(image, alone)
        np.testing.assert_array_equal(mask, alone_mask)


def test_a_subclass_may_tell_more_in_the_provenance(surfaces):
    class Prompted(Shift):
        def _paint(self, image, region, random_state):
            painted, _ = super()._paint(image, region, random_state)
            return painted, {"prompt": "a crack", "strength": 0.5}

    synthetic = Prompted(random_state=0).fit(surfaces[0]).sample(2)
    assert [(one["prompt"], one["strength"]) for one in synthetic.provenance] == [("a crack", 0.5)] * 2


def test_images_and_masks_can_be_unpacked(surfaces):
    synthetic = Shift(random_state=0).fit(surfaces[0]).sample(2)
    images, masks = synthetic
    assert images is synthetic.images
    assert masks is synthetic.masks
