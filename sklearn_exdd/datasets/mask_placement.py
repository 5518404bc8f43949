"""Detection of masks that are mirrored or shifted relative to their images."""

import numpy as np
from scipy import fft, ndimage

from sklearn_exdd.datasets.duplicates import SIDE

MIN_MASKS = 8  # minimum number of masks for a reliable result
_REACH = SIDE // 10  # largest shift that is tried, in pixels of the reduced image
_PADDING = 16  # number of padding pixels for the Fourier transform; must be at least _REACH
_LEAST_SHIFT = 2  # smallest shift that is reported, in pixels of the reduced image
# Minimum mean increase of the contrast under the masks, divided by the standard error of this mean.
_LEAST_T = 4
_LEAST_WINS = 0.7  # minimum fraction of masks that fit better after the move
_MIRRORED = {
    "mirrored left to right": np.fliplr,
    "mirrored upside down": np.flipud,
    "turned by 180 degrees": lambda mask: mask[::-1, ::-1],
}


def misplaced(images, masks):
    """Find out whether the masks are mirrored or shifted relative to their images.

    Parameters
    ----------
    images, masks : list of ndarray of shape (SIDE, SIDE)
        Grey images with defects, and their masks, all reduced to a common size. The value of a mask pixel is the
        fraction of its area that the mask covers.

    Returns
    -------
    placement : str or None
        Description of the misplacement, such as "mirrored left to right" or "shifted down by about 5 % of the height".
        None if the masks are in the right position, or if the result is not certain.

    Notes
    -----
    A single mask proves nothing, because many defects are fainter than the texture around them. Each move, such as a
    shift, is therefore applied in the same way to all masks. To compute the contrast of the pixels, the pixels of an
    image are ranked by how much they differ from their surroundings. A move is reported under two conditions:

    * It raises the mean contrast under the masks by more than four standard errors.
    * It raises the contrast under at least 7 of 10 masks.
    """
    if len(masks) < MIN_MASKS:
        return None
    contrasts = [_contrast(image) for image in images]
    own = np.stack([_under(contrast, mask) for contrast, mask in zip(contrasts, masks)])
    near = slice(_REACH - 1, _REACH + 2)
    best_here = own[:, near, near].max(axis=(1, 2))
    gains = {}
    for name, mirror in _MIRRORED.items():
        there = np.stack([_under(contrast, mirror(mask)) for contrast, mask in zip(contrasts, masks)])
        gains[name] = there[:, near, near].max(axis=(1, 2)) - best_here
    total = own.mean(axis=0)
    down, right = np.array(np.unravel_index(total.argmax(), total.shape)) - _REACH
    if max(abs(down), abs(right)) >= _LEAST_SHIFT:
        gains[_shift(-down, -right)] = own[:, down + _REACH, right + _REACH] - best_here
    name, gain = max(gains.items(), key=lambda pair: pair[1].mean())
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return name if (gain > 0).mean() >= _LEAST_WINS and gain.mean() > _LEAST_T * max(error, 1e-9) else None


def _contrast(image):
    """Return the contrast of each pixel, from -0.5 to 0.5.

    Pixels are ranked by how much they differ from their surroundings. The contrast is the scaled rank.
    """
    difference = np.abs(ndimage.gaussian_filter(image, 1) - ndimage.gaussian_filter(image, SIDE / 10))
    ranks = np.empty(difference.size)
    ranks[np.argsort(difference, axis=None, kind="stable")] = np.arange(difference.size)
    return (ranks / (difference.size - 1) - 0.5).reshape(difference.shape)


def _under(contrast, mask):
    """Return the mean contrast under the mask after each shift of the mask by up to _REACH pixels."""
    shape = (SIDE + _PADDING, SIDE + _PADDING)
    products = fft.irfft2(fft.rfft2(contrast, shape) * fft.rfft2(mask / mask.sum(), shape).conj(), shape)
    return np.roll(products, (_REACH, _REACH), axis=(0, 1))[: 2 * _REACH + 1, : 2 * _REACH + 1]


def _shift(down, right):
    """Describe a shift of the masks in percent of the image's height and width."""
    parts = []
    for pixels, side, forwards, backwards in ((down, "height", "down", "up"), (right, "width", "right", "left")):
        if pixels:
            direction = forwards if pixels > 0 else backwards
            parts.append(f"{direction} by about {100 * abs(pixels) / SIDE:.0f} % of the {side}")
    return f"shifted {' and '.join(parts)}"
