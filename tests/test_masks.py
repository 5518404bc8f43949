"""Masks: one rule for every container and every reader."""

import numpy as np
import pytest
from PIL import Image

from sklearn_exdd import ExDDDetector
from sklearn_exdd._images import Masks
from sklearn_exdd.metrics import per_region_overlap_score, pixel_average_precision_score, pixel_roc_auc_score

SHAPE = (6, 9)
MARK = np.zeros(SHAPE, dtype=bool)
MARK[1:4, 2:7] = True
SCORES = [pixel_roc_auc_score, pixel_average_precision_score, per_region_overlap_score]


def painted(paint, ground=0, dtype=np.uint8):
    return np.where(MARK[..., None], np.array(paint), np.array(ground)).astype(dtype)


def fringed(low, white, dtype):
    levels = MARK * np.array(white, dtype=dtype)
    levels[0] = low
    return levels


def two_colours():
    colours = painted((128, 0, 0))
    colours[1, 2:5] = 64, 0, 0
    return colours


def with_palette(colours, transparency=None):
    indices = np.where(MARK, 2, 0)
    indices[1, 2:5] = 1
    picture = Image.fromarray(indices.astype(np.uint8)).convert("P")
    picture.putpalette(colours)
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


def grey_with_alpha(grey, alpha):
    return Image.merge("LA", [Image.fromarray(np.asarray(one, dtype=np.uint8)) for one in (grey, alpha)])


