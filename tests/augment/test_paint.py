"""Pixels painted by each augmenter."""

import numpy as np
import pytest
from assertions import assert_same_samples
from cheap_augmenters import Shift, assert_outside_the_masks_all_is_as_it_was, colour_of
from sklearn.base import clone

from sklearn_exdd.augment import (
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MaskRegions,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
    PolygonRegions,
    RectangleRegions,
)


@pytest.mark.parametrize("sign", ["dark", "bright"])
def test_an_offset_multiplies_the_brightness(sign, surfaces):
    X, y, _ = surfaces
    X = (X[y == 0] / 600).astype(np.float32)
    region = np.zeros((64, 64), dtype=bool)
    region[20:40, 20:40] = True
    augmenter = OffsetDefectAugmenter(sign=sign, offset=(0.4, 0.6), softness=(0, 0), mottling=0, random_state=0)
    synthetic = augmenter.fit(X).paint(X[0], region)
    offset = synthetic.provenance[0]["offset"]
    assert 0.4 <= abs(offset) <= 0.6
    assert (offset < 0) == (sign == "dark")
    np.testing.assert_allclose(synthetic.images[0][region], X[0][region] * np.exp(offset), rtol=1e-5)


def test_a_soft_edge_grows_from_the_border_of_the_region_inwards():
    X = np.full((2, 64, 64), 0.5, dtype=np.float32)
    region = np.zeros((64, 64), dtype=bool)
    region[12:52, 12:52] = True
    augmenter = OffsetDefectAugmenter(sign="dark", offset=(0.5, 0.5), softness=(3, 3), mottling=0)
    image = augmenter.fit(X).paint(X[0], region).images[0]
    np.testing.assert_allclose(image[30, 12:17], 0.5 * np.exp(-0.5 * np.array([0.25, 0.5, 0.75, 1, 1])), rtol=1e-5)
    thin = np.zeros((64, 64), dtype=bool)
    thin[30, 10:50] = True
    image = augmenter.paint(X[0], thin).images[0]
    np.testing.assert_allclose(image[thin], 0.5 * np.exp(-0.5), rtol=1e-5)


def test_offsets_are_dark_twice_as_often_as_bright(surfaces):
    X, y, _ = surfaces
    synthetic = OffsetDefectAugmenter(random_state=0).fit(X[y == 0][:, :32, :32]).sample(60)
    assert 30 <= sum(one["offset"] < 0 for one in synthetic.provenance) <= 50


def test_cutpaste_pastes_a_piece_of_the_image_itself(surfaces):
    X, y, _ = surfaces
    augmenter = CutPasteDefectAugmenter(jitter=0, min_contrast=0, random_state=0).fit(X[y == 0])
    region = np.zeros((64, 64), dtype=bool)
    region[10:22, 30:40] = True
    image = X[y == 0][0]
    pasted = augmenter.paint(image, region, random_state=1).images[0][10:22, 30:40].astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(int), (12, 10))
    distances = np.abs(windows - pasted).mean(axis=(2, 3))
    assert distances.min() < 2  # not 0, because pixels that would hardly change keep their value
    assert np.unravel_index(distances.argmin(), distances.shape) != (10, 30)
    everything = np.ones((64, 64), dtype=bool)
    bright = CutPasteDefectAugmenter(jitter=0.5, min_contrast=0, random_state=0).fit(X[y == 0])
    assert bright.paint(image, everything, random_state=1).masks.any()


@pytest.mark.parametrize("shape", [(30, 40, 3), (64, 64), (100, 70, 3), (9, 300)], ids=str)
def test_a_foreign_texture_is_blended_in_by_its_opacity(shape, surfaces):
    X, y, _ = surfaces
    texture = np.full(shape, 250, dtype=np.uint8)
    regions = RectangleRegions(area=(0.1, 0.2))
    params = {"texture": [texture, texture], "gain": (1, 1), "regions": regions, "random_state": 0}
    for images in (X[y == 0], colour_of(X[y == 0])):
        synthetic = PerlinDefectAugmenter(opacity=(0.5, 0.5), **params).fit(images).sample(3)
        for image, mask, provenance in zip(*synthetic, synthetic.provenance):
            source = images[provenance["source"]][mask].astype(float)
            np.testing.assert_allclose(image[mask], (source + 250) / 2, atol=0.51)
            assert provenance["opacity"] == 0.5
        for image, mask in zip(*PerlinDefectAugmenter(opacity=(1, 1), **params).fit(images).sample(3)):
            assert (image[mask] == 250).all()


@pytest.mark.parametrize("grid", [(1, 1), (4, 8), (200, 3)])
def test_an_own_texture_is_made_of_pieces_of_the_image(grid, surfaces):
    X, y, _ = surfaces
    image = colour_of(X[y == 0])[0]
    augmenter = PerlinDefectAugmenter(grid=grid, opacity=(1, 1), gain=(1, 1), min_contrast=0).fit([image])
    synthetic = augmenter.paint(image, np.ones((64, 64), dtype=bool), random_state=0)
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert {tuple(pixel) for pixel in synthetic.images[0].reshape(-1, 3)} <= colours
    assert synthetic.masks[0].mean() > 0.3


