"""Region of interest of the detector. Regions of defects are drawn inside it."""

import numpy as np

from sklearn_exdd._composition import follow_to_detector
from sklearn_exdd._images import Images

_METHOD = "decision_function"  # the only method of a detector that the page needs
CUT_OFF = "The part of the drawn region outside the region of interest was cut off."


class MissingRegion(ValueError):
    """Error raised if a detector needs a region with each image, but an image does not have a region."""


def region_of_interest(detector, image):
    """Return the region in which a detector inspects an image.

    Parameters
    ----------
    detector : object
        Fitted detector, or a Pipeline, a search or a combination around detectors. Steps before the detector may attach
        regions to the images.
    image : path or ndarray

    Returns
    -------
    region : ndarray of shape (height, width), dtype bool, or None
        Pixels that the detector inspects. For a combination of frozen detectors with different regions, these are the
        pixels that at least one of the detectors inspects. None means the whole image.

    Raises
    ------
    MissingRegion
        If the detector was fitted with a separate region for each image, and `image` does not have a region.
    """
    try:
        inner, _ = follow_to_detector(detector, method=_METHOD)
    except TypeError:  # `detector` does not contain a detector of this library
        return None
    if not (hasattr(inner, "roi_") or hasattr(inner, "detectors_")):
        return None
    _, X = follow_to_detector(detector, [image], method=_METHOD)
    if not hasattr(inner, "roi_"):
        regions = [region_of_interest(member, X[0]) for member in inner.detectors_]
        return None if any(region is None for region in regions) else np.logical_or.reduce(regions)
    images = Images(X)
    if inner.roi_ is None and not images.have_regions:
        raise MissingRegion(
            "detector: expected one region of interest for all images, got a detector fitted with a separate region "
            "for each image. The images of a folder have no regions. Fit the detector with a single mask, as in "
            "fit(X, y, roi=mask), or crop the images to their regions and fit it on the crops."
        )
    return inner._in_region(images).region(0)


def check_regions(detector, folder):
    """Refuse a detector that needs a region with each image, unless a step before the detector attaches the regions.

    Parameters
    ----------
    detector : object
    folder : ReviewFolder
    """
    for entry in folder.entries():
        try:
            region_of_interest(detector, folder.locate(entry.name))
        except MissingRegion:
            raise
        except Exception:  # the image cannot be read, or a step fails on it; check the next image
            continue
        return


def cut_to(roi, drawn):
    """Cut a drawn region to the region of interest.

    Parameters
    ----------
    roi : ndarray of shape (height, width), dtype bool, or None
        Region of interest. None means the whole image.
    drawn : ndarray of shape (height, width), dtype bool
        Drawn region.

    Returns
    -------
    region : ndarray of shape (height, width), dtype bool
        Part of the drawn region that lies in the region of interest.
    is_cut : bool
        Whether a part of the drawn region was cut off.

    Raises
    ------
    ValueError
        If the shapes differ, or if the drawn region lies outside the region of interest.
    """
    if roi is None:
        return drawn, False
    if roi.shape != drawn.shape:
        sizes = [f"{shape[0]} x {shape[1]} pixels" for shape in (roi.shape, drawn.shape)]
        raise ValueError(
            f"Expected an image of {sizes[0]}, the size of the detector's region of interest, got one of {sizes[1]}. "
            "Draw on an image of that size."
        )
    region = drawn & roi
    if not region.any():
        raise ValueError(
            "Expected a drawn region within the detector's region of interest, got one that lies entirely outside. "
            "Draw where the image is not shaded."
        )
    return region, bool((region != drawn).any())
