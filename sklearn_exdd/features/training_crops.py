"""Training crops for a segmentation network, with and without defects."""

import numpy as np

from sklearn_exdd._images import Masks
from sklearn_exdd._torch import resize
from sklearn_exdd._training_set import joined
from sklearn_exdd.augment import DefectPasteAugmenter, default_augmenter
from sklearn_exdd.augment.synthetic import images_of, synthesize

_SCALE = (0.75, 1.3)  # range of the factor by which crops are enlarged
_STRETCH = 1.15  # largest ratio between the factors by which the two axes are enlarged
_LARGEST_CELL = 16  # largest cell of the network, in pixels
_COVERAGE = 0.25  # minimum fraction of a target cell that a defect must cover to mark the cell
# Fraction of the crops from each source. The second dict is used if no real defects are given.
_SHARES = {"real": 0.2, "pasted": 0.35, "synthetic": 0.2, "clean": 0.25}
_SHARES_WITHOUT = {"synthetic": 0.75, "clean": 0.25}


def training_crops(normal, marked, augmenter, *, n_synthetic, n_crops, size, stride, planes_of, seed, memory=None):
    """Cut training crops from normal images, images with synthetic defects and, if given, images with real defects.

    Parameters
    ----------
    normal : TrainingSet
    marked : TrainingSet or None
        Real defects, each with a mask that marks at least one pixel.
    augmenter : object or None
        Source of the synthetic defects. None selects a mixture of patches, scars, cracks and holes.
    n_synthetic : int
        Number of images with synthetic defects from which crops are cut.
    n_crops : int
        Desired number of crops. Rounding may change it slightly.
    size : int
        Side of a crop, in pixels.
    stride : int
        Stride of the grid of the targets, in pixels.
    planes_of : callable
        Function that returns the input planes of an image. The image is float32 in [0, 1], of shape (height, width,
        channels). The planes are float32, of shape (height', width', n_planes).
    seed : int
    memory : str, path-like, joblib.Memory or None, default=None
        Cache for the synthetic defects. It is used if the `memory` of the augmenter is None.

    Returns
    -------
    planes : ndarray of shape (n, n_planes, size, size), dtype float16
    targets : ndarray of shape (n, 1, size / stride, size / stride), dtype bool
        True where a crop shows a defect.
    """
    random_state = np.random.RandomState(seed)
    seeds = [int(seed) for seed in random_state.randint(2**31 - 1, size=2)]
    training = joined(normal, marked)
    if augmenter is None:
        augmenter, memory = default_augmenter(), None  # painting these defects is faster than reading a cache
    synthetic = synthesize(augmenter, n_synthetic, *training, seed=seeds[0], memory=memory)
    sources = {"clean": (normal.samples, None), "synthetic": _as_images(synthetic, normal)}
    if marked is not None:
        pasted = synthesize(DefectPasteAugmenter(), n_synthetic, *training, seed=seeds[1])
        sources.update(real=(marked.samples, marked.masks), pasted=_as_images(pasted, normal))
    parts = [
        _crops_of(*sources[name], max(1, round(share * n_crops)), size, stride, planes_of, random_state)
        for name, share in (_SHARES if marked is not None else _SHARES_WITHOUT).items()
    ]
    planes, targets = zip(*parts)
    return np.concatenate(planes), np.concatenate(targets)


def _as_images(synthetic, normal):
    images, (_, masks) = images_of(synthetic, normal.samples), synthetic
    return images, Masks(masks, len(images))


def _crops_of(images, masks, n_crops, size, stride, planes_of, random_state):
    """Cut the same number of crops and targets from each image. If `masks` is given, each crop shows a defect."""
    grid = size // stride
    crops, targets = [], []
    for i, share in enumerate(np.array_split(np.arange(n_crops), len(images))):
        if len(share) == 0:
            continue
        planes = planes_of(images[i])
        mask = np.zeros(planes.shape[:2], dtype=np.float32)
        if masks is not None:
            mask = images.within_region(i, masks.get(i, images.shape(i))).astype(np.float32)
            mask = resize(mask[..., None], planes.shape[:2])[..., 0] if mask.shape != planes.shape[:2] else mask
        marked = np.argwhere(mask > 0)
        for _ in share:
            window = _window(planes.shape, size, marked, random_state)
            crops.append(resize(_cut(planes, window), (size, size)).transpose(2, 0, 1).astype(np.float16))
            coverage = resize(_cut(mask[..., None], window), (grid, grid))
            targets.append(coverage.transpose(2, 0, 1) >= _COVERAGE)
    return np.stack(crops), np.stack(targets)


def _window(shape, size, marked, random_state):
    """Draw the top, left, height and width of a crop. If pixels are marked, the crop contains one of them."""
    stretch = np.exp(random_state.uniform(-0.5, 0.5) * np.log(_STRETCH) * np.array([1, -1]))
    sides = np.rint(size / (random_state.uniform(*_SCALE) * stretch)).astype(int)
    window = []
    pixel = marked[random_state.randint(len(marked))] if len(marked) else (None, None)
    for own, side, at in zip(shape, sides, pixel):
        if at is None:
            # Many crops must touch the border, where networks tend to raise false alarms.
            low, high = -side // 3, max(-side // 3, own - side + side // 3)
        else:
            low, high = at - int(0.85 * side), at - int(0.15 * side)
        # A crop may extend past the image, because prediction mirrors images that end within a cell.
        last = max(0, own - side + random_state.randint(_LARGEST_CELL))
        window.append(int(np.clip(random_state.randint(low, high + 1), 0, last)))
    return (*window, *sides)


def _cut(planes, window):
    """Cut a window out of planes. Planes that are smaller than the window are extended by mirroring."""
    top, left, height, width = window
    cut = planes[top : top + height, left : left + width]
    missing = [(0, side - own) for side, own in zip((height, width), cut.shape)]
    return np.pad(cut, [*missing, (0, 0)], mode="symmetric") if any(gap for _, gap in missing) else cut
