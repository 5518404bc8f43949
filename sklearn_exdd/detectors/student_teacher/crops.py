"""Batches of crops with and without defects. Importing this module imports torch."""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from sklearn_exdd.detectors.student_teacher.networks import FLOOR

# Maximum number of pixels of decoded images in memory (400 MB). Further images are read again each time.
_KEPT_PIXELS = 100_000_000
_SCALE = (0.75, 1.3)  # range of the random scale of a crop
_ASPECT = 0.15  # maximum change of the logarithm of a crop's aspect ratio
_ROTATION = 6.0  # maximum rotation of a crop, in degrees
_GAMMA = (0.85, 1.18)  # range of the random factor for the contrast of a crop
# Fraction of a crop that may lie beyond the border when its position is drawn. The crop is then moved into the image.
_BEYOND = 0.25
_ANCHORED = 0.9  # fraction of the crops of a defect image that are placed on its defect
_PASTED = 0.5  # fraction of the synthetic defects that are pasted into another normal image
_CONTRAST = (0.7, 1.2)  # range of the contrast of a pasted defect
_RING = 6  # width, in pixels, of the ring around a defect; pasting matches the brightness in this ring

# Fractions of a batch: real defects in their own images, real defects pasted into normal images, and synthetic
# defects. The other crops are normal.
_WITH_REAL, _WITHOUT_REAL = (0.35, 0.3, 0.15), (0.0, 0.0, 0.75)
_MANY_REAL = 20  # number of real defects from which _WITH_REAL is used alone; with fewer, the two are mixed


class Batch(NamedTuple):
    """Crops of a training step.

    Attributes
    ----------
    corrupted, clean : Tensor of shape (n, channels, height, width)
        Logarithms of the brightness, with and without defects. The two are equal outside the defects.
    medians : Tensor of shape (n, channels, 1, 1)
        Medians of the logarithms over the whole image from which a crop is taken.
    mask : Tensor of shape (n, 1, height, width)
        Mask that is 1 on the defect.
    normal : Tensor of shape (n, 1, height, width)
        Mask that is 1 where `clean` is known to be normal.
    marked : Tensor of shape (n,), dtype bool
        Whether the mask of a crop is known.
    defective : Tensor of shape (n,)
        Label of each crop, 1 if it shows a defect.
    """

    corrupted: torch.Tensor
    clean: torch.Tensor
    medians: torch.Tensor
    mask: torch.Tensor
    normal: torch.Tensor
    marked: torch.Tensor
    defective: torch.Tensor


def logarithms(image):
    """Return the logarithms of the brightness and their medians.

    The shapes are (channels, height, width) and (channels, 1, 1).
    """
    logs = np.log(np.ascontiguousarray(image.transpose(2, 0, 1)) + np.float32(FLOOR))
    return torch.from_numpy(logs), torch.from_numpy(np.median(logs, axis=(1, 2), keepdims=True))


