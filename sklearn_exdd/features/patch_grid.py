"""Grid of the patches of an image, which marks the patches in the region of interest."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from sklearn_exdd.scoring import mask_coverage


class PatchGrid(NamedTuple):
    """Grid of the patches of an image.

    Attributes
    ----------
    shape : tuple of int (height', width')
    inside : ndarray of shape (height', width'), dtype bool, or None
        True for patches whose cell has at least one pixel in the region of interest. Only these patches have features
        and scores. None if every pixel of the image is inspected.
    """

    shape: tuple
    inside: np.ndarray = None

    @classmethod
    def of_map(cls, feature_map, images, index, extractor):
        """Return the grid of the feature map of one image."""
        region = images.region(index)
        if region is None:
            return cls(feature_map.shape[:2])
        centers = extractor.patch_centers(feature_map.shape, images.shape(index))
        return cls(feature_map.shape[:2], mask_coverage(region, *centers) > 0)

    @property
    def n_patches(self):
        """Number of patches that have features."""
        return int(np.prod(self.shape) if self.inside is None else self.inside.sum())

    @property
    def rings(self):
        """Number of patches between each patch and the border of the image or of the region, as a flat array."""
        if self.inside is None:
            return border_rings(self.shape)
        distances = ndimage.distance_transform_cdt(np.pad(self.inside, 1), metric="chessboard")[1:-1, 1:-1]
        return distances[self.inside].astype(np.intp) - 1

    def rows_of(self, feature_map):
        """Return the features of the patches, as an ndarray of shape (n_patches, n_features)."""
        return feature_map.reshape(-1, feature_map.shape[2]) if self.inside is None else feature_map[self.inside]

    def place(self, patch):
        """Return the grid row and column of a patch, given its number among the patches with features."""
        position = patch if self.inside is None else np.flatnonzero(self.inside)[patch]
        return tuple(int(axis) for axis in np.unravel_index(position, self.shape))

    def spread(self, scores):
        """Return the scores of the patches as a map. Patches outside the region get the lowest score."""
        if self.inside is None:
            return scores.reshape(self.shape)
        scores_map = np.full(self.shape, scores.min(), dtype=scores.dtype)
        scores_map[self.inside] = scores
        return scores_map


def patches_of(extractor, images, maps=None):
    """Yield the features and the PatchGrid of the patches of each image, by default of the extractor's maps."""
    for i, feature_map in enumerate(extractor.iter_transform(images) if maps is None else maps):
        grid = PatchGrid.of_map(feature_map, images, i, extractor)
        yield grid.rows_of(feature_map), grid


def rows_of(extractor, images, maps=None):
    """Yield the features of the patches of each image; see :func:`patches_of`."""
    return (rows for rows, _ in patches_of(extractor, images, maps))


def border_rings(map_shape):
    """Return, as a flat array, the number of patches between each patch of a map and the border of the map."""
    rows, columns = (np.minimum(np.arange(size), np.arange(size)[::-1]) for size in map_shape[:2])
    return np.minimum(rows[:, None], columns).ravel()
