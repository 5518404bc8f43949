"""Images in: what counts as images, and one validated image at a time."""

import copy
import os

import numpy as np

# Of the files that are looked for in folders: every suffix in use for the formats in _FORMATS.
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpe", ".jfif", ".jfi", ".jif", ".mpo", ".dib", ".apng"),
    *(".avif", ".avifs"),
)

_EXPECTED = (
    "expected images: an array (n, height, width) or (n, height, width, channels) with 1, 3 or 4 channels, "
    "or a list of arrays or of file paths"
)
# What cameras, scanners and painting programs write. Pillow knows more formats, and hands one of them, PostScript, to a
# program outside, whatever the name of the file is.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# Pillow's modes, by what they become; all others become RGB.
_GREY_MODES = {"1": "L", "L": "L", "LA": "L", "I;16": None, "I;16B": "I;16", "I;16L": "I;16", "I": None, "F": None}


def holds_images(X):
    """Tell images from feature rows (two-dimensional tables of numbers).

    Parameters
    ----------
    X : object
        What a user passed as X or as X_defect.

    Returns
    -------
    bool
    """
    if isinstance(X, (str, os.PathLike)):
        raise ValueError(f"{_EXPECTED}; got the single path {str(X)!r}: pass a list of paths.")
    ndim = getattr(X, "ndim", None)
    if ndim is not None and ndim > 2:
        return True
    if ndim == 2 or not hasattr(X, "__len__"):
        return False
    if len(X) == 0:
        return isinstance(X, (list, tuple))
    first = next(iter(X))
    if isinstance(first, (str, os.PathLike)):
        return True
    return np.ndim(first) > 1


