"""Selection of the patches that may score highest in their image. Only these patches need an exact search."""

import numpy as np
from sklearn.utils import gen_batches

from sklearn_exdd import scoring

_STEP = 16  # step between the rows of the normal bank that give bounds on the distances to all rows
MIN_ROWS = 1024  # minimum number of rows of a normal bank at which bounds pay off
_N_TOGETHER = 2048  # number of patches whose bounds are computed at a time
_FIRST = 4  # number of patches to search first, as a multiple of n_top_patches


def top_scores(banks, features, grids):
    """Compute the image scores of a batch without an exact search for all patches.

    The scores are bit for bit equal to scores computed from all patches. The nearest row is searched first in a subset
    of the bank. The distance of a patch to this row is an upper bound on its distance to the nearest row of the whole
    bank. A patch cannot be one of the top patches if its score at this bound is below the scores of all top patches
    found so far.

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
    bounds[np.isnan(bounds)] = np.inf  # the exact search refuses such features with a message
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
    # Slack relative to the squared norms. It exceeds the largest rounding error.
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
