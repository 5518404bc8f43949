"""Equal pixels from every mode, byte order, container and reader."""

import itertools
import struct

import numpy as np
import pytest
from PIL import Image

from sklearn_exdd import ExDDDetector
from sklearn_exdd._images import Images, read_image
from sklearn_exdd._images.decoding import is_grey_file

RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, (6, 9)).astype(np.uint8)
COLOUR = RNG.randint(0, 256, (6, 9, 3)).astype(np.uint8)
DEEP = RNG.randint(0, 65536, (6, 9)).astype(np.uint16)


def tiff(pixels, order):
    """Return an uncompressed TIFF with one channel, in either byte order."""
    mark = "<" if order == "II" else ">"
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    data = pixels.astype(pixels.dtype.newbyteorder(mark)).tobytes()
    height, width = pixels.shape
    shorts = {258: pixels.itemsize * 8, 259: 1, 262: 1, 277: 1, 339: kind}
    longs = {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    content = order.encode() + struct.pack(mark + "HI", 42, 8 + len(data)) + data
    content += struct.pack(mark + "H", len(shorts) + len(longs))
    for tag in sorted(shorts | longs):
        if tag in shorts:
            content += struct.pack(mark + "HHIHH", tag, 3, 1, shorts[tag], 0)
        else:
            content += struct.pack(mark + "HHII", tag, 4, 1, longs[tag])
    return content + struct.pack(mark + "I", 0)


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("dtype", ["u2", "i2", "i4", "f4"])
def test_tiffs_of_either_byte_order_give_the_same_pixels(tmp_path, dtype, order):
    pixels = (DEEP // 2).astype(dtype) if dtype != "f4" else (DEEP / 65535).astype(dtype)
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(pixels, order))
    with Image.open(path) as picture:
        from_picture = Images([picture])[0]
    expected = pixels if dtype == "f4" else pixels / np.float32(65535)
    np.testing.assert_allclose(Images([path])[0][..., 0], expected, atol=1e-7)
    np.testing.assert_array_equal(from_picture, Images([path])[0])


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
@pytest.mark.parametrize("suffix", ["tif", "png", "pgm"])
def test_sixteen_bits_stay_sixteen_bits_in_every_mode_and_container(tmp_path, mode, suffix):
    data = DEEP.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    picture = Image.frombytes(mode, (9, 6), data)
    np.testing.assert_array_equal(Images([picture])[0][..., 0], DEEP / np.float32(65535))
    if suffix == "pgm":
        (tmp_path / "image.pgm").write_bytes(b"P5 9 6 65535\n" + DEEP.astype(">u2").tobytes())
    elif suffix == "tif":
        picture.save(tmp_path / "image.tif")
    else:
        Image.fromarray(DEEP).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / f"image.{suffix}"), DEEP)


@pytest.mark.parametrize("dtype", ["u2", "u4", "i4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("container", [list, np.stack])
def test_arrays_of_either_byte_order_give_the_same_pixels(dtype, container):
    pixels = DEEP / 65535 if dtype[0] == "f" else DEEP
    here, there = (container([pixels.astype(mark + dtype)] * 2) for mark in "<>")
    images = Images(there)
    np.testing.assert_array_equal(images[1], Images(here)[1])
    np.testing.assert_allclose(images.restore(1, images[1]), images.original(1), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4", "f8", "?"])
@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda X: X[::-1].copy()[::-1], lambda X: X.repeat(2, 2)[:, :, ::2]]
)
def test_an_image_is_in_c_order_whatever_order_came(dtype, layout):
    X = np.stack([GREY, GREY[::-1]]).astype(dtype) if dtype[0] != "f" else (np.stack([GREY] * 2) / 255).astype(dtype)
    for given in (layout(X), list(layout(X))):
        image = Images(given)[1]
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, Images(X)[1])


