"""Gabor feature extractor, whose oriented filters need neither weights nor training."""

from functools import lru_cache
from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from sklearn_exdd.features.base import BaseFeatureExtractor

_RADIUS = 5  # radius of a filter, in pixels of its pyramid level
_SIGMA = 1.8
_WAVELENGTH = 2.5 * _SIGMA
_LOG_OFFSET = 0.05
_N_PIXELS = 2**15  # number of pixels in a strip that is filtered at a time
# Constant added to a response before the logarithm. It is about as large as the response to noise on a smooth surface.
_RESPONSE_OFFSET = 0.004
# Weights of symmetric windows over cells of 8 pixels. The windows are about 8, 16 and 32 pixels wide.
_CELL = (1.0,)
_NARROW = (0.25, 0.5, 0.25)
_WIDE = tuple(np.exp(-(np.arange(-3, 4) ** 2) / 2) / np.exp(-(np.arange(-3, 4) ** 2) / 2).sum())


class GaborFeatureExtractor(BaseFeatureExtractor):
    """Feature maps from oriented filters that are applied to the log image at several scales.

    The filters need no training, and nothing is downloaded.

    Parameters
    ----------
    n_levels : int, default=4
        Number of pyramid levels, in [1, 4]. Each level has half the resolution of the previous level. With 4 levels,
        the filters are from about 11 to about 88 pixels wide. With fewer levels, images may be smaller.
    n_orientations : int, default=8
        Number of filter orientations, evenly spaced over 180 degrees.
    response : {"log", "linear"}, default="log"
        Scale of the features. "log" takes the logarithm of the filter responses and of all standard deviations. A
        change of faint texture is then measured relative to the usual strength of the texture. "linear" measures the
        absolute change.
    image_size, tile_size, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.
    whiten : bool, default=True
        Whether ``fit`` learns to whiten the features; see :class:`BaseFeatureExtractor`.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
        Mean of the raw features over the images passed to ``fit``, if `whiten` is True.
    components_ : ndarray of shape (n_features, n_features_out)
        Matrix that whitens the features, if `whiten` is True.
    n_features_out_ : int
        Number of features per patch.
    n_channels_ : int
        Number of channels of the images passed to ``fit``.

    Notes
    -----
    All features are computed from the log image: ``log(image + 0.05)`` minus its mean over the image. The logarithm is
    taken because a change of lighting multiplies the brightness of a part by a factor.

    Each pyramid level has one quadrature pair of Gabor filters per orientation, with a sigma of 1.8 pixels and a
    wavelength of 4.5 pixels of the level. The modulus of a pair measures the strength of the texture of this scale and
    orientation, independently of its phase [1]_.

    There is one patch every 8 pixels. Its features are:

    * the mean and the standard deviation of each modulus over about 16 pixels;
    * the mean and the standard deviation of the log image over 8 and over 32 pixels;
    * in colour images, the mean and the standard deviation of two log ratios, red to green and blue to green, over 8
      and over 32 pixels.

    If `response` is "log", every feature x is replaced by ``log(x + 0.004)``, except for the means of the log image and
    of the log ratios.

    References
    ----------
    .. [1] A. K. Jain, F. Farrokhnia, "Unsupervised texture segmentation using Gabor
       filters", Pattern Recognition 24, 1991.

    Examples
    --------
    >>> from sklearn_exdd import GaborFeatureExtractor
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(10, image_shape=(64, 96), random_state=0)
    >>> maps = GaborFeatureExtractor().fit_transform(X)
    >>> maps[0].shape[:2]
    (8, 12)
    """

    stride = 8
    _n_pixels = 2**16
    offset = 3.5

    _parameter_constraints = {
        **BaseFeatureExtractor._parameter_constraints,
        "n_levels": [Interval(Integral, 1, 4, closed="both")],
        "n_orientations": [Interval(Integral, 1, None, closed="left")],
        "response": [StrOptions({"log", "linear"})],
    }

    def __init__(
        self,
        *,
        n_levels=4,
        n_orientations=8,
        response="log",
        image_size=None,
        tile_size=1024,
        whiten=True,
        batch_size=16,
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        super().__init__(
            image_size=image_size,
            tile_size=tile_size,
            whiten=whiten,
            batch_size=batch_size,
            memory=memory,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.n_levels = n_levels
        self.n_orientations = n_orientations
        self.response = response

    @property
    def margin(self):
        return _RADIUS * 2 ** (self.n_levels - 1) + 4 * self.stride

    @property
    def min_size(self):
        return max((_RADIUS + 1) * 2 ** (self.n_levels - 1), 4 * self.stride)

    def _prepare(self, images):
        is_colour = images.shape[3] == 3
        planes = np.log((images.mean(axis=3, keepdims=True) if is_colour else images) + _LOG_OFFSET)
        if is_colour:
            logs = np.log(images + _LOG_OFFSET)
            planes = np.concatenate([planes, logs[..., [0, 2]] - logs[..., [1]]], axis=3)
        mean = planes.mean(axis=(1, 2), keepdims=True, dtype=np.float64)  # float32 would lose digits over many pixels
        return planes - mean.astype(np.float32)

    def _extract(self, images):
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
            height, width = planes.shape[2:]
            planes = functional.pad(planes, (0, -width % self.stride, 0, -height % self.stride), mode="reflect")
            features = _moments(*_cells(planes, self.stride), _CELL, _WIDE)
            level_image = planes[:, :1]
            for level in range(self.n_levels):
                if level:
                    level_image = functional.avg_pool2d(level_image, 2)
                cells = _cells_of_modulus(level_image, self.n_orientations, self.stride >> level)
                features += _moments(*cells, _NARROW)
            if self.response == "log":
                for response in (features[1], *features[3:]):  # features 0 and 2 are means of the planes
                    response.add_(_RESPONSE_OFFSET).log_()
            return torch.cat(features, dim=1).permute(0, 2, 3, 1).contiguous().numpy()


def _cells_of_modulus(image, n_orientations, block):
    """Return the mean and the variance, within each cell of a level, of the modulus of each pair of filters."""
    import torch
    from torch.nn import functional

    # Remove the channel axis and add it again. In channels-last images, its stride would make the filters slow.
    padded, filters = functional.pad(image[:, 0], (_RADIUS,) * 4, mode="reflect")[:, None], _filters(n_orientations)
    # Filter the image in strips, which fit into the processor's cache and into memory that is already allocated.
    n_rows = max(1, _N_PIXELS // (len(image) * image.shape[3] * block)) * block
    cells = []
    for start in range(0, image.shape[2], n_rows):
        squares = functional.conv2d(padded[:, :, start : start + n_rows + 2 * _RADIUS], filters).square_()
        modulus = squares[:, :n_orientations].add_(squares[:, n_orientations:]).sqrt_()
        cells.append(_cells(modulus, block))
    return [torch.cat(strips, dim=2) for strips in zip(*cells)]


def _cells(planes, block):
    """Return the mean and the variance of the pixels of each cell of the grid.

    The variance is computed as the mean squared deviation. The mean of the squares minus the square of the mean would
    be mere rounding noise where the pixels are constant.
    """
    from torch.nn import functional

    mean = functional.avg_pool2d(planes, block)
    deviations = planes - functional.interpolate(mean, scale_factor=block)
    return mean, functional.avg_pool2d(deviations.square_(), block)


def _moments(mean, variance, *windows):
    """Return the mean and the standard deviation over a window around each cell, for one window after the other.

    The variance over a window is the mean variance within its cells plus the variance between the means of its cells.
    """
    moments = []
    for window in windows:
        smooth = _weighted(mean.double(), window)
        between = _weighted(mean.double().square(), window) - smooth.square()
        within = _weighted(variance, window)
        moments += [smooth.float(), (within + between.float()).clamp_(min=0).sqrt_()]
    return moments


def _weighted(cells, window):
    import torch
    from torch.nn import functional

    radius, n_planes = len(window) // 2, cells.shape[1]
    weights = torch.tensor(window, dtype=cells.dtype).expand(n_planes, 1, 1, -1)
    padded = functional.pad(cells, (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, weights, groups=n_planes)
    return functional.conv2d(across, weights.transpose(2, 3), groups=n_planes)


@lru_cache
def _filters(n_orientations):
    """Return all even Gabor filters, followed by all odd ones, in shape (2 * n_orientations, 1, size, size)."""
    import torch

    y, x = np.mgrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1]
    envelope = np.exp(-(x**2 + y**2) / (2 * _SIGMA**2))
    envelope /= envelope.sum()
    angles = np.arange(n_orientations)[:, None, None] * np.pi / n_orientations
    phase = 2 * np.pi / _WAVELENGTH * (x * np.cos(angles) + y * np.sin(angles))
    even = envelope * np.cos(phase)
    even -= envelope * even.sum(axis=(1, 2), keepdims=True)  # no response to constant brightness
    return torch.from_numpy(np.concatenate([even, envelope * np.sin(phase)])[:, None].astype(np.float32))