class DefectCrops:
    """Source of random batches of crops.

    Parameters
    ----------
    normals : Images
    synthetic, real : Defects or None
    size : tuple of int (height, width)
        Size of the crops.
    shares : tuple of float
        Fractions of a batch: real defects in their own images, real defects pasted into normal images, and synthetic
        defects. The other crops are normal.
    """

    def __init__(self, normals, synthetic, real, size, shares):
        self.normals, self.synthetic, self.real = normals, synthetic, real
        self.size, self.shares = size, shares
        self._pool = {}
        self._n_pixels = 0

    def draw(self, n_crops, random_state):
        """Draw a batch of `n_crops` crops."""
        bounds = np.cumsum(self.shares)
        # A single random number for all crops ensures that every batch has the same fractions.
        places = (np.arange(n_crops) + random_state.uniform()) / n_crops
        crops = [self._one(int(np.searchsorted(bounds, place, side="right")), random_state) for place in places]
        corrupted, clean, medians, mask, normal, marked = (list(parts) for parts in zip(*crops))
        mask = torch.stack(mask)
        marked = torch.tensor(marked)
        defective = (mask.flatten(1).amax(dim=1) > 0) | ~marked
        return Batch(
            torch.stack(corrupted), torch.stack(clean), torch.stack(medians), mask, torch.stack(normal), marked,
            defective.float(),
        )  # fmt: skip

    def _one(self, kind, random_state):
        if kind == 3:
            logs, medians = self._normal(random_state.randint(len(self.normals)))
            crop = self._window(logs, None, random_state)
            return self._vary(crop, crop, medians, torch.zeros_like(crop[:1]), None, True, random_state)
        defects = self.synthetic if kind == 2 else self.real
        pasted = kind == 1 or (kind == 2 and random_state.uniform() < _PASTED)
        chosen = range(len(defects.images))
        if pasted:
            chosen = [i for i in chosen if defects.masks[i] is not None]
        i = chosen[random_state.randint(len(chosen))]
        logs, medians = self._logs((defects is self.real, i), defects.images, i)
        mask, source = defects.masks[i], defects.sources[i]
        marked = mask is not None
        planes = [logs, torch.from_numpy((mask if marked else np.zeros(logs.shape[1:])).astype(np.float32))[None]]
        if source is not None and not pasted:
            planes.append(self._normal(source)[0])
        crop = self._window(torch.cat(planes), mask, random_state)
        n_channels = len(logs)
        defect, mask, clean = (
            crop[:n_channels],
            (crop[n_channels : n_channels + 1] > 0.5).float(),
            crop[n_channels + 1 :],
        )
        if pasted:
            logs, medians = self._normal(random_state.randint(len(self.normals)))
            clean = self._window(logs, None, random_state)
            defect = paste(clean, defect, mask, random_state.uniform(*_CONTRAST))
            return self._vary(defect, clean, medians, mask, None, True, random_state)
        if len(clean):
            return self._vary(defect, clean, medians, mask, None, True, random_state)
        normal = 1 - grow(mask, 4) if marked else torch.zeros_like(mask)
        return self._vary(defect, defect, medians, mask, normal, marked, random_state)

    def _vary(self, corrupted, clean, medians, mask, normal, marked, random_state):
        """Change the contrast of a crop at random, and return the values of the crop for a Batch."""
        gamma = random_state.uniform(*_GAMMA)
        same = clean is corrupted
        corrupted = medians + gamma * (corrupted - medians)
        clean = corrupted if same else medians + gamma * (clean - medians)
        return corrupted, clean, medians, mask, torch.ones_like(mask) if normal is None else normal, marked

    def _normal(self, i):
        return self._logs(("normal", i), self.normals, i)

    def _logs(self, key, images, i):
        if key not in self._pool:
            logs = logarithms(images[i])
            if self._n_pixels + logs[0].numel() > _KEPT_PIXELS:
                return logs
            self._pool[key] = logs
            self._n_pixels += logs[0].numel()
        return self._pool[key]

    def _window(self, planes, mask, random_state):
        """Draw a slightly rotated and scaled crop, which may be mirrored. With a mask, most crops show the defect."""
        height, width = planes.shape[1:]
        scale = np.exp(random_state.uniform(*np.log(_SCALE)))
        aspect = np.exp(random_state.uniform(-_ASPECT, _ASPECT) / 2)
        angle = np.deg2rad(random_state.uniform(-_ROTATION, _ROTATION))
        flips = random_state.choice([-1, 1], size=2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        steps = turn @ np.diag(flips * [aspect / scale, 1 / scale / aspect])  # image pixels per crop pixel
        reach = np.abs(steps) @ (np.array(self.size) - 1) / 2
        limits = np.array([height, width]) - 1
        anchored = mask is not None and mask.any() and random_state.uniform() < _ANCHORED
        if anchored:
            spots = np.flatnonzero(mask)
            spot = np.array(np.unravel_index(spots[random_state.randint(len(spots))], mask.shape))
            center = spot + random_state.uniform(-0.8, 0.8, size=2) * reach
        else:
            low = reach - _BEYOND * 2 * reach
            center = random_state.uniform(low, np.maximum(limits - low, low + 1e-6))
        # If the image is larger than the crop, move the crop into the image.
        center = np.where(limits > 2 * reach, np.clip(center, reach, limits - reach), limits / 2)
        grid = [np.arange(own, dtype=np.float64) - (own - 1) / 2 for own in self.size]
        rows = center[0] + steps[0, 0] * grid[0][:, None] + steps[0, 1] * grid[1]
        columns = center[1] + steps[1, 0] * grid[0][:, None] + steps[1, 1] * grid[1]
        places = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], axis=2)
        places = torch.from_numpy(places.astype(np.float32))[None]
        return functional.grid_sample(planes[None], places, padding_mode="reflection", align_corners=False)[0]


def shares_of(synthetic, real):
    """Return the fractions of a batch (see DefectCrops), given the available defects."""
    # A network that always sees the same few defects would memorise them.
    strength = 0 if real is None else min(1, len(real.images) / _MANY_REAL)
    in_place, pasted, made = strength * np.array(_WITH_REAL) + (1 - strength) * np.array(_WITHOUT_REAL)
    if real is None or all(mask is None for mask in real.masks):
        pasted, made = 0, made + pasted
    return in_place, pasted, made if synthetic is not None else 0


def crop_shape(images, size, unit):
    """Return the height and width of crops: multiples of `unit`, at most `size`, and hardly larger than the images."""
    longest = [max(images.shape(i)[axis] for i in range(len(images))) for axis in (0, 1)]
    return tuple(max(unit, min(size // unit, -(-length // unit)) * unit) for length in longest)


def paste(clean, defect, mask, contrast):
    """Paste a defect into a clean crop and match the brightness around it. Crops are (channels, height, width)."""
    ring = (grow(mask, _RING) - grow(mask, 1)).clamp(min=0)
    ring = ring if ring.any() else torch.ones_like(mask)
    here, there = ((crop * ring).sum(dim=(1, 2), keepdim=True) / ring.sum() for crop in (clean, defect))
    soft = functional.avg_pool2d(mask, 3, 1, 1, count_include_pad=False)
    alpha = torch.maximum(mask, functional.avg_pool2d(soft, 3, 1, 1, count_include_pad=False))
    return clean + alpha * (here + contrast * (defect - there) - clean)


def grow(mask, n_pixels):
    """Grow a mask of shape (1, height, width) by `n_pixels` pixels on each side."""
    size = 2 * n_pixels + 1
    return functional.max_pool2d(functional.max_pool2d(mask, (size, 1), 1, (n_pixels, 0)), (1, size), 1, (0, n_pixels))
