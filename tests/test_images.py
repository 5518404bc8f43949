import copy
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sklearn_exdd._images import Images, Masks, holds_images, read_image


def random_pixels(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def saved(path, image, **options):
    """Save an array or a Pillow image and return its path."""
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def all_of(images):
    return [images[i] for i in range(len(images))]


# Images or feature rows


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((2, 5, 6)),
        np.zeros((2, 5, 6, 3), dtype=np.uint8),
        np.zeros((0, 5, 6)),
        [np.zeros((5, 6)), np.zeros((7, 8, 3))],
        (np.zeros((5, 6)),),
        ["a.png"],
        [Path("a.png")],
        np.array(["a.png", "b.png"]),
        [[[0, 1], [2, 3]]],
        [],
    ],
    ids=["3-D", "4-D", "no images", "list", "tuple", "str", "Path", "array of str", "nested lists", "empty list"],
)
def test_arrays_of_images_and_lists_of_arrays_or_paths_are_images(X):
    assert holds_images(X) is True


@pytest.mark.parametrize(
    "X",
    [np.zeros((4, 3)), np.zeros(4), [[0.0, 1.0], [2.0, 3.0]], [0, 1, 1], np.zeros(0), None, 3],
    ids=["2-D", "1-D", "rows as lists", "labels", "empty array", "None", "number"],
)
def test_tables_of_numbers_and_other_objects_are_not_images(X):
    assert holds_images(X) is False


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_path_is_refused_and_a_list_asked_for(kind):
    with pytest.raises(ValueError, match=r"got the single path 'part\.png': pass a list of paths"):
        holds_images(kind("part.png"))


# Arrays


@pytest.mark.parametrize("n_channels", [None, 1, 3, 4])
def test_an_array_gives_unit_floats_with_alpha_dropped(n_channels):
    X = random_pixels(2, 5, 7, *([] if n_channels is None else [n_channels]))
    images = Images(X)
    expected = (X[..., None] if n_channels is None else X[..., :3]) / np.float32(255)
    assert len(images) == 2
    for image, pixels in zip(all_of(images), expected):
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [
        (np.uint8(51), 0.2),
        (np.uint16(13107), 0.2),
        (np.bool_(True), 1.0),
        (np.float16(0.25), 0.25),
        (np.float32(0.25), 0.25),
        (np.float64(0.25), 0.25),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_dtype_is_brought_to_the_same_scale(pixel, expected):
    image = Images(np.full((1, 2, 3), pixel))[0]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, np.full((2, 3, 1), expected), rtol=1e-7)


@given(
    st.sampled_from([np.uint8, np.uint16]),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4])),
    st.integers(0, 1000),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_integer_pixels_can_be_read_back_from_the_unit_floats(dtype, shape, seed):
    high = np.iinfo(dtype).max
    X = np.random.RandomState(seed).randint(0, high + 1, (1, *shape)).astype(dtype)
    image = Images(X)[0]
    assert image.min() >= 0
    assert image.max() <= 1
    np.testing.assert_array_equal(np.rint(image * np.float64(high)), X[0, ..., :3])


def test_a_list_may_hold_images_of_different_sizes_and_dtypes():
    X = [random_pixels(5, 7), np.full((3, 4, 1), 0.5), np.ones((8, 2), dtype=bool)]
    images = Images(X)
    assert [images.shape(i) for i in range(3)] == [(5, 7), (3, 4), (8, 2)]
    assert [image.shape for image in all_of(images)] == [(5, 7, 1), (3, 4, 1), (8, 2, 1)]


def test_a_transposed_view_gives_the_pixels_it_shows():
    X = random_pixels(2, 3, 6, 5)
    channels_last = X.transpose(0, 2, 3, 1)
    for image, pixels in zip(all_of(Images(channels_last)), channels_last):
        np.testing.assert_array_equal(image, pixels / np.float32(255))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool, np.float32, np.float64])
def test_the_users_pixels_are_neither_changed_nor_shared(dtype):
    X = random_pixels(2, 4, 5, 3).astype(np.float64) / 255
    X = (X if np.dtype(dtype).kind == "f" else X * 200).astype(dtype)
    before = X.copy()
    for image in all_of(Images(X)):
        image += 1
    np.testing.assert_array_equal(X, before)


# Files


def palette_image(indices):
    image = Image.fromarray(indices % 4).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0, 90, 91, 92] + [0] * (256 * 3 - 12))
    return image