WHITE = np.full(SHAPE, 255)
PICTURES = {
    "bits": Image.fromarray(MARK),
    "black and white": Image.fromarray(MARK * np.uint8(255)),
    "labels 0 and 2": Image.fromarray(MARK * np.uint8(2)),
    "fringes": Image.fromarray(fringed(100, 200, np.uint8)),
    "grey in RGB": Image.fromarray(np.repeat(fringed(90, 255, np.uint8)[..., None], 3, axis=2)),
    "one dark colour": Image.fromarray(painted((0, 0, 40))),
    "two colours": Image.fromarray(two_colours()),
    "palette": with_palette([0, 0, 0, 128, 0, 0, 64, 0, 0]),
    "palette of labels": with_palette([0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "palette with a transparent white": with_palette([255, 255, 255, 128, 0, 0, 64, 0, 0], transparency=0),
    "opaque RGBA": Image.fromarray(two_colours()).convert("RGBA"),
    "opaque grey RGBA": Image.fromarray(np.repeat(fringed(90, 255, np.uint8)[..., None], 3, axis=2)).convert("RGBA"),
    "white on transparent white": Image.fromarray(painted((255, 255, 255, 255), (255, 255, 255, 0))),
    "white on transparent black": Image.fromarray(painted((255, 255, 255, 255), (0, 0, 0, 0))),
    "half transparent red": Image.fromarray(painted((200, 0, 0, 90), (0, 0, 0, 0))),
    "red on transparent green": Image.fromarray(painted((200, 0, 0, 255), (0, 200, 0, 0))),
    "white with a soft edge": grey_with_alpha(WHITE, fringed(90, 255, np.uint8)),
    "grey with alpha": grey_with_alpha(MARK * 255, WHITE),
    "16 bits": Image.fromarray(MARK * np.uint16(65535)),
    "16 bits, fringes": Image.fromarray(fringed(30000, 65535, np.uint16)),
    "16 bits, 0 and 255": Image.fromarray(fringed(90, 255, np.uint16)),
    "16 bits, labels": Image.fromarray(fringed(0, 300, np.uint16)),
    "32 bits": Image.fromarray((MARK * 255).astype(np.int32)),
    "soft floats": Image.fromarray(np.where(MARK, 0.7, 0.4).astype(np.float32)),
}


@pytest.mark.parametrize("suffix", ["picture", "array", "png", "tif", "gif", "bmp"])
@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture_marks_the_same_pixels_in_every_container(kind, suffix, tmp_path):
    picture = PICTURES[kind]
    if suffix == "picture":
        item = picture
    elif suffix == "array":
        item = np.asarray(picture)
        if picture.mode in ("P", "LA"):
            pytest.skip("an array has neither palette nor alpha")
    else:
        item = tmp_path / f"mask.{suffix}"
        try:
            picture.save(item)
        except (OSError, KeyError, ValueError):
            pytest.skip("the container does not hold this mode")
        with Image.open(item) as saved:
            if "transparency" in picture.info.keys() - saved.info.keys():
                pytest.skip("the container loses transparency")
            if saved.mode != picture.mode and ("transparen" in kind or "A" in picture.mode):
                pytest.skip("the container loses transparency")
            if np.asarray(saved).dtype != np.asarray(picture).dtype:
                pytest.skip("the container loses depth")
    np.testing.assert_array_equal(Masks([item], 1).get(0, SHAPE), MARK)


ARRAYS = {
    "bool": MARK,
    **{f"labels of {dtype}": MARK * np.array(2, dtype=dtype) for dtype in ("u1", "i1", "u2", "i4", "i8", ">u2")},
    **{f"white of {dtype}": fringed(100, 255, dtype) for dtype in ("u1", "u2", "i4", "i8", ">i4")},
    "16 bits": fringed(30000, 65535, "u2"),
    "many labels": fringed(0, 40, "u2") * np.uint16(300) // np.uint16(40),
    "more than 16 bits": MARK * 100_000,
    "floats": MARK.astype(np.float32),
    "soft floats": np.where(MARK, 0.51, 0.5),
    "rounding": MARK * (1 + 1e-7),
    "colours": two_colours(),
    "colours with alpha": painted((9, 0, 0, 255), (200, 0, 0, 0)),
    "one channel": MARK[..., None] * np.uint8(255),
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("container", [list, tuple, np.stack])
def test_every_kind_of_array_marks_the_same_pixels(kind, container):
    before = ARRAYS[kind].copy()
    np.testing.assert_array_equal(Masks(container([ARRAYS[kind]] * 2), 2).get(1, SHAPE), MARK)
    np.testing.assert_array_equal(ARRAYS[kind], before)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.where(MARK, 0.2, 1.5), r"expected floats in \[0, 1\], where values > 0\.5 .* from 0\.2\d* to 1\.5"),
        (MARK * 255.0, r"expected floats in \[0, 1\], .* from 0 to 255\. Pass mask > 0"),
        (np.where(MARK, np.nan, 0), r"expected floats in \[0, 1\], .* nan"),
        (np.where(MARK, -1, 0), r"expected integers of at least 0, got values from -1"),
        (MARK.astype(np.uint8).astype(np.int8) * -1, r"expected integers of at least 0, got values from -1"),
    ],
    ids=["floats beyond 1", "0.0 and 255.0", "NaN", "negative", "int8"],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_values_that_say_nothing_are_refused_by_name(mask, message, as_file, tmp_path):
    item = mask
    if as_file:
        if mask.dtype == np.int8:
            pytest.skip("Pillow does not write it")
        item = tmp_path / "mask.tif"
        Image.fromarray(mask.astype(np.float32 if mask.dtype.kind == "f" else np.int32)).save(item)
    where = r"masks\[1\] \(.*mask\.tif\): " if as_file else r"masks\[1\]: "
    with pytest.raises(ValueError, match=where + message):
        Masks([None, item], 2).get(1, SHAPE)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (painted((0, 0, 0, 255), (255, 255, 255, 0)), "got black paint on a transparent background. Paint the defect"),
        (painted((255, 255, 255, 0), (0, 0, 0, 0)), "got a mask that is transparent everywhere"),
    ],
)
def test_paint_that_cannot_be_told_from_the_background_is_refused(pixels, message, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    for item in (pixels, Image.fromarray(pixels), tmp_path / "mask.png"):
        with pytest.raises(ValueError, match=r"masks\[0\].*: expected .*" + message):
            Masks([item], 1).get(0, SHAPE)


def test_an_empty_mask_is_empty_in_every_kind():
    for pixels in (
        np.zeros(SHAPE, bool),
        np.zeros((*SHAPE, 4), np.uint8),
        np.full((*SHAPE, 4), (0, 0, 0, 255), np.uint8),
    ):
        assert not Masks([pixels], 1).get(0, SHAPE).any()


@pytest.mark.parametrize("paint", [(255, 255, 255), (255, 40, 0), (128, 0, 0), (0, 0, 64)])
def test_the_blurred_colours_of_a_jpeg_leave_no_fringe(paint, tmp_path):
    large = np.kron(painted(paint), np.ones((8, 8, 1), dtype=np.uint8))
    Image.fromarray(large).save(tmp_path / "mask.jpg", quality=60)
    found = Masks([tmp_path / "mask.jpg"], 1).get(0)
    assert np.mean(found != np.kron(MARK, np.ones((8, 8)))) < 0.02
    Image.fromarray(np.full((48, 72), 3, dtype=np.uint8)).save(tmp_path / "black.jpg")
    assert not Masks([tmp_path / "black.jpg"], 1).get(0).any()


# Readers: fit and metrics


def every_form(masks, folder):
    """Return the same masks in many forms. Empty masks are None in most of them."""
    pd = pytest.importorskip("pandas")
    torch = pytest.importorskip("torch")
    paths = [folder / f"{i}.png" if mask.any() else None for i, mask in enumerate(masks)]
    for path, mask in zip(paths, masks):
        if path:
            Image.fromarray(mask * np.uint8(255)).save(path)
    arrays = [mask if mask.any() else None for mask in masks]
    pictures = [Image.fromarray(mask * np.uint8(255)) if mask.any() else None for mask in masks]
    objects = np.empty(len(masks), dtype=object)
    objects[:] = arrays
    labels = np.random.RandomState(0).permutation(len(masks))
    return {
        "array": masks,
        "list": arrays,
        "tuple": tuple(arrays),
        "objects": objects,
        "paths": paths,
        "texts": [path and str(path) for path in paths],
        "pictures": pictures,
        "Series of arrays": pd.Series(arrays, index=labels, dtype=object),
        "Series of paths": pd.Series([path and str(path) for path in paths], index=labels),
        "column with NaN": pd.DataFrame({"mask": [path or np.nan for path in paths]}, index=labels)["mask"],
        "tensor": torch.from_numpy(masks.astype(np.float32)).requires_grad_(),
        "tensors": [torch.from_numpy(mask.astype(np.uint8)) for mask in masks],
        "other byte order": masks.astype(">u2") * np.array(65535, ">u2"),
        "fringes": (masks * 215 + 40) * masks.any(axis=(1, 2), keepdims=True),
    }


FORMS = [
    *("array", "list", "tuple", "objects", "paths", "texts", "pictures", "Series of arrays", "Series of paths"),
    *("column with NaN", "tensor", "tensors", "other byte order", "fringes"),
]


@pytest.mark.parametrize("form", FORMS)
def test_fit_and_metrics_read_masks_of_every_form_by_position(form, squares, cells, tmp_path):
    X, y, masks = squares
    order = np.argsort(-y, kind="stable")
    X, y, masks = X[order], y[order], masks[order]
    given = every_form(masks, tmp_path)[form]
    assert len(given) == len(X)
    expected = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks)
    detector = ExDDDetector(cells, random_state=0).fit(X, y, masks=given)
    np.testing.assert_array_equal(detector.score_samples(X), expected.score_samples(X))
    maps = expected.predict_map(X)
    for score in SCORES:
        assert score(given, maps) == score(masks, maps)
    assert pixel_roc_auc_score(given, list(maps)) == pixel_roc_auc_score(masks, maps)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("container", [list, np.stack])
