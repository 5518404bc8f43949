"""Greedy k-centre: the rows of a patch bank that are kept."""

import numbers

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.random_projection import GaussianRandomProjection
from sklearn.utils.validation import check_array

_N_CANDIDATES = 1024


def greedy_k_center(X, n_select, *, start=0):
    """Select rows so that every row has a selected one near it.

    The next row is always the one farthest from those selected so far (the greedy
    2-approximation of the k-centre problem [1]_, the coreset of PatchCore [2]_).

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, used as given: a random projection is a step of its own
        (:func:`project`).
    n_select : int
        Number of rows to select, in [1, n_samples].
    start : int, default=0
        Index of the first selected row, in [0, n_samples).

    Returns
    -------
    indices : ndarray of shape (n_select,), dtype intp
        Row indices without repeats, in the order chosen.

    Raises
    ------
    ValueError
        If `n_select` or `start` is out of range, or `X` is not finite.

    Notes
    -----
    The textbook loop reads all rows once for each selected one. A minimum distance
    that has not yet seen the newest centres is an upper bound of the true one, so as
    long as the best of the c farthest rows stays above the (stale) value of the best
    row outside them, the loop can run among those c alone, on their pairwise
    distances; then all rows are updated against the whole batch of new centres by one
    matrix product. The selection is the textbook one, row for row; where distances
    tie, the lowest index wins.

    References
    ----------
    .. [1] T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance",
       Theoretical Computer Science 38, 1985.
    .. [2] K. Roth et al., "Towards total recall in industrial anomaly detection",
       CVPR 2022, Algorithm 1.

    Examples
    --------
    >>> from sklearn_exdd.coreset import greedy_k_center
    >>> greedy_k_center([[0.0], [1.0], [9.0], [10.0]], 3)
    array([0, 3, 1])
    """
    X = check_array(X, dtype=[np.float32, np.float64])
    n_samples = X.shape[0]
    for name, value, low, high in [("n_select", n_select, 1, n_samples), ("start", start, 0, n_samples - 1)]:
        if not isinstance(value, numbers.Integral) or not low <= value <= high:
            raise ValueError(f"{name}: expected an integer in [{low}, {high}] for {n_samples} rows, got {value!r}.")

    selected = np.empty(n_select, dtype=np.intp)
    selected[0] = start
    n_done, n_seen = 1, 0
    centered, norms, nearest, owner, tolerance = _start(X)
    while True:
        _update(centered, norms, nearest, owner, selected[n_seen:n_done])
        n_seen = n_done
        if n_done == n_select:
            return selected
        if nearest.max() < 1e3 * tolerance and centered.dtype == np.float32:  # its digits run out: on in float64
            centered, norms, nearest, owner, tolerance = _start(X.astype(np.float64))
            n_seen = 0
            continue
        batch = _select_among_farthest(X, nearest, owner, tolerance, n_select - n_done)
        selected[n_done : n_done + len(batch)] = batch
        n_done += len(batch)


def _start(X):
    centered = X - X.mean(axis=0)  # smaller norms lose fewer digits in |x|² + |c|² - 2xc
    norms = np.einsum("ij,ij->i", centered, centered)
    tolerance = 64 * np.finfo(X.dtype).eps * norms.max()  # of the matrix product
    return centered, norms, np.full(len(X), np.inf, dtype=X.dtype), np.zeros(len(X), dtype=np.intp), tolerance


def _update(X, norms, nearest, owner, centers):
    """Lower the squared distance of all rows to the nearest centre, in place."""
    block = 1 + 2**21 // len(centers)
    points, squares = -2 * X[centers], norms[centers]
    for start in range(0, len(X), block):
        rows = slice(start, start + block)
        products = X[rows] @ points.T
        products += squares
        closest = products.argmin(axis=1)
        lowest = np.take_along_axis(products, closest[:, None], axis=1)[:, 0] + norms[rows]
        np.maximum(lowest, 0, out=lowest)
        closer = lowest < nearest[rows]
        nearest[rows][closer] = lowest[closer]
        owner[rows][closer] = centers[closest[closer]]
    nearest[centers] = -np.inf  # never twice, however close the rest is


def _select_among_farthest(X, nearest, owner, tolerance, n_wanted):
    """Run the greedy loop among the farthest rows for as long as it is exact."""
    n_candidates = min(_N_CANDIDATES, len(nearest))
    order = np.argpartition(nearest, len(nearest) - n_candidates)
    candidates = np.sort(order[-n_candidates:])
    bound = nearest[order[:-n_candidates]].max(initial=-np.inf) + tolerance
    values = _exact(X, nearest, owner, candidates)
    points = X[candidates].astype(np.float64)
    batch = []
    while len(batch) < n_wanted:
        best = int(np.argmax(values))
        if values[best] <= bound or values[best] == -np.inf:
            break
        batch.append(candidates[best])
        distances = cdist(points[[best]], points, "sqeuclidean")[0]  # from differences: equal ones stay equal
        np.minimum(values, distances, out=values)
        values[best] = -np.inf
    if batch:
        return batch
    tied = np.flatnonzero(nearest >= nearest.max() - tolerance)
    values = _exact(X, nearest, owner, tied)
    if values.max() == 0:  # duplicates of what is selected are all that is left
        return tied[values == 0][:n_wanted]
    return [tied[np.argmax(values)]]


def _exact(X, nearest, owner, rows):
    """Squared distances of some rows to their nearest centre, without cancellation."""
    differences = X[rows].astype(np.float64) - X[owner[rows]]
    exact = np.einsum("ij,ij->i", differences, differences)
    return np.where(nearest[rows] == -np.inf, -np.inf, exact)


def project(X, n_components=128, *, random_state=None):
    """Project rows to fewer dimensions before the selection.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    n_components : int, default=128
        Dimensions after a Gaussian random projection (128 in ExDD's release). Rows
        that have no more dimensions than that are returned as they are.
    random_state : int, RandomState instance or None, default=None
        Seed of the projection.

    Returns
    -------
    X_projected : ndarray of shape (n_samples, min(n_components, n_features))

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.coreset import project
    >>> project(np.ones((5, 1536)), random_state=0).shape
    (5, 128)
    """
    if X.shape[1] <= n_components:
        return X
    return GaussianRandomProjection(n_components, random_state=random_state).fit_transform(X)