PALETTE = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0], [90, 91, 92]], dtype=np.uint8)
GREY, COLOUR, ALPHA = random_pixels(6, 9), random_pixels(6, 9, 3), random_pixels(6, 9, 4)
DEEP = np.random.RandomState(1).randint(0, 65536, (6, 9)).astype(np.uint16)
FLOATS = np.random.RandomState(2).uniform(size=(6, 9)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("grey.png", GREY, GREY / 255),
        ("grey.bmp", GREY, GREY / 255),
        ("colour.png", COLOUR, COLOUR / 255),
        ("colour.tif", COLOUR, COLOUR / 255),
        ("alpha.png", ALPHA, ALPHA[..., :3] / 255),
        ("grey_alpha.png", ALPHA[..., :2].copy(), ALPHA[..., 0] / 255),
        ("deep.png", DEEP, DEEP / 65535),
        ("deep.tif", DEEP, DEEP / 65535),
        ("int32.tif", DEEP.astype(np.int32), DEEP / 65535),
        ("floats.tif", FLOATS, FLOATS),
        ("bits.png", GREY > 127, GREY > 127),
        ("palette.png", palette_image(GREY), PALETTE[GREY % 4] / 255),
        ("palette.gif", palette_image(GREY), PALETTE[GREY % 4] / 255),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_gives_its_pixels_whatever_its_mode(tmp_path, name, image, expected):
    if name == "grey_alpha.png":
        image = Image.merge("LA", [Image.fromarray(channel) for channel in np.moveaxis(image, 2, 0)])
    decoded = Images([saved(tmp_path / name, image)])[0]
    expected = expected.reshape(6, 9, -1)
    assert decoded.shape == expected.shape
    np.testing.assert_allclose(decoded, expected, atol=1e-7)


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    red = np.zeros((8, 8, 4), dtype=np.uint8)
    red[..., 1:3] = 255
    inks = Image.merge("CMYK", [Image.fromarray(ink) for ink in np.moveaxis(red, 2, 0)])
    path = saved(tmp_path / "cmyk.jpg", inks, quality=95)
    image = Images([path])[0]
    np.testing.assert_allclose(image, np.broadcast_to([1.0, 0.0, 0.0], (8, 8, 3)), atol=0.03)


UPRIGHT = {  # EXIF orientation: function that turns the stored pixels upright
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.T,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).T,
    8: lambda pixels: np.rot90(pixels),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_is_turned_upright_as_its_exif_tag_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.kron(np.array([[0, 80, 160], [240, 40, 120]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    path = saved(tmp_path / "photo.jpg", stored, exif=exif, quality=95)
    np.testing.assert_allclose(Images([path])[0][..., 0] * 255, UPRIGHT[orientation](stored), atol=4)


@pytest.mark.parametrize("n_channels", [None, 3])
def test_an_array_a_list_and_paths_give_the_same_pixels(tmp_path, n_channels):
    X = random_pixels(3, 6, 8, *([] if n_channels is None else [n_channels]))
    paths = [saved(tmp_path / f"{i}.png", pixels) for i, pixels in enumerate(X)]
    expected = all_of(Images(X))
    for same in (list(X), tuple(X), paths, [str(path) for path in paths], np.array([str(path) for path in paths])):
        np.testing.assert_array_equal(all_of(Images(same)), expected)


def test_no_file_is_read_before_its_image_is_asked_for(tmp_path):
    good = saved(tmp_path / "good.png", random_pixels(4, 5))
    images = Images([tmp_path / "not_there.png", good, "nor_this.png"])
    assert len(images) == 3
    assert images.raw()[2] == "nor_this.png"
    assert images.shape(1) == (4, 5)
    with pytest.raises(FileNotFoundError, match=r"X\[0\] \(.*not_there\.png\): expected an image file.*Check the path"):
        images[0]


def test_an_image_is_read_again_each_time_so_that_none_stays_in_memory(tmp_path):
    path = saved(tmp_path / "part.png", np.zeros((4, 4), dtype=np.uint8))
    images = Images([path])
    assert images[0].max() == 0
    saved(path, np.full((4, 4), 255, dtype=np.uint8))
    assert images[0].min() == 1


# Bad input


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], r"^X: expected at least one image, got none"),
        (np.zeros((0, 4, 5)), r"^X: expected at least one image, got none"),
        (np.zeros((4, 5)), r"^X: expected images: an array .* got an array of shape \(4, 5\)"),
        (np.zeros((1, 2, 3, 4, 5)), r"^X: expected images: .* got an array of shape \(1, 2, 3, 4, 5\)"),
        (None, r"^X: expected images: .* got NoneType"),
        ([1.0, 2.0], r"^X: expected images: .* got list"),
    ],
    ids=["empty list", "empty array", "feature rows", "5-D", "None", "numbers"],
)
def test_what_is_no_images_is_refused_by_the_constructor(X, message):
    with pytest.raises(ValueError, match=message):
        Images(X)