def test_swapped_arguments_are_refused(score, container, squares, cells):
    X, y, masks = squares
    maps = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks).predict_map(X)
    for one in (maps, maps / maps.max()):
        with pytest.raises(ValueError, match=r"masks\[\d\]: expected True or 1 .* floats such as .* swapped\?"):
            score(container(one), container(masks))
    soft = np.where(masks, 0.9, 0.2)
    with pytest.raises(ValueError, match=r"masks\[0\]: .* For soft masks, pass mask > 0\.5"):
        score(soft, maps)
    assert score(soft > 0.5, maps) == score(masks.astype(np.float64), maps)


@pytest.mark.parametrize("score", SCORES)
def test_maps_that_are_no_numbers_are_refused(score):
    maps = [np.zeros(SHAPE), np.full(SHAPE, "a")]
    with pytest.raises(ValueError, match=r"maps\[1\]: expected numbers, got dtype"):
        score([MARK, MARK], maps)
    with pytest.raises(ValueError, match=r"maps\[1\]: expected an anomaly map, got None"):
        score([MARK, MARK], [maps[0], None])
    with pytest.raises(ValueError, match=r"masks: expected .*, got generator: pass list\(masks\)|; got generator"):
        score((mask for mask in [MARK]), maps[:1])


# Colours in palettes and arrays


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", None])
@pytest.mark.parametrize("used", [(1,), (1, 2), (2, 3), (1, 2, 3)])
def test_a_palette_with_a_colour_marks_whatever_is_not_black(suffix, used, tmp_path):
    """In a palette with a colour, greys are labels too, whichever entries a mask happens to contain."""
    levels = np.zeros(SHAPE, dtype=np.uint8)
    levels[MARK] = np.resize(used, MARK.sum())
    picture = Image.fromarray(levels).convert("P")
    picture.putpalette([0, 0, 0, 80, 80, 80, 200, 200, 200, 0, 60, 0])
    item = picture
    if suffix is not None:
        item = tmp_path / f"mask.{suffix}"
        picture.save(item)
    np.testing.assert_array_equal(Masks([item], 1).get(0, SHAPE), MARK)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("paint", [(1, 1, 1), (1, 0, 0), (0, 1, 1)])
