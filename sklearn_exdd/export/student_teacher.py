"""Networks of a StudentTeacherDetector in a graph."""

import numpy as np

from sklearn_exdd.export import images, networks
from sklearn_exdd.export.tracing import traced
from sklearn_exdd.features import BaseFeatureExtractor

_FLOOR = 0.03


def max_size(detector, tiled=True):
    """Return the longest side of images for which a graph reproduces predictions, or None for any.

    Parameters
    ----------
    detector : StudentTeacherDetector
    tiled : bool, default=True
        Whether to accept images that the detector processes in tiles; False if their predictions turned out to differ.

    Returns
    -------
    max_size : int or None
        Longest side. If the teacher normalises whole images, for instance by their median, this is the side of a tile
        even if `tiled` is True: in larger images, the teacher would see tiles instead.
    """
    unit, teacher = detector.levels_[-1][1], detector.teacher_
    prepares = teacher is not None and type(teacher)._prepare is not BaseFeatureExtractor._prepare
    if tiled and (not prepares or getattr(teacher, "brightness", "log") == "linear"):
        return None
    return detector.tile_size // unit * unit


def cells(graph, detector, planes, features):
    """Return the map selected by `map_source`, at the stride of the finest level.

    Parameters
    ----------
    graph : Graph
    detector : StudentTeacherDetector
    planes : str
    features : callable
        Function called as ``features(graph, extractor, planes)``, which appends a feature extractor.

    Returns
    -------
    cells : str
        Tensor of shape (batch, height', width').
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
    """Return a function that computes cosine distances and logits.

    Its arguments are logarithms, medians and, if the teacher is a feature extractor, its maps. The factors between
    levels follow from their strides; factors computed from the sizes of maps could not be exported.
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
    """Return the distances, the logits, or the sum of both after standardisation."""
    distances = outputs[0]
    if detector.map_source == "cosine" or detector.head_weights_ is None:
        return distances
    if detector.map_source != "both":
        return outputs[1]
    scaled = []
    for cells, (mean, deviation) in zip((outputs[1], distances), detector.map_scale_):
        scaled.append(graph.Div(graph.Sub(cells, np.float32(mean)), np.float32(deviation)))
    return graph.Add(*scaled)
