"""Scores of patches and images from memory banks, computed in a graph.

The functions append nodes to a graph. They return the names of the values that these nodes compute.
"""

from typing import NamedTuple

import numpy as np

from sklearn_exdd.banks.dual_bank import DEFECT_NEIGHBORS

# Number of rows whose distances are computed in addition to the nearest rows. Rows are ranked by a matrix product, and
# its rounding errors may put the nearest rows into a wrong order.
_SPARE = 3


class PatchScores(NamedTuple):
    """Scores of patches, with the features and distances from which they are computed.

    Attributes
    ----------
    patches : str
        Features of the patches, a tensor of shape (batch, height' * width', n_features).
    scores, normal_distances, defect_distances : str
        Scores of the patches and their distances to the two banks, tensors of shape (batch, height' * width'). Without
        a defect bank, `defect_distances` is None.
    nearest_normal, nearest_defect : str or None
        Indices of the nearest rows of the two banks. They are None if the image scores do not need them.
    shape : tuple of str (height', width')
        Shape of the grid of patches.
    region : Region or None
        Region of interest. If it is not None, only its patches have scores.
    """

    patches: str
    scores: str
    normal_distances: str
    defect_distances: str
    nearest_normal: str
    nearest_defect: str
    shape: tuple
    region: object = None


def patch_scores(graph, banks, maps, region=None):
    """Score the patches of feature maps.

    Parameters
    ----------
    graph : Graph
    banks : DualBank
        Fitted banks.
    maps : str
        Feature maps, a tensor of shape (batch, height', width', n_features).
    region : Region, default=None
        Region of interest. If it is given, only its patches are scored.

    Returns
    -------
    scores : PatchScores
    """
    if region is not None:
        maps = region.rows(graph, maps)
    shape = graph.size(maps, 1), graph.size(maps, 2)
    n_features = banks.normal.n_features
    rows = graph.Reshape(maps, graph.vector(-1, shape[1], n_features))
    n_normal = 1 if banks.n_neighbors == "auto" else banks.n_neighbors
    searched = [(banks.normal, n_normal)]
    if banks.defect is not None:
        n_defect = min(DEFECT_NEIGHBORS, len(banks.defect)) if banks.n_neighbors == "auto" else banks.n_neighbors
        searched.append((banks.defect, n_defect))
    by_rank = banks.image_score != "top_mean"

    def step(body, patches):
        results = [_nearest(body, bank, n_neighbors, patches) for bank, n_neighbors in searched]
        return [value for pair in results for value in pair[: 1 + by_rank]]

    found = graph.scan([rows], step, [1, 7][: 1 + by_rank] * len(searched))  # float32, int64
    flat = graph.vector(-1, graph.Mul(*shape))
    found = [graph.Reshape(values, flat) for values in found]
    if region is not None:
        found = [graph.Slice(values, [0], [region.n_patches], [1]) for values in found]
    distances = found[:: 1 + by_rank]
    nearest = found[1::2] if by_rank else [None] * len(searched)
    scores, defect = distances[0], (None, None)
    if banks.defect is not None:
        scores = graph.Div(scores, graph.Add(distances[1], np.float32(banks.epsilon)))
        defect = distances[1], nearest[1]
    patches = graph.Reshape(maps, graph.vector(0, graph.Mul(*shape), n_features))
    return PatchScores(patches, scores, distances[0], defect[0], nearest[0], defect[1], shape, region)


def _nearest(body, bank, n_neighbors, patches):
    """Return the mean distance of each patch to its nearest rows, and the index of its nearest row.

    A matrix product ranks the rows by their distance. The distances to the first rows are then computed again from
    differences, because small distances computed by the product are not accurate.
    """
    rows = bank.features.astype(np.float32)
    squares = np.square(rows, dtype=np.float64).sum(axis=1).astype(np.float32)
    ranks = body.Gemm(patches, rows, squares, alpha=-2.0, transB=1)
    n_ranked = min(n_neighbors + _SPARE, len(rows))
    _, ranked = body.TopK(ranks, [n_ranked], largest=0, sorted=0, n_outputs=2)
    differences = body.Sub(body.Gather(rows, ranked), body.Unsqueeze(patches, [1]))
    measured = body.Sqrt(body.ReduceSum(body.Mul(differences, differences), [2], keepdims=0))
    distances, order = body.TopK(measured, [n_neighbors], axis=1, largest=0, n_outputs=2)
    first = body.GatherElements(ranked, body.Slice(order, [0], [1], [1]), axis=1)
    return body.ReduceMean(distances, [1], keepdims=0), body.Squeeze(first, [1])


