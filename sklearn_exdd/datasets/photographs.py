"""Measurement of the size, exposure and sharpness of images, and search for images that differ from the others."""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sklearn_exdd.datasets.duplicates import SIDE

MIN_IMAGES = 8  # minimum number of images in which images that differ from the others can be found
# Minimum length, in pixels, of the shorter side of a reduced image. Images are reduced by an integer factor.
_MAX_SIDE = 512
# Minimum distance of a far-out value from the nearer quartile, in interquartile ranges (rule of Tukey).
_FENCE = 3


@dataclass
class Photograph:
    """Properties of an image that the checks compare.

    Attributes
    ----------
    shape : tuple of int (height, width)
    n_channels : int
    digest : bytes
        Hash of the pixels. Images with equal pixels have equal hashes.
    reduced : ndarray of shape (SIDE, SIDE), dtype float16
        Grey image, reduced in size.
    brightness : float
        Mean grey level, in [0, 1].
    clipped : float
        Fraction of white pixels, in [0, 1].
    sharpness : ndarray of shape (3,)
        Sharpness at three scales. At each scale, it is the logarithm of a ratio: the variance of fine details divided
        by the variance of coarser details.
    is_blank : bool
        Whether all pixels are equal.
    """

    shape: tuple
    n_channels: int
    digest: bytes
    reduced: np.ndarray
    brightness: float
    clipped: float
    sharpness: np.ndarray
    is_blank: bool