class Images:
    """A sequence of images, decoded and validated when they are asked for.

    Parameters
    ----------
    X : array or list
        An array ``(n, h, w)`` or ``(n, h, w, c)``, a list of arrays
        of different sizes, or a list of file paths.
    name : str, default="X"
        How messages call it.
    n_channels : int, default=None
        Expected channels (alpha not counted); None takes those of the first image.

    Notes
    -----
    ``images[i]`` is float32 ``(height, width, channels)`` in [0, 1] with 1 or 3 channels;
    alpha is dropped. A copy of the user's pixels is made only then.
    """

    def __init__(self, X, name="X", n_channels=None):
        self.name = name
        self._n_channels = n_channels
        if not holds_images(X):
            raise ValueError(f"{name}: {_EXPECTED}; got {_describe(X)}.")
        if hasattr(X, "ndim") and X.ndim > 1:
            X = np.asarray(X)
            if X.ndim > 4:
                raise ValueError(f"{name}: {_EXPECTED}; got an array of shape {X.shape}.")
        else:
            X = list(X)
        if len(X) == 0:
            raise ValueError(f"{name}: expected at least one image, got none.")
        self._items = X
        self._numbers = range(len(X))
        self._shapes = {}
        self._layouts = {}

    def __len__(self):
        return len(self._items)

    @property
    def n_channels(self):
        """Number of channels that all images have, alpha not counted; by default that of the first image read."""
        if self._n_channels is None:
            self[0]
        return self._n_channels

    def with_channels(self, n_channels):
        """Return the same images, which are now expected to have this number of channels."""
        same = copy.copy(self)
        same._n_channels = n_channels
        if n_channels != self._n_channels:
            same._shapes, same._layouts = {}, {}  # images that were read under another expectation are read again
        return same

    def check_all(self):
        """Read every image once, so that a wrong one is reported now, under the user's number."""
        for i in range(len(self)):
            self.shape(i)

    def as_uint8(self):
        """Return the same images, those of at most 256 grey levels as uint8.

        The same pixels then train the same network, whatever dtype they came in. Files stay files.
        """
        items = self.raw()
        for i, item in enumerate(items):
            if not isinstance(item, (str, os.PathLike)) and np.asarray(item).dtype != np.uint8:
                levels = self[i] * 255
                if np.abs(levels - np.rint(levels)).max() < 1e-3:
                    items[i] = np.rint(levels).astype(np.uint8)
        same = self.take(range(len(items)))
        same._items = items
        return same

    def raw(self):
        """Return the images as the user gave them, as a list."""
        return list(self._items)

    def where(self, index):
        """Return what messages call an image."""
        return f"{self.name}[{self._numbers[index]}]"

    def shape(self, index):
        """Return the height and width of an image, which is read once for it."""
        if index not in self._shapes:
            self[index]
        return self._shapes[index]

    def __getitem__(self, index):
        item, where = self._item(index)
        image = _as_unit_float(item, where)
        if self._n_channels is None:
            self._n_channels = image.shape[2]
        if image.shape[2] != self._n_channels:
            raise ValueError(
                f"{where}: expected {_channels(self._n_channels)} as in the other images, "
                f"got {_channels(image.shape[2])}."
            )
        self._shapes[index] = image.shape[:2]
        self._layouts[index] = item.dtype.str, item.ndim
        return image

    def original(self, index):
        """An image exactly as it came, but without alpha, and bool as uint8, in the form of :meth:`restore`."""
        item, _ = self._item(index)
        item = item[..., :3] if item.ndim == 3 else item
        return item.astype(np.uint8) * 255 if item.dtype == bool else item

    def restore(self, index, pixels):
        """Pixels as this class gives them, back in the dtype and the dimensions of an image.

        Parameters
        ----------
        index : int
        pixels : ndarray of shape (height, width, channels), float in [0, 1]

        Returns
        -------
        image : ndarray of shape (height, width) or (height, width, channels)
            Alpha is gone, and bool has become uint8: it has no greys.
        """
        if index not in self._layouts:
            self[index]
        dtype, ndim = np.dtype(self._layouts[index][0]), self._layouts[index][1]
        if dtype == np.uint16:
            pixels = np.rint(pixels * 65535)
        elif dtype.kind != "f":
            dtype, pixels = np.dtype(np.uint8), np.rint(pixels * 255)
        return (pixels[..., 0] if ndim == 2 else pixels).astype(dtype)

    def take(self, indices):
        """The images at some indices; messages keep calling them by their own numbers."""
        taken = copy.copy(self)
        taken._items = [self._items[i] for i in indices]
        taken._numbers = [self._numbers[i] for i in indices]
        taken._shapes, taken._layouts = {}, {}
        return taken

    def _item(self, index):
        """An image as an array, and how messages call it."""
        item, where = self._items[index], self.where(index)
        if isinstance(item, (str, os.PathLike)):
            where += f" ({os.fspath(item)})"
            item = read_image(item, where)
        return np.asarray(item), where


class Masks:
    """Masks of images: True on the defect, or None where an image has no mask.

    Parameters
    ----------
    masks : array (n, height, width) or list of arrays, paths or None
        Bool; or integers, where non-zero means defect (above 127 in a mask whose values
        go beyond that, which leaves out the fringes of an 8-bit file); or floats in
        [0, 1], above 0.5.
    n_images : int
        Expected number.
    name : str, default="masks"
    """

    def __init__(self, masks, n_images, name="masks"):
        self.name = name
        self._numbers = range(n_images)
        if not hasattr(masks, "__len__") or len(masks) != n_images:
            n_masks = len(masks) if hasattr(masks, "__len__") else type(masks).__name__
            raise ValueError(f"{name}: expected one mask for each of the {n_images} images, got {n_masks}.")
        self._items = masks

    def take(self, indices):
        """The masks at some indices; messages keep calling them by their own numbers."""
        taken = copy.copy(self)
        taken._items = [self._items[i] for i in indices]
        taken._numbers = [self._numbers[i] for i in indices]
        return taken

    def get(self, index, image_shape):
        """Mask of one image as bool (height, width), or None."""
        item = self._items[index]
        if item is None:
            return None
        where = self.where(index)
        if isinstance(item, (str, os.PathLike)):
            where += f" ({os.fspath(item)})"
            item = read_image(item, where)
            item = item.max(axis=2) if item.ndim == 3 else item  # defects may be marked in any colour
        mask = np.asarray(item)
        if mask.dtype.kind not in "buif":
            raise ValueError(f"{where}: expected a mask of bool, integers or floats, got dtype {mask.dtype}.")
        if mask.ndim == 3 and mask.shape[2] == 1:
            mask = mask[..., 0]
        if mask.shape != tuple(image_shape[:2]):
            raise ValueError(f"{where}: expected the shape of its image, {tuple(image_shape[:2])}, got {mask.shape}.")
        if mask.dtype.kind == "f":
            return mask > 0.5
        if mask.dtype != bool:
            mask = mask > (127 if mask.max(initial=0) > 127 else 0)
        return mask

    def raw(self):
        """The masks as the user gave them, a list."""
        return list(self._items)

    def where(self, index):
        """How messages call a mask."""
        return f"{self.name}[{self._numbers[index]}]"


