"""Masks, and the rule that determines which of their pixels are marked."""

import copy
import os

import numpy as np

from sklearn_exdd._images.containers import (
    as_array,
    check_listed,
    check_no_table,
    is_missing,
    is_path,
    is_picture,
)
from sklearn_exdd._images.decoding import decode_marks, read_marks

_ROUNDING = 1e-6  # tolerance for floats outside [0, 1]


class Masks:
    """Masks of images. A mask is True on the defect. An image without a mask has None instead.

    Parameters
    ----------
    masks : array (n, height, width) or list of arrays, Pillow images, paths or None
        One mask for each image, in the order of the images. :func:`marked` defines which pixels of a mask are marked.
    n_images : int
        Expected number of masks.
    name : str, default="masks"
        Name of the masks in messages.
    soft : bool, default=True
        Whether to accept floats between 0 and 1. Metrics refuse such floats, because they usually belong to an anomaly
        map that was passed by mistake.
    first : int or None, default=0
        Index of the first mask in messages. None leaves out the index, for a single mask.
    """

    def __init__(self, masks, n_images, name="masks", soft=True, first=0):
        self.name = name
        self._soft = soft
        self._numbers = None if first is None else range(first, first + n_images)
        check_listed(masks, name)
        check_no_table(masks, name, "expected a list or an array of masks")
        if not hasattr(masks, "__len__") or isinstance(masks, str) or len(masks) != n_images:
            n_masks = len(masks) if hasattr(masks, "__len__") else type(masks).__name__
            raise ValueError(f"{name}: expected one mask for each of the {n_images} images, got {n_masks}.")
        if getattr(masks, "ndim", 1) > 1:
            self._items = as_array(masks, name)
        else:
            # Iterate by position: indexing a pandas Series would look up entries by label.
            self._items = [self._item(item, i) for i, item in enumerate(masks)]

    def _item(self, item, index):
        """Return an item of a list as None, a path or an array."""
        if is_missing(item) or is_path(item):
            return None if is_missing(item) else item
        where = self.where(index)
        if is_picture(item):
            return marked(*decode_marks(item, where), where=where, soft=self._soft)
        return as_array(item, where)

    def take(self, indices):
        """Select masks by position. Messages still show the original numbers of the masks."""
        taken = copy.copy(self)
        taken._items = [self._items[i] for i in indices]
        taken._numbers = [self._numbers[i] for i in indices]
        return taken

    def get(self, index, image_shape=None):
        """Return the mask of one image as bool (height, width), or None.

        Parameters
        ----------
        index : int
        image_shape : tuple of int (height, width, ...), default=None
            Expected shape. If None, any shape is accepted.
        """
        item = self._items[index]
        if item is None:
            return None
        where = self.where(index)
        if is_path(item):
            where += f" ({os.fspath(item)})"
            mask = marked(*read_marks(item, where), where=where, soft=self._soft)
        else:
            mask = _marked_in_array(item, where, self._soft, image_shape)
        if image_shape is not None and mask.shape != tuple(image_shape[:2]):
            raise ValueError(f"{where}: expected the shape of its image, {tuple(image_shape[:2])}, got {mask.shape}.")
        return mask

    def raw(self):
        """Return the masks as a list of paths, arrays and None. Arrays are returned as the user passed them."""
        return list(self._items)

    def where(self, index):
        """Return the name of a mask in messages."""
        return self.name if self._numbers is None else f"{self.name}[{self._numbers[index]}]"


