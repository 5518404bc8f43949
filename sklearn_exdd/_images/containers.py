"""Containers: lists, arrays, tables and tensors of images or masks, by position."""

import math
import os
import sys
from collections.abc import Iterator, Mapping, Set

import numpy as np

EXPECTED_IMAGES = (
    "expected images: an array (n, height, width) or (n, height, width, channels) with 1, 3 or 4 channels, "
    "or a list of arrays or of file paths"
)


def is_path(item):
    """Tell whether an item is the path of a file."""
    return isinstance(item, (str, os.PathLike))


def is_picture(item):
    """Tell whether an item is a Pillow image, without importing Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(item, pillow.Image)


def is_missing(item):
    """Tell whether an item stands for a missing one: None, NaN, NaT or pandas.NA."""
    if item is None or type(item).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(item, (float, np.floating)) and math.isnan(item)


def check_listed(values, name):
    """Refuse containers without positions: iterators, which can be read only once, sets and mappings.

    Parameters
    ----------
    values : object
        Value that a user passed.
    name : str
        Parameter, for messages.
    """
    if hasattr(values, "ndim"):
        return  # arrays, among them sparse ones, some of which are mappings
    if isinstance(values, Iterator):
        advice = f"list({name})"
    elif isinstance(values, Mapping):
        advice = f"list({name}.values())"
    elif isinstance(values, Set):
        advice = f"sorted({name})"
    else:
        return
    expected = EXPECTED_IMAGES if name.startswith("X") else "expected a list or an array"
    raise ValueError(f"{name}: {expected}; got {type(values).__name__}: pass {advice}.")


def as_array(item, where):
    """Convert an item to an array in the byte order of the machine, sharing its memory if possible.

    Parameters
    ----------
    item : array-like
        Also a torch tensor on any device, with or without a gradient.
    where : str
        How messages call it.

    Returns
    -------
    array : ndarray
    """
    try:
        array = np.asarray(_from_torch(item))
    except Exception as error:  # each library refuses in its own way
        raise ValueError(
            f"{where}: expected what numpy can convert to an array, got {type(item).__name__}: {error}"
        ) from error
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _from_torch(item):
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(item, getattr(torch, "Tensor", ())):
        return item
    item = item.detach().cpu().resolve_conj().resolve_neg()
    return (item.float() if item.dtype == torch.bfloat16 else item).numpy()


def holds_images(X, name="X"):
    """Tell images from feature rows (two-dimensional tables of numbers).

    Parameters
    ----------
    X : object
        Value of X or of X_defect.
    name : str, default="X"
        How messages call it.

    Returns
    -------
    bool
    """
    if is_path(X):
        raise ValueError(f"{EXPECTED_IMAGES}; got the single path {str(X)!r}: pass a list of paths.")
    if is_picture(X):
        raise ValueError(f"{name}: {EXPECTED_IMAGES}; got a single Pillow image: pass [{name}].")
    check_listed(X, name)
    ndim = getattr(X, "ndim", None)
    if ndim == 2:
        _check_no_table(X, name)
        return False
    if ndim is not None and ndim > 2:
        return True
    if not hasattr(X, "__len__"):
        return False
    if len(X) == 0:
        return isinstance(X, (list, tuple))
    # A missing image, such as what cv2.imread returns for a file that it cannot read, does not make the others numbers.
    first = next((item for item in X if not is_missing(item)), None)
    if first is None:
        return any(item is None for item in X)
    return is_image(first)


def is_image(item):
    """Tell whether an item of a list is an image: a path, a Pillow image or an array of two or more dimensions."""
    return is_path(item) or is_picture(item) or getattr(item, "is_image", False) or np.ndim(item) > 1


def _check_no_table(X, name):
    """Refuse a table whose cells are paths or images."""
    columns = getattr(X, "columns", None)
    if 0 in X.shape or not (columns is not None or getattr(X.dtype, "kind", "") in "OU"):
        return
    first_row = X.iloc[0] if columns is not None else X[0]
    for number, cell in enumerate(first_row):
        if (is_path(cell) and not _is_number(cell)) or (not is_path(cell) and is_image(cell)):
            column = f"{name}[{columns[number]!r}]" if columns is not None else f"{name}[:, {number}]"
            raise ValueError(
                f"{name}: {EXPECTED_IMAGES}; got a table of shape {X.shape} that holds them in a column: pass {column}."
            )


def _is_number(text):
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def described(X):
    """Return how a message calls what came instead of images."""
    shape = getattr(X, "shape", None)
    return f"an array of shape {tuple(shape)}" if shape is not None else type(X).__name__
