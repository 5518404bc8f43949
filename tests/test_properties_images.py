"""Properties that hold for all images and masks: readers, maps, regions, synthetic defects.

Each runs 100 examples, or 5000 with ``HYPOTHESIS_PROFILE=nightly``; see conftest.py.
"""

import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor, persistence
from sklearn_exdd._images import Images, Masks, holds_images, read_image
from sklearn_exdd.augment import (
    BoxRegions,
    CrackRegions,
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MaskRegions,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
    PerlinRegions,
    PolygonRegions,
    RectangleRegions,
    RidgedRegions,
)
from sklearn_exdd.datasets import make_surface_defects

pytestmark = pytest.mark.slow

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 40)
dtypes = st.sampled_from([np.uint8, np.uint16, np.bool_, np.float32, np.float64])


def pixels(shape, dtype, seed):
    """Return random pixels over the whole range of a dtype."""
    values = np.random.RandomState(seed % 2**32).uniform(size=shape)
    if np.dtype(dtype).kind == "f":
        return values.astype(dtype)
    return values > 0.5 if dtype == np.bool_ else (values * (np.iinfo(dtype).max + 1)).astype(dtype)


@st.composite
def pictures(draw, min_side=1, max_side=40):
    side = st.integers(min_side, max_side)
    n_channels = draw(st.sampled_from([None, 1, 3, 4]))
    shape = (draw(side), draw(side), *(() if n_channels is None else (n_channels,)))
    return pixels(shape, draw(dtypes), draw(seeds))


# Readers


@given(pictures())
def test_what_is_read_are_unit_floats_without_alpha(image):
    read = Images([image])[0]
    assert read.dtype == np.float32
    assert read.shape == (*image.shape[:2], {1: 1, 3: 3, 4: 3}[image.shape[2] if image.ndim == 3 else 1])
    assert 0 <= read.min() <= read.max() <= 1


@given(pictures())
def test_an_image_comes_back_from_its_unit_floats_in_its_own_dtype(image):
    images = Images([image])
    restored, original = images.restore(0, images[0]), images.original(0)
    assert (restored.dtype, restored.shape) == (original.dtype, original.shape)
    np.testing.assert_allclose(restored, original, rtol=1e-6)
    if image.dtype.kind != "f":
        np.testing.assert_array_equal(restored, original)


@given(st.integers(1, 4), sides, sides, st.sampled_from([(), (1,), (3,), (4,)]), dtypes, seeds)
def test_an_array_a_list_and_a_tuple_are_the_same(n, height, width, channels, dtype, seed):
    X = pixels((n, height, width, *channels), dtype, seed)
    assert holds_images(X)
    for same in (list(X), tuple(X), np.asfortranarray(X)):
        assert len(Images(same)) == n
        for i in range(n):
            np.testing.assert_array_equal(Images(same)[i], Images(X)[i])


@given(st.sampled_from(["png", "tif", "bmp", "pgm"]), sides, sides, st.booleans(), st.booleans(), seeds)
def test_a_file_is_the_same_as_its_pixels(tmp_path_factory, suffix, height, width, in_colour, deep, seed):
    deep = deep and not in_colour and suffix != "bmp"
    image = pixels((height, width, *((3,) if in_colour else ())), np.uint16 if deep else np.uint8, seed)
    path = tmp_path_factory.getbasetemp() / f"image.{suffix}"
    Image.fromarray(image).save(path)
    np.testing.assert_array_equal(read_image(path), image)
    np.testing.assert_array_equal(Images([str(path)])[0], Images([image])[0])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.lists(st.integers(0, 30), min_size=1, max_size=6))
def test_images_taken_twice_are_those_of_both_choices_under_their_first_numbers(first, second):
    images = Images(np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), dtype=np.uint8))
    second = [number % len(first) for number in second]
    taken = images.take(first).take(second)
    for place, number in enumerate(second):
        assert taken.where(place) == f"X[{first[number]}]"
        np.testing.assert_array_equal(taken[place], images[first[number]])


@given(pictures(), st.data())
def test_a_wrong_pixel_is_refused_with_the_number_of_its_image(image, data):
    wrong = image.astype(np.float64)
    wrong.flat[0] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, -0.01, 1.01, 255]))
    assume(image.ndim == 2 or image.shape[2] < 4)  # alpha is ignored
    good = np.zeros(image.shape)
    with pytest.raises(ValueError, match=r"^X\[2\]: expected"):
        Images([good, good, wrong])[2]


