"""Contents of the normal bank and the defect bank."""

import numpy as np
import pytest
from naive_exdd import EVERYTHING, lie_on, naive_distances, patch_rows, places

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects


def test_without_masks_the_defect_bank_holds_the_defect_and_not_the_whole_image(squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, **EVERYTHING).fit(X, y)
    bank = detector.defect_bank_
    on_defect = []
    for image in np.flatnonzero(y):
        own = places(bank)[bank.provenance["image"] == image]
        # A patch inside a square of 16 pixels clearly differs from noise.
        _, centers = patch_rows(detector, X[image])
        inside = centers[lie_on(masks[image], centers, reach=1)]
        assert set(map(tuple, inside)) <= set(map(tuple, own))
        on_defect.append(lie_on(masks[image], own))
    # The farthest 1 % of the normal patches are also selected: about one for every ten patches of a square.
    assert np.concatenate(on_defect).mean() > 0.8


@pytest.mark.slow
def test_without_masks_most_chosen_patches_of_real_looking_defects_show_them():
    X, y, masks = make_surface_defects(30, image_shape=(128, 128), random_state=0)
    detector = ExDDDetector("gabor", **EVERYTHING).fit(X, y)
    bank = detector.defect_bank_
    chosen, by_chance, n_patches = [], [], 0
    for image in np.flatnonzero(y):
        own = places(bank)[bank.provenance["image"] == image]
        assert len(own) >= 1
        _, centers = patch_rows(detector, X[image])
        chosen.append(lie_on(masks[image], own, reach=8).mean())
        by_chance.append(lie_on(masks[image], centers, reach=8).mean())
        n_patches += len(centers)
    assert len(bank) < 0.4 * n_patches
    assert np.mean(chosen) > 0.6
    assert np.mean(chosen) > 3 * np.mean(by_chance)


def test_with_masks_every_defect_row_lies_on_the_mask(squares, cells):
    X, y, masks = squares
    bank = ExDDDetector(cells, **EVERYTHING).fit(X, y, masks=masks).defect_bank_
    assert set(bank.provenance["image"]) == set(np.flatnonzero(y))
    for image, place in zip(bank.provenance["image"], places(bank)):
        assert lie_on(masks[image], [place]).all()


def test_a_mask_of_one_pixel_gives_the_patch_around_it(squares, cells):
    X, y, _ = squares
    mask = np.zeros((64, 64), dtype=bool)
    mask[37, 20] = True
    detector = ExDDDetector(cells, n_neighbors=1).fit(X[y == 0], X[y == 1][:1], masks=[mask])
    np.testing.assert_array_equal(places(detector.defect_bank_), [[35.5, 19.5]])


@pytest.mark.parametrize("cap", [1, 2, 5])
@pytest.mark.parametrize("with_masks", [False, True], ids=["without masks", "with masks"])
def test_of_a_defect_image_at_most_so_many_patches_are_kept(cap, with_masks, squares, cells):
    X, y, masks = squares
    masks = masks if with_masks else None
    params = {"normal_coreset": 1.0, "defect_coreset": 1.0, "n_neighbors": 1}
    every = ExDDDetector(cells, max_defect_patches=None, **params).fit(X, y, masks=masks).defect_bank_
    capped = [
        ExDDDetector(cells, max_defect_patches=cap, random_state=0, **params).fit(X, y, masks=masks).defect_bank_
        for _ in range(2)
    ]
    for image in np.flatnonzero(y):
        candidates = set(map(tuple, places(every)[every.provenance["image"] == image]))
        kept = [set(map(tuple, places(bank)[bank.provenance["image"] == image])) for bank in capped]
        assert len(kept[0]) == min(cap, len(candidates))
        assert kept[0] <= candidates
        assert kept[0] == kept[1]


@pytest.mark.parametrize("coreset", ["greedy", "random"])
@pytest.mark.parametrize(
    ("size", "expected"), [(1.0, 768), (0.1, 77), (1e-3, 1), (10, 10), (1, 1), (768, 768), (10**6, 768)], ids=str
)
def test_a_coreset_has_the_size_asked_for(coreset, size, expected, squares, cells):
    X, y, _ = squares
    masks = np.ones((4, 64, 64), dtype=bool)
    detector = ExDDDetector(
        cells, coreset=coreset, n_neighbors=1, normal_coreset=size, defect_coreset=10, max_defect_patches=None
    )
    detector.fit(X[y == 0], X[y == 1][:4], masks=masks)
    assert (len(detector.normal_bank_), len(detector.defect_bank_)) == (expected, 10)
    detector.set_params(normal_coreset=10, defect_coreset=min(size, 256))
    detector.fit(X[y == 0], X[y == 1][:4], masks=masks)
    share = int(np.ceil(size * 256)) if isinstance(size, float) else min(size, 256)
    assert (len(detector.normal_bank_), len(detector.defect_bank_)) == (10, share)


@pytest.mark.parametrize("coreset", ["greedy", "random"])
def test_a_coreset_holds_rows_of_the_images_none_twice(coreset, squares, cells):
    X, y, _ = squares
    small = ExDDDetector(cells, coreset=coreset, normal_coreset=100, random_state=0).fit(X[y == 0]).normal_bank_
    full = ExDDDetector(cells, coreset=coreset, normal_coreset=1.0, random_state=0).fit(X[y == 0]).normal_bank_
    keys = [tuple(map(float, row)) for row in np.column_stack([small.provenance["image"], places(small)])]
    assert len(set(keys)) == 100
    rows = {
        tuple(map(float, key)): i for i, key in enumerate(np.column_stack([full.provenance["image"], places(full)]))
    }
    np.testing.assert_array_equal(small.features, full.features[[rows[key] for key in keys]])


def test_a_greedy_coreset_covers_better_than_a_random_one(squares, cells):
    X, y, _ = squares
    radius = {}
    for coreset in ("greedy", "random"):
        detector = ExDDDetector(cells, coreset=coreset, normal_coreset=50, random_state=0).fit(X[y == 0])
        patches = np.concatenate([patch_rows(detector, image)[0] for image in X[y == 0]])
        radius[coreset] = naive_distances(detector.normal_bank_, patches, 1).max()
    assert radius["greedy"] < 0.8 * radius["random"]


def test_another_seed_draws_another_random_coreset(squares, cells):
    X, y, _ = squares
    drawn = [
        ExDDDetector(cells, coreset="random", normal_coreset=50, random_state=seed).fit(X[y == 0]).normal_bank_.features
        for seed in (0, 0, 1, np.random.RandomState(0))
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[3])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("labelled", [False, True], ids=["images apart", "labels"])
def test_every_row_remembers_its_image_and_place(labelled, squares, cells):
    X, y, masks = squares
    detector = ExDDDetector(cells, normal_coreset=200, random_state=0)
    if labelled:
        X_normal = X_defect = X
        detector.fit(X, y, masks=masks)
    else:
        X_normal, X_defect = X[y == 0], X[y == 1]
        detector.fit(X_normal, X_defect, masks=masks[y == 1])
    for bank, images in [(detector.normal_bank_, X_normal), (detector.defect_bank_, X_defect)]:
        assert not bank.provenance["synthetic"].any()
        for features, image, place in zip(bank.features, bank.provenance["image"], places(bank)):
            patches, centers = patch_rows(detector, images[image])
            (row,) = np.flatnonzero((centers == place).all(axis=1))
            np.testing.assert_array_equal(features, patches[row])