def test_a_detector_fits_alike_on_files_of_both_byte_orders(tmp_path, squares, cells):
    X, y, _ = squares
    scores = []
    for order in ("II", "MM"):
        paths = [tmp_path / f"{order}{i}.tif" for i in range(len(X))]
        for path, image in zip(paths, X):
            path.write_bytes(tiff(image.astype(np.uint16) * 257, order))
        scores.append(ExDDDetector(cells, random_state=0).fit(paths, y).score_samples(paths))
    np.testing.assert_array_equal(*scores)


def palette(entries):
    picture = Image.fromarray((GREY % len(entries)).astype(np.uint8)).convert("P")
    picture.putpalette(np.ravel(entries).tolist())
    return picture, np.array(entries, dtype=np.uint8)[GREY % len(entries)]


INKS, SKY = [[0, 0, 0], [128, 0, 0], [10, 200, 30]], [[0, 0, 0], [80, 80, 80], [201, 201, 201]]
ALPHA = Image.fromarray(GREY)
MODES = {
    "1": (Image.fromarray(GREY > 99), (GREY > 99) * np.uint8(255)),
    "L": (Image.fromarray(GREY), GREY),
    "LA": (Image.merge("LA", [Image.fromarray(GREY), ALPHA]), GREY),
    "La": (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (9, 6), 255)]).convert("La"), GREY),
    "P": palette(INKS),
    "P of greys": (palette(SKY)[0], palette(SKY)[1][..., 0]),
    "PA": (palette(INKS)[0].convert("PA"), palette(INKS)[1]),
    "RGB": (Image.fromarray(COLOUR), COLOUR),
    "RGBA": (Image.merge("RGBA", [*Image.fromarray(COLOUR).split(), ALPHA]), COLOUR),
    "RGBa": (Image.fromarray(COLOUR).convert("RGBA").convert("RGBa"), COLOUR),
    "RGBX": (Image.fromarray(COLOUR).convert("RGBX"), COLOUR),
    **{mode: (Image.fromarray(COLOUR).convert(mode), None) for mode in ("CMYK", "YCbCr", "HSV")},
    "LAB": (Image.frombytes("LAB", (9, 6), COLOUR.tobytes()), None),
    "I": (Image.fromarray(DEEP.astype(np.int32)), DEEP),
    "F": (Image.fromarray((DEEP / 65535).astype(np.float32)), (DEEP / 65535).astype(np.float32)),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_pillow_image_gives_the_pixels_it_shows_in_every_mode(mode, tmp_path):
    picture, expected = MODES[mode]
    assert picture.mode == mode.split()[0]
    before = picture.tobytes()
    expected = np.asarray(picture.convert("RGB")) if expected is None else expected
    (image,) = Images([picture]).raw()
    np.testing.assert_array_equal(image, expected)
    assert picture.tobytes() == before
    for suffix in ("png", "tif", "gif", "bmp", "jp2"):
        path = tmp_path / f"image.{suffix}"
        try:
            picture.save(path, **({"irreversible": False} if suffix == "jp2" else {}))
            with Image.open(path) as opened:
                saved_mode = opened.mode
        except (OSError, KeyError, ValueError):
            continue  # the container does not hold this mode
        if saved_mode == picture.mode:
            np.testing.assert_array_equal(read_image(path), expected)
            with Image.open(path) as opened:
                np.testing.assert_array_equal(Images([opened]).raw()[0], expected)


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "tif"])
def test_a_palette_of_greys_is_grey_and_one_of_colours_is_not_in_every_container(suffix, tmp_path):
    for entries, n_channels in ((SKY, 1), (INKS, 3)):
        picture, pixels = palette(entries)
        picture.save(tmp_path / f"image.{suffix}")
        image = Images([tmp_path / f"image.{suffix}"])[0]
        np.testing.assert_array_equal(np.rint(image * 255), pixels[..., :n_channels])


