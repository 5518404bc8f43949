"""Generator of images of surfaces with defects, for examples and tests that need no download."""

from numbers import Integral, Real

import numpy as np
from scipy import fft, ndimage
from sklearn.utils import check_random_state

_LIGHT = np.deg2rad(225)  # direction of the light, which lights relief, pits and dents from the upper left

# Each of the following functions draws a surface as relative deviations from its mean brightness.


def _noise(rng, shape, gain=1.0):
    """Draw a random field with zero mean and unit variance. `gain` is the amplitude of each spatial frequency."""
    field = fft.irfft2(fft.rfft2(rng.random_sample(shape) - 0.5) * gain, s=shape)
    return (field - field.mean()) / field.std()


def _frequencies(shape):
    return fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])


def _shade(height):
    """Shade a relief that is lit from the upper left."""
    return np.sin(_LIGHT) * np.gradient(height, axis=0) + np.cos(_LIGHT) * np.gradient(height, axis=1)


def _smooth_noise(rng, shape, size):
    """Draw a random field with light and dark blobs that are about `size` pixels wide."""
    fy, fx = _frequencies(shape)
    return _noise(rng, shape, np.exp(-((np.pi * size) ** 2) * (fy**2 + fx**2) / 2))


def _metal(rng, shape):
    fy, fx = _frequencies(shape)
    tilt = rng.normal(0, 0.02)
    along, across = fx + tilt * fy, fy - tilt * fx
    length = rng.uniform(0.15, 0.3) * shape[1]
    falloff = (1 + 60 * np.abs(across)) ** -0.35 * np.exp(-((2.4 * across) ** 2))
    streaks = _noise(rng, shape, falloff / (1 + (2 * np.pi * length * along) ** 2))
    short = _noise(rng, shape, np.exp(-((1.5 * across) ** 2)) / (1 + (0.2 * np.pi * length * along) ** 2))
    # Brushed metal shines in a band across the brushing direction.
    x = np.linspace(-0.5, 0.5, shape[1]) + tilt * np.linspace(-1, 1, shape[0])[:, None]
    band = np.exp(-(((x - rng.uniform(-0.4, 0.4)) / rng.uniform(0.2, 0.4)) ** 2))
    return (0.075 * streaks + 0.05 * short) * (0.75 + 0.5 * band) + rng.uniform(0.04, 0.24) * band


def _cast(rng, shape):
    fy, fx = _frequencies(shape)
    radius = np.hypot(fy, fx)
    grain = max(0.7, min(shape) / 160) * rng.uniform(0.9, 1.1)
    height = _noise(rng, shape, (0.03 + radius) ** -1.5 * np.exp(-((2.5 * grain * radius) ** 2)))
    height = np.tanh(1.2 * height) + 0.15 * _noise(rng, shape, np.exp(-((2 * grain * radius) ** 2)))
    scale = _noise(rng, shape, (0.008 + radius) ** -1.6)
    pores = np.clip(_noise(rng, shape, np.exp(-((4 * grain * radius) ** 2))) - 1.9, 0, 1.5)
    return 0.3 * _shade(height) * (1 + 0.25 * scale) + 0.03 * height + 0.05 * scale - 0.16 * pores


def _fabric(rng, shape):
    period = max(5.0, min(shape) / 16) * rng.uniform(0.97, 1.03)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    tilt = rng.normal(0, 0.015)
    u = (cols + tilt * rows) / period + rng.uniform(0, 9) + 0.1 * _smooth_noise(rng, shape, 0.5 * min(shape))
    v = (rows - tilt * cols) / period + rng.uniform(0, 9) + 0.1 * _smooth_noise(rng, shape, 0.5 * min(shape))
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    over = (i + j) % 2 == 0
    across, along = np.where(over, u - i, v - j) - 0.5, np.where(over, v - j, u - i) - 0.5
    thread = np.where(over, i % 97, j % 97 + 97)
    thickness, shade = rng.uniform(0.85, 1.1, 194)[thread], rng.normal(0, 0.045, 194)[thread]
    light = np.clip(1 - (2 * across / thickness) ** 2, -0.4, None) * (0.5 + 0.5 * np.cos(2.4 * along))
    light += 0.06 * np.cos(2 * np.pi * (2.5 * along + across))
    return ndimage.gaussian_filter(0.42 * (light - 0.4) + shade + 0.07 * _noise(rng, shape), min(0.07 * period, 0.8))


