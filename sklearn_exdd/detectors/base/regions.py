"""Regions: connected pixels that are marked in a map, and measures of their size and position."""

from numbers import Real

import numpy as np
from scipy import ndimage
from sklearn.utils import Bunch

_NEIGHBORS = np.ones((3, 3))  # pixels that touch at a corner are connected


def check_region_params(min_area, pixel_size):
    """Validate the parameters of regions. Return the height and width of a pixel, or None without `pixel_size`."""
    if not isinstance(min_area, Real) or not min_area >= 0:
        raise ValueError(f"min_area: expected a number >= 0, got {min_area!r}.")
    if pixel_size is None:
        return None
    sides = np.asarray(pixel_size) if not isinstance(pixel_size, str) else np.empty(0)
    if sides.shape not in ((), (2,)) or sides.dtype.kind not in "iuf" or not (np.isfinite(sides) & (sides > 0)).all():
        raise ValueError(
            "pixel_size: expected the side of a pixel in millimetres, a number > 0, or two of them (height, width), "
            f"got {pixel_size!r}."
        )
    return tuple(np.broadcast_to(sides, 2).tolist())


def marked_pixels(pixel_map, threshold):
    """Mark the defective pixels of an image that is called defective.

    Parameters
    ----------
    pixel_map : ndarray of shape (height, width)
    threshold : float

    Returns
    -------
    mask : ndarray of shape (height, width), dtype bool
        Mask that is True where the map is above the threshold. If no pixel is above the threshold, the mask is True in
        a region around the maximum of the map. The region consists of the connected pixels whose value is at least
        halfway from the median of the map to the maximum. At least one pixel is True.
    """
    mask = pixel_map > threshold
    if mask.any():
        return mask
    peak = np.unravel_index(np.argmax(pixel_map), pixel_map.shape)
    labels, _ = ndimage.label(pixel_map >= pixel_map[peak] / 2 + np.median(pixel_map) / 2, _NEIGHBORS)
    return labels == labels[peak]


def connected_regions(mask, pixel_map, min_area=0, pixel_size=None):
    """List the connected regions of a mask.

    Parameters
    ----------
    mask : ndarray of shape (height, width), dtype bool
    pixel_map : ndarray of shape (height, width)
    min_area : float, default=0
        Minimum area of a region. Smaller regions are left out.
    pixel_size : tuple of float (height, width), default=None
        Sides of a pixel, in millimetres.

    Returns
    -------
    regions : list of Bunch
        See :meth:`BaseDefectDetector.predict_regions`.
    """
    regions = []
    if not mask.any():
        return regions
    height, width = (1.0, 1.0) if pixel_size is None else pixel_size
    labels, _ = ndimage.label(mask, _NEIGHBORS)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inside = np.nonzero(labels[rows, columns] == number)
        values = pixel_map[rows, columns][inside]
        area = len(values) if pixel_size is None else len(values) * height * width
        if area < min_area * (1 - 1e-9):  # tolerance for rounding errors of areas in square millimetres
            continue
        places = inside[0] + rows.start, inside[1] + columns.start
        highest = int(np.argmax(values))
        box = (rows.start, columns.start, rows.stop, columns.stop)
        centroid, peak = [float(axis.mean()) for axis in places], [int(axis[highest]) for axis in places]
        if pixel_size is not None:
            box = tuple(side * edge for side, edge in zip((height, width) * 2, box))
            centroid, peak = ([side * (at + 0.5) for side, at in zip(pixel_size, one)] for one in (centroid, peak))
        regions.append(
            Bunch(
                box=box,
                area=area,
                centroid=tuple(centroid),
                peak=tuple(peak),
                peak_score=float(values[highest]),
                mean_score=float(values.mean(dtype=np.float64)),
                equivalent_diameter=float(np.sqrt(4 / np.pi * area)),
            )
        )
    return sorted(regions, key=lambda region: -region.peak_score)