# EXIF


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")  # a warning of Pillow that does no harm
@pytest.mark.parametrize("exif", [b"not exif at all", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 50])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_that_cannot_be_read_refuses_no_image(suffix, exif, tmp_path):
    path, plain = tmp_path / f"image.{suffix}", tmp_path / f"plain.{suffix}"
    large = Image.fromarray(np.kron(COLOUR, np.ones((4, 4, 1), dtype=np.uint8)))
    large.save(plain)
    try:
        large.save(path, exif=exif)
    except Exception:
        pytest.skip("Pillow cannot write this file")
    np.testing.assert_array_equal(read_image(path), read_image(plain))


@pytest.mark.parametrize("orientation", [0, 9, 77, "6", (6, 6)])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    picture = Image.fromarray(COLOUR)
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(Images([picture]).raw()[0], COLOUR)


def test_a_pillow_image_is_turned_as_its_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "image.png", exif=exif)
    with Image.open(tmp_path / "image.png") as picture:
        np.testing.assert_array_equal(Images([picture]).raw()[0], np.rot90(COLOUR, -1))
        assert picture.size == (9, 6)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), np.rot90(COLOUR, -1))


# Integers of other types


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint32, np.uint64])
@pytest.mark.parametrize("container", [list, np.stack, lambda X: [image.tolist() for image in X]])
def test_wide_integers_are_read_by_the_largest_value_of_all_images(dtype, container):
    dark, bright = GREY // 4, np.maximum(GREY, 255)
    for shown, expected in (([dark, GREY], 255), ([dark, bright.astype(np.uint16) * 100], 65535)):
        images = Images(container([one.astype(dtype) for one in shown]))
        for i, one in enumerate(shown):
            np.testing.assert_array_equal(images[i][..., 0], one / np.float32(expected))


def test_a_dark_image_is_read_as_deep_as_those_of_fit(squares, cells):
    X, y, _ = squares
    deep = X.astype(np.int64) * 100
    deep[:, :8] = 0
    expected = ExDDDetector(cells, random_state=0).fit(deep.astype(np.uint16), y)
    dark = deep[:2] // 200
    assert dark.max() <= 255
    for fitted in (ExDDDetector(cells, random_state=0).fit(deep, y), expected):
        np.testing.assert_array_equal(fitted.score_samples(dark), expected.score_samples(dark.astype(np.uint16)))
    eight = ExDDDetector(cells, random_state=0).fit(X, y)
    np.testing.assert_array_equal(eight.score_samples(X.astype(int)), eight.score_samples(X))
    with pytest.raises(ValueError, match=r"X\[0\]: expected integers from 0 to 255, got int64 with values from 0 to"):
        eight.predict(deep)


def test_defect_images_are_read_as_deep_as_the_normal_ones(squares, cells):
    X, y, _ = squares
    deep = X.astype(np.int64) * 100
    dark = deep[y == 1] // 200
    scores = [
        ExDDDetector(cells, random_state=0).fit(normal, defect).score_samples(deep[:4])
        for normal, defect in (
            (deep[y == 0], dark),
            (deep[y == 0].astype(np.uint16), dark.astype(np.uint16)),
        )
    ]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("container", [list, np.stack])
@pytest.mark.parametrize(("value", "low"), [(-1, -1), (65536, 0), (2**40, 0)])
def test_wide_integers_out_of_range_are_refused(value, low, container):
    X = [np.zeros((4, 5), dtype=np.int64) for _ in range(3)]
    X[1][2, 3] = value
    with pytest.raises(
        ValueError, match=rf"^X\[1\]: expected integers from 0 to \d+, got int64 .* {low} to {max(value, 0)}"
    ):
        Images(container(X))


# Rounding


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_beyond_the_range_is_clipped(dtype):
    over, under = np.nextafter(dtype(1), dtype(2)), dtype(-5e-7)
    image = np.array([[over, under, 0.5]], dtype=dtype)
    np.testing.assert_array_equal(Images([image])[0][..., 0], np.array([[1, 0, 0.5]], dtype=np.float32))
    assert image[0, 0] == over


def test_an_excess_that_is_no_rounding_is_refused_with_all_its_digits():
    with pytest.raises(ValueError, match=r"X\[0\]: .* from 0\.5 to 1\.00001\. Clip them with np\.clip\(image, 0, 1\)"):
        Images([np.array([[0.5, 1.00001]])])[0]


