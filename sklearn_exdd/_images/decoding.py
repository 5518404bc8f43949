"""Decoding of image files and Pillow images into arrays."""

import os
from contextlib import contextmanager

import numpy as np

# Suffixes by which image files in folders are recognised. The list has all suffixes in use for the formats in _FORMATS.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpe", ".jfif", ".jfi", ".jif", ".mpo", ".dib", ".apng"),
    *(".avif", ".avifs"),
)

# Formats that cameras, scanners and painting programs write. Pillow can read more formats, but these are refused. For
# example, Pillow would start an external program to read PostScript, and a PostScript file may have any name, such as
# part.png.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
_GREY = ("1", "L", "LA", "La", "F")  # Pillow's modes of grey images, except integer modes
_ORIENTATION = 0x0112  # EXIF tag


def read_image(path, where=None, bits=None):
    """Decode one image file.

    Parameters
    ----------
    path : str or path-like
    where : str, default=None
        Name of the image in messages; None uses the path.
    bits : {8, 16}, default=None
        Number of bits to which 32-bit integers are reduced. None means 16.

    Returns
    -------
    image : ndarray of shape (height, width) or (height, width, 3)
        Image of dtype uint8, uint16 or float32, without an alpha channel. It is turned upright according to its EXIF
        tag. If the file holds several images, the first image is returned. An image with a palette is returned as a
        grey image if all colours of the palette are grey, including unused colours.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be decoded as an image of one of the formats AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF
        and WebP. Also if the image has more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (by default, more than 179
        million).
    """
    return _checked(*_decoded_file(path, where or str(path), pixels_of), bits)


def read_marks(path, where):
    """Decode one mask file, and return the result of :func:`levels_of`."""
    return _decoded_file(path, where, levels_of)[0]


def is_grey_file(path):
    """Tell from a file's header whether :func:`read_image` returns a grey image. An unreadable file gives None."""
    try:
        with _opened(path) as picture:
            return has_grey_palette(picture) or picture.mode.startswith("I") or picture.mode in _GREY
    except Exception:  # the error is reported when the image is read
        return None


def decode_image(picture, where, bits=None):
    """Convert a Pillow image to an array exactly as :func:`read_image` converts a file."""
    return _checked(_decoded(picture, where, pixels_of), where, bits)


def decode_marks(picture, where):
    """Convert a Pillow image exactly as :func:`read_marks` converts a file."""
    return _decoded(picture, where, levels_of)


@contextmanager
def _opened(path):
    from PIL import Image

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    with open(path, "rb") as file, Image.open(file, formats=formats) as picture:
        yield picture


def _decoded_file(path, where, convert):
    if os.path.isdir(path):
        raise FileNotFoundError(f"{where}: expected an image file, got a folder. Pass the paths of the files in it.")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{where}: expected an image file, found no such file. Check the path.")
    try:
        with _opened(path) as picture:
            return convert(_upright(picture)), where
    except Exception as error:  # decoders raise many types of errors
        raise _undecodable(
            error, where, f"Replace the file or leave it out; supported formats are {', '.join(_FORMATS)}."
        ) from error


def _decoded(picture, where, convert):
    try:
        return convert(_upright(picture))
    except Exception as error:
        advice = f"It is a Pillow image of mode {picture.mode!r}; call its load() before its file is closed."
        raise _undecodable(error, where, advice) from error


def _undecodable(error, where, advice):
    from PIL import UnidentifiedImageError

    # If no decoder recognises a file, Pillow's message contains only the file name.
    said = "" if isinstance(error, UnidentifiedImageError) or not str(error) else f": {error}"
    return ValueError(f"{where}: expected an image that Pillow can decode, got {type(error).__name__}{said}. {advice}")


def _upright(picture):
    """Turn a Pillow image upright according to its EXIF tag. Unreadable EXIF data is ignored."""
    from PIL import Image

    picture.load()
    try:
        turn = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }.get(picture.getexif().get(_ORIENTATION))
    except Exception:  # an image with damaged EXIF data is still read
        turn = None
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    turned.format = picture.format  # needed to tell whether compression blurs colours
    return turned


def pixels_of(picture):
    """Return the pixels of a Pillow image of any mode as grey or RGB, without alpha."""
    mode = picture.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        pixels = _native(np.asarray(picture))
        # Pillow scales PGM files of more than 8 bits to 16 bits.
        return pixels.astype(np.uint16) if mode == "I" and picture.format == "PPM" else pixels
    if mode in ("1", "L", "LA"):
        return np.asarray(picture if mode == "L" else picture.convert("L"))
    if mode == "La":
        return np.asarray(picture.convert("LA"))[..., 0]
    if mode in ("RGB", "RGBX"):
        return np.asarray(picture)[..., :3]
    if mode in ("RGBA", "RGBa", "P", "PA"):
        pixels = np.asarray(picture.convert("RGBA"))[..., :3]
        return pixels[..., 0] if has_grey_palette(picture) else pixels
    return np.asarray(picture.convert("RGB"))


def levels_of(picture):
    """Return the levels of a mask, its opacity, and whether its format blurs colours.

    Returns
    -------
    levels : ndarray of shape (height, width) or (height, width, 3)
        Grey levels or colours. If the image has a palette with colours other than greys, the dtype is bool: False for
        black, and True for any other colour.
    opacity : ndarray of shape (height, width), dtype uint8, or None
        Opacity of each pixel, or None if the image has no transparency.
    is_lossy : bool
        Whether the format is JPEG, which blurs colours.
    """
    mode = picture.mode
    if mode in ("LA", "La", "RGBA", "RGBa", "PA") or (
        mode in ("1", "L", "P", "RGB") and "transparency" in picture.info
    ):
        colours = np.asarray((picture.convert("LA") if mode == "La" else picture).convert("RGBA"))
        levels, opacity = colours[..., :3], colours[..., 3]
    else:
        levels, opacity = pixels_of(picture), None
    if mode in ("P", "PA") and levels.ndim == 3 and not has_grey_palette(picture):
        levels = levels.any(axis=2)
    return levels, opacity, picture.format in ("JPEG", "MPO")


def has_grey_palette(picture):
    """Tell whether a Pillow image has a palette that contains only greys.

    All colours of the palette count, including unused colours. Images from one source are thus either all grey or all
    in colour.
    """
    if picture.mode not in ("P", "PA"):
        return False
    entries = np.reshape(picture.getpalette("RGB"), (-1, 3))
    return bool((entries == entries[:, :1]).all())


def _native(pixels):
    return pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))


def _checked(pixels, where, bits):
    if 0 in pixels.shape:
        raise ValueError(f"{where}: expected at least one pixel, got an image of shape {pixels.shape}.")
    if pixels.dtype == np.int32:  # Pillow's mode "I", used for 16-bit files of older formats
        low, high, bits = pixels.min(), pixels.max(), bits or 16
        if low < 0 or high >= 2**bits:
            raise ValueError(
                f"{where}: expected at most {bits} bits per pixel, values from 0 to {2**bits - 1}, got values from "
                f"{low} to {high}. Rescale them and save them as {'uint16' if bits == 16 else 'uint8 or uint16'}."
            )
        pixels = pixels.astype(f"u{bits // 8}")
    return pixels
