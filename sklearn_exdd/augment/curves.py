"""Region drawers for thin curves, such as scratches and cracks."""

import numpy as np
from scipy import ndimage

from sklearn_exdd._params import check_interval
from sklearn_exdd.augment.noise import correlated_noise, ridge_distance
from sklearn_exdd.augment.region_drawer import RegionDrawer

_EIGHT = np.ones((3, 3), dtype=bool)  # 8-connectivity: diagonal neighbours belong to the same curve


class RidgedRegions(RegionDrawer):
    """Region drawer for scratches and short bent lines, which follow level lines of a smooth random field.

    Parameters
    ----------
    width : tuple of (float, float), default=(1.5, 5)
        Range of the width of the curve, in pixels.
    length : tuple of (float, float), default=(0.15, 0.7)
        Range of the extent of the curve, as a fraction of the shorter side of the image.
    elongation : tuple of (float, float), default=(1, 10)
        Range of the elongation, which makes the curve straight. At 1, the curve winds like a crack. At 10, it is nearly
        straight, like a scratch. Values are drawn on a logarithmic scale.
    angle : tuple of (float, float), default=(0, 180)
        Range of the direction of the curve, in degrees. At 0, the curve runs along the rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import RidgedRegions
    >>> region = RidgedRegions().draw((64, 96), np.random.RandomState(0))
    >>> bool(region.any())
    True
    """

    _parameter_constraints = {name: [tuple, list] for name in ("width", "length", "elongation", "angle")}

    def __init__(self, *, width=(1.5, 5), length=(0.15, 0.7), elongation=(1, 10), angle=(0, 180)):
        self.width = width
        self.length = length
        self.elongation = elongation
        self.angle = angle

    def _check_params(self):
        for name, low in (("width", 0), ("length", 0), ("elongation", 1), ("angle", None)):
            check_interval(name, getattr(self, name), low)

    def _draw(self, shape, random_state, masks):
        height, width = shape
        center = random_state.uniform(0, height - 1), random_state.uniform(0, width - 1)
        reach = max(1, random_state.uniform(*self.length) * min(height, width) / 2)
        elongation = np.exp(random_state.uniform(*np.log(self.elongation)))
        angle = np.deg2rad(random_state.uniform(*self.angle))
        # Compute only a window around the curve, because an image may be large.
        top, left = (max(0, int(at - reach)) for at in center)
        window = slice(top, int(center[0] + reach) + 2), slice(left, int(center[1] + reach) + 2)
        region = np.zeros((height, width), dtype=bool)
        shape, center = region[window].shape, (center[0] - top, center[1] - left)
        distance = ridge_distance(shape, center, angle, elongation, max(2 * reach, 4), random_state)
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        from_center = np.hypot(rows - center[0], columns - center[1])
        thickness = random_state.uniform(*self.width) * np.sqrt(np.clip(1 - (from_center / reach) ** 2, 0, 1))
        curves, _ = ndimage.label((distance <= thickness / 2) & (from_center <= reach), structure=_EIGHT)
        own = curves[round(center[0]), round(center[1])]
        region[window] = (curves == own) & (own > 0)
        return region


class CrackRegions(RegionDrawer):
    """Region drawer for cracks, drawn as long, thin, wavering lines.

    Parameters
    ----------
    width : tuple of (float, float), default=(1, 3.5)
        Range of the width of the line, in pixels. The width varies by about a third along the line. Both ends taper to
        a point.
    length : tuple of (float, float), default=(0.1, 1)
        Range of the length of the line, as a fraction of the longer side of the image. Parts of the line beyond the
        border are cut off.
    waviness : tuple of (float, float), default=(0.05, 0.5)
        Range of the standard deviation of the direction along the line, in radians.
    angle : tuple of (float, float), default=(0, 180)
        Range of the mean direction of the line, in degrees. At 0, the line runs along the rows.

    Notes
    -----
    The direction of the line varies around its mean as a smooth Gaussian process, because a crack keeps its general
    direction. If the direction followed a random walk, the line would curl. The line is moved so that a random point of
    it lies at a random position in the image.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.augment import CrackRegions
    >>> region = CrackRegions().draw((64, 96), np.random.RandomState(0))
    >>> bool(region.any())
    True
    """

    _parameter_constraints = {name: [tuple, list] for name in ("width", "length", "waviness", "angle")}

    def __init__(self, *, width=(1, 3.5), length=(0.1, 1), waviness=(0.05, 0.5), angle=(0, 180)):
        self.width = width
        self.length = length
        self.waviness = waviness
        self.angle = angle

    def _check_params(self):
        for name, low in (("width", 0), ("length", 0), ("waviness", 0), ("angle", None)):
            check_interval(name, getattr(self, name), low)

    def _draw(self, shape, random_state, masks):
        n_steps = max(4, round(random_state.uniform(*self.length) * max(shape)))  # each step is one pixel long
        direction = np.deg2rad(random_state.uniform(*self.angle))
        direction = direction + random_state.uniform(*self.waviness) * _wander(n_steps, 12, random_state)
        path = np.cumsum([np.sin(direction), np.cos(direction)], axis=1).T
        path += random_state.uniform(0, np.subtract(shape, 1)) - path[random_state.randint(n_steps)]
        half_width = random_state.uniform(*self.width) / 2 * np.exp(0.3 * _wander(n_steps, 20, random_state))
        from_end = 1 + np.minimum(np.arange(n_steps), np.arange(n_steps)[::-1])
        half_width *= np.sqrt(np.minimum(from_end / min(n_steps / 2, 15), 1))

        region = np.zeros(shape, dtype=bool)
        pixels = np.rint(path).astype(int)
        inside = np.all((pixels >= 0) & (pixels < shape), axis=1)
        pixels, half_width = pixels[inside], half_width[inside]
        # Compute only a window around the line, because an image may be large.
        margin = int(half_width.max()) + 1
        top, left = np.maximum(pixels.min(axis=0) - margin, 0)
        bottom, right = pixels.max(axis=0) + margin + 1
        window = region[top:bottom, left:right]
        own = np.zeros(window.shape)
        own[tuple((pixels - (top, left)).T)] = np.maximum(half_width, 0.5)
        distance, nearest = ndimage.distance_transform_edt(own == 0, return_indices=True)
        window[:] = distance <= own[tuple(nearest)]
        return region


def _wander(n_steps, length, random_state):
    """Return smooth noise with one value for each step along a line."""
    return correlated_noise((1, n_steps + 4 * length), (0, length), random_state)[0, :n_steps]