def measure(image):
    """Measure the properties of an image.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels), dtype float32, in [0, 1]

    Returns
    -------
    photograph : Photograph
    """
    grey = image.mean(axis=2)
    factor = max(1, min(grey.shape) // _MAX_SIDE)
    small = resized(grey, [length // factor for length in grey.shape]) if factor > 1 else grey
    return Photograph(
        shape=image.shape[:2],
        n_channels=image.shape[2],
        digest=hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest(),
        reduced=resized(grey, (SIDE, SIDE)).astype(np.float16),
        brightness=float(grey.mean()),
        clipped=float((grey >= 1 - 1 / 512).mean()),
        sharpness=_sharpness(small),
        is_blank=bool(image.max() == image.min()),
    )


def resized(grey, shape):
    """Resize a grey image or a mask. Each new pixel is the mean of the pixels that it covers."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(grey, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BOX))


def _sharpness(grey):
    levels = []
    for _ in range(3):
        first, second, third = (ndimage.gaussian_filter(grey, sigma) for sigma in (0.7, 1.5, 4))
        levels.append(np.log((_energy(first - second) + 1e-12) / (_energy(second - third) + 1e-12)))
        grey = second[::2, ::2]
    return np.array(levels)


def _energy(details):
    """Return the strength of details.

    The details are divided into the blocks of an 8 x 8 grid, and the mean square of each block is computed. The
    strength is the median of these mean squares. Constant blocks are left out. A defect fills few blocks and therefore
    hardly affects the median.
    """
    rows, columns = (max(1, length // 8) for length in details.shape)
    cut = details[: details.shape[0] // rows * rows, : details.shape[1] // columns * columns]
    blocks = cut.reshape(cut.shape[0] // rows, rows, cut.shape[1] // columns, columns)
    energies = (blocks**2).mean(axis=(1, 3))
    return float(np.median(energies[energies > 1e-10])) if (energies > 1e-10).any() else 0.0


def far_out(values, least):
    """Find values that lie far below or far above the others.

    Parameters
    ----------
    values : ndarray of shape (n,)
    least : float
        Minimum distance of a far-out value from the nearer quartile.

    Returns
    -------
    below, above : ndarray of shape (n,), dtype bool
        Masks of the values: `below` is True for values far below the others, and `above` for values far above them.
    middle : tuple of float
        First and third quartile.
    """
    first, third = np.quantile(values, [0.25, 0.75])
    distance = max(_FENCE * (third - first), least)
    return values < first - distance, values > third + distance, (float(first), float(third))


def odd_photographs(photographs):
    """Find photographs that differ from the others.

    Parameters
    ----------
    photographs : list of Photograph

    Returns
    -------
    odd : list of (str, str, ndarray of int, str)
        Findings. Each finding is a tuple of the kind, the severity, the positions of the photographs in the list, and a
        message.
    """
    odd = [("blank", "error", [one.is_blank for one in photographs], "All pixels are equal. Remove the image.")]
    colours = np.array([one.n_channels > 1 for one in photographs], dtype=bool)
    if colours.any() and not colours.all():
        few, others = ("in colour", "grey") if colours.mean() <= 0.5 else ("grey", "in colour")
        message = (
            f"{_images(min(colours.sum(), (~colours).sum()))} {few}, while the others are {others}. fit accepts only "
            "one kind. Convert the images, or set image_channels='grey' or 'colour' on the detector."
        )
        odd.append(("channels", "error", colours == (few == "in colour"), message))
    if len(photographs) >= MIN_IMAGES:
        odd += [_odd_sizes(photographs), *_odd_exposures(photographs), _blurred(photographs)]
    found = [(kind, severity, np.flatnonzero(chosen), message) for kind, severity, chosen, message in odd]
    return [one for one in found if len(one[2])]


def _odd_sizes(photographs):
    shapes = [one.shape for one in photographs]
    usual = max(set(shapes), key=lambda shape: (shapes.count(shape), shape))
    if shapes.count(usual) >= 0.8 * len(shapes):
        chosen = np.array([shape != usual for shape in shapes])
        expected = f"the others have {usual[0]} x {usual[1]} pixels"
    else:
        sides = np.log(np.array(shapes))
        outer = [far_out(column, np.log(1.5))[:2] for column in (*sides.T, sides[:, 0] - sides[:, 1])]
        chosen = np.any([below | above for below, above in outer], axis=0)
        low, high = np.quantile(shapes, [0.25, 0.75], axis=0).astype(int)
        expected = f"half of the images have {low[0]} to {high[0]} x {low[1]} to {high[1]} pixels"
    came = sorted({shapes[i] for i in np.flatnonzero(chosen)})
    listed = ", ".join(f"{height} x {width}" for height, width in came[:3]) + (", ..." if len(came) > 3 else "")
    message = (
        f"{_images(chosen.sum())} of another size ({listed}), while {expected} (height x width). They may have been "
        "cropped or scaled differently. Export them like the others."
    )
    return "size", "warning", chosen, message


def _odd_exposures(photographs):
    brightness = np.array([one.brightness for one in photographs])
    dark = far_out(np.log(np.maximum(brightness, 1e-4)), np.log(1.5))[0]
    _, bright, middle = far_out(brightness, 0.2 * np.median(brightness))
    for kind, chosen, remedy in (("dark", dark, "more"), ("bright", bright, "less")):
        message = (
            f"{_images(chosen.sum())} far {kind}er than the others. On a scale from 0 to 1, the mean grey level is "
            f"{_range(brightness[chosen])}. For half of the images, it is {_range(middle)}. Photograph the part again "
            f"with {remedy} light, or remove the image."
        )
        yield kind, "warning", chosen, message
    clipped = np.array([one.clipped for one in photographs])
    _, chosen, middle = far_out(clipped, 0.05)
    message = (
        f"{_images(chosen.sum())} overexposed: {_range(100 * clipped[chosen])} % of the pixels are white. Defects in "
        f"white areas cannot be seen. Half of the images have {_range(100 * np.array(middle))} % white pixels. "
        "Photograph the part again with less light."
    )
    yield "overexposed", "warning", chosen, message


def _blurred(photographs):
    sharpness = np.array([one.sharpness for one in photographs])
    chosen = np.any([far_out(scale, 0.3)[0] for scale in sharpness.T], axis=0)
    message = (
        f"{_images(chosen.sum())} blurred. Compared with coarse details, fine details are fainter than in the other "
        "images. Photograph the part again, or remove the image."
    )
    return "blur", "warning", chosen, message


def _images(n):
    return "1 image is" if n == 1 else f"{n} images are"


def _range(values):
    if not len(values):
        return "-"
    low, high = (f"{value:.2g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
