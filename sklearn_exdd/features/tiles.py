"""Feature maps of large images, extracted in tiles and joined without seams."""

import numpy as np


def stitched_map(extract, images, *, tile_size, stride, unit, margin, min_size):
    """Extract the feature maps of large images in overlapping tiles.

    Parameters
    ----------
    extract : callable
        Function that maps images of shape (n, height, width, channels) to feature maps of shape (n, height', width',
        n_features).
    images : ndarray of shape (n, height, width, channels)
    tile_size : int
        Size of a tile without its margin, in pixels.
    stride : int
        Number of pixels between two patches.
    unit : int
        Spacing, in pixels, of the positions at which tiles may start. It must be a multiple of the strides of all
        layers and pyramid levels.
    margin : int
        Largest distance, in pixels, between the centre of a patch and a pixel that the patch depends on.
    min_size : int
        Smallest side of the images that `extract` accepts.

    Returns
    -------
    maps : ndarray of shape (n, height', width', n_features)
        Feature maps, equal to ``extract(images)``.
    """

    def core(top, bottom, outer_top, outer_bottom, left, right, outer_left, outer_right):
        tile = extract(images[:, outer_top:outer_bottom, outer_left:outer_right])
        rows = slice((top - outer_top) // stride, -(-(bottom - outer_top) // stride))
        columns = slice((left - outer_left) // stride, -(-(right - outer_left) // stride))
        return tile[:, rows, columns]

    rows, columns = (_cuts(size, tile_size, unit, margin, min_size) for size in images.shape[1:3])
    strips = [np.concatenate([core(*row, *column) for column in columns], axis=2) for row in rows]
    return np.concatenate(strips, axis=1)


def _cuts(size, tile_size, unit, margin, min_size):
    """Cut one axis into tiles. Return (start, stop, start with margin, stop with margin) of each tile."""
    step = max(unit, tile_size // unit * unit)
    margin = -(-margin // unit) * unit
    starts = [start for start in range(0, size, step) if start == 0 or size - start >= min_size]
    stops = [*starts[1:], size]
    return [(start, stop, max(0, start - margin), min(size, stop + margin)) for start, stop in zip(starts, stops)]
