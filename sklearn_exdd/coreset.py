"""Selection of the rows of a patch bank by the greedy k-centre method."""

import numbers

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.random_projection import GaussianRandomProjection
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_array

from sklearn_exdd.neighbors.bounds import centered, check_distances, products, squared_distances

_N_CANDIDATES = 1024  # number of farthest rows among which the next centres are searched
_N_BOUNDS = 2**22  # number of bounds computed at a time, small enough for the processor cache
_N_PREPARED = 2**12  # number of rows prepared at a time
_PRUNED_AFTER = 32  # number of centres after which candidates are pruned
_SHARE_MEASURED = 0.01  # largest fraction of row-centre pairs to measure instead of computing tighter bounds


def greedy_k_center(X, n_select, *, start=0):
    """Select rows so that every row is near a selected row.

    Each step selects the row that is farthest from all rows selected so far. This method is the greedy 2-approximation
    of the k-centre problem [1]_. PatchCore [2]_ uses it to select a coreset.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows to select from. They are not projected: random projection is a separate step, :func:`project`.
    n_select : int
        Number of rows to select, in [1, n_samples].
    start : int, default=0
        Index of the first selected row, in [0, n_samples).

    Returns
    -------
    indices : ndarray of shape (n_select,), dtype intp
        Row indices without repeats, in order of selection.

    Raises
    ------
    ValueError
        If `n_select` or `start` is out of range, or if `X` has values that are not finite or whose squares are too
        large for its dtype.

    Notes
    -----
    The textbook loop reads all rows once for each selected row. This function gives the same result, row for row, but
    selects rows in batches. A batch is selected in two steps:

    * The loop runs on the c rows that are farthest from the earlier centres. It uses only the distances between these
      rows, so the distances of all other rows are not updated. New centres can only reduce a distance. The stored
      distances of the other rows are therefore upper bounds, and the loop is exact as long as the farthest of the c
      rows is farther than all these bounds.
    * The distances of all rows to the new centres are then updated. One matrix product gives a lower bound on each
      distance. The product is computed in bfloat16 if the processor has bfloat16 instructions. A distance is measured
      exactly, in float64, only if its lower bound is less than the stored distance of the row.

    If distances are equal, the row with the lowest index is selected.

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

    check_distances(X, "X")
    nearest = squared_distances(X, np.arange(n_samples), X, np.full(n_samples, start), np.float64)
    nearest[start] = -np.inf  # a selected row is never selected again
    return np.append(start, farthest_first(X, nearest, n_select - 1))


def farthest_first(X, nearest, n_select):
    """Continue the greedy selection on rows whose distances to earlier centres are known.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), dtype float32 or float64
    nearest : ndarray of shape (n_samples,)
        Squared distance of each row to the nearest earlier centre; -inf if the row is itself a centre.
    n_select : int
        Number of rows to select, at most the number of rows that are not centres.

    Returns
    -------
    indices : ndarray of shape (n_select,), dtype intp
        Row indices without repeats, in order of selection.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.coreset import farthest_first
    >>> X = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> farthest_first(X, np.array([25.0, 16.0, 16.0, 25.0]), 2)  # a centre at 5
    array([0, 3])
    """
    selected, n_done = np.empty(n_select, dtype=np.intp), 0
    if n_select:
        cover = _Cover(X, nearest)
    while n_done < n_select:
        batch = cover.farthest(n_select - n_done)
        selected[n_done : n_done + len(batch)] = batch
        n_done += len(batch)
        if n_done < n_select:
            cover.add(np.array(batch))
    return selected


class _Cover:
    """Rows with the exact squared distance to their nearest centre. The distance of a centre is -inf."""

    def __init__(self, X, nearest):
        self.X, self.nearest = X, nearest.astype(np.float64)
        self._center, self._products = X.mean(axis=0), products(X)
        self._prepare()

    def _prepare(self):
        import torch

        blocks = gen_batches(len(self.X), _N_PREPARED)
        self._matrix = torch.cat([self._products[0].of_queries(self._points(rows)) for rows in blocks])

    def _points(self, rows):
        return centered(self.X[rows], self._center, self._products[0].dtype)

    def add(self, centers):
        """Add centres, and lower the distances of all rows accordingly."""
        matrix, start = self._products[0].of_rows(self._points(centers)), 0
        block = 1 + _N_BOUNDS // len(matrix)
        self.nearest[centers] = -np.inf
        while start < len(self.X):
            if self._lower(slice(start, start + block), centers, matrix):
                start += block
            else:  # computing tighter bounds is faster than measuring all pairs that these bounds leave
                self._products = self._products[1:]
                self._prepare()
                matrix = self._products[0].of_rows(self._points(centers))

    def _lower(self, rows, centers, matrix):
        """Lower the distances of some rows. Return False if the bounds leave too many row-centre pairs to measure."""
        bounds = self._matrix[rows] @ matrix.T
        n_most = max(len(bounds), _SHARE_MEASURED * bounds.numel())
        is_open = bounds.amin(dim=1) < self._limits(rows)
        bounds, rows = bounds[is_open], rows.start + np.flatnonzero(is_open.numpy())
        left, near = self._left(bounds, rows)
        if len(left) > n_most:  # measuring the distance to the probably nearest centre rules out most others
            first = bounds.argmin(dim=1).numpy()
            self._measure(rows, centers[first])
            bounds[np.arange(len(rows)), first] = np.inf
            left, near = self._left(bounds, rows)
            if len(left) > n_most and len(self._products) > 1:
                return False
        self._measure(rows[left], centers[near])
        return True

    def _left(self, bounds, rows):
        """Return the row-centre pairs whose distance may be less than the known distance of the row."""
        return (pairs.numpy() for pairs in (bounds < self._limits(rows)[:, None]).nonzero(as_tuple=True))

    def _limits(self, rows):
        """Return a limit for each row. A centre may be closer to the row only if its bound is below the limit."""
        import torch

        nearest = self.nearest[rows]
        limits = self._products[0].reach(np.where(nearest > 0, nearest, -np.inf))
        return torch.from_numpy(limits.astype(self._products[0].dtype))

    def _measure(self, rows, centers):
        np.minimum.at(self.nearest, rows, squared_distances(self.X, rows, self.X, centers, np.float64))

    def farthest(self, n_wanted):
        """Return the next centres. The greedy loop selects them among the farthest rows as long as it is exact."""
        nearest = self.nearest
        n_candidates = min(_N_CANDIDATES, len(nearest))
        order = np.argpartition(nearest, len(nearest) - n_candidates)
        candidates = np.sort(order[-n_candidates:])
        bound = nearest[order[:-n_candidates]].max(initial=-np.inf)
        values, points, batch = nearest[candidates], self.X[candidates].astype(np.float64), []
        while len(batch) < n_wanted and values.max(initial=-np.inf) > max(bound, 0):
            best = int(np.argmax(values))
            batch.append(candidates[best])
            # cdist computes distances from differences, so that equal distances stay exactly equal.
            distances = cdist(points[[best]], points, "sqeuclidean")[0]
            np.minimum(values, distances, out=values)
            values[best] = -np.inf
            if len(batch) % _PRUNED_AFTER == 0:  # drop candidates that are now too close to a centre
                is_left = values > bound
                candidates, values, points = candidates[is_left], values[is_left], points[is_left]
        if batch:
            return batch
        tied = np.flatnonzero(nearest == nearest.max())
        return tied[:n_wanted] if nearest.max() == 0 else tied[:1]  # at 0, only duplicates are left


def project(X, n_components=128, *, random_state=None):
    """Project rows to fewer dimensions before selection.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    n_components : int, default=128
        Number of dimensions after a Gaussian random projection (128 in ExDD's release).
        Rows with no more dimensions than this are returned unchanged.
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
