"""Conversion of images to grey or to three channels."""

import os

import numpy as np

from sklearn_exdd._images.decoding import read_image

_LUMA = (19595, 38470, 7471)  # weights of red, green and blue (ITU-R 601) in 65536ths, as in Pillow's mode "L"


def in_channels(image, channels):
    """Convert an image to grey or to three channels, and keep its dtype.

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, channels)
        Image to convert. An array that is not an image is returned unchanged. A later check reports it.
    channels : {"grey", "colour"}

    Returns
    -------
    image : ndarray of shape (height, width) or (height, width, 3)
        Image without an alpha channel. A colour image of dtype bool becomes uint8 when it is converted to grey, because
        bool has no grey levels.
    """
    n_channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if n_channels not in (1, 3, 4) or image.dtype.kind not in "buf":
        return image
    if n_channels == 1:
        grey = image.reshape(image.shape[:2])
        return grey if channels == "grey" else np.repeat(grey[..., None], 3, axis=2)
    return _luma(image[..., :3]) if channels == "grey" else image[..., :3]


def _luma(image):
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.dtype.kind == "f":
        weights = np.array(_LUMA) / 65536
        return (image.astype(np.result_type(image.dtype, np.float32)) @ weights).astype(image.dtype)
    red, green, blue = (image[..., i].astype(np.uint32) * weight for i, weight in enumerate(_LUMA))
    return ((red + green + blue + 0x8000) >> 16).astype(image.dtype)


class FileInChannels:
    """Image file whose image is converted to grey or to three channels when the file is read.

    ``np.asarray`` reads the file.

    Parameters
    ----------
    path : str, path-like or FileInChannels
    channels : {"grey", "colour"}
    """

    is_image = True

    def __init__(self, path, channels):
        self.file, self.channels = path, channels

    @property
    def path(self):
        """Path of the file."""
        return self.file.path if isinstance(self.file, FileInChannels) else os.fspath(self.file)

    def read(self, where=None, bits=None):
        """Return the image; see :func:`~sklearn_exdd._images.read_image`."""
        is_nested = isinstance(self.file, FileInChannels)
        image = self.file.read(where, bits) if is_nested else read_image(self.file, where, bits)
        return in_channels(image, self.channels)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(), dtype=dtype)
