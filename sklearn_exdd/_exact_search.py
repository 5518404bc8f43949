"""Exact nearest rows: cheap bounds of all distances first, then the distances of the few that may be nearest."""

import numpy as np
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_range_finder

from sklearn_exdd._networks import resolve_precision

_N_BOUNDS = 2**24  # computed at a time
_N_DIFFERENCES = 2**20  # the same: they stay in the cache
_SET_SIZE = 8
_N_PROBES = 64
_N_OUTRIGHT = 8  # queries that are measured against all rows: to prepare a view takes as long

# A cheap view of the rows takes preparation: it has to save a long product, often.
_MIN_ROWS, _MIN_FEATURES = 1024, 256
_MAX_DIRECTIONS = 128


class ExactSearch:
    """Nearest rows of a matrix by brute force.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features), float32 or float64
    groups : ndarray of shape (n_rows,), int
        Rows of one group can be left out together.

    Notes
    -----
    A *view* of the rows gives, by a matrix product, for each pair of query and row a number
    that their squared distance is not below. The rows with the least bounds are measured
    exactly, from differences. Where the farthest neighbour found is nearer than the bounds
    of all other rows, none can be missing; the queries for which that fails go on to the
    next view, which is dearer and tighter. A view that fails for most of the first queries
    is not asked about the rest. A view is prepared when more than a few queries have come
    to it.

    The first view is of few dimensions: the coordinates in the directions in which rows
    differ most from those next to them, and the length of what is left (no two points are
    farther apart there than they are, by the triangle inequality). The second is of all
    dimensions in bfloat16, with the lengths of the rounding errors taken off (by Cauchy and
    Schwarz), where the processor has the instructions. Then come float32 and float64.
    """

    def __init__(self, rows, groups):
        self.rows, self.groups = rows, groups
        self._center = rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)  # smaller norms lose fewer digits
        self._kinds = [_Float64View]
        if rows.dtype == np.float32:
            self._kinds.insert(0, _Float32View)
            if rows.shape[0] >= _MIN_ROWS and rows.shape[1] >= _MIN_FEATURES:
                import torch

                rounded = resolve_precision("auto", torch.device("cpu"))
                self._kinds[:0] = [_ReducedView, _BFloat16View] if rounded else [_ReducedView]
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
        distances = np.empty((len(X), n_neighbors), dtype=self.rows.dtype)
        indices = np.empty((len(X), n_neighbors), dtype=np.intp)
        left, block = np.arange(len(X)), 1 + _N_BOUNDS // len(self.rows)
        for kind in self._kinds:
            if kind is _BFloat16View and len(left) <= _N_PROBES:
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
            self._views[kind] = kind(self.rows, self._center)
        return self._views[kind]

    def _search(self, view, X, n_neighbors, exclude):
        n_candidates = min(n_neighbors + view.n_spare, len(self.rows))
        bounds, offsets = view.bounds(X)
        self._leave_out(exclude, bounds)
        candidates, bounds = _least(bounds, n_candidates)
        bounds = np.where(candidates < len(self.rows), bounds + offsets[:, None], np.inf)
        distances, indices = self.measure(X, candidates, bounds, n_neighbors)
        sure = distances[:, -1] ** 2 <= bounds[:, -1]
        return distances, indices, sure | (view.final or n_candidates == len(self.rows))

    def _leave_out(self, exclude, bounds):
        for group in [] if exclude is None else np.unique(exclude):
            bounds[np.ix_(exclude == group, np.flatnonzero(self.groups == group))] = np.inf

    def _measure_all(self, X, n_neighbors, exclude):
        shape = len(X), len(self.rows)
        bounds = np.zeros(shape)
        self._leave_out(exclude, bounds)
        return self.measure(X, np.broadcast_to(np.arange(shape[1]), shape), bounds, n_neighbors)

    def measure(self, X, candidates, bounds, n_neighbors):
        """Distances to the nearest candidates, without cancellation; ties go to the lowest row.

        Parameters
        ----------
        X : ndarray of shape (n_queries, n_features)
        candidates : ndarray of shape (n_queries, n_candidates), int
        bounds : ndarray of shape (n_queries, n_candidates)
            Squared distances are not below; infinite where a candidate is none.
        n_neighbors : int

        Returns
        -------
        distances, indices : ndarray of shape (n_queries, n_neighbors)
        """
        distances = np.full(candidates.shape, np.inf, dtype=self.rows.dtype)
        possible = np.isfinite(bounds)
        first = np.arange(candidates.shape[1]) < n_neighbors
        self._measure_pairs(X, candidates, possible & first, distances)
        possible &= bounds <= distances[:, :n_neighbors].max(axis=1, keepdims=True) ** 2
        self._measure_pairs(X, candidates, possible & ~first, distances)
        order = np.lexsort((candidates, distances))[:, :n_neighbors]
        return np.take_along_axis(distances, order, axis=1), np.take_along_axis(candidates, order, axis=1)

    def _measure_pairs(self, X, candidates, pairs, distances):
        queries, places = np.nonzero(pairs)
        block = 1 + _N_DIFFERENCES // X.shape[1]
        for start in range(0, len(queries), block):
            some = queries[start : start + block], places[start : start + block]
            differences = self.rows[candidates[some]] - X[some[0]]
            distances[some] = np.sqrt(np.einsum("ij,ij->i", differences, differences))


