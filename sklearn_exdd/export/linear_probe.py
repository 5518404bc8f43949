"""Scores of a LinearProbeDetector, computed in a graph."""

import numpy as np


def scores(graph, detector, patches):
    """Append the computation of scores to a graph.

    Parameters
    ----------
    graph : Graph
    detector : LinearProbeDetector
    patches : str
        Features of the patches, a tensor of shape (batch, n_patches, n_features).

    Returns
    -------
    scores : str
        Scores of the images, a tensor of shape (batch,).
    contributions : str
        Contributions of the patches to the scores, a tensor of shape (batch, n_patches).
    """
    of_means, of_deviations = detector.coef_
    # A float32 mean of many patches is not accurate. Adding the mean of the deviations corrects it.
    first = graph.ReduceMean(patches, [1])
    deviations = graph.Sub(patches, first)
    correction = graph.ReduceMean(deviations, [1])
    mean = graph.Add(graph.double(first), graph.double(correction))
    deviations = graph.Sub(deviations, correction)
    squares = graph.Mul(deviations, deviations)
    spread = graph.Sqrt(graph.ReduceMean(squares, [1]))
    # Scores are small differences of large products. They are summed in float64, because float32 would be inaccurate.
    of_image = graph.Add(graph.MatMul(mean, of_means[:, None]), np.float64(detector.intercept_))
    of_spread = graph.MatMul(graph.double(spread), of_deviations[:, None])
    image_scores = graph.Squeeze(graph.float(graph.Add(of_image, of_spread)), [1, 2])
    spread = graph.Where(graph.Greater(spread, np.float32(0)), spread, np.float32(1))
    weights = graph.Transpose(graph.Div(of_deviations.astype(np.float32), spread), perm=[0, 2, 1])
    contributions = graph.Add(graph.MatMul(deviations, of_means.astype(np.float32)[:, None]), graph.float(of_image))
    contributions = graph.Add(contributions, graph.MatMul(squares, weights))
    return image_scores, graph.Squeeze(contributions, [2])
