"""Selection of the patches that may score highest in their image; only these need an exact search."""

import numpy as np
from sklearn.utils import gen_batches

from sklearn_exdd import scoring

_STEP = 16  # every 16th row of the normal bank is used to bound the distances to all rows
MIN_ROWS = 1024  # smallest number of rows of a normal bank for which bounds pay off
_N_TOGETHER = 2048  # patches whose bounds are computed at a time
_FIRST = 4  # number of patches searched first, as a multiple of the number that make up a score


def top_scores(banks, features, grids):
    """Return the image scores of a batch, bit for bit equal to those computed from the scores of all patches.

    The distance of a patch to the nearest of some rows of a bank is an upper bound on its distance to the nearest of
    all rows. A patch whose score at this bound is below all of the highest scores found so far cannot be among them.

    Parameters
    ----------
    banks : DualBank
        Banks with ``image_score="top_mean"`` and an exact normal bank of at least MIN_ROWS rows.
    features : ndarray of shape (n_patches, n_features)
    grids : list of PatchGrid
        Grids of the images of the batch, in the order of their patches.

    Returns
    -------
    scores : list of float
        Score of each image.
    """
    rings = np.concatenate([grid.rings for grid in grids])
    stops = np.cumsum([grid.n_patches for grid in grids])
    images = [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops)]
    defect = None if banks.defect is None else banks.distances(banks.defect, features)

    def relative_scores(rows, distances):
        nearest = np.zeros(len(rows), dtype=np.intp)
        own = defect and tuple(values[rows] for values in defect)
        return banks.relative_scores(banks.scores_at((distances, nearest), own), rings[rows])

    everything = np.arange(len(features))
    bounds = relative_scores(everything, _upper_bounds(banks, features))
    bounds[np.isnan(bounds)] = np.inf  # the search reports what is wrong with such features
    is_searched = np.zeros(len(features), dtype=bool)
    for image in images:
        n_first = min(_FIRST * banks.n_top_patches, image.stop - image.start)
        is_searched[image.start + np.argpartition(-bounds[image], n_first - 1)[:n_first]] = True
    scores = np.full(len(features), -np.inf)
    is_new = is_searched
    for _ in range(2):
        rows = np.flatnonzero(is_new)
        if len(rows):
            scores[rows] = relative_scores(rows, banks.distances(banks.normal, features[rows])[0])
        lowest = np.empty(len(features))
        for image in images:
            n_top = min(banks.n_top_patches, image.stop - image.start)
            lowest[image] = np.partition(scores[image], -n_top)[-n_top]
        is_new = ~is_searched & (bounds >= lowest)
    return [scoring.top_mean(scores[image], banks.n_top_patches) for image in images]


def _upper_bounds(banks, features):
    """Return upper bounds on the mean distances to the nearest rows of the normal bank."""
    rows, n_neighbors = banks.normal.features[::_STEP], banks.n_neighbors_in(banks.normal)
    squares, factors = np.square(rows).sum(axis=1), np.ascontiguousarray(-2 * rows.T)
    # More than the largest rounding error, as a share of the squared norms.
    slack = (2 * rows.shape[1] + 16) * np.finfo(rows.dtype).eps
    bounds = np.empty(len(features))
    with np.errstate(invalid="ignore", over="ignore"):
        for some in gen_batches(len(features), _N_TOGETHER):
            products = features[some] @ factors
            products += squares
            if n_neighbors == 1:
                nearest = products.min(axis=1, keepdims=True)
            else:
                nearest = np.partition(products, n_neighbors - 1, axis=1)[:, :n_neighbors]
            norms = np.einsum("ij,ij->i", features[some], features[some])[:, None]
            nearest = np.maximum(nearest + norms, 0) + slack * (norms + squares.max())
            bounds[some] = np.sqrt(nearest).mean(axis=1) * (1 + 1e-6)
    return bounds