def _tile(rng, shape):
    fy, fx = _frequencies(shape)
    marks = _noise(rng, shape, np.exp(-((2.0 * fx) ** 2)) / (1 + (25 * fy) ** 2))
    grain = _noise(rng, shape, np.exp(-((1.5 * np.hypot(fy, fx)) ** 2)))
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])
    waves = zip(rng.uniform(-2.6, 2.6, 4), rng.uniform(-2.6, 2.6, 4), rng.uniform(0, 6.3, 4))
    shading = sum(np.cos(a * y + b * x + phase) for a, b, phase in waves)
    return 0.018 * marks + 0.026 * grain + rng.uniform(0.04, 0.1) * shading


_TEXTURES = {"metal": _metal, "cast": _cast, "fabric": _fabric, "tile": _tile}


def _photograph(rng, shape, texture):
    """Draw an image of a surface without a defect, under random lighting."""
    grain = rng.uniform(0.6, 1.4) * _TEXTURES[texture](rng, shape)
    angle, slope, vignette = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.22), rng.uniform(0, 0.12)
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])
    lamp = 1 + slope * (np.sin(angle) * y + np.cos(angle) * x) - vignette * (y**2 + x**2)
    image = rng.uniform(85, 155) * lamp * (1 + grain)
    image += rng.uniform(1.0, 2.2) * rng.standard_normal(shape)
    return np.clip(np.rint(image), 12, 243).astype(np.uint8)


# Each of the following functions draws a defect as changes of brightness, on an arbitrary scale.


def _stroke(shape, rows, cols, weights, width):
    """Draw a line that is `width` pixels wide, through points that lie close to each other."""
    canvas = np.zeros(shape)
    inside = (rows > 0) & (rows < shape[0] - 1) & (cols > 0) & (cols < shape[1] - 1)
    rows, cols, weights = rows[inside], cols[inside], weights[inside]
    top, left = rows.astype(int), cols.astype(int)
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (cols - left))
            np.add.at(canvas, (top + down, left + right), weights * share)
    return ndimage.gaussian_filter(canvas, width / 2)


def _centre(rng, shape):
    return rng.uniform(0.2, 0.8) * shape[0], rng.uniform(0.2, 0.8) * shape[1]


def _scratch(rng, shape):
    side = min(shape)
    # The scratch is never quite horizontal, because a line along the brush marks of metal would be invisible.
    length, angle, bend = rng.uniform(0.3, 0.8) * side, rng.uniform(0.25, np.pi - 0.25), rng.uniform(-0.3, 0.3)
    t = np.linspace(-0.5, 0.5, int(4 * length))
    row, col = _centre(rng, shape)
    sin, cos = np.sin(angle + bend * t), np.cos(angle + bend * t)
    rows, cols = row + length * t * sin, col + length * t * cos
    press = np.cos(np.pi * t) ** 0.4 * np.interp(t, np.linspace(-0.5, 0.5, 13), rng.uniform(0.4, 1.2, 13))
    width = rng.uniform(0.8, 1.4) * max(1.0, side / 128)
    # One flank of a groove is bright, and the other is dark.
    flank = _stroke(shape, rows + width * cos, cols - width * sin, 0.4 * press, width)
    return rng.choice([-1, 1]) * (_stroke(shape, rows, cols, press, width) - flank)


