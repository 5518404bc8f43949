"""Compositing: put a painted defect into its source image, and find the pixels that changed."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from sklearn_exdd._images import Images

# A pixel belongs to the mask where it changed by this share of the texture's standard deviation.
_CHANGE = 0.25
MIN_AREA = 8  # pixels that a defect has at least


class Drawn(NamedTuple):
    """Source image and region of a defect to be painted."""

    images: Images
    index: int
    region: np.ndarray
    name: str  # of the region's class
    content: object = None  # where the defect comes with its region


def composite(drawn, painted):
    """Put a painted defect into its source image.

    Parameters
    ----------
    drawn : Drawn
    painted : ndarray of shape (height, width, channels), float

    Returns
    -------
    image : ndarray
        Equal to the source outside the mask.
    mask : ndarray of shape (height, width), bool
        Pixels that changed visibly.
    contrast : float
        Mean change within the mask over the standard deviation of the texture.
    """
    images, index, region = drawn.images, drawn.index, drawn.region
    source = images[index]
    painted = images.restore(index, np.clip(np.where(np.isfinite(painted), painted, source), 0, 1))
    original = images.original(index)
    change = np.abs(Images([painted])[0] - Images([original])[0]).max(axis=2)
    detail = source - ndimage.uniform_filter(source, (15, 15, 0))
    texture = float(1.4826 * np.median(np.abs(detail)))  # the edges of a part are no texture
    mask = region & (change > max(_CHANGE * texture, 1e-6))
    # Pixels between changed ones belong to the defect, those that stand alone do not.
    mask = region & ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2]
    blobs, n_blobs = ndimage.label(mask, structure=np.ones((3, 3)))
    mask = (np.bincount(blobs.ravel(), minlength=n_blobs + 1) >= MIN_AREA / 2)[blobs] & mask
    contrast = float(change[mask].mean() / max(texture, 1e-6)) if mask.any() else 0.0
    image = np.where(mask if painted.ndim == 2 else mask[..., None], painted, original)
    return image, mask, contrast
