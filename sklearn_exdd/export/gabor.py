"""Features of a GaborFeatureExtractor, computed in a graph.

The functions append nodes to a graph. They return the names of the values that these nodes compute.
"""

import numpy as np

from sklearn_exdd.export import images
from sklearn_exdd.features import gabor

# Number of filter orientations computed at a time. All orientations at a time would take 26 MB more for 512 x 512
# pixels. Two orientations at a time would be slower.
_ORIENTATIONS = 4


def features(graph, extractor, planes):
    """Return the feature maps as a tensor of shape (batch, n_features, height', width')."""
    planes = images.contrasts(graph, planes, extractor.n_channels_, gabor._LOG_OFFSET)
    # A mean of many pixels in float32 would not be accurate.
    planes = graph.Sub(planes, graph.float(graph.ReduceMean(graph.double(planes), [2, 3])))
    planes, _ = images.mirrored(graph, planes, extractor.stride)
    parts = _moments(graph, *_cells(graph, planes, extractor.stride), gabor._CELL, gabor._WIDE)
    level_image = graph.Slice(planes, [0], [1], [1])
    filters = gabor._filters(extractor.n_orientations).numpy()
    filters = filters.reshape(2, -1, *filters.shape[1:])  # first all even filters, then all odd filters
    for level in range(extractor.n_levels):
        if level:
            level_image = _means(graph, level_image, 2)
        padded = graph.Pad(level_image, [0, 0, *[gabor._RADIUS] * 2] * 2, mode="reflect")
        cells = []
        for pairs in np.split(filters, range(_ORIENTATIONS, filters.shape[1], _ORIENTATIONS), axis=1):
            modulus = _modulus(graph, padded, pairs, images.shape_of(graph, level_image))
            cells.append(_cells(graph, modulus, extractor.stride >> level))
        cells = [_joined(graph, own) for own in zip(*cells)]
        parts += _moments(graph, *cells, gabor._NARROW)
    if extractor.response == "log":
        of_image = {0, 2}  # positions of the means of the image itself, which are not responses
        parts = [
            part if i in of_image else images.logarithms(graph, part, gabor._RESPONSE_OFFSET)
            for i, part in enumerate(parts)
        ]
    return graph.Concat(*parts, axis=1)


def _modulus(graph, padded, pairs, shape):
    """Return the modulus of the responses to pairs of even and odd filters."""
    responses = graph.Conv(padded, np.ascontiguousarray(pairs.reshape(-1, *pairs.shape[2:])))
    responses = graph.Reshape(responses, graph.vector(0, 2, pairs.shape[1], *shape))
    return graph.ReduceL2(responses, [1], keepdims=0)


def _joined(graph, tensors):
    return None if tensors[0] is None else graph.Concat(*tensors, axis=1)


def _cells(graph, planes, block):
    """Return the mean and the variance of each cell of the grid. The variance is None if a cell is a single pixel."""
    mean = _means(graph, planes, block)
    variance = None
    if block > 1:
        scales = np.array([1, 1, block, block], dtype=np.float32)
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        deviations = graph.Sub(planes, graph.Resize(mean, None, scales, **options))
        variance = _means(graph, graph.Mul(deviations, deviations), block)
    return mean, variance


def _moments(graph, mean, variance, *windows):
    """Return the mean and the standard deviation over each window around each cell of the grid.

    The result is a list: the mean and the standard deviation of the first window, then of the next window, and so on.
    """
    moments = []
    for window in windows:
        own_mean, own_variance = mean, variance
        if len(window) > 1:
            for axis in (3, 2):
                own_mean, own_variance = _spread(graph, own_mean, own_variance, window, axis)
        moments += [own_mean, graph.Sqrt(own_variance)]
    return moments


def _spread(graph, mean, variance, window, axis):
    """Combine the means and variances of cells into the mean and variance over a window of cells along an axis.

    The variance over the window is the variance within the cells plus the variance of the means of the cells. Computed
    in this way, it is accurate, because large numbers are not subtracted.
    """
    means = _shifted(graph, mean, len(window), axis)
    center = graph.Sum(*(graph.Mul(one, np.float32(weight)) for one, weight in zip(means, window)))
    terms = []
    for i, one in enumerate(means):
        deviation = graph.Sub(one, center)
        terms.append(graph.Mul(graph.Mul(deviation, deviation), np.float32(window[i])))
    if variance is not None:
        within = _shifted(graph, variance, len(window), axis)
        terms += [graph.Mul(one, np.float32(weight)) for one, weight in zip(within, window)]
    return center, graph.Sum(*terms)


def _shifted(graph, cells, n_shifts, axis):
    """Return copies of the cells, each shifted by another distance of up to half a window to either side.

    Beyond the border, the cells are mirrored.
    """
    radius = n_shifts // 2
    pads = [radius if one % 4 == axis else 0 for one in range(8)]
    padded = graph.Pad(cells, pads, mode="reflect")
    stops = [i - 2 * radius if i < 2 * radius else np.iinfo(np.int64).max for i in range(n_shifts)]
    return [graph.Slice(padded, [i], [stop], [axis]) for i, stop in enumerate(stops)]


def _means(graph, planes, block):
    return planes if block == 1 else graph.AveragePool(planes, kernel_shape=[block] * 2, strides=[block] * 2)