def read_image(path, where=None):
    """Decode one image file.

    Parameters
    ----------
    path : str or path-like
    where : str, default=None
        How messages call it.

    Returns
    -------
    image : ndarray of shape (height, width) or (height, width, 3)
        uint8, uint16 or float32, turned upright as its EXIF tag says; the first one of several in a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be decoded as an image (AVIF, BMP, GIF, JPEG, JPEG 2000, PNG, PPM, TIFF or WebP), or has more than
        twice as many pixels as ``PIL.Image.MAX_IMAGE_PIXELS`` allows: 179 million, unless you set it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    where = where or str(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{where}: expected an image file, found no such file. Check the path.")
    Image.init()
    try:
        formats = [name for name in _FORMATS if name in Image.OPEN]
        with open(path, "rb") as file, Image.open(file, formats=formats) as image:
            ImageOps.exif_transpose(image, in_place=True)
            mode = _GREY_MODES.get(image.mode, "RGB")
            pixels = np.asarray(image if mode in (None, image.mode) else image.convert(mode))
    except Exception as error:  # decoders fail in as many ways as there are bytes
        # Of a file that no decoder knows Pillow says no more than its name.
        said = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(
            f"{where}: expected an image that Pillow can decode, got {type(error).__name__}{said}. Replace "
            f"the file or leave it out; read are {', '.join(_FORMATS)}."
        ) from error
    if 0 in pixels.shape:
        raise ValueError(f"{where}: expected at least one pixel, got an image of shape {pixels.shape}.")
    if pixels.dtype == np.int32:  # Pillow's mode "I": 16-bit files of older formats
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"{where}: expected at most 16 bits a pixel, got values up to {pixels.max()}.")
        pixels = pixels.astype(np.uint16)
    return pixels


def _as_unit_float(image, where):
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        hint = " Move the channels to the end." if image.ndim == 3 and image.shape[0] in (1, 3, 4) else ""
        raise ValueError(
            f"{where}: expected shape (height, width) or (height, width, channels) with 1, 3 or 4 channels, "
            f"got {image.shape}.{hint}"
        )
    if 0 in image.shape:
        raise ValueError(f"{where}: expected at least one pixel, got shape {image.shape}.")
    if image.shape[2] == 4:
        image = image[..., :3]
    if image.dtype == np.uint8:
        return np.divide(image, 255, dtype=np.float32)
    if image.dtype == np.uint16:
        return np.divide(image, 65535, dtype=np.float32)
    if image.dtype == bool:
        return image.astype(np.float32)
    if image.dtype.kind != "f":
        raise ValueError(f"{where}: expected dtype uint8, uint16, bool or float, got {image.dtype}.")
    low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{where}: expected finite values, got NaN or infinity.")
    if low < 0 or high > 1:
        raise ValueError(
            f"{where}: expected floats in [0, 1], got values from {low:g} to {high:g}. Rescale them, or pass uint8."
        )
    return image.astype(np.float32)


def _channels(n):
    return "1 channel (grey)" if n == 1 else f"{n} channels"


def _describe(X):
    shape = getattr(X, "shape", None)
    return f"an array of shape {shape}" if shape is not None else f"{type(X).__name__}"
