"""Exact search for nearest rows. It bounds all distances cheaply, then measures the few rows that may be nearest."""

import numpy as np
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_range_finder

from sklearn_exdd.neighbors.bounds import (
    SET_SIZE,
    BFloat16Product,
    Float32Product,
    Float64Product,
    centered,
    products,
    rounding,
    squared_distances,
    squares,
)

_N_BOUNDS = 2**22  # number of bounds that each thread computes at a time, which fit into the cache
_N_PROBES = 64  # number of queries on which a view is tried first
_N_OUTRIGHT = 8  # number of queries up to which measuring all rows takes no longer than preparing a view
# Maximum number of sets in which a query may still have neighbours, and maximum number of rows to measure for a query.
# If there are more, the next view is faster.
_N_LEFT = _N_MEASURED = 256
_N_SETS = 32  # number of sets up to which all rows are compared directly

# Minimum number of rows and features. With fewer, preparing a cheap view does not pay off, because it has to replace a
# long product many times.
_MIN_ROWS, _MIN_FEATURES = 1024, 256
_MAX_DIRECTIONS = 64  # maximum number of directions of a reduced view


class ExactSearch:
    """Search for the nearest rows of a matrix by brute force.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), dtype float32 or float64
    groups : ndarray of shape (n_rows,), dtype int
        Group of each row. Rows of one group can be left out together.

    Notes
    -----
    A *view* computes a lower bound on the squared distance of every query-row pair with a single matrix product. For
    each query, a search with a view has two steps:

    1. The rows with the smallest bounds are measured exactly, from differences.
    2. All rows whose bounds do not exceed the largest of these distances are measured, too. No neighbour can be missed.

    If a query has too many rows to measure in step 2, it is searched again with the next view, which is more expensive
    and tighter. If a view fails for most of the first queries, it is not used for the other queries. A view is prepared
    only if more than a few queries need it.

    The first view has few dimensions. These are the coordinates in the directions in which rows differ most from their
    nearest neighbours, and the length of the remainder. By the triangle inequality, two points are never farther apart
    in this view than in reality. The other views have all dimensions, in bfloat16, float32 and float64. Bfloat16 is
    used only if the processor has bfloat16 instructions. The first view then also uses it.
    """

    def __init__(self, rows, groups):
        self.rows, self.groups = rows, groups
        self._center = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        self._kinds = [(None, Float64Product)]
        if rows.dtype == np.float32:
            self._kinds.insert(0, (None, Float32Product))
            cheapest = products(rows)[0]
            if len(rows) >= _MIN_ROWS and cheapest is BFloat16Product:
                self._kinds.insert(0, (None, cheapest))
            if len(rows) >= _MIN_ROWS and rows.shape[1] >= _MIN_FEATURES:
                self._kinds.insert(0, (_Reduction, cheapest))
        self._views, self._n_outright = {}, 0

    def kneighbors(self, X, n_neighbors, exclude=None):
        """Find the nearest rows of each query.

        Parameters
        ----------
        X : ndarray of shape (n_queries, n_features), of the dtype of the rows
        n_neighbors : int
            Number of neighbours, at most the number of rows that are not left out.
        exclude : ndarray of shape (n_queries,), default=None
            Group of each query. The rows of this group are left out.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors)
        indices : ndarray of shape (n_queries, n_neighbors), dtype intp
        """
        import torch

        distances = np.empty((len(X), n_neighbors), dtype=self.rows.dtype)
        indices = np.empty((len(X), n_neighbors), dtype=np.intp)
        left, block = np.arange(len(X)), 1 + torch.get_num_threads() * _N_BOUNDS // len(self.rows)
        for kind in self._kinds:
            if kind == (None, BFloat16Product) and len(left) <= _N_PROBES:
                continue  # for a few queries, the tighter product takes no longer
            is_dear = len(self.rows) >= _MIN_ROWS and kind not in self._views
            if is_dear and self._n_outright + len(left) <= _N_OUTRIGHT:
                self._n_outright += len(left)
                groups = None if exclude is None else exclude[left]
                distances[left], indices[left] = self._measure_all(X[left], n_neighbors, groups)
                break
            n_done, unsure = 0, [left[:0]]
            while n_done < len(left) and 2 * sum(map(len, unsure)) <= n_done:
                some = left[n_done : n_done + (block if n_done else min(block, _N_PROBES))]
                groups = None if exclude is None else exclude[some]
                distances[some], indices[some], sure = self._search(self._view(kind), X[some], n_neighbors, groups)
                unsure.append(some[~sure])
                n_done += len(some)
            left = np.concatenate([*unsure, left[n_done:]])
        return distances, indices

    def _view(self, kind):
        if kind not in self._views:
            self._views[kind] = _View(self.rows, self._center, *kind)
        return self._views[kind]

    def _search(self, view, X, n_neighbors, exclude):
        """Return, for each query, the distances to the nearest rows, these rows, and whether they are certain."""
        import torch

        points = view.points(X)
        bounds = view.product.comparable(view.bounds(points))
        self._leave_out(exclude, bounds, view.product.farthest)
        # The smallest bounds are in the sets with the smallest minima.
        members = bounds.reshape(len(X), SET_SIZE, -1)
        least = torch.from_numpy(members).amin(dim=1).numpy()
        sets = _least(least, min(n_neighbors, least.shape[1]))
        of_sets = np.take_along_axis(members, sets[:, None], axis=2).reshape(len(X), -1)
        which, of_set = np.divmod(_least(of_sets, n_neighbors), sets.shape[1])
        rows = which * least.shape[1] + np.take_along_axis(sets, of_set, axis=1)
        distances = self._measure(X, np.repeat(np.arange(len(X)), n_neighbors), rows.ravel()).reshape(rows.shape)
        bounds[np.arange(len(X))[:, None], rows] = view.product.farthest
        queries, others, sure = view.nearer(points, bounds, least, distances.max(axis=1))
        distances, rows = _first(distances, rows, n_neighbors)
        if len(queries):
            own, at = np.unique(queries, return_inverse=True)
            distances[own], rows[own] = _merged(
                distances[own], rows[own], at, self._measure(X, queries, others), others
            )
        return distances, rows, sure

    def _leave_out(self, exclude, bounds, farthest):
        for group in [] if exclude is None else np.unique(exclude):
            bounds[np.ix_(exclude == group, np.flatnonzero(self.groups == group))] = farthest

    def _measure_all(self, X, n_neighbors, exclude):
        shape = len(X), len(self.rows)
        possible = np.full(shape, True)
        if exclude is not None:
            possible = self.groups != exclude[:, None]
        return self.measure(X, np.broadcast_to(np.arange(shape[1]), shape), possible, n_neighbors)

    def measure(self, X, candidates, possible, n_neighbors):
        """Measure the distances to the nearest candidates without cancellation. In a tie, the lowest row is nearest.

        Parameters
        ----------
        X : ndarray of shape (n_queries, n_features)
        candidates : ndarray of shape (n_queries, n_candidates), dtype int
        possible : ndarray of shape (n_queries, n_candidates), dtype bool
            Whether each candidate may be a neighbour. If False, its distance is infinite.
        n_neighbors : int

        Returns
        -------
        distances, indices : ndarray of shape (n_queries, n_neighbors)
        """
        distances = np.full(candidates.shape, np.inf, dtype=self.rows.dtype)
        distances[possible] = self._measure(X, np.nonzero(possible)[0], candidates[possible])
        return _first(distances, candidates, n_neighbors)

    def _measure(self, X, queries, rows):
        return np.sqrt(squared_distances(X, queries, self.rows, rows, self.rows.dtype))


