"""Anomaly maps of a StudentTeacherDetector, computed in a graph by its networks."""

import numpy as np

from sklearn_exdd.export import images, networks
from sklearn_exdd.export.tracing import traced
from sklearn_exdd.features import BaseFeatureExtractor

_FLOOR = 0.03


def max_size(detector, tiled=True):
    """Return the maximum height and width of images for which a graph reproduces the predictions.

    Parameters
    ----------
    detector : StudentTeacherDetector
    tiled : bool, default=True
        Whether to accept images that the detector processes in tiles. Pass False if the predictions of the graph were
        found to differ for such images.

    Returns
    -------
    max_size : int or None
        Maximum height and width in pixels, or None for any size. If the teacher normalises its whole input, for
        instance by the median, the maximum is the side of a tile even if `tiled` is True. For larger images, the
        detector would normalise each tile, while the graph would normalise the whole image.
    """
    unit, teacher = detector.levels_[-1][1], detector.teacher_
    prepares = teacher is not None and type(teacher)._prepare is not BaseFeatureExtractor._prepare
    if tiled and (not prepares or getattr(teacher, "brightness", "log") == "linear"):
        return None
    return detector.tile_size // unit * unit


def cells(graph, detector, planes, features):
    """Append the computation of the map that the parameter `map_source` of the detector selects.

    Parameters
    ----------
    graph : Graph
    detector : StudentTeacherDetector
    planes : str
        Images, a tensor of shape (batch, channels, height, width).
    features : callable
        Function that appends a feature extractor. It is called as ``features(graph, extractor, planes)``.

    Returns
    -------
    cells : str
        Map at the stride of the finest level, a tensor of shape (batch, height', width').
    """
    strides = [stride for _, stride in detector.levels_]
    logs = images.logarithms(graph, planes, _FLOOR)
    medians = images.medians(graph, logs)
    logs, shape = images.mirrored(graph, logs, strides[-1])
    n_channels, others, seen = detector.n_channels_, [(detector.n_channels_, None)], []
    if detector.teacher_ is not None:
        brightness = graph.Sub(graph.Exp(logs), np.float32(_FLOOR))
        brightness = graph.Clip(brightness, np.float32(0), np.float32(1))
        seen = [graph.Transpose(features(graph, detector.teacher_, brightness), perm=[0, 3, 1, 2])]
        others.append(detector.levels_[0])
    network = networks.on_cpu(detector)._fitted_network()
    model = traced(_predicting(network, strides), network, n_channels, unit=strides[-1], others=others)
    outputs = graph.splice(model, [logs, medians, *seen])
    combined = _combined(graph, detector, outputs)
    sizes = graph.vector(*(graph.ceil_div(size, strides[0]) for size in shape))
    return graph.Slice(combined, [0, 0], sizes, [1, 2])


def _predicting(network, strides):
    """Return a function that computes cosine distances and logits with torch.

    The arguments of the function are the logarithms of the images and their medians. If the teacher is a feature
    extractor, its feature maps are a third argument. The factors between the sizes of levels are computed from the
    strides of the levels, because factors computed from the sizes themselves could not be exported.
    """
    import torch

    from sklearn_exdd.detectors.student_teacher.networks import cosines, enlarge, products

    factors = [stride // strides[0] for stride in strides]

    def predict(logs, medians, *seen):
        seen = list(seen) or network.teacher(logs, medians)
        rebuilt = network.student(logs, medians)
        distances = [enlarge(level[:, None], factor)[:, 0] for level, factor in zip(cosines(seen, rebuilt), factors)]
        outputs = [sum(distances[1:], distances[0])]
        if network.head is not None:
            maps = products(seen, rebuilt)
            enlarged = [enlarge(level, factor) for level, factor in zip(maps, factors)]
            outputs.append(network.head.layers(torch.cat(enlarged, dim=1))[:, 0])
        return outputs

    return predict


def _combined(graph, detector, outputs):
    """Return the map selected by `map_source`: the distances, the logits, or the sum of both after standardisation."""
    distances = outputs[0]
    if detector.map_source == "cosine" or detector.head_weights_ is None:
        return distances
    if detector.map_source != "both":
        return outputs[1]
    scaled = []
    for cells, (mean, deviation) in zip((outputs[1], distances), detector.map_scale_):
        scaled.append(graph.Div(graph.Sub(cells, np.float32(mean)), np.float32(deviation)))
    return graph.Add(*scaled)
