"""Patches of normal images, held in memory, read from a cache, or processed in shards."""

from dataclasses import replace

import numpy as np

from sklearn_exdd._cache import fingerprint, load, store
from sklearn_exdd._training_set import joined
from sklearn_exdd.banks.patches import LazyFeatures, Patches
from sklearn_exdd.banks.shards import Shards

# Values for shard_size="auto": maximum size of features that stay in memory, and number of images in a shard.
_MAX_BYTES = 2**30
_SHARD_SIZE = 100


def normal_patches(normal, defect, extractor, *, memory, shard_size, n_jobs, seed, verbose):
    """Fit a feature extractor and return the patches of the normal images.

    Parameters
    ----------
    normal : TrainingSet
        Normal images.
    defect : TrainingSet or None
        Defect images. Only an extractor that learns from defects uses them.
    extractor : BaseFeatureExtractor
        Extractor to fit in place.
    memory : str, joblib.Memory or None
    shard_size : int or "auto"
    n_jobs : int or None
    seed : int
        Seed for sampling from shards.
    verbose : int

    Returns
    -------
    patches : Patches or Shards
        Patches of the normal images. Shards are returned if there are more than `shard_size` images or, with "auto", if
        their features take more than 1 GiB.
    """

    def extract():
        return _extract(normal, defect, extractor, shard_size, n_jobs, seed, verbose)

    if memory is None or not extractor.fits_in_shards:
        return extract()
    # One cache entry holds the fitted attributes of the extractor and the positions of the patches. Another entry holds
    # the features, which are read only if they are needed.
    key = fingerprint(extractor.key, shard_size, normal.samples.raw(), normal.indices, normal.groups)
    entry = load(memory, "normal patches", key)
    if entry is None:
        patches = extract()
        if isinstance(patches, Shards):
            return patches
        learned = {name: value for name, value in vars(extractor).items() if name.endswith("_")}
        store(memory, "normal patches", key, (learned, replace(patches, features=None)))
        features = patches.features
        if extractor.whiten:  # without whitening, all folds use the cached maps of the extractor
            store(memory, "features", key, features)
        return replace(patches, features=LazyFeatures(key, lambda: features, memory))
    learned, patches = entry
    vars(extractor).update(learned)

    def read():
        rows = load(memory, "features", key) if extractor.whiten else None
        if rows is not None:
            return rows
        images = normal.with_channels(extractor.n_channels_)
        maps = extractor.iter_transform(images.samples)
        return Patches.concatenate(Patches.from_maps(maps, images, extractor)).features

    return replace(patches, features=LazyFeatures(key, read, memory))


def _extract(normal, defect, extractor, shard_size, n_jobs, seed, verbose):
    is_few = shard_size == "auto" or len(normal) <= shard_size
    max_bytes = _MAX_BYTES if shard_size == "auto" else np.inf
    if defect is not None and extractor.learns_from_defects:
        maps = _fit_on_defects(normal, defect, extractor)
    elif not extractor.fits_in_shards:
        maps = extractor.fit_transform(normal.samples)
    else:
        maps = extractor._fit_transform_within(normal.samples, max_bytes) if is_few else None
    is_fitted = maps is not None
    if is_fitted and is_few and sum(feature_map.nbytes for feature_map in maps) <= max_bytes:
        return Patches.concatenate(Patches.from_maps(_consume(maps), normal, extractor))
    del maps
    size = _SHARD_SIZE if shard_size == "auto" else shard_size
    shards = Shards(normal, extractor, size=size, n_jobs=n_jobs, seed=seed, verbose=verbose)
    if not is_fitted:
        shards.fit_extractor()
    return shards


def _fit_on_defects(normal, defect, extractor):
    """Fit an extractor that also learns from marked defects. Return the feature maps of the normal images."""
    normal.samples.check_all()  # before joining, messages name the user's index of an image
    defect = defect.with_channels(normal.samples.n_channels)
    defect.samples.check_all()
    if "pos_label" in extractor.get_params(deep=False):
        extractor.set_params(pos_label=None)  # the labels made here are 0 and 1
    images, labels, masks = joined(normal, defect)
    return extractor.fit_transform(images, labels, masks=masks)[: len(normal)]


def _consume(items):
    """Yield the items of a list, and remove each item to free its memory."""
    items.reverse()
    while items:
        yield items.pop()
