"""Reverse diffusion chain on a window of an image, and the perturbation of the chain that makes a defect."""

from itertools import pairwise

import numpy as np
from scipy import ndimage

from sklearn_exdd.augment.noise import correlated_noise

N_TIMESTEPS = 1000
_REFERENCE_STEPS = 25  # number of DDIM steps for which amplitudes are defined
FLOOR = 0.1  # constant added to the brightness and to its local mean, to limit the noise of black pixels
_HELD = 0.3  # fraction of the variance of "correlated" noise that is drawn once per defect
_MOTTLING = 0.5  # relative standard deviation of the offset between the pixels of a defect
_TINT = 0.2  # relative standard deviation of the offset between the channels of a colour image
_EDGE = 2.5  # width, in pixels, of the edge over which a defect fades out


class Tiles:
    """Overlapping tiles of a window. Predictions of the model are averaged where tiles overlap (MultiDiffusion)."""

    def __init__(self, inside, size, batch_size):
        self.size, self.batch_size = size, batch_size
        starts = [np.linspace(0, own - size, 1 + -(-(own - size) // (size // 2))).astype(int) for own in inside.shape]
        corners = [(top, left) for top in starts[0] for left in starts[1]]
        # Leave out tiles without a pixel of the region, because predictions outside the region are not used.
        self.corners = [(y, x) for y, x in corners if inside[y : y + size, x : x + size].any()]

    def predict(self, module, window, timestep, device):
        import torch

        size = self.size
        ramp = 1 - (2 * torch.arange(size) + 1 - size).abs() / size
        weight = ramp[:, None] * ramp
        total, weights = torch.zeros_like(window), torch.zeros(window.shape[1:])
        for start in range(0, len(self.corners), self.batch_size):
            corners = self.corners[start : start + self.batch_size]
            batch = torch.stack([window[:, y : y + size, x : x + size] for y, x in corners]).to(device)
            predicted = module(batch, timestep).sample.cpu()
            for (y, x), one in zip(corners, predicted):
                total[:, y : y + size, x : x + size] += weight * one
                weights[y : y + size, x : x + size] += weight
        return total / weights.clamp(min=1e-12)


def make_scheduler():
    """Return the noise schedule that training and the reverse chain use."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=N_TIMESTEPS)


def relative_contrast(image, box, blur):
    """Return two arrays for a box: the log ratio of the image to its local brightness, and the local brightness."""
    reach = int(3 * blur)
    top, left = max(0, box[0] - reach), max(0, box[1] - reach)
    wide = image[top : box[2] + reach, left : box[3] + reach]
    base = ndimage.gaussian_filter(wide, (blur, blur, 0), truncate=3) + FLOOR
    cut = np.s_[box[0] - top : box[2] - top, box[1] - left : box[3] - left]
    return np.log((wide[cut] + FLOOR) / base[cut]), base[cut]


def window_around(region, context, size):
    """Return a box (top, left, bottom, right) that contains a region and its context. Each side is at least `size`."""
    box = []
    for axis, own in ((1, region.shape[0]), (0, region.shape[1])):
        marked = np.flatnonzero(region.any(axis=axis))
        start, stop = max(0, marked[0] - context), min(own, marked[-1] + 1 + context)
        start = max(0, min(start - max(0, size - (stop - start)) // 2, own - size))
        box.append((start, min(own, max(stop, start + size))))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def timesteps_of(strength, n_steps):
    """Return the timesteps of the reverse chain. The last timestep, -1, stands for the clean image.

    Parameters
    ----------
    strength : float
        Fraction of the chain to run, in (0, 1].
    n_steps : int
        Number of DDIM steps of the whole chain.

    Returns
    -------
    timesteps : ndarray of int
        Timesteps in descending order.
    """
    n_run = max(1, round(strength * n_steps))
    return np.rint(np.linspace(strength * N_TIMESTEPS, 0, n_run + 1)).astype(int) - 1


def perturbation_of(kind, inside, n_channels, *, sign, correlation_length, n_steps, random_state):
    """Return a function that draws the perturbation of one step.

    Parameters
    ----------
    kind : {"correlated", "white", "held"}
    inside : ndarray of shape (height, width), dtype bool
        Region of the defect.
    n_channels : int
    sign : {"both", "dark", "bright"}
    correlation_length : float
        Standard deviation, in pixels, of the Gaussian that smooths the noise.
    n_steps : int
        Number of DDIM steps of the whole chain. With more steps, the perturbation per step is weaker.
    random_state : RandomState

    Returns
    -------
    draw : callable
        Function called as ``draw(alpha)``, where alpha is the cumulative alpha of the timestep. It returns the
        perturbation in units of the amplitude, as an ndarray of shape (n_channels, height, width).
    """
    shape, step = inside.shape, _REFERENCE_STEPS / n_steps
    if kind == "white":
        return lambda alpha: np.sqrt(step) * random_state.standard_normal((n_channels, *shape))
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    # Independent draws would cancel out in a curve thinner than the correlation length. For such a curve, a larger
    # fraction of the noise is drawn once and held for all steps. All noise is also smoothed more.
    thinness = correlation_length / (2 * np.percentile(depth[inside], 95))
    length = correlation_length * max(1, thinness)
    held = 1 if kind == "held" else max(_HELD, thinness**2 / (1 + thinness**2))
    dark = random_state.random_sample() < 2 / 3 if sign == "both" else sign == "dark"
    tint = 1 + _TINT * random_state.standard_normal((n_channels, 1, 1)) if n_channels > 1 else np.ones((1, 1, 1))
    profile = tint * np.clip(depth / min(_EDGE, depth.max()), 0, 1)
    offset = (-1 if dark else 1) + _MOTTLING * correlated_noise(shape, 2 * length, random_state)

    def draw(alpha):
        fresh = correlated_noise(shape, length, random_state) if held < 1 else 0
        return np.sqrt(alpha) * profile * (np.sqrt((1 - held) * step) * fresh + np.sqrt(held) * step * offset)

    return draw


def reverse(module, clean, inside, tiles, timesteps, perturbation, *, min_timestep, random_state):
    """Generate the region of a window anew with the reverse chain. The rest of the window is returned unchanged.

    Parameters
    ----------
    module : UNet2DModel
    clean : ndarray of shape (height, width, channels)
        Window of the source image, as relative contrast.
    inside : ndarray of shape (height, width), dtype bool
        Region to generate anew.
    tiles : Tiles
    timesteps : ndarray of int
        Timesteps as returned by :func:`timesteps_of`.
    perturbation : callable
        Function called as ``perturbation(alpha)``. Its result is added after each step.
    min_timestep : int
        Minimum timestep at which the perturbation is added.
    random_state : RandomState

    Returns
    -------
    made : ndarray of shape (height, width, channels), dtype float32
    """
    import torch

    device = next(module.parameters()).device
    scheduler = make_scheduler()
    clean = torch.from_numpy(np.ascontiguousarray(clean.transpose(2, 0, 1), dtype=np.float32))
    noise = torch.from_numpy(random_state.standard_normal(clean.shape).astype(np.float32))
    inside = torch.from_numpy(inside)
    alphas = scheduler.alphas_cumprod
    noised = scheduler.add_noise(clean, noise, torch.tensor(timesteps[0]))
    for timestep, following in pairwise(timesteps):
        expected = tiles.predict(module, noised, int(timestep), device)
        # Make one DDIM step. The step itself adds no noise.
        denoised = (noised - (1 - alphas[timestep]).sqrt() * expected) / alphas[timestep].sqrt()
        if following < 0:
            break
        noised = scheduler.add_noise(denoised, expected, torch.tensor(following))
        if following >= min_timestep:
            noised += torch.from_numpy(perturbation(float(alphas[following])).astype(np.float32))
        noised = torch.where(inside, noised, scheduler.add_noise(clean, noise, torch.tensor(following)))
    return torch.where(inside, denoised, clean).permute(1, 2, 0).numpy()
