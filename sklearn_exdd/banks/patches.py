"""Patches of samples: one row of features per patch, and the origin of each patch."""

from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

from sklearn_exdd import coreset
from sklearn_exdd._cache import cached, fingerprint
from sklearn_exdd.banks.pixel_maps import map_maxima
from sklearn_exdd.features.patch_grid import PatchGrid
from sklearn_exdd.features.whitening import moments_of


class LazyFeatures:
    """Rows of features that are identified by a cache key and read only when they are needed.

    Parameters
    ----------
    key : str
        Fingerprint of everything that the rows depend on.
    read : callable
        Function that takes no arguments and returns an ndarray of shape (n_patches, n_features).
    memory : str or joblib.Memory
        Cache for results computed from the rows.
    """

    def __init__(self, key, read, memory):
        self.key, self.memory, self._read = key, memory, read

    @cached_property
    def rows(self):
        """Features, as an ndarray of shape (n_patches, n_features)."""
        return self._read()

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return LazyFeatures(f"{self.key} {rows.start}:{rows.stop}", lambda: self.rows[rows], self.memory)
        return self.rows[rows]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.rows, dtype=dtype)


@dataclass
class Patches:
    """Features of patches with their provenance. The patches of a sample are consecutive rows.

    Parameters
    ----------
    features : ndarray of shape (n_patches, n_features) or LazyFeatures
    provenance : dict of str to ndarray of shape (n_patches,)
        Origin of each row, as in :class:`MemoryBank`.
    starts : ndarray of shape (n_samples + 1,)
        First row of each sample. Sample i has the rows ``starts[i]:starts[i + 1]``.
    rings : ndarray of shape (n_patches,)
        Number of patches between each patch and the border of its image. If the image has a region of interest, the
        border of the region counts instead.
    grids : list of PatchGrid, default=None
        Grid of the patches of each image. None if the images have no regions of interest. All grids are then complete.
    """

    features: np.ndarray
    provenance: dict
    starts: np.ndarray
    rings: np.ndarray
    grids: list = None

    def __len__(self):
        return len(self.rings)

    @property
    def groups(self):
        return self.provenance["group"]

    @property
    def slices(self):
        """Rows of each sample, as a list of slices."""
        return [slice(start, stop) for start, stop in zip(self.starts[:-1], self.starts[1:])]

    def grid(self, index):
        """Return the PatchGrid of an image. All rows of the image must still be present."""
        if self.grids is not None:
            return self.grids[index]
        rows = self.slices[index]
        n_rows = 1 + np.count_nonzero(np.diff(self.provenance["row"][rows]))
        return PatchGrid((n_rows, (rows.stop - rows.start) // n_rows))

    def shuffled_groups(self, seed):
        """Return the groups of the samples in an order that does not depend on the order of the samples.

        The groups are sorted by the mean of their features. Only :meth:`Shards.shuffled_groups` uses `seed`.
        """

        def compute():
            groups, numbers = np.unique(self.groups, return_inverse=True)
            sums = np.bincount(numbers, np.asarray(self.features).sum(axis=1, dtype=np.float64))
            return groups[np.argsort(sums / np.bincount(numbers), kind="stable")]

        if not isinstance(self.features, LazyFeatures):
            return compute()
        return cached(self.features.memory, "groups", fingerprint(self.features.key), compute)

    def select(self, rows, features):
        """Select rows and replace their features. The row numbers must be in ascending order."""
        provenance = {name: values[rows] for name, values in self.provenance.items()}
        return Patches(features, provenance, np.searchsorted(rows, self.starts), self.rings[rows])

    def take(self, rows):
        """Select rows, which still belong to the same samples. The row numbers must be in ascending order."""
        return self.select(rows, self.features[rows])

    def moments_of_folds(self, fold_of_group, n_folds):
        """Compute the moments of the features in each fold of groups, with :func:`moments_of` and a shift of 0."""

        def compute():
            features, folds = np.asarray(self.features), fold_of_group[self.groups]
            shift = np.zeros(features.shape[1])
            return [moments_of([features[folds == fold]], shift) for fold in range(n_folds)]

        if not isinstance(self.features, LazyFeatures):
            return compute()
        return cached(self.features.memory, "moments", fingerprint(self.features.key, fold_of_group, n_folds), compute)

    def coreset(self, size, method, seed):
        """Select rows for a memory bank.

        Parameters
        ----------
        size : int or float
            Size of the coreset, as in :class:`ExDDDetector`.
        method : {"random", "greedy"}
        seed : int

        Returns
        -------
        rows : Patches
            Selected rows.
        sample : Patches
            Patches for estimating quantiles. In this class, these are all patches.
        n_patches : int
        """
        features = self.features
        if not isinstance(features, LazyFeatures):
            return self._choose(size, method, seed), self, len(self)
        key = fingerprint(features.key, (size, method, seed))
        rows = cached(features.memory, "coreset", key, lambda: self._choose(size, method, seed))
        return rows, self, len(self)

    def _choose(self, size, method, seed):
        patches = replace(self, features=np.asarray(self.features))
        n_patches, n_chosen = len(self), coreset_size(size, len(self))
        if n_chosen == n_patches:
            return patches
        random_state = check_random_state(seed)
        if method == "random":
            return patches.take(np.sort(random_state.choice(n_patches, n_chosen, replace=False)))
        projected = coreset.project(patches.features, random_state=random_state)
        rows = coreset.greedy_k_center(projected, n_chosen, start=random_state.randint(n_patches))
        return patches.take(np.sort(rows))

    def scored(self, left_out, patch_scores, samples, extractor, blur):
        """Score normal samples as if `fit` had not seen them.

        Parameters
        ----------
        left_out : LeftOutBanks
        patch_scores : PatchScores
            Scores of all patches, as returned by ``left_out.patch_scores``.
        samples : Images or ndarray
            Normal samples.
        extractor, blur
            See :func:`pixel_map`. If the samples are feature rows, `extractor` is None.

        Returns
        -------
        scores : list of float
            Score of each sample.
        top_patches : Patches
            Patches that determine the scores now, or may determine them after a correction.
        map_maxima : list of float or None
            Highest value of the pixel map of each image. None if the samples are feature rows.
        """
        scores, top_patches = left_out.score_images(self, patch_scores)
        if extractor is None:
            return scores, top_patches, None
        shapes = self._image_shapes(samples)
        return scores, top_patches, map_maxima(self, patch_scores, samples, shapes, extractor, blur)

    def _image_shapes(self, images):
        """Return the height and width of each image. With a cache, images are read only once for all fits."""

        def compute():
            return [images.shape(i) for i in range(len(images))]

        if not isinstance(self.features, LazyFeatures):
            return compute()
        return cached(self.features.memory, "image shapes", fingerprint(self.features.key), compute)

    @classmethod
    def from_rows(cls, training_set):
        """Make patches from feature rows. Each sample is one patch."""
        provenance = {"image": training_set.indices, "group": training_set.groups}
        n_samples = len(training_set)
        zeros = np.zeros(n_samples, dtype=np.float32)
        provenance |= {"row": zeros, "column": zeros, "synthetic": np.zeros(n_samples, dtype=bool)}
        return cls(training_set.samples, provenance, np.arange(n_samples + 1), np.zeros(n_samples, dtype=np.intp))

    @classmethod
    def from_maps(cls, maps, training_set, extractor, synthetic=False):
        """Make the patches of one image after the other. Each position of a feature map is a patch.

        Parameters
        ----------
        maps : iterable of ndarray of shape (height', width', n_features)
        training_set : TrainingSet
            Images of the maps.
        extractor : BaseFeatureExtractor
            Extractor of the maps.
        synthetic : bool, default=False
            Whether an augmenter made the images.

        Yields
        ------
        patches : Patches
            Patches of one image.
        """
        for i, feature_map in enumerate(maps):
            images = training_set.samples
            grid = PatchGrid.of_map(feature_map, images, i, extractor)
            centers = extractor.patch_centers(feature_map.shape, images.shape(i))
            row, column = (axis.astype(np.float32) for axis in np.meshgrid(*centers, indexing="ij"))
            row, column = (axis.ravel() if grid.inside is None else axis[grid.inside] for axis in (row, column))
            provenance = {
                "image": np.full(len(row), training_set.indices[i]),
                "group": np.full(len(row), training_set.groups[i]),
                "row": row,
                "column": column,
                "synthetic": np.full(len(row), synthetic),
            }
            starts = np.array([0, len(row)])
            yield cls(
                grid.rows_of(feature_map), provenance, starts, grid.rings, [grid] if images.have_regions else None
            )

    @classmethod
    def concatenate(cls, parts):
        """Concatenate the samples of several parts. A part is freed once it is copied, if nothing else refers to it."""
        import torch

        parts = list(parts)
        provenance = {name: np.concatenate([part.provenance[name] for part in parts]) for name in parts[0].provenance}
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        rings = np.concatenate([part.rings for part in parts])
        # Allocate with torch, because numpy requests huge pages. Making room for them may take longer than the
        # copying.
        shape, dtype = (len(rings), parts[0].features.shape[1]), parts[0].features.dtype
        features = torch.from_numpy(np.empty(0, dtype)).new_empty(shape).numpy()
        stop = len(features)
        grids = None if parts[0].grids is None else [grid for part in parts for grid in part.grids]
        while parts:
            part = parts.pop()
            stop -= len(part)
            features[stop : stop + len(part)] = part.features
        return cls(features, provenance, np.concatenate([[0], np.cumsum(counts)]), rings, grids)


def coreset_size(size, n_patches):
    """Return the number of rows of a coreset. A `size` that is not an int is a fraction of the number of patches."""
    return min(size if isinstance(size, Integral) else int(np.ceil(size * n_patches)), n_patches)
