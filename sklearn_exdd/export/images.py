"""Operations on images in a graph: scaling, resizing, interpolation and medians.

The functions append nodes to a graph. They return the names of the values that these nodes compute. "Planes" are images
as a tensor of shape (batch, channels, height, width).
"""

from numbers import Integral

import numpy as np

_LEVELS = {"uint8": 255.0, "uint16": 65535.0, "float32": None}
_ROUNDING = 1e-6  # tolerance of the check that floats are in [0, 1]


def planes_of(graph, image, dtype, layout):
    """Convert the input to planes in float32, with values in [0, 1]."""
    planes = image if layout == "NCHW" else graph.Transpose(image, perm=[0, 3, 1, 2])
    if _LEVELS[dtype] is not None:
        return graph.Div(graph.float(planes), np.float32(_LEVELS[dtype]))
    low, high = (reduced(planes, keepdims=0) for reduced in (graph.ReduceMin, graph.ReduceMax))
    is_right = graph.And(
        graph.GreaterOrEqual(low, np.float32(-_ROUNDING)), graph.LessOrEqual(high, np.float32(1 + _ROUNDING))
    )
    planes = graph.require(planes, is_right, "expected floats in [0, 1], got others")
    return graph.Clip(planes, np.float32(0), np.float32(1))


def shape_of(graph, planes):
    """Return the height and the width of planes."""
    return graph.size(planes, 2), graph.size(planes, 3)


def in_range(graph, planes, shape, min_size, max_size=None):
    """Append a check of the image size, and return the unchanged planes.

    At run time, the graph raises an error if the height or the width in `shape` is too small or too large.
    """
    smallest = graph.Min(*shape)
    message = f"expected at least {min_size} pixels a side, got fewer"
    planes = graph.require(planes, graph.GreaterOrEqual(smallest, min_size), message)
    if max_size is None:
        return planes
    message = f"expected at most {max_size} pixels a side, got more"
    return graph.require(planes, graph.LessOrEqual(graph.Max(*shape), max_size), message)


def working_shape(graph, shape, image_size):
    """Return the height and width to which an extractor resizes images of a given shape."""
    if image_size is None:
        return shape
    if not isinstance(image_size, Integral):
        return tuple(graph.constant(np.array(side, dtype=np.int64)) for side in image_size)
    # Round as Python does, in float64 and half to even.
    scale = graph.Div(np.float64(image_size), graph.double(graph.Min(*shape)))
    sides = (graph.Round(graph.Mul(graph.double(side), scale)) for side in shape)
    return tuple(graph.Max(graph.integer(side), 1) for side in sides)


def resized(graph, planes, shape):
    """Resize planes bilinearly with antialiasing, as :func:`sklearn_exdd._torch.resize` does."""
    rows, columns = (antialiasing(graph, size, own) for size, own in zip(shape, shape_of(graph, planes), strict=True))
    return between(graph, rows, planes, columns)


def between(graph, rows, planes, columns):
    """Multiply planes by matrices for the rows and the columns: ``rows @ planes @ columns.T``."""
    return graph.MatMul(rows, graph.MatMul(planes, graph.Transpose(columns, perm=[1, 0])))


def antialiasing(graph, size, own):
    """Return the matrix that resizes one axis from `own` to `size` pixels with antialiasing.

    The matrix has the shape (size, own) and the dtype float32. Rounding follows torch.
    """

    def rounded(value):
        return graph.double(graph.float(value))

    scale = rounded(graph.Div(graph.double(own), graph.double(size)))
    places = rounded(graph.Mul(graph.Add(graph.arange(size), np.float64(0.5)), scale))
    pixels = graph.Add(graph.arange(own), np.float64(0.5))
    distances = graph.Abs(graph.Sub(graph.Unsqueeze(pixels, [0]), graph.Unsqueeze(places, [1])))
    inverse = rounded(graph.Div(np.float64(1), graph.Max(scale, np.float64(1))))
    weights = graph.Relu(graph.Sub(np.float32(1), graph.float(graph.Mul(distances, inverse))))
    return graph.Div(weights, graph.ReduceSum(weights, [1]))


def interpolation(graph, places, n_nodes):
    """Return the matrix of linear interpolation between nodes.

    Beyond the first and the last node, the interpolated values are constant.

    Parameters
    ----------
    graph : Graph
    places : str
        Positions to interpolate at, as a float64 vector. Node number i has the position i.
    n_nodes : str
        Number of nodes, as an int64 scalar.

    Returns
    -------
    matrix : str
        Float32 matrix of shape (n_places, n_nodes).
    """
    last = graph.double(graph.Sub(n_nodes, 1))
    places = graph.Min(graph.Max(places, np.float64(0)), last)
    distances = graph.Abs(graph.Sub(graph.Unsqueeze(places, [1]), graph.Unsqueeze(graph.arange(n_nodes), [0])))
    return graph.float(graph.Relu(graph.Sub(np.float64(1), distances)))


def enlargement(graph, size, factor, n_nodes):
    """Return the matrix that enlarges an axis bilinearly by a factor and keeps the first `size` pixels.

    The matrix has the shape (size, n_nodes).
    """
    pixels = graph.Add(graph.arange(size), np.float64(0.5))
    return interpolation(graph, graph.Sub(graph.Div(pixels, factor), np.float64(0.5)), n_nodes)


def mirrored(graph, planes, unit):
    """Extend planes to multiples of `unit` pixels by mirroring. Return them and their original height and width."""
    shape = shape_of(graph, planes)
    missing = [graph.Mod(graph.Neg(size), unit) for size in shape]
    pads = graph.vector(0, 0, 0, 0, 0, 0, *missing)
    return graph.Pad(planes, pads, mode="reflect"), shape


def repeated(graph, planes, unit):
    """Extend planes to multiples of `unit` pixels by repeating the last pixels."""
    missing = [graph.Mod(graph.Neg(size), unit) for size in shape_of(graph, planes)]
    return graph.Pad(planes, graph.vector(0, 0, 0, 0, 0, 0, *missing), mode="edge")


def medians(graph, planes):
    """Return the median of each channel of each image as a tensor of shape (batch, channels, 1, 1)."""
    flat = graph.Reshape(planes, [0, 0, -1])
    n_pixels = graph.size(flat, 2)
    half = graph.Add(graph.Div(n_pixels, 2), 1)
    # Sorting all pixels would take five times as long.
    lower, _ = graph.TopK(flat, graph.vector(half), largest=0, sorted=0, n_outputs=2)
    upper, _ = graph.TopK(lower, [2], n_outputs=2)
    is_odd = graph.Equal(graph.Mod(n_pixels, 2), 1)
    first, second = (graph.Slice(upper, [i], [i + 1], [2]) for i in (0, 1))
    median = graph.Where(is_odd, first, graph.Mul(graph.Add(first, second), 0.5))
    return graph.Unsqueeze(median, [3])


def logarithms(graph, planes, offset):
    """Return ``log(planes + offset)``."""
    return graph.Log(graph.Add(planes, np.float32(offset)))


def contrasts(graph, planes, n_channels, offset):
    """Return the logarithm of the brightness. For colour images, also return two logarithms of ratios.

    The ratios are red to green and blue to green.
    """
    if n_channels == 1:
        return logarithms(graph, planes, offset)
    grey = logarithms(graph, graph.ReduceMean(planes, [1]), offset)
    logs = logarithms(graph, planes, offset)
    red, green, blue = (graph.Slice(logs, [i], [i + 1], [1]) for i in range(3))
    return graph.Concat(grey, graph.Sub(red, green), graph.Sub(blue, green), axis=1)
