"""The patches of defect images that show the defect."""

from functools import partial

import numpy as np

from sklearn_exdd import scoring
from sklearn_exdd._defects import mask_of
from sklearn_exdd._recall import digest, recall
from sklearn_exdd.patches import Patches

# A patch of a defect image without a mask shows the defect where it lies farther from the normal ones than this share
# of these do.
NORMAL_SHARE = 0.99


def defect_patches(defect, extractor, banks, cutoff, *, max_patches, seed, synthetic=False):
    """The patches that a mask marks or, without one, that lie far from what is normal.

    Parameters
    ----------
    defect : TrainingSet
        Of images.
    extractor : BaseFeatureExtractor
        Fitted.
    banks : Banks
        The same patches are not found twice where its `memory` keeps them.
    cutoff : float
        Distance to the normal bank from which on a patch without a mask is taken; of each
        image at least the farthest is.
    max_patches : int or None
        Of one image, at random.
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
        known = (extractor, far, max_patches, seed, synthetic, defect.indices, defect.groups)
        key = digest(known, defect.samples.raw(), masks)
    found = partial(_found, defect, extractor, banks, cutoff, max_patches, seed, synthetic)
    return recall(banks.memory, "defect patches", key, found)


def _found(defect, extractor, banks, cutoff, max_patches, seed, synthetic):
    random_state, kept = np.random.RandomState(seed), []
    maps = extractor.iter_transform(defect.samples)
    for i, patches in enumerate(Patches.of_maps(maps, defect, extractor, synthetic)):
        shown = marked(defect, i, [np.unique(patches.provenance[axis]) for axis in ("row", "column")])
        if shown is None:
            distances, _ = banks.distances(banks.normal, patches.features)
            shown = distances >= min(cutoff, distances.max())
        chosen = np.flatnonzero(shown)
        if max_patches is not None and len(chosen) > max_patches:
            chosen = np.sort(random_state.choice(chosen, max_patches, replace=False))
        kept.append(patches.take(chosen))
    return Patches.concatenate(kept)


def marked(defect, index, centers):
    """The patches of a defect image that its mask marks.

    Parameters
    ----------
    defect : TrainingSet
        Of images.
    index : int
    centers : sequence of two ndarray
        Rows and columns of the patches, as in :func:`scoring.upsample`.

    Returns
    -------
    shown : ndarray of shape (n_patches,), bool, or None
        None without a mask.

    Raises
    ------
    ValueError
        If the mask is empty.
    """
    mask = mask_of(defect, index)
    return None if mask is None else scoring.covered(mask, *centers).ravel()
