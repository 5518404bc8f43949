"""Region of interest of the detector: the part of an image in which defects are drawn."""

import numpy as np

from sklearn_exdd._composition import follow_to_detector
from sklearn_exdd._images import Images

_METHOD = "decision_function"  # the page needs no other method of a detector
CUT_OFF = "The part of the drawn region outside the region of interest was cut off."


class MissingRegion(ValueError):
    """Error of a detector that needs a region with each image, for an image without one."""


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
        Pixels that count; for a combination of frozen detectors with different regions, those that count for any of
        them. None for the whole image.

    Raises
    ------
    MissingRegion
        If the detector was fitted on images with regions of their own, and the image has none.
    """
    try:
        inner, _ = follow_to_detector(detector, method=_METHOD)
    except TypeError:  # no detector that could have a region
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
            "detector: expected one region of interest for all images, got a detector fitted on images with regions of "
            "their own, which the images of a folder do not carry. Fit it with a single mask, as in fit(X, y, "
            "roi=mask), or crop the images to their regions and fit it on the crops."
        )
    return inner._in_region(images).region(0)


def check_regions(detector, folder):
    """Refuse a detector that needs a region with each image, unless its own steps attach the regions.

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
        except Exception:  # an image that cannot be read, or on which a step fails: the next one tells
            continue
        return


def cut_to(roi, drawn):
    """Cut a drawn region to the region of interest.

    Parameters
    ----------
    roi : ndarray of shape (height, width), dtype bool, or None
        Region of interest; None for the whole image.
    drawn : ndarray of shape (height, width), dtype bool
        Drawn region.

    Returns
    -------
    region : ndarray of shape (height, width), dtype bool
    is_cut : bool
        Whether a part was cut off.

    Raises
    ------
    ValueError
        If the shapes differ, or if nothing is left.
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
