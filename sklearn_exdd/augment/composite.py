"""Compositing: put a painted defect into its source image, and find the pixels that changed."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from sklearn_exdd._images import Images

# Minimum change of a pixel in the mask, in standard deviations of the texture.
_CHANGE = 0.25
MIN_AREA = 8  # minimum area of a defect, in pixels
# Keys of the provenance that the library sets. An augmenter's `_paint` may not return them.
_RESERVED = {"augmenter", "source", "region", "contrast", "visible", "seed", "number", "n_redraws"}


class Drawn(NamedTuple):
    """Source image and region in which a defect will be painted."""

    images: Images
    index: int
    region: np.ndarray
    name: str  # name of the region drawer's class, or "defect" or "given"
    content: object = None  # piece of an image with a real defect, if the region comes from it


def check_painted(name, result, drawn):
    """Check that the ``_paint`` of an augmenter returned a painted image and a dict of provenance.

    Parameters
    ----------
    name : str
        Name of the augmenter's class.
    result : tuple of (ndarray, dict)
        Return value of the augmenter's ``_paint``.
    drawn : Drawn

    Returns
    -------
    painted : ndarray of shape (height, width, channels), dtype float
    provenance : dict
    """
    shape = drawn.images[drawn.index].shape
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(
            f"{name}._paint: expected (image, dict of provenance), got {got}. Return an empty dict for no provenance."
        )
    painted, provenance = np.asarray(result[0]), result[1]
    if painted.shape != shape or painted.dtype.kind != "f":
        raise ValueError(
            f"{name}._paint: expected floats in [0, 1] with the shape of the image, {shape}, got {painted.dtype} with "
            f"shape {painted.shape}."
        )
    reserved = sorted(provenance.keys() & _RESERVED)
    if reserved:
        raise ValueError(
            f"{name}._paint: expected provenance keys other than {sorted(_RESERVED)}, got {reserved}. Rename these."
        )
    return painted, provenance


def composite(drawn, painted):
    """Put a painted defect into its source image.

    Parameters
    ----------
    drawn : Drawn
    painted : ndarray of shape (height, width, channels), dtype float

    Returns
    -------
    image : ndarray
        Image with the defect. Outside the mask, it is equal to the source.
    mask : ndarray of shape (height, width), dtype bool
        Mask of the pixels that changed visibly.
    contrast : float
        Mean change within the mask, divided by the standard deviation of the texture.
    """
    images, index, region = drawn.images, drawn.index, drawn.region
    source = images[index]
    painted = images.restore(index, np.clip(np.where(np.isfinite(painted), painted, source), 0, 1))
    original = images.original(index)
    change = np.abs(Images([painted])[0] - Images([original])[0]).max(axis=2)
    detail = source - ndimage.uniform_filter(source, (15, 15, 0))
    of_interest = images.region(index)
    # The median is robust against the edges of a part, which are not texture.
    texture = float(1.4826 * np.median(np.abs(detail if of_interest is None else detail[of_interest])))
    mask = region & (change > max(_CHANGE * texture, 1e-6))
    # Pixels between changed pixels belong to the defect. Isolated changed pixels do not.
    mask = region & ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2]
    blobs, n_blobs = ndimage.label(mask, structure=np.ones((3, 3)))
    mask = (np.bincount(blobs.ravel(), minlength=n_blobs + 1) >= MIN_AREA / 2)[blobs] & mask
    contrast = float(change[mask].mean() / max(texture, 1e-6)) if mask.any() else 0.0
    image = np.where(mask if painted.ndim == 2 else mask[..., None], painted, original)
    return image, mask, contrast