# Masks


@given(sides, sides, seeds)
def test_a_mask_means_the_same_in_every_form(tmp_path_factory, height, width, seed):
    mask = np.random.RandomState(seed).uniform(size=(height, width)) < 0.5
    path = tmp_path_factory.getbasetemp() / "mask.png"
    Image.fromarray(mask).save(path)
    forms = [
        mask,
        mask.astype(np.uint8),
        mask * np.uint8(255),
        mask * np.uint16(65535),
        mask.astype(float),
        mask[..., None],
    ]
    masks = Masks([*forms, path, str(path), None], len(forms) + 3)
    for i in range(len(forms) + 2):
        np.testing.assert_array_equal(masks.get(i, (height, width)), mask)
    assert masks.get(len(forms) + 2, (height, width)) is None


# Regions


DRAWERS = st.one_of(
    st.builds(PerlinRegions, n_blobs=st.sampled_from([None, 1, 3]), max_area=st.floats(0.05, 1), rotate=st.booleans()),
    st.builds(RidgedRegions),
    st.builds(CrackRegions),
    st.builds(RectangleRegions, angle=st.sampled_from([(0, 0), (-45, 45)])),
    st.builds(MaskRegions, flip=st.booleans(), move=st.booleans()),
    st.just(BoxRegions([(0, 0, 9, 9), (5, 5, 8, 30)])),
    st.just(PolygonRegions([[(1, 1), (1, 9), (9, 1)]])),
)


@given(DRAWERS, st.integers(10, 70), st.integers(31, 70), seeds)
def test_a_region_is_a_mask_of_the_size_of_its_image_and_follows_its_seed(drawer, height, width, seed):
    masks = [np.pad(np.ones((3, 5), dtype=bool), ((2, height - 5), (2, width - 7)))]  # mask on such an image
    region, again = (drawer.draw((height, width), np.random.RandomState(seed), masks) for _ in range(2))
    assert region.shape == (height, width)
    assert region.dtype == bool
    np.testing.assert_array_equal(region, again)
    if isinstance(drawer, PerlinRegions):
        assert region.mean() <= drawer.max_area + 1e-12


@given(st.integers(9, 60), st.integers(9, 60), st.data())
def test_a_box_is_drawn_exactly_where_it_is(height, width, data):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    region = BoxRegions([(top, left, bottom, right)]).draw((height, width), np.random.RandomState(0))
    expected = np.zeros((height, width), dtype=bool)
    expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(region, expected)


# Synthetic defects

KINDS = [PerlinDefectAugmenter, CutPasteDefectAugmenter, OffsetDefectAugmenter, DefectPasteAugmenter]


cases = st.tuples(
    st.sampled_from(KINDS),
    st.tuples(st.integers(32, 50), st.integers(32, 50)),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)


