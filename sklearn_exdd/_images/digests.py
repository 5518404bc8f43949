"""Digests of images. They allow a detector to recognise the images on which it was fitted."""

import hashlib
from pathlib import Path

import numpy as np


def training_digests(images):
    """Return the digest of each image. It is computed from the bytes of a file or from the pixels of an array.

    Parameters
    ----------
    images : Images

    Returns
    -------
    digests : ndarray of shape (n_images,), dtype uint64
    """
    return np.array([_of_file(images, i) or _of_pixels(images[i]) for i in range(len(images))], dtype=np.uint64)


def are_known(images, digests):
    """Tell which images have one of the given digests.

    Parameters
    ----------
    images : Images
    digests : ndarray of uint64
        Digests, as returned by :func:`training_digests`.

    Returns
    -------
    are_known : ndarray of shape (n_images,), dtype bool
    """
    known = set(digests.tolist())
    return np.array([_of_file(images, i) in known or _of_pixels(images[i]) in known for i in range(len(images))])


def _of_file(images, index):
    """Return the digest of the bytes of a file, or None for an image in memory."""
    path = images.path(index)
    return None if path is None else _number(hashlib.sha256(Path(path).read_bytes()))


def _of_pixels(image):
    """Return the digest of an image rounded to 8 bits. The digest does not depend on the dtype of the image."""
    levels = np.rint(image * 255).astype(np.uint8)
    return _number(hashlib.sha256(repr(levels.shape).encode() + levels.tobytes()))


def _number(digest):
    return int.from_bytes(digest.digest()[:8], "big")
