"""Colours of anomaly maps, shared by the report and the review page."""

import numpy as np

# RGB colours from dark to bright. Each colour is lighter than the previous colour, so that the scale can be read in
# grey and with any kind of colour vision.
HEAT_COLORS = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]])


def heat_colors(shares):
    """Return the colours at positions on the scale.

    Parameters
    ----------
    shares : ndarray of any shape
        Positions on the scale, from 0 (dark) to 1 (bright).

    Returns
    -------
    colors : ndarray of shape (*shares.shape, 3), float
        RGB colours in [0, 255].
    """
    steps = np.linspace(0, 1, len(HEAT_COLORS))
    return np.stack([np.interp(shares, steps, channel) for channel in HEAT_COLORS.T], axis=-1)
