"""What every augmenter does, and what each of the cheap ones paints."""

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from sklearn_exdd.augment import (
    AugmentedImages,
    BaseDefectAugmenter,
    BoxRegions,
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    MaskRegions,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
    PerlinRegions,
    PolygonRegions,
    RectangleRegions,
    SyntheticDefects,
)
from sklearn_exdd.datasets import make_surface_defects

AUGMENTERS = [
    CutPasteDefectAugmenter(min_contrast=0.3, random_state=0),
    DefectPasteAugmenter(min_contrast=0.3, random_state=0),
    MixedDefectAugmenter([("offset", OffsetDefectAugmenter()), ("perlin", PerlinDefectAugmenter())], random_state=0),
    OffsetDefectAugmenter(random_state=0),
    PerlinDefectAugmenter(random_state=0),
]
ALONE = [augmenter for augmenter in AUGMENTERS if isinstance(augmenter, BaseDefectAugmenter)]
NEED_NO_DEFECTS = [augmenter for augmenter in AUGMENTERS if not isinstance(augmenter, DefectPasteAugmenter)]


def name_of(estimator):
    return type(estimator).__name__


each_augmenter = pytest.mark.parametrize("augmenter", AUGMENTERS, ids=name_of)
each_augmenter_alone = pytest.mark.parametrize("augmenter", ALONE, ids=name_of)
each_that_needs_no_defects = pytest.mark.parametrize("augmenter", NEED_NO_DEFECTS, ids=name_of)


class Shift(OffsetDefectAugmenter):
    """Changes every pixel of the region by half of the range."""

    def _paint(self, image, region, random_state):
        return np.where(image > 0.5, image - 0.5, image + 0.5), {}


class Nothing(OffsetDefectAugmenter):
    """Leaves the image as it is."""

    def _paint(self, image, region, random_state):
        return image.copy(), {}


class Unfinished(OffsetDefectAugmenter):
    """Half of what it paints is no number."""

    def _paint(self, image, region, random_state):
        painted = np.where(image > 0.5, image - 0.5, image + 0.5)
        painted[:, ::2] = [[np.nan]]
        painted[::5, 1::4] = [[np.inf]]
        return painted, {}


class Faint(OffsetDefectAugmenter):
    """Paints half a standard deviation of the texture; counts its tries."""

    n_tries = 0

    def _paint(self, image, region, random_state):
        type(self).n_tries += 1
        return image + np.where(image > 0.5, -0.5, 0.5) * image.std(), {}


class PlainAtThird(Faint):
    """Faint at first, plain at the third try."""

    def _paint(self, image, region, random_state):
        painted, more = super()._paint(image, region, random_state)
        return np.where(self.n_tries % 3 == 0, np.where(image > 0.5, 0, 1), painted), more


