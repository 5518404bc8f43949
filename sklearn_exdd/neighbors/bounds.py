"""Lower bounds on squared distances, from one matrix product in float64, float32 or bfloat16."""

import numpy as np

from sklearn_exdd._torch import resolve_precision

SET_SIZE = 8  # number of rows in a set; the rows of a product are padded to whole sets
_N_DIFFERENCES = 2**18  # number of differences computed at a time, which fit into the cache


def products(points):
    """Return the products that are fast on this processor and can hold the distances, from cheap to tight."""
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
    """Subtract a centre from points without losing precision. Smaller norms give tighter bounds."""
    return (points.astype(np.result_type(points, dtype), copy=False) - center).astype(dtype, copy=False)


def rounding(dtype, n_terms):
    """Return the largest error of a sum of `n_terms` terms, relative to the sum of their absolute values."""
    return (8 + n_terms) * np.finfo(dtype).eps


def squares(points):
    """Return the squared lengths of points."""
    return np.einsum("ij,ij->i", points, points)


def squared_distances(X, own, Y, others, dtype):
    """Return the squared distances between ``X[own]`` and ``Y[others]``, from differences in `dtype`."""
    distances, block = np.empty(len(own), dtype=dtype), 1 + _N_DIFFERENCES // X.shape[1]
    for start in range(0, len(own), block):
        some = slice(start, start + block)
        distances[some] = squares(X[own[some]].astype(dtype, copy=False) - Y[others[some]])
    return distances


class Float64Product:
    """Lower bounds on the squared distances between queries and rows.

    Points are ndarrays of shape (n, n_features), in the dtype of the class. They must be near 0; see :func:`centered`.
    The tensor of the bounds is ``of_queries(queries) @ of_rows(rows).T``.
    """

    dtype = np.float64
    farthest = np.inf  # comparable number that no bound exceeds

    @classmethod
    def of_queries(cls, points):
        """Return the matrix of the queries, a tensor of shape (n, n_columns)."""
        return cls._tensor(points, cls._shortened(points), np.ones((len(points), 1)))

    @classmethod
    def of_rows(cls, points):
        """Return the matrix of the rows, a tensor with n_columns columns.

        It is padded to whole sets with rows that are farther away than any real row.
        """
        columns = -2 * points, np.ones((len(points), 1)), cls._shortened(points)
        return _filled(cls._tensor(*columns), points.shape[1] + 1)

    @staticmethod
    def reach(limits):
        """Return the largest bounds that squared distances up to the limits can have."""
        return limits

    @classmethod
    def comparable(cls, numbers):
        """Convert a tensor of bounds, or of limits, to an ndarray whose numbers have the same order."""
        import torch

        return numbers.to(getattr(torch, np.dtype(cls.dtype).name)).numpy()

    @classmethod
    def _tensor(cls, *columns):
        import torch

        return torch.from_numpy(np.concatenate(columns, axis=1, dtype=cls.dtype, casting="same_kind"))

    @classmethod
    def _shortened(cls, points):
        """Return a column of squared lengths, reduced by the largest possible rounding error."""
        return ((1 - rounding(cls.dtype, points.shape[1])) * squares(points).astype(np.float64))[:, None]


class Float32Product(Float64Product):
    """Lower bounds computed in float32."""

    dtype = np.float32


class BFloat16Product(Float32Product):
    """Lower bounds computed from points rounded to bfloat16, reduced by the effect of the rounding errors.

    Notes
    -----
    By the Cauchy-Schwarz inequality, ``q·r`` is at most ``q^·r^ + |q - q^| |r| + |q^| |r - r^|``, where ``q^`` and
    ``r^`` are the rounded points. Each of the last two terms takes one more column of the matrices. Squared lengths
    take two columns each, because one column does not have enough digits. Sums are accumulated in float32 and rounded
    once at the end.
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
        """Split squared lengths into leading digits and a remainder. Their sum is at most the exact value."""
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

        # Integers are compared much faster than floats. The bits of two floats, read as integers, have the order of the
        # floats unless both floats are < 0.
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

    In `column`, the padding rows have a squared norm that is larger than any real distance.
    """
    import torch

    n_points = len(matrix)
    filled = matrix.new_zeros(-(-n_points // SET_SIZE) * SET_SIZE, matrix.shape[1])
    filled[:n_points] = matrix
    filled[n_points:, column] = torch.finfo(matrix.dtype).max / 2
    return filled