def _crack(rng, shape):
    side, step = min(shape), 0.35
    row, col = _centre(rng, shape)
    heading = rng.uniform(0, 2 * np.pi)
    turns = 0, np.pi + rng.normal(0, 0.4)  # directions of two arms, which start opposite to each other and branch
    tips, points = [(row, col, heading + turn, rng.uniform(0.2, 0.6) * side, 1.0) for turn in turns], []
    while tips:
        row, col, heading, length, weight = tips.pop()
        n_steps = max(int(length / step), 3)
        kinks = np.repeat(rng.normal(0, 0.45, n_steps), max(1, int(side / 40 / step)))[:n_steps]
        headings = heading + kinks + np.cumsum(rng.normal(0, 0.04, n_steps))
        rows, cols = row + step * np.cumsum(np.sin(headings)), col + step * np.cumsum(np.cos(headings))
        points.append(np.stack([rows, cols, weight * np.linspace(1, 0.35, n_steps)]))
        if weight > 0.5:
            for at in rng.randint(n_steps // 5, n_steps, size=rng.randint(0, 3)):
                turn = rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
                tips.append((rows[at], cols[at], headings[at] + turn, rng.uniform(0.2, 0.5) * length, 0.6 * weight))
    return -np.minimum(_stroke(shape, *np.hstack(points), 1.1 * max(1.0, side / 128)), 1.3)


def _pit(rng, shape):
    side = min(shape)
    row, col = _centre(rng, shape)
    change = np.zeros(shape)
    for _ in range(rng.randint(1, 6)):
        radius = max(1.4, side * rng.uniform(0.012, 0.035))
        y = np.clip(row + rng.normal(0, 0.08) * side, 2, shape[0] - 3)
        x = np.clip(col + rng.normal(0, 0.08) * side, 2, shape[1] - 3)
        reach = int(3 * radius) + 2
        top, left = max(int(y) - reach, 0), max(int(x) - reach, 0)
        window = change[top : int(y) + reach, left : int(x) + reach]
        dy, dx = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
        theta, r = np.arctan2(dy - y, dx - x), np.hypot(dy - y, dx - x) / radius
        for lobes, size in ((2, 0.16), (3, 0.06), (5, 0.05)):
            r = r * (1 + rng.uniform(0, size) * np.cos(lobes * theta + rng.uniform(0, 2 * np.pi)))
        facing = np.cos(theta - _LIGHT)
        rim = np.exp(-(((r - 1.3) / 0.3) ** 2)) * np.clip(0.25 - 0.75 * facing, 0, None)
        hole = (0.85 + 0.15 * facing * r) / (1 + np.exp((r - 0.95) / 0.14))
        window += rng.uniform(0.7, 1) * (0.5 * rim - hole)
    return np.maximum(change, -1)


def _stain(rng, shape):
    y, x = np.ogrid[: shape[0], : shape[1]]
    row, col = _centre(rng, shape)
    size = rng.uniform(0.11, 0.22) * min(shape)
    r = np.sqrt((y - row) ** 2 * rng.uniform(0.6, 1.6) + (x - col) ** 2) / size
    depth = 1 - r
    for share, scale in ((0.3, 0.9), (0.1, 0.3), (0.05, 0.12)):
        depth += share * _smooth_noise(rng, shape, scale * size)
    depth = np.where(r < 2, depth + max(0, 0.5 - depth[r < 2].max()), -1)
    body = np.clip(depth / rng.uniform(0.25, 0.9), 0, 1)
    ring = np.exp(-(((depth - 0.2) / 0.15) ** 2))  # the edge of a stain dries last and becomes darkest
    mottled = 1 + 0.12 * _smooth_noise(rng, shape, 0.4 * size)
    return rng.choice([-1, -1, -1, 1]) * body**2 * (3 - 2 * body) * mottled * (0.75 + rng.uniform(0, 0.4) * ring)


def _dent(rng, shape):
    y, x = np.ogrid[: shape[0], : shape[1]]
    row, col = _centre(rng, shape)
    angle, size, stretch = rng.uniform(0, np.pi), rng.uniform(0.05, 0.11) * min(shape), rng.uniform(1, 1.8)
    u = ((y - row) * np.sin(angle) + (x - col) * np.cos(angle)) / (size * stretch)
    v = ((x - col) * np.sin(angle) - (y - row) * np.cos(angle)) / size
    height = -np.exp(-((u**2 + v**2) ** 1.3) / 1.5)
    return -size * _shade(height) + 0.25 * height


_DEFECTS = {"scratch": _scratch, "crack": _crack, "pit": _pit, "stain": _stain, "dent": _dent}
# Ranges of the contrast between a defect and the surrounding texture. At the lower end, the defect is hard to see. A
# thin defect needs more contrast than a wide defect.
_CONTRAST = {"scratch": (3, 5), "crack": (2.5, 5), "pit": (2.5, 5), "stain": (1.9, 3.2), "dent": (1.6, 3.2)}


def _add_defect(rng, image, kind):
    """Return the image with a defect, and a mask of the pixels that the defect changed noticeably."""
    change = _DEFECTS[kind](rng, image.shape)
    surface = image.astype(float)
    roughness = (surface - ndimage.uniform_filter(surface, 9)).std()
    strength = (7 + min(roughness, 18)) * rng.uniform(*_CONTRAST[kind])
    change *= strength / np.abs(change).max()
    changed = np.clip(np.rint(surface + change * (0.3 + 0.7 * surface / surface.mean())), 0, 255)
    # Changes below the threshold of 3 to 8 grey levels are lost in the noise of the camera.
    mask = np.abs(changed - surface) >= np.clip(0.12 * strength, 3, 8)
    # Between the light side and the dark side of a dent, the change is zero. This gap belongs to the dent.
    mask |= ndimage.binary_closing(mask, iterations=max(1, min(image.shape) // 32) if kind == "dent" else 1)
    return np.where(mask, changed, surface).astype(np.uint8), mask


def make_surface_defects(
    n_samples=100, *, defect_fraction=0.3, image_shape=(128, 128), texture="metal", defects=None, random_state=None
):
    """Generate grey images of a surface, some of them with a defect and its mask.

    The brightness, contrast, lighting and position of the texture vary from image to image. A defect can therefore not
    be recognised by the mean or the spread of the grey levels. Defects range from faint to obvious.

    Parameters
    ----------
    n_samples : int, default=100
        Number of images, at least 1.
    defect_fraction : float, default=0.3
        Fraction of images with a defect, in [0, 1]. The number of these images is
        `round(defect_fraction * n_samples)`.
    image_shape : tuple of (int, int), default=(128, 128)
        Height and width in pixels, each at least 32. The size of defects is proportional to the shorter side.
    texture : {"metal", "cast", "fabric", "tile"}, default="metal"
        Surface: brushed metal, a rough casting, woven cloth, or a smooth tile under slowly varying light.
    defects : str, list of str or None, default=None
        Kinds of defect: "scratch", "crack", "pit", "stain" or "dent". Each defect image gets one of these kinds at
        random. If None, all kinds are used.
    random_state : int, RandomState instance or None, default=None
        Source of randomness. Pass an int to get the same images in every call.

    Returns
    -------
    X : ndarray of shape (n_samples, height, width), dtype uint8
        Grey images, with values in [0, 255].
    y : ndarray of shape (n_samples,), dtype int
        Label of each image: 1 for an image with a defect, 0 for a normal image. The order is random.
    masks : ndarray of shape (n_samples, height, width), dtype bool
        Mask of each image. Pixels that the defect changed are True. The mask of a normal image is all False.

    Notes
    -----
    The surfaces are drawn before the defects. A second call with `defect_fraction=0` and the same int as `random_state`
    therefore returns the same surfaces without defects. All pixels outside `masks` are equal in both results.

    Examples
    --------
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(10, image_shape=(64, 96), random_state=0)
    >>> X.shape, y.sum().item()
    ((10, 64, 96), 3)
    >>> masks.any(axis=(1, 2)).tolist() == y.tolist()
    True
    """
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(f"n_samples: expected an integer of at least 1, got {n_samples!r}.")
    if not isinstance(defect_fraction, Real) or not 0 <= defect_fraction <= 1:
        raise ValueError(f"defect_fraction: expected a number in [0, 1], got {defect_fraction!r}.")
    if np.shape(image_shape) != (2,) or not all(isinstance(side, Integral) and side >= 32 for side in image_shape):
        raise ValueError(f"image_shape: expected (height, width), two integers of at least 32, got {image_shape!r}.")
    if texture not in list(_TEXTURES):
        raise ValueError(f"texture: expected one of {list(_TEXTURES)}, got {texture!r}.")
    kinds = list(_DEFECTS) if defects is None else [defects] if isinstance(defects, str) else list(defects)
    if not kinds or any(kind not in list(_DEFECTS) for kind in kinds):
        raise ValueError(f"defects: expected None (all kinds), or one or more of {list(_DEFECTS)}, got {defects!r}.")
    rng = check_random_state(random_state)
    X = np.stack([_photograph(rng, tuple(image_shape), texture) for _ in range(n_samples)])
    y, masks = np.zeros(n_samples, dtype=int), np.zeros(X.shape, dtype=bool)
    y[rng.permutation(n_samples)[: round(defect_fraction * n_samples)]] = 1
    for index in np.flatnonzero(y):
        X[index], masks[index] = _add_defect(rng, X[index], kinds[rng.randint(len(kinds))])
    return X, y, masks
