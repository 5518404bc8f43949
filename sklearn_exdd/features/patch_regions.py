"""Selection of the patches in the region of interest of an image."""

from sklearn_exdd.scoring import mask_coverage


def patches_inside(images, index, extractor, map_shape):
    """Determine which patches of a feature map touch the region of interest of the image.

    Parameters
    ----------
    images : Images
    index : int
        Index of the image in `images`.
    extractor : BaseFeatureExtractor
        Extractor of the map.
    map_shape : tuple of int (height', width', ...)

    Returns
    -------
    inside : ndarray of shape (height', width'), bool, or None
        True for each patch whose cell has at least one pixel in the region. None if the image has no region.
    """
    region = images.region(index)
    if region is None:
        return None
    return mask_coverage(region, *extractor.patch_centers(map_shape, images.shape(index))) > 0


def rows_inside(maps, images, extractor):
    """Yield the feature map of each image, reduced to the patches in the region of interest.

    The patches in the region form a map with a single row. If an image has no region, its map is yielded unchanged.

    Parameters
    ----------
    maps : iterable of ndarray of shape (height', width', n_features)
    images : Images
        Images of the maps.
    extractor : BaseFeatureExtractor

    Yields
    ------
    feature_map : ndarray of shape (height', width', n_features) or (1, n_patches, n_features)
    """
    for index, feature_map in enumerate(maps):
        inside = patches_inside(images, index, extractor, feature_map.shape)
        yield feature_map if inside is None else feature_map[inside][None]
