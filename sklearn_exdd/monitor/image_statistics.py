"""Simple image statistics that respond to changes of lamp, lens, camera or parts."""

import numpy as np

PIXEL_STATISTICS = ("brightness", "contrast", "sharpness", "height", "width")


def image_statistics(image):
    """Return simple statistics of one image.

    Each statistic is meant to respond to one cause. For example, dimmer light multiplies all pixels by the same factor
    and changes only the brightness. Blur changes mainly the sharpness.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels), dtype float32, in [0, 1]

    Returns
    -------
    statistics : dict of str to float
        Statistics of the image. Channels are averaged before the statistics are computed.

        * ``brightness``: mean of the pixels, in [0, 1].
        * ``contrast``: standard deviation of the pixels divided by their mean, >= 0. It is 0 for a black image.
        * ``sharpness``: mean squared difference of neighbouring pixels, divided by twice the variance, usually in
          [0, 2]. It is 1 for noise and 0 for a constant image.
        * ``height`` and ``width``: size in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.monitor.image_statistics import image_statistics
    >>> edge = np.repeat(np.float32([0, 1]), 5)[:, None, None]
    >>> image_statistics(edge)
    {'brightness': 0.5, 'contrast': 1.0, 'sharpness': 0.2222222222222222, 'height': 10.0, 'width': 1.0}
    """
    grey = image.mean(axis=2, dtype=np.float64)
    brightness, variance = float(grey.mean()), float(grey.var())
    differences = [np.diff(grey, axis=axis) for axis in (0, 1)]
    n_pairs = sum(one.size for one in differences)
    energy = sum(float((one**2).sum()) for one in differences)
    is_flat = grey.max() == grey.min()  # because of rounding errors, the variance of equal pixels is not always 0
    return {
        "brightness": brightness,
        "contrast": 0.0 if is_flat else variance**0.5 / brightness,
        "sharpness": 0.0 if is_flat else energy / n_pairs / (2 * variance),
        "height": float(grey.shape[0]),
        "width": float(grey.shape[1]),
    }