def _least(values, n_least):
    """Return the positions of the smallest values of each row, in any order."""
    if n_least == 1:
        return values.argmin(axis=1)[:, None]
    return np.argpartition(values, n_least - 1, axis=1)[:, :n_least]


def _first(distances, rows, n_neighbors):
    """Return the smallest distances of each query in ascending order, and their rows. Ties go to the lower row."""
    order = np.lexsort((rows, distances))[:, :n_neighbors]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _merged(distances, rows, queries, more_distances, more_rows):
    """Merge more query-row pairs into the neighbours of queries. Return the nearest rows in the order of `_first`."""
    n_queries, n_neighbors = distances.shape
    queries = np.append(np.repeat(np.arange(n_queries), n_neighbors), queries)
    distances, rows = np.append(distances, more_distances), np.append(rows, more_rows)
    order = np.lexsort((rows, distances, queries))
    starts = np.searchsorted(queries[order], np.arange(n_queries))
    nearest = order[starts[:, None] + np.arange(n_neighbors)]
    return distances[nearest], rows[nearest]


class _View:
    """Rows that are prepared for a product, with all or with fewer dimensions."""

    def __init__(self, rows, center, reduction, product):
        self.product, self._center = product, center
        self._reduction = reduction and reduction(rows, center)
        points = self.points(rows)
        self._matrix = product.of_rows(points)
        if self._refines:
            self._reduced, self._lengths = points, np.sqrt(squares(points))
            self._slack = rounding(rows.dtype, rows.shape[1])  # rounding error of the coordinates

    @property
    def _refines(self):
        """Whether distances between the reduced points are tighter than the bounds."""
        return self._reduction is not None and self.product is BFloat16Product

    def points(self, X):
        """Return the coordinates of rows or queries in the view."""
        if self._reduction is not None:
            return self._reduction.transform(X)
        return centered(X, self._center, self.product.dtype)

    def bounds(self, points):
        """Return lower bounds, a tensor with a row for each query and a column for each row, including padding rows."""
        return self.product.of_queries(points) @ self._matrix.T

    def nearer(self, points, bounds, least, limits):
        """Return the query-row pairs that may lie within the limits, and whether each query has few such pairs.

        A query with too many pairs has no pairs in the result.
        """
        import torch

        reach = self.product.comparable(torch.from_numpy(self.product.reach(limits.astype(np.float64) ** 2)))[:, None]
        final, n_sets = self.product is Float64Product, least.shape[1]
        if n_sets <= _N_SETS:
            few = np.ones(len(points), dtype=bool)
            queries, rows = np.divmod(np.flatnonzero(bounds <= reach), bounds.shape[1])
        else:
            is_left = least <= reach
            few = np.count_nonzero(is_left, axis=1) <= (n_sets if final else min(_N_LEFT, n_sets // 4))
            queries, sets = np.divmod(np.flatnonzero(is_left & few[:, None]), n_sets)
            rows = sets[:, None] + n_sets * np.arange(SET_SIZE)
            is_near = bounds.take(queries[:, None] * bounds.shape[1] + rows) <= reach[queries]
            queries, rows = np.broadcast_to(queries[:, None], rows.shape)[is_near], rows[is_near]
        if self._refines:
            lengths = np.sqrt(squares(points))[queries] + self._lengths[rows]
            distances = np.sqrt(squared_distances(points, queries, self._reduced, rows, points.dtype))
            is_near = distances <= limits[queries] + self._slack * lengths
            queries, rows = queries[is_near], rows[is_near]
        few = few & (final | (np.bincount(queries, minlength=len(points)) <= _N_MEASURED))
        return queries[few[queries]], rows[few[queries]], few


class _Reduction:
    """Projection onto the directions in which neighbouring rows differ most, and the length of the remainder."""

    def __init__(self, rows, center):
        self._center = center
        sample = rows[:: -(-len(rows) // _MIN_ROWS)] - center
        distances = squares(sample) - 2 * sample @ sample.T
        np.fill_diagonal(distances, np.inf)
        differences = sample - sample[distances.argmin(axis=1)]
        n_directions = min(_MAX_DIRECTIONS, rows.shape[1] // 3)
        self._basis = randomized_range_finder(
            differences.T, size=n_directions, n_iter=1, power_iteration_normalizer="QR", random_state=0
        )

    def transform(self, rows):
        points = np.empty((len(rows), self._basis.shape[1] + 1), dtype=rows.dtype)
        for some in gen_batches(len(rows), _MIN_ROWS):  # batches that fit into the cache
            rest = rows[some] - self._center
            coordinates = rest @ self._basis
            # Subtract vectors, because a difference of squared lengths would lose the digits of a short remainder.
            rest -= coordinates @ self._basis.T
            points[some, :-1], points[some, -1] = coordinates, np.sqrt(squares(rest))
        return points
