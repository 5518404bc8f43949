"""Scores of images and patches of a LinearProbeDetector in a graph."""

import numpy as np


def scores(graph, detector, patches):
    """Return the scores of images, of shape (batch,), and the contributions of their patches, (batch, n_patches).

    Parameters
    ----------
    graph : Graph
    detector : LinearProbeDetector
    patches : str
        Features, of shape (batch, n_patches, n_features).
    """
    of_means, of_deviations = detector.coef_
    # A second pass over the deviations restores the digits that a float32 mean of many patches loses.
    first = graph.ReduceMean(patches, [1])
    deviations = graph.Sub(patches, first)
    correction = graph.ReduceMean(deviations, [1])
    mean = graph.Add(graph.double(first), graph.double(correction))
    deviations = graph.Sub(deviations, correction)
    squares = graph.Mul(deviations, deviations)
    spread = graph.Sqrt(graph.ReduceMean(squares, [1]))
    # Scores are small differences of large products, so they are summed in float64.
    of_image = graph.Add(graph.MatMul(mean, of_means[:, None]), np.float64(detector.intercept_))
    of_spread = graph.MatMul(graph.double(spread), of_deviations[:, None])
    image_scores = graph.Squeeze(graph.float(graph.Add(of_image, of_spread)), [1, 2])
    spread = graph.Where(graph.Greater(spread, np.float32(0)), spread, np.float32(1))
    weights = graph.Transpose(graph.Div(of_deviations.astype(np.float32), spread), perm=[0, 2, 1])
    contributions = graph.Add(graph.MatMul(deviations, of_means.astype(np.float32)[:, None]), graph.float(of_image))
    contributions = graph.Add(contributions, graph.MatMul(squares, weights))
    return image_scores, graph.Squeeze(contributions, [2])