def colour_of(X):
    return np.stack([X, X // 2, 255 - X], axis=3)


def in_form_of_samples(source):
    """A source in the form that the samples have: without alpha, and bool as uint8."""
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


def assert_same_samples(first, second):
    assert len(first.images) == len(second.images)
    for part in ("images", "masks"):
        for one, other in zip(getattr(first, part), getattr(second, part)):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    assert first.provenance == second.provenance


def beginning(synthetic, n_samples):
    return SyntheticDefects(synthetic.images[:n_samples], synthetic.masks[:n_samples], synthetic.provenance[:n_samples])


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
    if form == "bool":  # the texture of black and white leaves no room for more contrast
        names = [name for name in augmenter.get_params() if name.split("__")[-1] == "min_contrast"]
        augmenter.set_params(**dict.fromkeys(names, 0))
    synthetic = augmenter.fit(X, y, masks=masks).sample(6)
    assert isinstance(synthetic.images, np.ndarray)
    assert synthetic.images.shape == (6, *in_form_of_samples(X[0]).shape)
    assert synthetic.masks.shape == (6, 64, 64)
    assert_outside_the_masks_all_is_as_it_was(synthetic, X)


@each_augmenter
def test_the_source_is_the_normal_image_whose_pixels_are_there(augmenter, surfaces):
    X, y, masks = surfaces  # normals and defects in random order
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
    if name_of(augmenter) == "CutPasteDefectAugmenter":  # scars of so small images have no pixels
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
            painted[40, 50] = 1 - image[40, 50]  # alone
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


# Seeds


@each_augmenter
def test_the_same_seed_gives_the_same_samples_and_another_seed_others(augmenter, surfaces):
    X, y, masks = surfaces
    first, again = (clone(augmenter).fit(X, y, masks=masks) for _ in range(2))
    assert_same_samples(first.sample(4), again.sample(4))
    assert_same_samples(first.sample(4), first.sample(4))
    assert_same_samples(first.sample(4, random_state=7), again.sample(4, random_state=7))
    others = [
        first.sample(4, random_state=7),
        first.sample(4, random_state=8),
        clone(augmenter).set_params(random_state=1).fit(X, y, masks=masks).sample(4),
    ]
    hashes = {joblib.hash(synthetic.images) for synthetic in [first.sample(4), *others]}
    assert len(hashes) == 4


@each_augmenter
@pytest.mark.parametrize("random_state", [None, 5])
def test_the_first_samples_do_not_depend_on_how_many_follow(augmenter, random_state, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    nine = augmenter.sample(9, random_state)
    assert_same_samples(augmenter.sample(5, random_state), beginning(nine, 5))
    assert len({joblib.hash(image) for image in nine.images}) == 9


@each_augmenter
def test_an_own_seed_given_once_more_changes_nothing(augmenter, surfaces):
    X, y, masks = surfaces
    seed = 123_456_789
    augmenter = clone(augmenter).set_params(random_state=seed).fit(X, y, masks=masks)
    assert_same_samples(augmenter.sample(3), augmenter.sample(3, random_state=int(str(seed))))


@each_augmenter
def test_without_a_seed_each_fit_draws_others_but_its_samples_stay(augmenter, surfaces):
    X, y, masks = surfaces
    first, second = (clone(augmenter).set_params(random_state=None).fit(X, y, masks=masks) for _ in range(2))
    assert_same_samples(first.sample(2), first.sample(2))
    assert not np.array_equal(first.sample(2).images, second.sample(2).images)


@each_augmenter
def test_a_generator_goes_on_from_fit_to_fit_and_from_call_to_call(augmenter, surfaces):
    X, y, masks = surfaces
    same = [clone(augmenter).set_params(random_state=np.random.RandomState(3)).fit(X, y, masks=masks) for _ in range(2)]
    assert_same_samples(same[0].sample(3), same[1].sample(3))
    assert_same_samples(same[0].sample(3), same[0].sample(3, random_state=same[0].random_state))
    generator = np.random.RandomState(4)
    once, twice = (same[0].sample(2, random_state=generator) for _ in range(2))
    assert not np.array_equal(once.images, twice.images)
    before = same[0].sample(2)
    assert not np.array_equal(same[0].fit(X, y, masks=masks).sample(2).images, before.images)


@pytest.mark.parametrize("n_samples", [0, -1, 2.0, "all", None])
@each_augmenter
def test_the_number_of_samples_is_checked(augmenter, n_samples, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    with pytest.raises(ValueError, match=f"^n_samples: expected an integer of at least 1, got {n_samples!r}"):
        augmenter.sample(n_samples)


# Labels and masks


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
        ([0, 1] * 11, None, "^y: expected 24 labels, one for each image of X, got 22"),
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
def test_images_of_other_channels_are_refused_by_name(augmenter, surfaces, tmp_path):
    X, y, masks = surfaces
    images = list(X)
    images[np.flatnonzero(y)[0]] = colour_of(X[:1])[0]
    with pytest.raises(ValueError, match=rf"^X\[{np.flatnonzero(y)[0]}\]: expected 1 channel"):
        clone(augmenter).set_params(cache_dir=tmp_path).fit(images, y, masks=masks).sample(1)


@each_augmenter
def test_input_is_left_as_it_is(augmenter, surfaces):
    # Writeable copies: those of the fixture would raise, which an augmenter could catch.
    X, y, masks = (array.copy() for array in surfaces)
    X_float = X / np.float32(255)
    before = joblib.hash([X, y, masks, X_float])
    for images in (X, X_float):
        augmenter = clone(augmenter).set_params(n_synthetic=3)
        augmenter.fit_transform(images, y, masks=masks)
        samples = augmenter.sample(3)
        samples.images[:] = 0  # no view of the input
        if hasattr(augmenter, "paint"):
            augmenter.paint(images[0], masks[y == 1][0])
    assert joblib.hash([X, y, masks, X_float]) == before


# The transformer


@each_augmenter
def test_transform_is_the_identity_and_needs_a_fit(augmenter, surfaces):
    X, y, masks = surfaces
    with pytest.raises(NotFittedError, match=f"This {name_of(augmenter)} instance is not fitted yet"):
        clone(augmenter).transform(X)
    with pytest.raises(NotFittedError, match=f"This {name_of(augmenter)} instance is not fitted yet"):
        clone(augmenter).sample(1)
    augmenter = clone(augmenter).fit(X, y, masks=masks)
    images = list(X[:3])
    assert augmenter.transform(X) is X
    assert augmenter.transform(images) is images


@each_augmenter
def test_fit_transform_keeps_the_images_and_attaches_samples(augmenter, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).set_params(n_synthetic=3)
    images = augmenter.fit_transform(X, y, masks=masks)
    assert isinstance(images, AugmentedImages)
    assert isinstance(images, list)
    np.testing.assert_array_equal(images, X)
    assert_same_samples(images.synthetic, augmenter.sample(3))
    items = list(X)
    assert all(
        one is other for one, other in zip(clone(augmenter).fit_transform(items, y, masks=masks), items, strict=True)
    )


@each_augmenter
def test_none_attached_is_none(augmenter, surfaces):
    X, y, masks = surfaces
    augmenter = clone(augmenter).set_params(n_synthetic=0)
    images = augmenter.fit_transform(X, y, masks=masks)
    assert images.synthetic is None
    assert len(augmenter.sample(1).images) == 1


@each_augmenter
def test_augmenters_in_a_row_accumulate(augmenter, surfaces):
    X, y, masks = surfaces
    first, second = clone(augmenter).set_params(n_synthetic=2), Shift(n_synthetic=3, random_state=1)
    images = second.fit_transform(first.fit_transform(X, y, masks=masks), y, masks=masks)
    assert_same_samples(images.synthetic, SyntheticDefects.concatenate([first.sample(2), second.sample(3)]))
    np.testing.assert_array_equal(images, X)
    none = Shift(n_synthetic=0).fit_transform(images, y)
    assert_same_samples(none.synthetic, images.synthetic)


def test_attached_defects_survive_pickling_and_a_slice_has_none(surfaces):
    import pickle

    X, _, _ = surfaces
    images = Shift(n_synthetic=2, random_state=0).fit_transform(X)
    back = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(back, images)
    assert_same_samples(back.synthetic, images.synthetic)
    assert getattr(images[:3], "synthetic", None) is None


def test_a_progress_bar_is_shown_only_when_asked_for(surfaces, capsys):
    X, _, _ = surfaces
    Shift(random_state=0).fit(X).sample(2)
    assert capsys.readouterr().err == ""
    Shift(random_state=0, verbose=1).fit(X).sample(2)
    assert "synthetic defects" in capsys.readouterr().err


# Defects that cannot be seen


@pytest.mark.parametrize("min_contrast", [0, 1.0])
def test_a_defect_that_changes_nothing_is_reported_with_its_image(min_contrast, surfaces):
    X, y, _ = surfaces
    only = np.flatnonzero(y == 0)[3]
    y = np.where(np.arange(len(y)) == only, 0, 1)
    augmenter = Nothing(max_redraws=4, min_contrast=min_contrast, random_state=0).fit(X, y)
    message = rf"^Nothing: expected a change that can be seen on X\[{only}\], got none in 5 tries\. Use larger"
    with pytest.raises(ValueError, match=message):
        augmenter.sample(2)


@pytest.mark.parametrize("max_redraws", [0, 1, 4])
def test_a_faint_defect_is_drawn_again_so_many_times_and_then_reported(max_redraws, surfaces, monkeypatch):
    monkeypatch.setattr(Faint, "n_tries", 0)
    augmenter = Faint(max_redraws=max_redraws, min_contrast=2, random_state=0).fit(surfaces[0])
    message = (
        rf"^3 of 3 synthetic defects \(the first is number 0\) stayed below min_contrast=2 after {max_redraws} redraws"
    )
    with pytest.warns(RuntimeWarning, match=message):
        synthetic = augmenter.sample(3)
    assert Faint.n_tries == 3 * (max_redraws + 1)
    assert [one["n_redraws"] for one in synthetic.provenance] == [max_redraws] * 3
    assert not any(one["visible"] for one in synthetic.provenance)
    assert_outside_the_masks_all_is_as_it_was(synthetic, surfaces[0])


def test_of_faint_defects_the_plainest_is_kept(surfaces, monkeypatch):
    X, _, _ = surfaces
    tries = []

    class Growing(OffsetDefectAugmenter):
        def _paint(self, image, region, random_state):
            strength = [0.1, 0.3, 0.2][len(tries) % 3]
            tries.append(strength)
            return image + np.where(image > 0.5, -strength, strength), {"strength": strength}

    augmenter = Growing(max_redraws=2, min_contrast=1000, random_state=0).fit(X)
    with pytest.warns(RuntimeWarning, match="^1 of 1 synthetic defects"):
        (provenance,) = augmenter.sample(1).provenance
    assert tries == [0.1, 0.3, 0.2]
    assert provenance["strength"] == 0.3
    assert provenance["n_redraws"] == 2


def test_redraws_stop_at_the_first_plain_defect(surfaces, monkeypatch):
    monkeypatch.setattr(PlainAtThird, "n_tries", 0)
    synthetic = PlainAtThird(min_contrast=1.5, random_state=0).fit(surfaces[0]).sample(4)
    assert PlainAtThird.n_tries == 12
    assert [one["n_redraws"] for one in synthetic.provenance] == [2] * 4
    assert all(one["visible"] for one in synthetic.provenance)


def test_a_redraw_takes_another_region_and_another_source(surfaces, monkeypatch):
    X, _, _ = surfaces
    drawn = []
    draw = Faint._draw

    def recording(self, random_state):
        drawn.append(draw(self, random_state))
        return drawn[-1]

    monkeypatch.setattr(Faint, "_draw", recording)
    with pytest.warns(RuntimeWarning, match="stayed below min_contrast"):
        Faint(max_redraws=5, min_contrast=1000, random_state=0).fit(X).sample(1)
    assert len({one.index for one in drawn}) > 1
    assert len({one.region.tobytes() for one in drawn}) == 6


def test_what_is_no_number_counts_as_unchanged(surfaces):
    X, _, _ = surfaces
    regions = BoxRegions([(10, 10, 50, 50)])
    synthetic = Unfinished(regions=regions, random_state=0).fit(X).sample(2)
    for image, _, provenance in zip(*synthetic, synthetic.provenance):
        source = X[provenance["source"]]
        np.testing.assert_array_equal(image[:, ::2], source[:, ::2])
        np.testing.assert_array_equal(image[::5, 1::4], source[::5, 1::4])
        assert (image[11:14, 11:49:2] != source[11:14, 11:49:2]).any()
    nothing = Unfinished(max_redraws=1).fit(X)
    nothing._paint = lambda image, region, random_state: (np.full_like(image, np.nan), {})
    with pytest.raises(ValueError, match="expected a change that can be seen"):
        nothing.sample(1)


def test_on_a_surface_without_texture_any_change_is_visible():
    X = np.full((3, 40, 50), 128, dtype=np.uint8)
    synthetic = OffsetDefectAugmenter(offset=(0.01, 0.01), mottling=0, softness=(0, 0), random_state=0).fit(X).sample(3)
    assert all(one["n_redraws"] == 0 and one["visible"] for one in synthetic.provenance)
    for image, mask in zip(*synthetic):
        assert set(np.unique(image[mask])) <= {127, 129}


# One defect in one place


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
    with pytest.raises(ValueError, match=r"^region\[0\]: expected the shape of its image, \(64, 64\), got \(64, 65\)"):
        augmenter.paint(X[0], np.ones((64, 65), dtype=bool))
    with pytest.raises(ValueError, match=r"^image\[0\]: expected 1 channel \(grey\) as in the other images, got 3"):
        augmenter.paint(colour_of(X)[0], np.ones((64, 64), dtype=bool))
    with pytest.raises(NotFittedError, match=f"This {name_of(augmenter)} instance is not fitted yet"):
        clone(augmenter).paint(X[0], np.ones((64, 64), dtype=bool))


# Parameters of the base


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_synthetic": -1}, "The 'n_synthetic' parameter of OffsetDefectAugmenter must be an int"),
        ({"regions": "blobs"}, "The 'regions' parameter of OffsetDefectAugmenter must be"),
        ({"regions": ["perlin", "blobs"]}, "^regions: expected a region drawer or one of .*'perlin'.*, got 'blobs'"),
        ({"regions": [3]}, "^regions: expected a region drawer or one of .*, got 3"),
        ({"regions": []}, "^regions: expected at least one region drawer, got an empty list"),
        ({"foreground": "bright"}, "The 'foreground' parameter of OffsetDefectAugmenter must be"),
        ({"min_contrast": -0.1}, "The 'min_contrast' parameter of OffsetDefectAugmenter must be"),
        ({"max_redraws": 1.5}, "The 'max_redraws' parameter of OffsetDefectAugmenter must be"),
        ({"cache_dir": 3}, "The 'cache_dir' parameter of OffsetDefectAugmenter must be"),
        ({"random_state": "x"}, "The 'random_state' parameter of OffsetDefectAugmenter must be"),
        ({"offset": (0.5, 0.2)}, r"^offset: expected two numbers in ascending order, at least 0, got \(0.5, 0.2\)"),
        ({"offset": (0.5,)}, "^offset: expected two numbers in ascending order"),
        ({"softness": (-1, 2)}, "^softness: expected two numbers in ascending order, at least 0"),
        ({"sign": "down"}, "The 'sign' parameter of OffsetDefectAugmenter must be"),
    ],
)
def test_wrong_parameters_of_the_base_and_of_offsets_are_refused_in_fit(params, message, surfaces):
    with pytest.raises(ValueError, match=message):
        OffsetDefectAugmenter(**params).fit(surfaces[0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"opacity": (0.5, 1.2)}, r"^opacity: expected a range within \[0, 1\], got \(0.5, 1.2\)"),
        ({"gain": (2, 1)}, "^gain: expected two numbers in ascending order, at least 0"),
        ({"grid": (4,)}, r"^grid: expected two integers of at least 1, got \(4,\)"),
        ({"grid": (0, 4)}, "^grid: expected two integers of at least 1"),
        ({"texture": "dtd"}, "The 'texture' parameter of PerlinDefectAugmenter must be"),
        ({"texture": np.ones((3, 4))}, "^texture: expected 'self' or images, got feature rows"),
    ],
)
def test_wrong_parameters_of_perlin_pastes_are_refused_in_fit(params, message, surfaces):
    with pytest.raises(ValueError, match=message):
        PerlinDefectAugmenter(**params).fit(surfaces[0])


# What each of them paints


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
    assert distances.min() < 2  # some pixels hardly change, and stay as they were
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
        # Between the pixels, a part of which may stand in for the border.
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
    with pytest.raises(ValueError, match="takes the masks of real defects, got none in fit"):
        OffsetDefectAugmenter(regions="masks").fit(X[y == 0])


@pytest.mark.parametrize("augmenter", [CutPasteDefectAugmenter(), OffsetDefectAugmenter(), PerlinDefectAugmenter()])
def test_small_images_will_do(augmenter):
    X = np.random.RandomState(0).randint(90, 110, size=(5, 32, 32)).astype(np.uint8)
    assert clone(augmenter).set_params(random_state=0).fit(X).sample(6).masks.any(axis=(1, 2)).all()