def _least(bounds, n_least):
    """Columns of the least numbers of each row, ascending, and these numbers."""
    import torch

    # The least numbers are in the sets with the least members.
    sets = bounds.reshape(len(bounds), _SET_SIZE, -1)
    n_sets = sets.shape[2]
    best = torch.from_numpy(sets.min(axis=1)).topk(min(n_least, n_sets), largest=False, sorted=False).indices
    columns = (best[:, :, None] + n_sets * torch.arange(_SET_SIZE)).flatten(1)
    least = torch.from_numpy(bounds).gather(1, columns).topk(n_least, largest=False)
    return columns.gather(1, least.indices).numpy(), least.values.numpy()


def _squares(points):
    return np.einsum("ij,ij->i", points, points)


def _padded(squares, dtype):
    """Filled up to whole sets, with what no distance reaches."""
    n_padded = -(-len(squares) // _SET_SIZE) * _SET_SIZE
    # Infinity times nothing would be an invalid value.
    return np.append(squares, np.full(n_padded - len(squares), np.finfo(dtype).max / 2)).astype(dtype)


class _Float64View:
    """Squared distances less the query's squared norm, by one product; and these norms, less what rounding may add."""

    dtype, n_spare, final = np.float64, 4, True

    def __init__(self, rows, center):
        self._center = center
        points = self._points(rows)
        squares = _padded(_squares(points), self.dtype)
        self._matrix = np.zeros((len(squares), points.shape[1] + 1), dtype=self.dtype)
        self._matrix[: len(points), :-1] = -2 * points
        self._matrix[:, -1] = squares
        self._largest = squares[: len(points)].max()

    def _points(self, rows):
        return (rows - self._center).astype(self.dtype, copy=False)

    def bounds(self, queries):
        points = self._points(queries)
        squares = _squares(points)
        product = np.append(points, np.ones((len(points), 1), dtype=self.dtype), axis=1) @ self._matrix.T
        return product, squares - 16 * np.finfo(self.dtype).eps * (squares + self._largest)


class _Float32View(_Float64View):
    dtype, final = np.float32, False


class _ReducedView(_Float32View):
    """In the directions in which near rows differ most, and the length of what is left."""

    n_spare = 16

    def __init__(self, rows, center):
        sample = rows[:: -(-len(rows) // _MIN_ROWS)] - center
        squares = _squares(sample)
        distances = squares - 2 * sample @ sample.T
        np.fill_diagonal(distances, np.inf)
        differences = sample - sample[distances.argmin(axis=1)]
        n_directions = min(_MAX_DIRECTIONS, rows.shape[1] // 3)
        self._basis = randomized_range_finder(
            differences.T, size=n_directions, n_iter=1, power_iteration_normalizer="QR", random_state=0
        )
        super().__init__(rows, center)

    def _points(self, rows):
        points = np.empty((len(rows), self._basis.shape[1] + 1), dtype=rows.dtype)
        for some in gen_batches(len(rows), _MIN_ROWS):  # which stay in the cache
            rest = rows[some] - self._center
            coordinates = rest @ self._basis
            # A difference of squared lengths would lose the digits of a short rest.
            rest -= coordinates @ self._basis.T
            points[some, :-1], points[some, -1] = coordinates, np.sqrt(_squares(rest))
        return points


class _BFloat16View:
    """A product in bfloat16, of which the lengths of the rounding errors are taken off."""

    n_spare, final = 24, False

    def __init__(self, rows, center):
        import torch

        self._center = center
        rounded, lengths, errors = self._rounded(rows - center)
        # x·y is at most x^·y^ + |x - x^| |y| + |x^| |y - y^|, and the product is rounded, too.
        self._error = (errors / np.maximum(lengths, 1e-30)).max() + 2.0**-9
        self._squares = _padded(lengths**2, np.float32)
        self._largest = (lengths**2).max()
        self._matrix = torch.zeros(len(self._squares), rows.shape[1] + 1, dtype=torch.bfloat16)
        self._matrix[: len(rows), :-1] = -2 * rounded
        self._matrix[: len(rows), -1] = -2 * _rounded_up(lengths)

    @staticmethod
    def _rounded(points):
        import torch

        rounded = torch.from_numpy(points).bfloat16()
        errors = rounded.float().numpy()
        errors -= points
        return rounded, np.sqrt(_squares(points)), np.sqrt(_squares(errors))

    def bounds(self, queries):
        import torch

        rounded, lengths, errors = self._rounded(queries - self._center)
        slack = _rounded_up(1.02 * (errors + self._error * lengths))
        product = (torch.cat([rounded, slack[:, None]], dim=1) @ self._matrix.T).float().numpy()
        product += self._squares
        return product, lengths**2 - 16 * np.finfo(np.float32).eps * (lengths**2 + self._largest)


def _rounded_up(lengths):
    import torch

    return torch.from_numpy(lengths * (1 + 2.0**-7)).bfloat16()