def fitted_augmenter(kind, shape, dtype, in_colour, seed):
    """Return an augmenter and the images that it was fitted on."""
    X, y, masks = make_surface_defects(5, defect_fraction=0.2, image_shape=shape, random_state=seed)
    X = np.stack([X, X // 2, X], axis=3) if in_colour else X
    X = {np.uint8: X, np.uint16: X * np.uint16(257), np.float32: (X / 255).astype(np.float32)}[dtype]
    return kind(min_contrast=0, random_state=seed).fit(X, y, masks=masks), X


@given(cases)
def test_outside_the_mask_every_pixel_is_the_sources_and_inside_something_changed(case):
    augmenter, X = fitted_augmenter(*case)
    synthetic = augmenter.sample(2)
    for image, mask, provenance in zip(*synthetic, synthetic.provenance):
        source = X[provenance["source"]]
        assert provenance["source"] in augmenter.sources_
        assert (image.dtype, image.shape) == (source.dtype, source.shape)
        np.testing.assert_array_equal(image[~mask], source[~mask])
        assert (image[mask] != source[mask]).any()


@given(cases, seeds)
def test_fewer_defects_are_the_first_of_more(case, seed):
    augmenter, _ = fitted_augmenter(*case)
    few, many = augmenter.sample(1, random_state=seed % 2**31), augmenter.sample(2, random_state=seed % 2**31)
    np.testing.assert_array_equal(few.images, many.images[:1])
    np.testing.assert_array_equal(few.masks, many.masks[:1])
    assert few.provenance == many.provenance[:1]


@given(cases, st.integers(8, 20), st.integers(0, 12), st.integers(0, 12))
def test_a_painted_defect_stays_within_its_region(case, side, top, left):
    augmenter, X = fitted_augmenter(*case)
    region = np.zeros(X.shape[1:3], dtype=bool)
    region[top : top + side, left : left + side] = True
    try:
        synthetic = augmenter.paint(X[0], region, random_state=0)
    except ValueError as error:
        assume("expected a visible change" not in str(error))
        raise
    assert not (synthetic.masks[0] & ~region).any()
    np.testing.assert_array_equal(synthetic.images[0][~region], X[0][~region])


# Features and maps

detector_shapes = st.tuples(st.integers(32, 48), st.integers(32, 48))


@pytest.fixture(scope="module")
def detector():
    X, y, masks = make_surface_defects(12, defect_fraction=0.3, image_shape=(40, 40), random_state=0)
    return ExDDDetector(GaborFeatureExtractor(n_levels=2), random_state=0).fit(X, y, masks=masks)


@given(st.tuples(st.integers(32, 90), st.integers(32, 90)), dtypes, seeds)
def test_a_map_has_the_size_of_its_image_whatever_size_and_dtype(detector, shape, dtype, seed):
    (pixel_map,) = detector.predict_map([pixels(shape, dtype, seed)])
    assert pixel_map.shape == shape
    assert pixel_map.dtype == np.float32
    assert np.isfinite(pixel_map).all()
    assert pixel_map.min() >= 0


@given(st.lists(st.sampled_from([(32, 40), (40, 33), (48, 48)]), min_size=1, max_size=4), seeds, st.integers(1, 4))
def test_the_other_images_their_order_and_the_batches_change_no_score(detector, shapes, seed, batch_size):
    images = [pixels(shape, np.uint8, seed + i) for i, shape in enumerate(shapes)]
    scores = detector.score_samples(images)
    order = np.random.RandomState(seed).permutation(len(images))
    np.testing.assert_allclose(detector.score_samples([images[i] for i in order]), scores[order], rtol=1e-4)
    np.testing.assert_allclose(detector.score_samples(images[-1:]), scores[-1:], rtol=1e-4)
    other = pickle.loads(pickle.dumps(detector))
    other.feature_extractor_.set_params(batch_size=batch_size)
    np.testing.assert_allclose(other.score_samples(images), scores, rtol=1e-4)


@given(detector_shapes, seeds)
def test_an_array_a_list_and_a_path_have_the_same_score(detector, tmp_path_factory, shape, seed):
    image = pixels(shape, np.uint8, seed)
    path = tmp_path_factory.getbasetemp() / "scored.png"
    Image.fromarray(image).save(path)
    forms = [image[None], [image], [path], [str(path)], image[None, ..., None]]
    assert len({float(detector.score_samples(form)[0]) for form in forms}) == 1


@given(detector_shapes, seeds)
def test_a_detector_from_a_file_scores_the_same_bit_for_bit(detector, tmp_path_factory, shape, seed):
    path = tmp_path_factory.getbasetemp() / "detector.safetensors"
    persistence.dump(detector, path)
    image = pixels(shape, np.uint8, seed)
    np.testing.assert_array_equal(persistence.load(path).predict_map([image]), detector.predict_map([image]))


@given(st.integers(16, 300), st.integers(16, 300), st.sampled_from([None, 32, (40, 70)]))
def test_patches_lie_in_the_image_in_order(height, width, image_size):
    extractor = GaborFeatureExtractor(n_levels=1, image_size=image_size)
    working = extractor._working_shape((height, width))
    map_shape = [-(-size // extractor.stride) for size in working]
    for size, n_patches, centers in zip(
        (height, width), map_shape, extractor.patch_centers(map_shape, (height, width))
    ):
        assert centers.shape == (n_patches,)
        assert (np.diff(centers) > 0).all()
        assert centers[0] > -0.5
        assert centers[-1] < size - 0.5 + (np.diff(centers)[0] / 2 if n_patches > 1 else size)


@given(st.integers(32, 120), st.integers(32, 120), seeds)
def test_the_strength_of_the_light_changes_no_feature(height, width, seed):
    image = 0.2 + 0.3 * pixels((height, width), np.float64, seed)
    extractor = GaborFeatureExtractor(n_levels=2, whiten=False)
    dark, light = extractor.transform([image, 1.6 * (image + 0.05) - 0.05])
    np.testing.assert_allclose(light, dark, atol=1e-4)