def marked(levels, opacity=None, is_lossy=False, *, where="mask", soft=True):
    """Tell which pixels of a mask are marked. The same rules hold for files, Pillow images and arrays.

    ========================== =========================================================================================
    kind of mask               values that are marked
    ========================== =========================================================================================
    bool                       True
    float                      > 0.5; values outside [0, 1] and NaN are errors
    8-bit grey                 > 127 if the largest value is > 127, so that grey fringes are not marked; otherwise > 0
    wider integers             > 127 if the largest value is 255; > 32767 if it is from 32768 to 65535; otherwise > 0
    colour, palette in colour  any colour except black
    JPEG                       any channel > 16 and > half of the largest value, because compression blurs values
    with transparency          as above, but the opacity must also be marked according to the rule for 8-bit grey
    ========================== =========================================================================================

    A colour image counts as grey if all of its pixels are grey. An image with a palette counts as grey if all colours
    of the palette are grey. Negative integers are errors. Black paint on a transparent background is also an error.

    Parameters
    ----------
    levels : ndarray of shape (height, width) or (height, width, 3)
    opacity : ndarray of shape (height, width), default=None
    is_lossy : bool, default=False
    where : str, default="mask"
        Name of the mask in messages.
    soft : bool, default=True
        Whether to accept floats between 0 and 1.

    Returns
    -------
    marked : ndarray of shape (height, width), dtype bool
    """
    if opacity is not None and (opacity == 0).all():
        if (levels != levels[:1, :1]).any():
            raise ValueError(
                f"{where}: expected opaque paint on the defect, got a mask that is transparent everywhere."
            )
        return np.zeros(opacity.shape, dtype=bool)
    if is_lossy:
        levels = levels if levels.ndim == 2 else levels.max(axis=2)
        return levels > max(levels.max() / 2, 16)
    if levels.ndim == 3:
        if levels.size and levels.min() < 0:
            return _above_half(levels, where, soft)  # raises the error for negative values
        is_grey = (levels == levels[..., :1])[True if opacity is None else opacity > 0].all()
        levels = levels.max(axis=2)
        levels = levels if is_grey else levels > 0
    if opacity is None or opacity.min(initial=255) == 255:
        return _above_half(levels, where, soft)
    visible = _above_half(opacity, where, soft)
    if not visible.all() and not levels[visible].any():
        raise ValueError(
            f"{where}: expected white or coloured paint on the defect, got black paint on a transparent background. "
            "Paint the defect in white."
        )
    return _above_half(np.where(opacity > 0, levels, 0), where, soft) & visible


def _above_half(levels, where, soft):
    """Apply the rule of :func:`marked` to a mask with one level per pixel."""
    if levels.dtype == bool or levels.size == 0:
        return levels.astype(bool)
    low, high = levels.min(), levels.max()
    if levels.dtype.kind == "f":
        if not soft and not ((levels == 0) | (levels == 1)).all():
            example = levels[(levels != 0) & (levels != 1)].flat[0]
            raise ValueError(
                f"{where}: expected True or 1 on the defect and False or 0 elsewhere, got floats such as {example:g}. "
                "Are masks and maps swapped? The masks come first, as y_true does in scikit-learn. For soft masks, "
                "pass mask > 0.5."
            )
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise ValueError(
                f"{where}: expected floats in [0, 1], where values > 0.5 are marked, got values from {low:.9g} to "
                f"{high:.9g}. Pass mask > 0, or integers."
            )
        return levels > 0.5
    if low < 0:
        raise ValueError(f"{where}: expected integers of at least 0, got values from {low}. Pass mask != 0, or bool.")
    if levels.dtype.itemsize == 1:
        threshold = 127 if high > 127 else 0
    else:
        threshold = 127 if high == 255 else 32767 if 32767 < high <= 65535 else 0
    return levels > threshold


def _marked_in_array(mask, where, soft, image_shape):
    if mask.dtype.kind not in "buif":
        raise ValueError(
            f"{where}: expected a mask of bool, integers or floats, got dtype {mask.dtype}. Convert numbers with "
            "astype, and pass the path of a file as str or pathlib.Path."
        )
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[..., 0]
    is_colour = mask.ndim == 3 and mask.shape[2] == 3 and mask.dtype.kind != "f"  # as returned by cv2.imread
    if is_colour or (mask.ndim == 3 and mask.shape[2] == 4 and mask.dtype == np.uint8):
        return marked(mask[..., :3], mask[..., 3] if mask.shape[2] == 4 else None, where=where)
    if mask.ndim != 2:
        expected = "(height, width)" if image_shape is None else tuple(image_shape[:2])
        advice = " Pass one of its channels, or mask.any(axis=2)." if mask.ndim == 3 else ""
        raise ValueError(f"{where}: expected the shape of its image, {expected}, got {mask.shape}.{advice}")
    return marked(mask, where=where, soft=soft)
