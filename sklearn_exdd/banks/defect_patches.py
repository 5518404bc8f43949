"""Patches of defect images that show the defect."""

from functools import partial

import numpy as np

from sklearn_exdd import scoring
from sklearn_exdd._cache import cached, fingerprint
from sklearn_exdd.banks.patches import Patches

# In an image without a mask, a patch is assumed to show the defect if it lies farther from the normal bank than this
# fraction of the normal patches.
NORMAL_SHARE = 0.99


def defect_patches(defect, extractor, banks, cutoff, *, max_patches, seed, synthetic=False):
    """Return the patches of defect images that show the defect.

    If an image has a mask, these are the patches that the mask marks. Otherwise, these are the patches that are far
    from normal patches.

    Parameters
    ----------
    defect : TrainingSet
        Defect images.
    extractor : BaseFeatureExtractor
        Fitted extractor.
    banks : DualBank
        Banks of patches. Their `memory` also caches the result.
    cutoff : float
        Smallest distance to the normal bank at which patches of images without a mask are selected. The farthest patch
        of such an image is always selected.
    max_patches : int or None
        Maximum number of patches per image. If there are more, `max_patches` of them are drawn at random.
    seed : int
    synthetic : bool, default=False
        Whether an augmenter made the images.

    Returns
    -------
    patches : Patches
    """
    key = None
    if banks.memory is not None:
        masks = [None] * len(defect) if defect.masks is None else defect.masks.raw()
        far = None if all(mask is not None for mask in masks) else (banks.normal.key, banks.n_neighbors, cutoff)
        extractor_key = extractor.key, defect.samples.n_channels
        parts = (extractor_key, far, max_patches, seed, synthetic, defect.indices, defect.groups)
        key = fingerprint(parts, defect.samples.raw(), masks)
    find = partial(_find, defect, extractor, banks, cutoff, max_patches, seed, synthetic)
    return cached(banks.memory, "defect patches", key, find)


def _find(defect, extractor, banks, cutoff, max_patches, seed, synthetic):
    random_state, chosen = np.random.RandomState(seed), []
    maps = extractor.iter_transform(defect.samples)
    for i, patches in enumerate(Patches.from_maps(maps, defect, extractor, synthetic)):
        rows = defect_rows(
            defect,
            i,
            patches.grid(0),
            extractor,
            lambda features=patches.features: banks.distances(banks.normal, features)[0],
            lambda: cutoff,
            max_patches=max_patches,
            random_state=random_state,
        )
        chosen.append(patches.take(rows))
    return Patches.concatenate(chosen)


def defect_rows(defect, index, grid, extractor, distances_of, cutoff_of, *, max_patches, random_state):
    """Select the patches that show the defect in one image.

    Parameters
    ----------
    defect : TrainingSet
        Defect images.
    index : int
        Index of the image in `defect`.
    grid : PatchGrid
        Grid of the patches of the image.
    extractor : BaseFeatureExtractor
        Extractor of the patches.
    distances_of : callable
        Function that returns the distances of the patches to normal patches. It is called only without a mask.
    cutoff_of : callable
        Function that returns the smallest distance at which patches are selected. It is called only without a mask.
    max_patches : int or None
        Maximum number of patches. If there are more, `max_patches` of them are drawn at random.
    random_state : RandomState

    Returns
    -------
    rows : ndarray of int, ascending
    """
    mask = defect.mask(index)
    if mask is not None:
        centers = extractor.patch_centers(grid.shape, mask.shape)
        on_defect = scoring.patches_on_mask(mask, *centers)[... if grid.inside is None else grid.inside].ravel()
    else:
        distances = distances_of()
        on_defect = distances >= min(cutoff_of(), distances.max())
    rows = np.flatnonzero(on_defect)
    if max_patches is not None and len(rows) > max_patches:
        rows = np.sort(random_state.choice(rows, max_patches, replace=False))
    return rows
