"""Checks of the containers in which users pass images or masks: lists, arrays, tables and tensors."""

import os
import sys
from collections.abc import Iterator, Mapping, Set
from numbers import Number

import numpy as np

EXPECTED_IMAGES = (
    "expected images: an array (n, height, width) or (n, height, width, channels) with 1, 3 or 4 channels, "
    "or a list of arrays or of file paths"
)


def is_path(item):
    """Tell whether an item is a file path."""
    return isinstance(item, (str, os.PathLike))


def is_picture(item):
    """Tell whether an item is a Pillow image, without importing Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(item, pillow.Image)


def is_missing(item):
    """Tell whether an item is a missing value: None, NaN, NaT, pandas.NA, numpy.ma.masked or blank text."""
    if item is None or item is np.ma.masked or type(item).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(item, (str, bytes)):
        return not item.strip()
    # NaN and NaT are not equal to themselves.
    return isinstance(item, (Number, np.number, np.datetime64, np.timedelta64)) and bool(item != item)


def check_listed(values, name):
    """Refuse sets, mappings and iterators, because their items cannot be read repeatedly and by position.

    Parameters
    ----------
    values : object
        Value passed by the user.
    name : str
        Name of the parameter, for messages.
    """
    if hasattr(values, "ndim"):
        return  # arrays are accepted, even sparse arrays that are also mappings
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
    """Convert an item to an array in native byte order. The memory of the item is shared if possible.

    Parameters
    ----------
    item : array-like
        Item to convert. It may be a torch tensor on any device, with or without gradients.
    where : str
        Name of the item in messages.

    Returns
    -------
    array : ndarray

    Raises
    ------
    ValueError
        If numpy cannot convert the item, or some of its values are masked.
    """
    check_unmasked(item, where)
    try:
        array = np.asarray(_from_torch(item))
    except Exception as error:  # libraries raise errors of different types
        raise ValueError(
            f"{where}: expected an object that numpy can convert to an array, got {type(item).__name__}: {error}"
        ) from error
    if array.dtype == object and array.ndim == 0 and not isinstance(item, np.ndarray):
        advice = f"Pass {where}.toarray()." if hasattr(item, "toarray") else "Convert it with np.array first."
        raise ValueError(
            f"{where}: expected an object that numpy can convert to an array, got {type(item).__name__}. {advice}"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_unmasked(values, where):
    """Refuse a masked array with masked values, because the numbers beneath the mask are not valid."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        n_masked = int(np.ma.getmaskarray(values).sum())
        raise ValueError(
            f"{where}: expected a value everywhere, got a masked array with {n_masked} masked values. Fill them in "
            f"with {where}.filled(), or pass {where}.data."
        )


def _from_torch(item):
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(item, getattr(torch, "Tensor", ())):
        return item
    item = item.detach().cpu().resolve_conj().resolve_neg()
    return (item.float() if item.dtype == torch.bfloat16 else item).numpy()


def holds_images(X, name="X"):
    """Tell whether a value holds images rather than feature rows (a two-dimensional table of numbers).

    Parameters
    ----------
    X : object
        Value passed as `X` or `X_defect`.
    name : str, default="X"
        Name of the parameter in messages.

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
        check_no_table(X, name, EXPECTED_IMAGES)
        return False
    if ndim is not None and ndim > 2:
        return True
    if not hasattr(X, "__len__"):
        return False
    if len(X) == 0:
        return isinstance(X, (list, tuple))
    # Ignore missing images. For example, cv2.imread returns None for a file that it cannot read.
    first = next((item for item in X if not is_missing(item)), None)
    if first is None:
        return any(item is None or isinstance(item, str) for item in X)
    return is_image(first)


def is_image(item):
    """Tell whether an item of a list is an image: a path, a Pillow image or an array of two or more dimensions."""
    return is_path(item) or is_picture(item) or getattr(item, "is_image", False) or np.ndim(item) > 1


def check_no_table(X, name, expected):
    """Refuse a table whose cells are paths, images, masks or maps.

    Parameters
    ----------
    X : object
        Value passed by the user.
    name : str
        Name of the parameter, for messages.
    expected : str
        Description of the expected images or masks, for messages.
    """
    columns = getattr(X, "columns", None)
    if (
        getattr(X, "ndim", None) != 2
        or 0 in X.shape
        or not (columns is not None or getattr(X.dtype, "kind", "") in "OU")
    ):
        return
    first_row = X.iloc[0] if columns is not None else X[0]
    for number, cell in enumerate(first_row):
        if (is_path(cell) and not _is_number(cell)) or (not is_path(cell) and is_image(cell)):
            column = f"{name}[{columns[number]!r}]" if columns is not None else f"{name}[:, {number}]"
            raise ValueError(
                f"{name}: {expected}; got a table of shape {X.shape} that holds them in a column: pass {column}."
            )


def _is_number(text):
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def described(X):
    """Describe a value that was passed instead of images: its type, and its first item that is not missing."""
    shape = getattr(X, "shape", None)
    came = f"an array of shape {tuple(shape)}" if shape is not None else type(X).__name__
    if isinstance(X, (str, bytes)) or not hasattr(X, "__len__") or len(tuple(shape or (0,))) != 1 or len(X) == 0:
        return came
    number, first = next((pair for pair in enumerate(X) if not is_missing(pair[1])), (0, None))
    if isinstance(first, (bytes, np.bytes_)):
        return f"{came} of bytes, such as {first!r} at {number}: decode them with os.fsdecode"
    item = f"an array of shape {first.shape}" if hasattr(first, "shape") else f"{type(first).__name__} {_short(first)}"
    return f"{came}, which holds {item} at {number}"


def _short(item):
    text = repr(item)
    return text if len(text) <= 60 else f"{text[:57]}..."
