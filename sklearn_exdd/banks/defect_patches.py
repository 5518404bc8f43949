"""Patches of defect images that show the defect."""

from functools import partial

import numpy as np

from sklearn_exdd import scoring
from sklearn_exdd._cache import cached, fingerprint
from sklearn_exdd.banks.patches import Patches

# Without a mask, a patch of a defect image is assumed to show the defect if it lies farther from the normal bank than
# this share of the normal patches do.
NORMAL_SHARE = 0.99


def defect_patches(defect, extractor, banks, cutoff, *, max_patches, seed, synthetic=False):
    """Return the patches that a mask marks or, without a mask, the patches far from normal patches.

    Parameters
    ----------
    defect : TrainingSet
        Defect images.
    extractor : BaseFeatureExtractor
        Fitted extractor.
    banks : DualBank
        Banks whose `memory` caches the patches.
    cutoff : float
        Smallest distance to the normal bank at which a patch of an image without a mask is selected; the farthest patch
        of such an image is always selected.
    max_patches : int or None
        Largest number of patches per image; if there are more, this many are drawn at random.
    seed : int
    synthetic : bool, default=False

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
    """Select the patches of one image that show its defect.

    Parameters
    ----------
    defect : TrainingSet
        Defect images.
    index : int
        Position of the image.
    grid : PatchGrid
        Grid of its patches.
    extractor : BaseFeatureExtractor
        Extractor of the patches.
    distances_of : callable
        Function that returns the distances of the patches to normal patches; called only without a mask.
    cutoff_of : callable
        Function that returns the smallest distance at which a patch is selected; called only without a mask.
    max_patches : int or None
        Largest number of patches; if there are more, this many are drawn at random.
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
