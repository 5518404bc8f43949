"""Maps of pixels from the scores of patches."""

import numpy as np

from sklearn_exdd import scoring


def pixel_map(patch_scores, map_shape, image_shape, extractor, blur):
    """Return the scores of the pixels of an image.

    Parameters
    ----------
    patch_scores : ndarray of shape (n_patches,)
    map_shape : tuple of int (height', width', ...)
    image_shape : tuple of int (height, width)
    extractor : BaseFeatureExtractor
        Says where the patches lie.
    blur : float
        See :class:`ExDDDetector`.

    Returns
    -------
    pixel_map : ndarray of shape (height, width)
    """
    centers = extractor.patch_centers(map_shape, image_shape)
    return scoring.upsample(patch_scores.reshape(map_shape[:2]), *centers, image_shape, blur)


def map_maxima(patches, patch_scores, image_shapes, extractor, blur):
    """Return the highest pixel of the map of each image.

    Parameters
    ----------
    patches : Patches
        All patches of some images.
    patch_scores : PatchScores
        Scores of these patches.
    image_shapes : list of tuple of int (height, width)
    extractor, blur
        As in :func:`pixel_map`.

    Returns
    -------
    maxima : list of float
    """
    maxima = []
    for rows, image_shape in zip(patches.slices, image_shapes):
        n_rows = 1 + np.count_nonzero(np.diff(patches.provenance["row"][rows]))
        map_shape = n_rows, (rows.stop - rows.start) // n_rows
        pixels = pixel_map(patch_scores.scores[rows], map_shape, image_shape, extractor, blur)
        maxima.append(float(pixels.max()))
    return maxima
