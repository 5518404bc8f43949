"""Regions of interest: the parts of images to which detection and metrics are limited."""

import numpy as np

from sklearn_exdd._images.containers import EXPECTED_IMAGES, described, holds_images, is_missing, is_path, is_picture
from sklearn_exdd._images.masks import Masks


class ImageInRegion:
    """Image with a region of interest, as returned by :func:`with_roi`. Pixels outside the region do not count.

    Parameters
    ----------
    image : ndarray, str or path-like
        Image as the user passed it.
    region : ndarray of shape (height, width), dtype bool, or str, path-like or None
        Mask of the region, or the path of a mask file. The file is read when it is needed. None if every pixel counts.
    """

    is_image = True

    def __init__(self, image, region):
        self.image, self.region = image, region

    def __array__(self, dtype=None, copy=None):
        from sklearn_exdd._images.images import Images

        return np.asarray(Images([self], "image")[0], dtype=dtype)


def with_roi(X, roi):
    """Attach regions of interest to images, so that detectors inspect only these regions.

    Pixels outside a region are replaced by the mean colour of the region before any feature is computed. Patches
    outside a region are not stored in memory banks, and augmenters make no defects there. Scores, thresholds and pixel
    metrics ignore the pixels outside a region.

    Parameters
    ----------
    X : images
        Images in one of three forms: an array (n, height, width) or (n, height, width, channels) of uint8, uint16,
        bool, or float in [0, 1]; a list of such images or of Pillow images; or a list of file paths. The images of a
        list may differ in size. Files are read when they are needed.
    roi : array of shape (height, width), Pillow image, path, or list of these
        Mask that is True in the region of interest. Pass a single mask for all images, or one mask for each image, as a
        list or as an array of shape (n, height, width). In a list, None stands for the whole image.

    Returns
    -------
    images : list
        One item for each image. Every function of the library accepts these items in place of images, and
        scikit-learn can split the list.

    Raises
    ------
    ValueError
        If the number of regions differs from the number of images, or a region is empty. The shape of a region is
        checked only when its image is read.

    See Also
    --------
    ExDDDetector.fit : Its parameter `roi` does the same for all images passed to `fit`. If a single region is passed,
        it is also used in predictions.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd import ExDDDetector
    >>> from sklearn_exdd.datasets import make_surface_defects, with_roi
    >>> X, y, _ = make_surface_defects(30, image_shape=(64, 64), random_state=0)
    >>> left = np.arange(64) < np.full((64, 1), 40)
    >>> detector = ExDDDetector("gabor", random_state=0).fit(with_roi(X, left), y)
    >>> changed = np.where(left, X, 255)
    >>> scores = [detector.score_samples(with_roi(images, left)) for images in (X, changed)]
    >>> bool((scores[0] == scores[1]).all())
    True
    """
    if getattr(X, "synthetic", None) is not None:
        raise ValueError(
            "roi: expected images without synthetic defects, got defects that an augmenter has made, perhaps outside "
            "the region. Attach the region before the augmenter, as in pipeline.fit(with_roi(X, roi), y)."
        )
    if not holds_images(X):
        raise ValueError(f"X: {EXPECTED_IMAGES}; got {described(X)}.")
    if is_missing(roi):
        raise ValueError(f"roi: expected a mask or one mask for each image, got {roi!r}.")
    items = list(X)
    if is_one_region(roi):
        region = region_of(Masks([roi], 1, "roi", first=None).get(0), "roi")
        return [ImageInRegion(_bare(item), region) for item in items]
    masks = Masks(roi, len(items), "roi")
    regions = [
        item if item is None or is_path(item) else region_of(masks.get(i), masks.where(i))
        for i, item in enumerate(masks.raw())
    ]
    return [ImageInRegion(_bare(item), region) for item, region in zip(items, regions)]


def in_region(X, region):
    """Attach a region to the images in a list or an array, except to images that already have a region.

    Other containers are returned unchanged.
    """
    shape = getattr(X, "shape", ())
    is_single_image = len(shape) == 3 and shape[2] in (1, 3, 4)
    if not isinstance(X, (list, tuple)) and (len(shape) not in (3, 4) or is_single_image):
        return X
    return [item if isinstance(item, ImageInRegion) else ImageInRegion(item, region) for item in X]


def is_one_region(roi):
    """Tell whether `roi` is a single region of interest for all images, and not a list of one region per image."""
    if is_path(roi) or is_picture(roi):
        return True
    shape = getattr(roi, "shape", ())
    is_nested = isinstance(roi, (list, tuple)) and len(roi) > 0 and isinstance(roi[0], (list, tuple))
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)) or is_nested


def region_of(mask, where):
    """Return the mask of a region of interest unchanged. Refuse an empty mask."""
    if not mask.any():
        raise ValueError(
            f"{where}: expected a region of interest with at least one pixel, got an empty mask. Mark the pixels that "
            "count."
        )
    return mask


def filled(image, region):
    """Replace the pixels outside a region by the mean colour inside the region, rounded to 8 bits.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels), dtype float32
    region : ndarray of shape (height, width), dtype bool

    Returns
    -------
    image : ndarray of shape (height, width, channels), dtype float32
    """
    color = np.rint(image[region].mean(axis=0, dtype=np.float64) * 255) / 255
    return np.where(region[..., None], image, color.astype(np.float32))


def valid_outside(image, region):
    """Replace invalid pixels outside a region by a pixel from inside the region, in an image of floats.

    A pixel is invalid if one of its values is not in [0, 1].

    Parameters
    ----------
    image : ndarray of shape (height, width) or (height, width, channels), float
        Image to correct. It is returned unchanged if its shape differs from the shape of the region.
    region : ndarray of shape (height, width), dtype bool, or None

    Returns
    -------
    image : ndarray
    """
    if region is None or image.shape[:2] != region.shape:
        return image
    is_valid = (image >= 0) & (image <= 1)  # False for NaN
    is_invalid = ~region & ~(is_valid.all(axis=2) if image.ndim == 3 else is_valid)
    if not is_invalid.any():
        return image
    image = image.copy()
    image[is_invalid] = image[region][0]
    return image


def within_limits(image, region):
    """Clip the values of an image of wide integers outside a region to the range of the values inside.

    The values outside thus do not affect the choice of the bit depth. Images of other types are returned unchanged.
    """
    is_wide = image.dtype.kind in "iu" and image.dtype.itemsize > 1
    if region is None or not is_wide or image.dtype == np.uint16 or image.shape[:2] != region.shape:
        return image
    inside = image[region]
    is_inside = region if image.ndim == 2 else region[..., None]
    return np.where(is_inside, image, image.clip(inside.min(), inside.max()))


def lowest_outside(pixel_map, region):
    """Set the values of a map outside a region to the lowest value inside. The region None is the whole image."""
    return pixel_map if region is None else np.where(region, pixel_map, pixel_map[region].min())


def highest_inside(pixel_map, region):
    """Return the highest value of a map within a region. The region None is the whole image."""
    return float(pixel_map.max() if region is None else pixel_map[region].max())


def unwrapped(items):
    """Separate a list of images from their regions of interest.

    Parameters
    ----------
    items : list

    Returns
    -------
    images : list
    regions : list of ImageInRegion or None
        Region of each image, or None for an image without a region. If no image has a region, None is returned instead
        of the list.
    """
    wrapped = [ImageInRegion(None, item.region) if isinstance(item, ImageInRegion) else None for item in items]
    if all(item is None for item in wrapped):
        return items, None
    return [_bare(item) for item in items], wrapped


def _bare(item):
    return item.image if isinstance(item, ImageInRegion) else item