GOOD = np.full((4, 5), 0.5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((6, 5, 2)), r"expected .* with 1, 3 or 4 channels, got \(6, 5, 2\)\.$"),
        (np.zeros((3, 4, 5)), r"expected .*, got \(3, 4, 5\)\. Move the channels to the end\.$"),
        (np.zeros((2, 4, 5, 3)), r"expected shape \(height, width\) or .*, got \(2, 4, 5, 3\)"),
        (np.zeros(5), r"expected shape \(height, width\) or .*, got \(5,\)"),
        (np.where(np.eye(4, 5), np.nan, 0.5), "expected finite values, got NaN or infinity"),
        (np.where(np.eye(4, 5), np.inf, 0.5), "expected finite values, got NaN or infinity"),
        (np.where(np.eye(4, 5), -np.inf, 0.5), "expected finite values, got NaN or infinity"),
        (GOOD * 255, r"expected floats in \[0, 1\], got values from 127\.5 to 127\.5\. Rescale them, or pass uint8"),
        (GOOD - 1, r"expected floats in \[0, 1\], got values from -0\.5 to -0\.5"),
        (np.zeros((4, 5), dtype=np.int8), "expected dtype uint8, uint16, bool or float, got int8"),
        (np.zeros((4, 5), dtype=complex), "expected dtype .*, got complex128"),
        (np.array([["a", "b"]]), "expected dtype .*, got <U1"),
        (np.zeros((0, 5)), r"expected at least one pixel, got shape \(0, 5, 1\)"),
        (np.zeros((4, 0, 3)), r"expected at least one pixel, got shape \(4, 0, 3\)"),
        (np.zeros((4, 5, 3)), r"expected 1 channel \(grey\) as in the other images, got 3 channels"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{value.dtype}{value.shape}",
)
def test_a_bad_image_is_refused_by_its_number(bad, message):
    images = Images([GOOD, bad, GOOD])
    assert images[0].shape == (4, 5, 1)
    with pytest.raises(ValueError, match=r"^X\[1\]: " + message):
        images[1]


def test_channels_are_compared_without_alpha_and_with_those_that_fit_saw():
    rgb, rgba = random_pixels(4, 5, 3), random_pixels(4, 5, 4)
    assert [image.shape for image in all_of(Images([rgb, rgba]))] == [(4, 5, 3)] * 2
    with pytest.raises(ValueError, match=r"^X_defect\[0\]: expected 3 channels as .*, got 1 channel \(grey\)"):
        Images([GOOD], "X_defect", n_channels=3)[0]


def test_a_wrong_channel_count_in_a_file_names_index_and_path(tmp_path):
    paths = [saved(tmp_path / "grey.png", random_pixels(4, 5)), saved(tmp_path / "rgb.png", random_pixels(4, 5, 3))]
    images = Images(paths)
    images[0]
    with pytest.raises(ValueError, match=r"^X\[1\] \(.*rgb\.png\): expected 1 channel"):
        images[1]


def encoded(file_format):
    file = io.BytesIO()
    Image.fromarray(random_pixels(40, 50, 3)).save(file, file_format)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_index_and_path(tmp_path, file_format, share):
    data = encoded(file_format)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(share * len(data))])
    message = (
        r"^X\[0\] \(.*cut\.img\): expected an image that Pillow can decode, got .*Replace the file or leave it out"
    )
    with pytest.raises(ValueError, match=message):
        Images([path])[0]


def test_a_text_file_is_no_image_whatever_its_name(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.png\): expected an image that Pillow can decode, got Unidentified"):
        Images([path])[0]


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^X\[0\] \(.*\): expected an image file, got a folder\. Pass the paths"
    ):
        Images([tmp_path])[0]


@pytest.mark.parametrize("value", [-1, 65536])
def test_more_than_sixteen_bits_a_pixel_are_refused(tmp_path, value):
    path = saved(tmp_path / "wide.tif", np.full((4, 5), value, dtype=np.int32))
    message = rf"wide\.tif\): expected at most 16 bits per pixel, .* got values from {value} to {value}\."
    with pytest.raises(ValueError, match=message):
        Images([path])[0]


def test_read_image_without_a_name_calls_it_by_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: expected an image file"):
        read_image(tmp_path / "nowhere.png")


# Parts


