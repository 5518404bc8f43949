"""Patches: the features of some samples, one row a patch, and where each comes from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


class KnownFeatures:
    """Rows of features that are known by a key, and read only when they are looked at.

    Parameters
    ----------
    key : str
        Of all that they depend on.
    read : callable
        Without arguments, returns the ndarray of shape (n_patches, n_features).
    """

    def __init__(self, key, read):
        self.key, self._read = key, read

    @cached_property
    def rows(self):
        return self._read()

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return KnownFeatures(f"{self.key} {rows.start}:{rows.stop}", lambda: self.rows[rows])
        return self.rows[rows]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.rows, dtype=dtype)


@dataclass
class Patches:
    """Rows of patch features with their provenance, sample after sample.

    Parameters
    ----------
    features : ndarray of shape (n_patches, n_features) or KnownFeatures
    provenance : dict of str to ndarray of shape (n_patches,)
        As in :class:`MemoryBank`.
    starts : ndarray of shape (n_samples + 1,)
        Sample i has the rows ``starts[i]:starts[i + 1]``.
    rings : ndarray of shape (n_patches,)
        How many patches lie between each one and the border of its image.
    """

    features: np.ndarray
    provenance: dict
    starts: np.ndarray
    rings: np.ndarray

    def __len__(self):
        return len(self.rings)

    @property
    def groups(self):
        return self.provenance["group"]

    @property
    def slices(self):
        """The rows of each sample."""
        return [slice(start, stop) for start, stop in zip(self.starts[:-1], self.starts[1:])]

    def take(self, rows):
        """Some of the rows (ascending), with the samples they belong to."""
        provenance = {name: values[rows] for name, values in self.provenance.items()}
        return Patches(self.features[rows], provenance, np.searchsorted(rows, self.starts), self.rings[rows])

    @classmethod
    def of_rows(cls, training_set):
        """Feature rows are patches already, one a sample."""
        provenance = {"image": training_set.indices, "group": training_set.groups}
        n_samples = len(training_set)
        zeros = np.zeros(n_samples, dtype=np.float32)
        provenance |= {"row": zeros, "column": zeros, "synthetic": np.zeros(n_samples, dtype=bool)}
        return cls(training_set.samples, provenance, np.arange(n_samples + 1), np.zeros(n_samples, dtype=np.intp))

    @classmethod
    def of_maps(cls, maps, training_set, extractor, synthetic=False):
        """The positions of the feature map of each image, one image after the other.

        Parameters
        ----------
        maps : iterable of ndarray of shape (height', width', n_features)
        training_set : TrainingSet
            Whose samples are the images of the maps.
        extractor : BaseFeatureExtractor
            That made them.
        synthetic : bool, default=False

        Yields
        ------
        patches : Patches
            Of one image.
        """
        for i, feature_map in enumerate(maps):
            centers = extractor.patch_centers(feature_map.shape, training_set.samples.shape(i))
            row, column = (grid.ravel().astype(np.float32) for grid in np.meshgrid(*centers, indexing="ij"))
            provenance = {
                "image": np.full(len(row), training_set.indices[i]),
                "group": np.full(len(row), training_set.groups[i]),
                "row": row,
                "column": column,
                "synthetic": np.full(len(row), synthetic),
            }
            features = feature_map.reshape(-1, feature_map.shape[2])
            yield cls(features, provenance, np.array([0, len(row)]), border_rings(feature_map.shape))

    @classmethod
    def concatenate(cls, parts):
        """Samples of several parts, one after the other. Parts that nobody else holds are freed as they are copied."""
        import torch

        parts = list(parts)
        provenance = {name: np.concatenate([part.provenance[name] for part in parts]) for name in parts[0].provenance}
        counts = np.concatenate([np.diff(part.starts) for part in parts])
        rings = np.concatenate([part.rings for part in parts])
        # Not numpy's memory: it asks for huge pages, and to make room for these may take longer than all the copying.
        shape, dtype = (len(rings), parts[0].features.shape[1]), parts[0].features.dtype
        features = torch.from_numpy(np.empty(0, dtype)).new_empty(shape).numpy()
        stop = len(features)
        while parts:
            part = parts.pop()
            stop -= len(part)
            features[stop : stop + len(part)] = part.features
        return cls(features, provenance, np.concatenate([[0], np.cumsum(counts)]), rings)


def border_rings(map_shape):
    """How many patches lie between each one of a map and its border, as a flat array."""
    rows, columns = (np.minimum(np.arange(size), np.arange(size)[::-1]) for size in map_shape[:2])
    return np.minimum(rows[:, None], columns).ravel()