# Palettes


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", None])
@pytest.mark.parametrize(("entries", "n_channels"), [([*SKY, [255, 0, 0]], 3), ([*SKY, [9, 9, 9]], 1)])
def test_colours_of_a_palette_count_whether_or_not_they_are_in_use(suffix, entries, n_channels, tmp_path):
    """The number of channels follows from all entries of the palette, whether or not the image uses them."""
    for n_used in (3, 4):
        picture, _ = palette(entries)
        picture.putdata((GREY % n_used).ravel().tolist())
        item = picture
        if suffix is not None:
            item = tmp_path / f"image.{suffix}"
            picture.save(item)
        images = Images([item])
        assert images.n_channels == n_channels
        np.testing.assert_array_equal(
            np.rint(images[0] * 255), np.asarray(picture.convert("RGB"))[..., :n_channels].astype(float)
        )


@pytest.mark.parametrize("mode", MODES)
def test_a_header_tells_grey_from_colour_as_the_pixels_do(mode, tmp_path):
    picture = MODES[mode][0]
    for suffix in ("png", "tif", "gif", "jp2"):
        path = tmp_path / f"image.{suffix}"
        try:
            picture.save(path)
        except (OSError, KeyError, ValueError):
            continue
        assert is_grey_file(path) == (read_image(path).ndim == 2)
    assert is_grey_file(tmp_path / "gone.png") is None


# 32-bit integers


def test_files_of_wide_integers_are_read_as_deep_as_the_images_of_fit(squares, cells, tmp_path):
    X, y, _ = squares

    def files(images, suffix):
        paths = [tmp_path / f"{images.dtype}-{images.max()}-{i}.{suffix}" for i in range(len(images))]
        for path, image in zip(paths, images):
            Image.fromarray(image).save(path)
        return paths

    eight, wide, deep = files(X, "png"), files(X.astype(np.int32), "tif"), files(X.astype(np.uint16) * 257, "png")
    expected = ExDDDetector(cells, random_state=0).fit(X, y).score_samples(X)
    for fitted, channels in itertools.product((X, eight, X.astype(np.int64)), (None, "grey")):
        detector = ExDDDetector(cells, image_channels=channels, random_state=0).fit(fitted, y)
        pictures = [Image.fromarray(image.astype(np.int32)) for image in X]
        for given in (X, eight, wide, pictures, X.astype(np.int32), deep):
            np.testing.assert_allclose(detector.score_samples(given), expected, rtol=1e-5)
        with pytest.raises(ValueError, match=r"X\[0\] .*: expected at most 8 bits per pixel, values from 0 to 255"):
            detector.predict(files(X.astype(np.int32) * 257, "tif"))
    detector = ExDDDetector(cells, random_state=0).fit(deep, y)
    dark = X[:2].astype(np.int32)
    np.testing.assert_array_equal(detector.score_samples(dark), detector.score_samples(dark.astype(np.uint16)))
    np.testing.assert_array_equal(detector.score_samples(dark), detector.score_samples(wide[:2]))


def test_a_portable_grey_map_of_sixteen_bits_has_sixteen_bits(tmp_path):
    (tmp_path / "image.pgm").write_bytes(b"P5 9 6 65535\n" + DEEP.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "image.pgm", bits=8), DEEP)


@pytest.mark.parametrize("dtype", [np.int8, np.complex64, object])
def test_a_type_without_a_range_is_refused_with_a_remedy(dtype):
    with pytest.raises(ValueError, match=r"X\[0\]: expected dtype uint8, .* got .*\. If it holds (bytes|numbers)"):
        Images([np.ones((4, 5), dtype=dtype)])[0]


def test_a_picture_whose_file_is_closed_is_refused_with_a_remedy(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "image.tif")
    with Image.open(tmp_path / "image.tif") as picture:
        pass
    with pytest.raises(ValueError, match=r"X\[0\]: .* call its load\(\) before its file is closed"):
        Images([picture])
