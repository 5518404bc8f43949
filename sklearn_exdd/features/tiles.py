"""Tiles: feature maps of large images, extracted piece by piece and stitched without seams."""

import numpy as np


def stitched_map(extract, images, *, tile_size, stride, unit, margin, min_size):
    """Extract the feature maps of large images in overlapping tiles.

    Parameters
    ----------
    extract : callable
        Maps images (n, height, width, channels) to feature maps (n, height', width', n_features).
    images : ndarray of shape (n, height, width, channels)
    tile_size : int
        In pixels.
    stride : int
        Pixels between two patches.
    unit : int
        Multiple of the stride at which tiles begin: of those of all layers and levels of a pyramid, too.
    margin : int
        Pixels around a patch that it depends on.
    min_size : int
        Smallest side that `extract` takes.

    Returns
    -------
    maps : ndarray of shape (n, height', width', n_features)
        Equal to ``extract(images)``.
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
    """Cut one axis: (start, stop) of each tile's core, and of the core with its margin."""
    step = max(unit, tile_size // unit * unit)
    margin = -(-margin // unit) * unit
    starts = [start for start in range(0, size, step) if start == 0 or size - start >= min_size]
    stops = [*starts[1:], size]
    return [(start, stop, max(0, start - margin), min(size, stop + margin)) for start, stop in zip(starts, stops)]
