"""Random fields for the shapes and textures of defects."""

import numpy as np
from scipy import ndimage


def perlin_noise(shape, n_cells, random_state):
    """Return Perlin's gradient noise [1]_.

    Parameters
    ----------
    shape : tuple of int (height, width)
        Shape of the noise, in pixels.
    n_cells : tuple of int (rows, columns)
        Number of lattice cells along each axis. More cells give smaller blobs.
    random_state : RandomState instance

    Returns
    -------
    noise : ndarray of shape (height, width), dtype float64
        Smooth noise around 0, within [-1, 1].

    References
    ----------
    .. [1] K. Perlin, "An image synthesizer", SIGGRAPH 1985.
    """
    angles = random_state.uniform(0, 2 * np.pi, size=(n_cells[0] + 1, n_cells[1] + 1))
    positions = [np.arange(size) * cells / size for size, cells in zip(shape, n_cells)]
    (top, left), (down, right) = zip(*(np.divmod(position, 1) for position in positions))
    top, left, down = top.astype(int), left.astype(int), down[:, None]
    fade_down, fade_right = (t**3 * (t * (6 * t - 15) + 10) for t in (down, right))
    # The contribution of a lattice row is linear in the distance from the row.
    sines, cosines = np.sin(angles), np.cos(angles)
    slope = sines[:, left] * (1 - fade_right) + sines[:, left + 1] * fade_right
    value = cosines[:, left] * right * (1 - fade_right) + cosines[:, left + 1] * (right - 1) * fade_right
    above, below = slope[top] * down + value[top], slope[top + 1] * (down - 1) + value[top + 1]
    return np.sqrt(2) * (above * (1 - fade_down) + below * fade_down)


def correlated_noise(shape, length, random_state):
    """Return Gaussian noise with a given correlation length.

    Parameters
    ----------
    shape : tuple of int (height, width)
    length : float or tuple of (float, float)
        Standard deviation, in pixels, of the Gaussian that smooths white noise. A pair holds one value for each axis.
        At 0, the noise stays white.
    random_state : RandomState instance

    Returns
    -------
    noise : ndarray of shape (height, width), dtype float64
        Noise with an expected mean of 0 and an expected variance of 1 at every pixel.
    """
    lengths = np.broadcast_to(length, 2)
    white = random_state.standard_normal(shape)
    smooth = ndimage.gaussian_filter(white, lengths, mode="wrap")
    impulse = np.zeros(shape)
    impulse[0, 0] = 1
    return smooth / np.linalg.norm(ndimage.gaussian_filter(impulse, lengths, mode="wrap"))


def ridge_distance(shape, center, angle, elongation, wavelength, random_state):
    """Return the distance of each pixel to a random curve through a point.

    The curve is a level line of a smooth Gaussian field. The field is stretched along `angle` by the factor
    `elongation`. At 1, the curve winds like a crack. At 10, it is nearly straight, like a scratch.

    Parameters
    ----------
    shape : tuple of int (height, width)
    center : tuple of float (row, column)
        Point that the curve runs through, in pixels.
    angle : float
        Direction of the curve, in radians. At 0, the curve runs along the rows.
    elongation : float
        Factor by which the field is stretched, at least 1.
    wavelength : float
        Length, in pixels, of the bends of the curve.
    random_state : RandomState instance

    Returns
    -------
    distance : ndarray of shape (height, width), dtype float64
        First-order approximation of the distance, in pixels.
    """
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    rows, columns = rows - center[0], columns - center[1]
    along = (rows * np.sin(angle) + columns * np.cos(angle)) / elongation
    across = rows * np.cos(angle) - columns * np.sin(angle)
    # A sum of plane waves is a Gaussian field whose gradient is known exactly.
    n_waves = 24
    frequencies = random_state.normal(scale=2 * np.pi / wavelength / 2, size=(n_waves, 2))
    phases = random_state.uniform(0, 2 * np.pi, size=n_waves)
    amplitudes = random_state.standard_normal(n_waves)
    value, slope = np.zeros(shape), np.zeros((2, *shape))
    for (f_along, f_across), phase, amplitude in zip(frequencies, phases, amplitudes):
        wave = f_along * along + f_across * across + phase
        value += amplitude * (np.cos(wave) - np.cos(phase))  # makes the zero level line run through the centre
        sine = amplitude * np.sin(wave)
        slope[0] += f_along / elongation * sine
        slope[1] += f_across * sine
    return np.abs(value) / np.maximum(np.hypot(*slope), 1e-9)