def test_taken_images_keep_their_numbers_in_messages():
    images = Images([GOOD, GOOD * 0, GOOD * 9, GOOD[:3]])
    taken = images.take([3, 2, 1]).take([1, 2])
    assert len(taken) == 2
    assert taken.shape(1) == (4, 5)
    np.testing.assert_array_equal(taken[1], images[1])
    with pytest.raises(ValueError, match=r"^X\[2\]: expected floats"):
        taken[0]
    assert len(images) == 4


def test_shapes_are_those_of_the_taken_images():
    images = Images([np.zeros((4, 5)), np.zeros((6, 7))])
    assert [images.shape(0), images.shape(1)] == [(4, 5), (6, 7)]
    assert images.take([1]).shape(0) == (6, 7)


def test_raw_images_are_the_users_own_objects():
    X = [GOOD, GOOD * 0]
    assert all(raw is own for raw, own in zip(Images(X).raw(), X))


# Masks

MASK = np.array([[False, True, True], [False, False, True]])


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(np.uint8),
        MASK * np.uint8(255),
        MASK * np.uint16(65535),
        MASK.astype(np.int64),
        MASK.astype(np.float32),
        np.where(MASK, 0.51, 0.5),
        np.where(MASK, 128, 127).astype(np.uint8),
        MASK[..., None],
        MASK.tolist(),
    ],
    ids=["bool", "0/1", "0/255", "16 bit", "int64", "float32", "soft", "fringes", "one channel", "lists"],
)
def test_every_kind_of_mask_means_the_same(mask):
    before = copy.deepcopy(mask)
    got = Masks([mask], 1).get(0, (2, 3))
    assert got.dtype == bool
    np.testing.assert_array_equal(got, MASK)
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("levels", [(0, 1), (0, 255), (3, 250)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
def test_a_mask_can_be_a_file(tmp_path, levels, mode):
    if mode == "1":
        path = saved(tmp_path / "mask.png", MASK)
    else:
        grey = Image.fromarray(np.where(MASK, levels[1], levels[0]).astype(np.uint8))
        path = saved(tmp_path / "mask.png", grey.convert(mode))
    for item in (path, str(path)):
        np.testing.assert_array_equal(Masks([item], 1).get(0, (2, 3)), MASK)


def test_an_array_of_masks_and_images_without_a_mask():
    masks = Masks(np.stack([MASK, ~MASK]), 2)
    np.testing.assert_array_equal(masks.get(1, (2, 3, 1)), ~MASK)
    assert Masks([None, MASK], 2).get(0, (2, 3)) is None
    assert not Masks([np.zeros((2, 3), dtype=np.uint8)], 1).get(0, (2, 3)).any()


@pytest.mark.parametrize("masks", [[MASK], np.stack([MASK] * 3), [], None, 7])
def test_another_number_of_masks_than_images_is_refused(masks):
    with pytest.raises(ValueError, match=r"^masks: expected one mask for each of the 2 images, got (\d|NoneType|int)"):
        Masks(masks, 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (MASK.T, r"expected the shape of its image, \(2, 3\), got \(3, 2\)"),
        (np.stack([MASK] * 2, axis=2), r"expected the shape of its image, \(2, 3\), got \(2, 3, 2\)"),
        (np.array([["a", "b", "c"]] * 2), "expected a mask of bool, integers or floats, got dtype <U1"),
        (np.array(3), r"expected the shape of its image, \(2, 3\), got \(\)"),
    ],
)
def test_a_bad_mask_is_refused_by_its_number(bad, message):
    masks = Masks([MASK, bad], 2).take([1, 0])
    with pytest.raises(ValueError, match=r"^masks\[1\]: " + message):
        masks.get(0, (2, 3))
    np.testing.assert_array_equal(masks.get(1, (2, 3)), MASK)


def test_a_mask_file_of_another_size_or_missing_names_index_and_path(tmp_path):
    masks = Masks([saved(tmp_path / "mask.png", MASK), tmp_path / "gone.png"], 2)
    with pytest.raises(ValueError, match=r"^masks\[0\] \(.*mask\.png\): expected the shape of its image, \(4, 4\)"):
        masks.get(0, (4, 4))
    with pytest.raises(FileNotFoundError, match=r"^masks\[1\] \(.*gone\.png\): expected an image file"):
        masks.get(1, (4, 4))


def test_a_coloured_mask_file_marks_the_defect_in_any_colour(tmp_path):
    for channel in range(3):
        pixels = np.zeros((2, 3, 3), dtype=np.uint8)
        pixels[..., channel] = MASK * 255
        path = saved(tmp_path / f"{channel}.png", pixels)
        np.testing.assert_array_equal(Masks([path], 1).get(0, (2, 3)), MASK)
