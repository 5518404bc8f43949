"""Features of a GaborFeatureExtractor in a graph."""

import numpy as np

from sklearn_exdd.export import images
from sklearn_exdd.features import gabor


def features(graph, extractor, planes):
    """Return the feature maps, of shape (batch, n_features, height', width')."""
    planes = images.contrasts(graph, planes, extractor.n_channels_, gabor._LOG_OFFSET)
    # The mean of many pixels would lose digits in float32.
    planes = graph.Sub(planes, graph.float(graph.ReduceMean(graph.double(planes), [2, 3])))
    planes, _ = images.mirrored(graph, planes, extractor.stride)
    parts = [*_moments(graph, planes, extractor.stride, gabor._CELL, gabor._WIDE)]
    level_image = graph.Slice(planes, [0], [1], [1])
    filters = gabor._filters(extractor.n_orientations).numpy()
    for level in range(extractor.n_levels):
        if level:
            level_image = _means(graph, level_image, 2)
        padded = graph.Pad(level_image, [0, 0, *[gabor._RADIUS] * 2] * 2, mode="reflect")
        responses = graph.Conv(padded, np.ascontiguousarray(filters))
        shape = graph.vector(0, 2, extractor.n_orientations, *images.shape_of(graph, level_image))
        modulus = graph.ReduceL2(graph.Reshape(responses, shape), [1], keepdims=0)  # of the even and the odd response
        parts += _moments(graph, modulus, extractor.stride >> level, gabor._NARROW)
    if extractor.response == "log":
        of_image = {0, 2}  # means of the image itself
        parts = [
            part if i in of_image else images.logarithms(graph, part, gabor._RESPONSE_OFFSET)
            for i, part in enumerate(parts)
        ]
    return graph.Concat(*parts, axis=1)


def _moments(graph, planes, block, *windows):
    """Return mean and standard deviation around each cell of the grid, for one window after the other."""
    mean = _means(graph, planes, block)
    variance = None
    if block > 1:
        scales = np.array([1, 1, block, block], dtype=np.float32)
        options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        deviations = graph.Sub(planes, graph.Resize(mean, None, scales, **options))
        variance = _means(graph, graph.Mul(deviations, deviations), block)
    moments = []
    for window in windows:
        own_mean, own_variance = mean, variance
        if len(window) > 1:
            for axis in (3, 2):
                own_mean, own_variance = _spread(graph, own_mean, own_variance, window, axis)
        moments += [own_mean, graph.Sqrt(own_variance)]
    return moments


def _spread(graph, mean, variance, window, axis):
    """Return mean and variance over a window of cells along an axis, from the means and variances of the cells.

    The variance is the sum of that within the cells and that of their means, so no large numbers are subtracted.
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
    """Return copies of the cells shifted by up to half a window to either side, mirrored at the border."""
    radius = n_shifts // 2
    pads = [radius if one % 4 == axis else 0 for one in range(8)]
    padded = graph.Pad(cells, pads, mode="reflect")
    stops = [i - 2 * radius if i < 2 * radius else np.iinfo(np.int64).max for i in range(n_shifts)]
    return [graph.Slice(padded, [i], [stop], [axis]) for i, stop in enumerate(stops)]


def _means(graph, planes, block):
    return planes if block == 1 else graph.AveragePool(planes, kernel_shape=[block] * 2, strides=[block] * 2)