def image_scores(graph, banks, patches):
    """Compute the scores of images from the scores of their patches.

    Parameters
    ----------
    graph : Graph
    banks : DualBank
    patches : PatchScores

    Returns
    -------
    scores : str
        Tensor of shape (batch,).
    """
    if banks.image_score == "top_mean":
        return top_mean(graph, graph.Div(patches.scores, _border_factors(graph, banks, patches)), banks)
    worst = graph.ArgMax(patches.normal_distances, axis=1, keepdims=1)
    weight, distance = _weighed(
        graph, banks, banks.normal, patches.patches, patches.normal_distances, patches.nearest_normal, worst
    )
    score = graph.Mul(graph.Sub(1.0, weight), distance)
    if banks.defect is not None:
        if banks.image_score == "exdd_code":
            worst = graph.ArgMax(patches.defect_distances, axis=1, keepdims=1)
        weight, distance = _weighed(
            graph, banks, banks.defect, patches.patches, patches.defect_distances, patches.nearest_defect, worst
        )
        score = graph.Div(score, graph.Add(graph.Mul(weight, distance), np.float32(banks.epsilon)))
    return graph.Squeeze(score, [1])


def top_mean(graph, scores, banks):
    """Return the mean of the highest patch scores of each image."""
    n_patches = graph.Min(graph.size(scores, 1), banks.n_top_patches)
    highest, _ = graph.TopK(scores, graph.vector(n_patches), sorted=0, n_outputs=2)
    return graph.ReduceMean(highest, [1], keepdims=0)


def _border_factors(graph, banks, patches):
    """Return the border factors of the patches as a tensor of shape (n_patches,)."""
    profile = banks.border_profile.astype(np.float32)
    if patches.region is not None:
        return graph.constant(profile[np.minimum(patches.region.rings, banks.border_rings)])
    shape = patches.shape
    rows, columns = (graph.Min(graph.Range(0, size, 1), graph.Range(graph.Sub(size, 1), -1, -1)) for size in shape)
    rings = graph.Min(graph.Unsqueeze(rows, [1]), graph.Unsqueeze(columns, [0]), banks.border_rings)
    return graph.Gather(profile, graph.Reshape(rings, [-1]))


def _weighed(graph, banks, bank, features, distances, nearest, worst):
    """Return the neighbourhood weight and the distance of one patch per image, as tensors of shape (batch, 1).

    `worst` holds the index of this patch.
    """
    support, is_other = _support(bank, banks.n_support)
    patch = graph.GatherND(features, worst, batch_dims=1)
    row = graph.Squeeze(graph.GatherElements(nearest, worst, axis=1), [1])
    rows = bank.features.astype(np.float32)
    distance = graph.Unsqueeze(_norm(graph, graph.Sub(patch, graph.Gather(rows, row))), [1])
    around = graph.Gather(rows, graph.Gather(support, row))
    others = _norm(graph, graph.Sub(around, graph.Unsqueeze(patch, [1])))
    exponents = graph.Div(graph.Sub(others, distance), np.float32(np.sqrt(bank.n_features)))
    counted = graph.Gather(is_other.astype(np.float32), row)
    total = graph.ReduceSum(graph.Mul(graph.Exp(exponents), counted), [1])
    none = graph.Equal(graph.ReduceSum(counted, [1]), np.float32(0))
    weight = graph.Where(none, 0.5, graph.Div(1.0, total))
    return weight, graph.GatherElements(distances, worst, axis=1)


def _norm(graph, differences):
    return graph.Sqrt(graph.ReduceSum(graph.Mul(differences, differences), [-1], keepdims=0))


def _support(bank, n_support):
    """Return the indices of the rows nearest to each row of a bank, and False wherever an index is the row itself."""
    n_support = min(n_support, len(bank))
    _, support = bank.kneighbors(bank.features, n_support)
    return support.astype(np.int64), support != np.arange(len(bank))[:, None]
