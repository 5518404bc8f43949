"""Lower bounds on squared distances, from one matrix product in float64, float32 or bfloat16."""

import numpy as np

from sklearn_exdd._torch import resolve_precision

# Number of rows in a set. The search skips or examines whole sets, so matrices of rows are padded to whole sets.
SET_SIZE = 8
_N_DIFFERENCES = 2**18  # number of differences computed at a time, chosen to fit into the processor cache


def products(points):
    """Return the classes that can compute lower bounds for the points. The fastest class comes first.

    Classes are left out if this processor is slow at them, or if their dtype cannot represent the squared distances.
    Faster classes give looser bounds.
    """
    import torch

    rounded = resolve_precision("auto", torch.device("cpu"))
    kinds = [BFloat16Product, Float32Product, Float64Product][0 if rounded else 1 :]
    return [kind for kind in kinds if kind is Float64Product or _largest(points) <= _limit(kind.dtype, points)]


def check_distances(points, name):
    """Refuse points whose squared distances exceed the range of their dtype."""
    largest, limit = _largest(points), _limit(points.dtype, points)
    if largest > limit:
        raise ValueError(
            f"{name}: expected numbers of at most {limit:.1e} (their squared distances fit into {points.dtype}), got "
            f"{largest:.1e}. Scale the features."
        )


def _largest(points):
    return max(points.max(), -points.min())


def _limit(dtype, points):
    return np.sqrt(np.finfo(dtype).max / (8 * points.shape[1]))


def centered(points, center, dtype):
    """Subtract a centre from points without losing precision. Centred points have smaller norms and tighter bounds."""
    return (points.astype(np.result_type(points, dtype), copy=False) - center).astype(dtype, copy=False)


def rounding(dtype, n_terms):
    """Return the largest error of a sum of `n_terms` terms, relative to the sum of their absolute values."""
    return (8 + n_terms) * np.finfo(dtype).eps


def squares(points):
    """Return the squared lengths of points."""
    return np.einsum("ij,ij->i", points, points)


def squared_distances(X, own, Y, others, dtype):
    """Return the squared distance between ``X[own[i]]`` and ``Y[others[i]]`` for each i, computed in `dtype`."""
    distances, block = np.empty(len(own), dtype=dtype), 1 + _N_DIFFERENCES // X.shape[1]
    for start in range(0, len(own), block):
        some = slice(start, start + block)
        distances[some] = squares(X[own[some]].astype(dtype, copy=False) - Y[others[some]])
    return distances


class Float64Product:
    """Lower bounds on the squared distances between queries and rows.

    Points are ndarrays of shape (n, n_features) in the dtype of the class. The points must be near 0; see
    :func:`centered`.
    The tensor of the bounds is ``of_queries(queries) @ of_rows(rows).T``.
    """

    dtype = np.float64
    farthest = np.inf  # upper limit of the numbers that `comparable` returns

    @classmethod
    def of_queries(cls, points):
        """Return the matrix of the queries, a tensor of shape (n, n_columns)."""
        return cls._tensor(points, cls._shortened(points), np.ones((len(points), 1)))

    @classmethod
    def of_rows(cls, points):
        """Return the matrix of the rows, a tensor with n_columns columns.

        The matrix is padded to a multiple of SET_SIZE rows. The padding rows are farther away than any real row.
        """
        columns = -2 * points, np.ones((len(points), 1)), cls._shortened(points)
        return _filled(cls._tensor(*columns), points.shape[1] + 1)

    @staticmethod
    def reach(limits):
        """Return the largest possible lower bound for each limit on the squared distance.

        If the squared distance of two points does not exceed the limit, their lower bound does not exceed the result.
        """
        return limits

    @classmethod
    def comparable(cls, numbers):
        """Convert a tensor of bounds or limits to an ndarray of numbers that can be compared quickly.

        A smaller bound becomes a smaller number, except among negative bounds.
        """
        import torch

        return numbers.to(getattr(torch, np.dtype(cls.dtype).name)).numpy()

    @classmethod
    def _tensor(cls, *columns):
        import torch

        return torch.from_numpy(np.concatenate(columns, axis=1, dtype=cls.dtype, casting="same_kind"))

    @classmethod
    def _shortened(cls, points):
        """Return the squared lengths of points as a column. Each is reduced by the largest possible rounding error."""
        return ((1 - rounding(cls.dtype, points.shape[1])) * squares(points).astype(np.float64))[:, None]


class Float32Product(Float64Product):
    """Lower bounds computed in float32."""

    dtype = np.float32


class BFloat16Product(Float32Product):
    """Lower bounds computed in bfloat16. The bounds allow for the rounding of the points to bfloat16.

    Notes
    -----
    By the Cauchy-Schwarz inequality, ``q·r`` is at most ``q^·r^ + |q - q^| |r| + |q^| |r - r^|``, where ``q^`` and
    ``r^`` are the rounded points. Each of the last two terms needs one additional column in the matrices. Each squared
    length needs two columns, because one bfloat16 number does not have enough digits. Sums are accumulated in float32
    and rounded once at the end.
    """

    farthest = np.iinfo(np.int16).max

    @classmethod
    def of_queries(cls, points):
        import torch

        rounded, errors = _rounded(points)
        lengths = np.sqrt(squares(rounded.float().numpy()))
        one = torch.ones(len(points), 1, dtype=torch.bfloat16)
        columns = [rounded, *cls._digits(points), one, one, _rounded_up(errors), _rounded_up(lengths)]
        return torch.cat(columns, dim=1)

    @classmethod
    def of_rows(cls, points):
        import torch

        rounded, errors = _rounded(points)
        lengths = np.sqrt(squares(points))
        one = torch.ones(len(points), 1, dtype=torch.bfloat16)
        columns = [one, one, *cls._digits(points), -2 * _rounded_up(lengths), -2 * _rounded_up(errors)]
        return _filled(torch.cat([-2 * rounded, *columns], dim=1), points.shape[1] + 2)

    @classmethod
    def _digits(cls, points):
        """Split squared lengths into leading digits and a remainder, whose sum is at most the exact squared length."""
        import torch

        exact = torch.from_numpy(cls._shortened(points))
        leading = exact.bfloat16()
        rest = exact - leading.double()
        return leading, (rest - 2.0**-7 * rest.abs()).bfloat16()

    @staticmethod
    def reach(limits):
        return (1 + 2.0**-7) * limits

    @staticmethod
    def comparable(numbers):
        import torch

        # Integers are compared much faster than floats. If the bits of two floats are read as integers, the integers
        # have the same order as the floats, unless both floats are negative.
        return numbers.bfloat16().view(torch.int16).numpy()


def _rounded(points):
    """Return points in bfloat16, and the lengths of their rounding errors."""
    import torch

    rounded = torch.from_numpy(points).bfloat16()
    return rounded, np.sqrt(squares(rounded.float().numpy() - points))


def _rounded_up(lengths):
    import torch

    return torch.from_numpy(lengths * (1 + 2.0**-7))[:, None].bfloat16()


def _filled(matrix, column):
    """Pad a matrix to a multiple of SET_SIZE rows.

    The matrix holds squared lengths in the given column. In the padding rows, this column contains a number that is
    larger than any real squared distance.
    """
    import torch

    n_points = len(matrix)
    filled = matrix.new_zeros(-(-n_points // SET_SIZE) * SET_SIZE, matrix.shape[1])
    filled[:n_points] = matrix
    filled[n_points:, column] = torch.finfo(matrix.dtype).max / 2
    return filled
