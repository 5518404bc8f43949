"""Colours, thresholds and outlines of anomaly maps, shared by figures, the report and the review page."""

import numpy as np
from scipy import ndimage

# RGB colours from dark to bright. Each colour is lighter than the previous colour, so that the scale can be read in
# grey and with any kind of colour vision.
HEAT_COLORS = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]])
OUTLINE_COLOR = (0, 200, 255)  # neither a colour of the scale nor grey


def map_threshold(detector):
    """Return the value to mark on the scale of the maps of a detector, above which its pixels are outlined.

    Parameters
    ----------
    detector : object
        Fitted detector.

    Returns
    -------
    threshold : float or None
        `pixel_threshold_`; without it, `threshold_`; None without both.
    """
    return getattr(detector, "pixel_threshold_", getattr(detector, "threshold_", None))


def is_around_peak(mask, pixel_map, threshold):
    """Tell whether the marked pixels are the surroundings of the peak, because no pixel exceeds the threshold."""
    return bool(np.any(mask) and not np.any(pixel_map > threshold))


def heat_colors(shares):
    """Return the colours at positions on the scale.

    Parameters
    ----------
    shares : ndarray of any shape
        Positions on the scale, from 0 (dark) to 1 (bright).

    Returns
    -------
    colors : ndarray of shape (*shares.shape, 3), dtype float
        RGB colours in [0, 255].
    """
    steps = np.linspace(0, 1, len(HEAT_COLORS))
    return np.stack([np.interp(shares, steps, channel) for channel in HEAT_COLORS.T], axis=-1)


def draw_outline(pixels, mask, width=2):
    """Outline the marked pixels of a picture: around them or, along the border of the picture, within them.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 3), dtype uint8
        Picture, which is changed in place.
    mask : ndarray of shape (height, width), dtype bool
    width : int, default=2
        Width of the line, in pixels.
    """
    line = ndimage.binary_dilation(mask, iterations=width) & ~mask
    border = np.ones(mask.shape, dtype=bool)
    border[width:-width, width:-width] = False
    line |= mask & border
    halo = ndimage.binary_dilation(line) & ~line  # dark, so that the line stands out against bright pixels
    pixels[halo] = pixels[halo] // 2
    pixels[line] = OUTLINE_COLOR
