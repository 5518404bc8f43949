"""Exact nearest rows: cheap bounds of all distances first, then the distances of the few that may be nearest."""

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

_N_BOUNDS = 2**22  # that each thread computes at a time: they stay in the cache
_N_PROBES = 64
_N_OUTRIGHT = 8  # queries that are measured against all rows: to prepare a view takes as long
# Sets that may hold a neighbour of a query, and rows: where there are more the next view takes less time.
_N_LEFT = _N_MEASURED = 256
_N_SETS = 32  # up to which all rows are looked at instead

# A cheap view of the rows takes preparation: it has to save a long product, often.
_MIN_ROWS, _MIN_FEATURES = 1024, 256
_MAX_DIRECTIONS = 64


class ExactSearch:
    """Nearest rows of a matrix by brute force.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), float32 or float64
    groups : ndarray of shape (n_rows,), int
        Rows of one group can be left out together.

    Notes
    -----
    A *view* of the rows gives, by a matrix product, for each pair of query and row a number that their squared distance
    is not below. The rows with the least bounds are measured exactly, from differences, and then those whose bounds do
    not exceed the farthest of these: none can be missing. The queries for which they are too many go on to the next
    view, which is dearer and tighter. A view that fails for most of the first queries is not asked about the rest. A
    view is prepared when more than a few queries have come to it.

    The first view is of few dimensions: the coordinates in the directions in which rows differ most from those next to
    them, and the length of what is left (no two points are farther apart there than they are, by the triangle
    inequality). The others are of all dimensions: in bfloat16 where the processor has the instructions, as then is the
    first, in float32 and in float64.
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
        """Nearest rows of each query.

        Parameters
        ----------
        X : ndarray of shape (n_queries, n_features), of the dtype of the rows
        n_neighbors : int
            At most the number of rows that are not left out.
        exclude : ndarray of shape (n_queries,), default=None
            For each query the group whose rows are left out.

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
                continue  # of so few the tighter product takes no longer
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
        """Nearest rows of each query, and of which queries they are sure."""
        import torch

        points = view.points(X)
        bounds = view.product.comparable(view.bounds(points))
        self._leave_out(exclude, bounds, view.product.farthest)
        # The least bounds are in the sets with the least members.
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
        """Distances to the nearest candidates, without cancellation; ties go to the lowest row.

        Parameters
        ----------
        X : ndarray of shape (n_queries, n_features)
        candidates : ndarray of shape (n_queries, n_candidates), int
        possible : ndarray of shape (n_queries, n_candidates), bool
            False where a candidate is none; its distance is infinite.
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
    """Places of the least numbers of each row, in any order."""
    if n_least == 1:
        return values.argmin(axis=1)[:, None]
    return np.argpartition(values, n_least - 1, axis=1)[:, :n_least]


def _first(distances, rows, n_neighbors):
    """The least distances of each query, ascending, and their rows; ties go to the lowest row."""
    order = np.lexsort((rows, distances))[:, :n_neighbors]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _merged(distances, rows, queries, more_distances, more_rows):
    """The same of as many a query, with pairs of query and row that have come to them."""
    n_queries, n_neighbors = distances.shape
    queries = np.append(np.repeat(np.arange(n_queries), n_neighbors), queries)
    distances, rows = np.append(distances, more_distances), np.append(rows, more_rows)
    order = np.lexsort((rows, distances, queries))
    starts = np.searchsorted(queries[order], np.arange(n_queries))
    nearest = order[starts[:, None] + np.arange(n_neighbors)]
    return distances[nearest], rows[nearest]


class _View:
    """Rows as they are or reduced, for a product."""

    def __init__(self, rows, center, reduction, product):
        self.product, self._center = product, center
        self._reduction = reduction and reduction(rows, center)
        points = self.points(rows)
        self._matrix = product.of_rows(points)
        if self._refines:
            self._reduced, self._lengths = points, np.sqrt(squares(points))
            self._slack = rounding(rows.dtype, rows.shape[1])  # of the coordinates

    @property
    def _refines(self):
        """Whether bounds are rounded so much that the points themselves tell more."""
        return self._reduction is not None and self.product is BFloat16Product

    def points(self, X):
        """Where rows or queries lie in the view."""
        if self._reduction is not None:
            return self._reduction.transform(X)
        return centered(X, self._center, self.product.dtype)

    def bounds(self, points):
        """A tensor (n_queries, n_rows or more)."""
        return self.product.of_queries(points) @ self._matrix.T

    def nearer(self, points, bounds, least, limits):
        """The pairs of query and row that may be no farther than the query's limit, and which queries have not too
        many; of the others there are none."""
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
    """To the directions in which near rows differ most, and the length of what is left."""

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
        for some in gen_batches(len(rows), _MIN_ROWS):  # which stay in the cache
            rest = rows[some] - self._center
            coordinates = rest @ self._basis
            # A difference of squared lengths would lose the digits of a short rest.
            rest -= coordinates @ self._basis.T
            points[some, :-1], points[some, -1] = coordinates, np.sqrt(squares(rest))
        return points