def test_colours_in_arrays_of_every_integer_type_mark(dtype, paint):
    mask = MARK[..., None] * np.array(paint).astype(dtype)
    for given in (mask, mask * np.array(255 if dtype is not bool else 1, dtype=dtype)):
        np.testing.assert_array_equal(Masks([given.astype(dtype)], 1).get(0, SHAPE), MARK)
    if np.dtype(dtype).kind == "i":
        with pytest.raises(ValueError, match=r"masks\[0\]: expected integers of at least 0"):
            Masks([-mask], 1).get(0, SHAPE)
    with pytest.raises(
        ValueError, match=r"masks\[0\]: .* got \(.*, 3\)\. Pass one of its channels, or mask\.any\(axis=2\)"
    ):
        Masks([mask.astype(float)], 1).get(0, SHAPE)


def test_a_turned_jpeg_leaves_no_fringe_either(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    large = np.kron(painted((128, 0, 0)), np.ones((8, 8, 1), dtype=np.uint8))
    Image.fromarray(large).save(tmp_path / "mask.jpg", quality=60, exif=exif)
    found = Masks([tmp_path / "mask.jpg"], 1).get(0)
    assert np.mean(found != np.rot90(np.kron(MARK, np.ones((8, 8))), -1)) < 0.02


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("true", [np.bool_, np.uint8, np.float32])
def test_swapped_arguments_of_integers_are_refused(score, dtype, true, squares, cells):
    X, y, masks = squares
    maps = ExDDDetector(cells, random_state=0).fit(X, y, masks=masks).predict_map(X)
    levels = (maps / maps.max() * 255).astype(dtype)
    with pytest.raises(ValueError, match=r"masks\[\d+\]: expected a mask, got integers with more than .* swapped\?"):
        score(levels, masks.astype(true))
    assert 0 <= score(masks.astype(true), levels) <= 1
    # Labels next to decisions are not taken for swapped arguments.
    assert score(masks.astype(dtype) * 3, maps > np.median(maps)) > 0
