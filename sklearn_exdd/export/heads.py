"""Last steps of a prediction, computed in a graph: pixel maps, means of the highest pixels, p-values and masks.

The functions append nodes to a graph. They return the names of the values that these nodes compute.
"""

import numpy as np

from sklearn_exdd.export import images

_TRUNCATE = 4.0  # standard deviations at which scipy's gaussian_filter ends


def pixel_maps(graph, patch_maps, centers, shape, blur=0.0):
    """Interpolate maps bilinearly from the grid of patches to the pixels of the image, and blur the maps.

    Parameters
    ----------
    graph : Graph
    patch_maps : str
        Tensor of shape (batch, height', width').
    centers : callable
        Function that converts pixels to positions on the grid of patches. It is called as ``centers(pixels, axis)``,
        with a float64 vector of pixels.
    shape : tuple of str (height, width)
        Size of the image.
    blur : float, default=0.0
        Standard deviation of the Gaussian blur, in pixels.

    Returns
    -------
    maps : str
        Tensor of shape (batch, height, width).

    Notes
    -----
    Interpolation and blur are linear and separable. The blur is therefore applied to the interpolation matrices instead
    of the maps.
    """
    matrices = []
    for axis, size in enumerate(shape):
        n_patches = graph.size(patch_maps, axis + 1)
        if not blur:
            matrices.append(images.interpolation(graph, centers(graph.arange(size), axis), n_patches))
            continue
        weights = _gaussian(blur)
        pixels = _reflected(graph, size, len(weights) // 2)
        matrix = images.interpolation(graph, centers(graph.double(pixels), axis), n_patches)
        blurred = graph.Conv(graph.Unsqueeze(matrix, [0, 1]), weights.reshape(1, 1, -1, 1))
        matrices.append(graph.Squeeze(blurred, [0, 1]))
    return images.between(graph, matrices[0], patch_maps, matrices[1])


def _gaussian(sigma):
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def _reflected(graph, size, radius):
    """Return the pixels from -radius to size + radius - 1. Pixels outside the image are mirrored into it.

    The pixel next to the border is repeated.
    """
    around = graph.Mod(graph.Range(-radius, graph.Add(size, radius), 1), graph.Mul(size, 2))
    return graph.Min(around, graph.Sub(graph.Sub(graph.Mul(size, 2), 1), around))


def top_share_means(graph, maps, share, position_map=None):
    """Return the mean of the highest pixels of each map, as :func:`scoring.top_share_mean` does."""
    if position_map is not None:
        shape = graph.size(maps, 1), graph.size(maps, 2)
        positions = graph.constant(position_map.astype(np.float32)[None, None])
        maps = graph.Sub(maps, graph.Squeeze(images.resized(graph, positions, shape), [1]))
    flat = graph.Reshape(maps, [0, -1])
    # Round as Python does, in float64 and half to even.
    n_pixels = graph.Round(graph.Mul(graph.double(graph.size(flat, 1)), np.float64(share)))
    highest, _ = graph.TopK(flat, graph.vector(graph.Max(graph.integer(n_pixels), 1)), sorted=0, n_outputs=2)
    return graph.ReduceMean(highest, [1], keepdims=0)


def p_values(graph, scores, calibration_scores, groups):
    """Return conformal p-values, as :func:`scoring.conformal_p_values` does."""
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    as_high = graph.GreaterOrEqual(calibration_scores.astype(np.float32), graph.Unsqueeze(scores, [1]))
    shares = graph.Mul(graph.float(as_high), (1 / sizes[numbers]).astype(np.float32))
    total = graph.ReduceSum(shares, [1], keepdims=0)
    return graph.Div(graph.Add(total, np.float32(1)), np.float32(1 + len(sizes)))


def masks(graph, is_defect, maps, threshold, region=None):
    """Return masks of the pixels above the threshold in defective images.

    If no pixel of a defective image is above the threshold, its mask marks the highest pixel.
    """
    highest = graph.ReduceMax(maps, [1, 2], keepdims=1)
    marked = graph.Or(graph.Greater(maps, np.float32(threshold)), graph.GreaterOrEqual(maps, highest))
    if region is not None:
        marked = graph.And(marked, region)
    return graph.And(marked, graph.Unsqueeze(is_defect, [1, 2]))