def test_pasted_defects_are_the_real_ones_matched_to_the_new_brightness():
    rng = np.random.RandomState(0)
    bright, dark = (np.clip(rng.normal(level, 0.004, (80, 80)), 0, 1).astype(np.float32) for level in (0.6, 0.3))
    mask = np.zeros((80, 80), dtype=bool)
    mask[20:36, 30:40] = True
    defect = np.where(mask, bright * 0.5, bright)
    augmenter = DefectPasteAugmenter(
        flip=False, rotation=0, scale=(1, 1), contrast=(1, 1), feather=0, random_state=0
    ).fit([dark, defect], [0, 1], masks=[None, mask])
    for image, pasted, provenance in zip(*augmenter.sample(4), augmenter.sample(4).provenance):
        rows, columns = np.nonzero(pasted)
        # The new position may lie between pixels. The mask can therefore have one more row or column.
        assert np.ptp(rows) + 1 in (16, 17)
        assert np.ptp(columns) + 1 in (10, 11)
        assert image[pasted].mean() == pytest.approx(0.15, abs=0.02)
        assert provenance["defect"] == 0
        assert provenance["defect_contrast"] == 1


def test_pasted_defects_are_scaled_turned_and_lie_within_the_image():
    X = np.full((2, 80, 80), 0.5, dtype=np.float32)
    mask = np.zeros((80, 80), dtype=bool)
    mask[38:42, 20:60] = True
    X[1][mask] = 0.2
    augmenter = DefectPasteAugmenter(rotation=90, scale=(0.5, 1), feather=0, random_state=0)
    areas, heights = [], []
    for pasted in augmenter.fit(X, [0, 1], masks=[None, mask]).sample(20).masks:
        rows, _ = np.nonzero(pasted)
        areas.append(pasted.sum() / mask.sum())
        heights.append(np.ptp(rows) + 1)
    assert 0.2 < min(areas) < 0.4 < 0.8 < max(areas) < 1.2
    assert min(heights) < 8
    assert max(heights) > 25


def test_a_defect_larger_than_the_image_is_cut():
    rng = np.random.RandomState(0)
    X = [rng.uniform(0.4, 0.5, shape) for shape in [(20, 24), (90, 90)]]
    mask = np.zeros((90, 90), dtype=bool)
    mask[10:80, 10:80] = True
    X[1][mask] = rng.uniform(0, 1, mask.sum())
    synthetic = DefectPasteAugmenter(random_state=0).fit(X, [0, 1], masks=[None, mask]).sample(3)
    assert synthetic.images.shape == (3, 20, 24)
    assert_outside_the_masks_all_is_as_it_was(synthetic, X)


def test_polygons_given_for_the_image_are_where_the_defects_are(surfaces):
    X, y, _ = surfaces
    corner = PolygonRegions([[(0, 0), (20, 0), (0, 20)]])
    for mask in Shift(regions=corner, random_state=0).fit(X[y == 0]).sample(3).masks:
        assert mask[:18, 0].all()
        assert not mask[21:].any()
        assert not mask[:, 21:].any()


def test_hand_drawn_masks_can_be_given_as_paths(surfaces, write_images):
    X, y, masks = surfaces
    paths = write_images(masks[y == 1])
    synthetic = Shift(regions=MaskRegions(paths), random_state=0).fit(X[y == 0]).sample(3)
    drawn = Shift(regions=MaskRegions(list(masks[y == 1])), random_state=0).fit(X[y == 0]).sample(3)
    assert_same_samples(synthetic, drawn)


def test_an_edge_of_the_part_is_no_texture():
    X = np.full((4, 128, 128), 10, dtype=np.uint8)
    X[:, 32:96, 32:96] = 200
    X += np.random.RandomState(0).randint(0, 5, size=X.shape).astype(np.uint8)
    inside = OffsetDefectAugmenter(offset=(0.2, 0.2), foreground="otsu", random_state=0).fit(X).sample(3)
    assert all(provenance["contrast"] > 5 for provenance in inside.provenance)


def test_masks_without_labels_are_refused(surfaces):
    X, _, masks = surfaces
    with pytest.raises(ValueError, match="masks: expected None without labels y"):
        OffsetDefectAugmenter().fit(X, masks=list(masks))


def test_masks_as_regions_without_any_are_refused_in_fit(surfaces):
    X, y, _ = surfaces
    with pytest.raises(ValueError, match=r"^regions: expected masks of real defects in fit .*, got none"):
        OffsetDefectAugmenter(regions="masks").fit(X[y == 0])


@pytest.mark.parametrize("augmenter", [CutPasteDefectAugmenter(), OffsetDefectAugmenter(), PerlinDefectAugmenter()])
def test_small_images_will_do(augmenter):
    X = np.random.RandomState(0).randint(90, 110, size=(5, 32, 32)).astype(np.uint8)
    assert clone(augmenter).set_params(random_state=0).fit(X).sample(6).masks.any(axis=(1, 2)).all()
