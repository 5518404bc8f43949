"""Pixel maps, computed from the scores of patches."""

from sklearn_exdd import scoring
from sklearn_exdd._images import highest_inside


def pixel_map(patch_scores, grid, image_shape, extractor, blur):
    """Return the scores of the pixels of an image.

    Parameters
    ----------
    patch_scores : ndarray of shape (n_patches,)
    grid : PatchGrid
    image_shape : tuple of int (height, width)
    extractor : BaseFeatureExtractor
        Extractor that made the patches, and therefore knows their positions.
    blur : float
        See :class:`ExDDDetector`.

    Returns
    -------
    pixel_map : ndarray of shape (height, width)
    """
    centers = extractor.patch_centers(grid.shape, image_shape)
    return scoring.upsample(grid.spread(patch_scores), *centers, image_shape, blur)


def map_maxima(patches, patch_scores, images, image_shapes, extractor, blur):
    """Return the highest value of the pixel map of each image, within its region of interest.

    Parameters
    ----------
    patches : Patches
        All patches of the images.
    patch_scores : PatchScores
        Scores of the patches.
    images : Images
    image_shapes : list of tuple of int (height, width)
    extractor, blur
        As in :func:`pixel_map`.

    Returns
    -------
    maxima : list of float
    """
    maxima = []
    for i, (rows, image_shape) in enumerate(zip(patches.slices, image_shapes)):
        pixels = pixel_map(patch_scores.scores[rows], patches.grid(i), image_shape, extractor, blur)
        maxima.append(highest_inside(pixels, images.region(i)))
    return maxima
