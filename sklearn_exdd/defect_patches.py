"""The patches of defect images that show the defect."""

import hashlib
import os
from functools import partial

import joblib
import numpy as np

from sklearn_exdd import scoring
from sklearn_exdd._recall import recall
from sklearn_exdd.patches import Patches


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
        key = joblib.hash((known, _digest(defect.samples.raw()), _digest(masks)))
    found = partial(_found, defect, extractor, banks, cutoff, max_patches, seed, synthetic)
    return recall(banks.memory, "defect patches", key, found)


def _found(defect, extractor, banks, cutoff, max_patches, seed, synthetic):
    random_state, kept = np.random.RandomState(seed), []
    maps = extractor.iter_transform(defect.samples)
    for i, patches in enumerate(Patches.of_maps(maps, defect, extractor, synthetic)):
        mask = None if defect.masks is None else defect.masks.get(i, defect.samples.shape(i))
        if mask is None:
            distances, _ = banks.distances(banks.normal, patches.features)
            shown = distances >= min(cutoff, distances.max())
        elif mask.any():
            centers = (np.unique(patches.provenance[axis]) for axis in ("row", "column"))
            shown = scoring.covered(mask, *centers).ravel()
        else:
            raise ValueError(
                f"{defect.masks.where(i)}: expected a mask of the defect, got an empty one. Pass None for an image "
                "whose defect is not marked."
            )
        chosen = np.flatnonzero(shown)
        if max_patches is not None and len(chosen) > max_patches:
            chosen = np.sort(random_state.choice(chosen, max_patches, replace=False))
        kept.append(patches.take(chosen))
    return Patches.concatenate(kept)


def _digest(items):
    """Of images or masks: of what arrays hold, and of where files are and when they were written."""
    digest = hashlib.sha256()
    for item in items:
        if item is None:
            digest.update(b"none")
        elif isinstance(item, (str, os.PathLike)):
            stat = os.stat(item) if os.path.exists(item) else None  # who reads it will say so
            digest.update(f"{item} {stat and (stat.st_size, stat.st_mtime_ns)}".encode())
        else:
            item = np.asarray(item)
            digest.update(f"{item.dtype} {item.shape}".encode())
            digest.update(np.ascontiguousarray(item))
    return digest.hexdigest()
