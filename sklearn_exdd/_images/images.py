"""Images, decoded and validated one at a time."""

import copy
import os

import numpy as np

from sklearn_exdd._images.channels import FileInChannels, in_channels
from sklearn_exdd._images.containers import (
    EXPECTED_IMAGES,
    as_array,
    described,
    holds_images,
    is_missing,
    is_path,
    is_picture,
)
from sklearn_exdd._images.decoding import decode_image, is_grey_file, read_image
from sklearn_exdd._images.masks import Masks
from sklearn_exdd._images.roi import ImageInRegion, filled, region_of, unwrapped, valid_outside, within_limits

_BITS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16}
_MIN_SIDE = 16  # minimum side in pixels at which an array (h, w, 1), (h, w, 3) or (h, w, 4) looks like one image
_ROUNDING = 1e-6  # tolerance for floats outside [0, 1]
_CONVERT = "Convert all images to one of the two, as Pillow does with convert('L') or convert('RGB')"
_NEAR = 0.1  # largest excess of floats beyond [0, 1] for which the message advises clipping


class Images:
    """Sequence of images, decoded and validated on access.

    Parameters
    ----------
    X : array or list
        Images in one of three forms: an array (n, height, width) or (n, height, width, channels) of uint8, uint16,
        bool, or float in [0, 1]; a list of such images or of Pillow images; or a list of file paths. The images of a
        list may differ in size. Files are read when they are needed.
    name : str, default="X"
        Name of the images in messages.
    n_channels : int, default=None
        Number of channels seen in `fit`, without alpha. None uses the number of channels of the first image.
    channels : {"grey", "colour"}, default=None
        Form to which all images are converted. None leaves the images unchanged.
    bits : {8, 16}, default=None
        Bit depth of images in integer types other than uint8 and uint16. If it is None, the depth is taken from the
        uint8 or uint16 images in X, including files. If X has no such images, the largest value in the images decides.
    first : int, default=0
        Index of the first image in messages.
    remedy : str, default="Convert all images ..."
        Advice in the message about a grey image among colour images, or a colour image among grey images. The text
        "{wanted}" in the advice is replaced by "grey" or "colour".

    Notes
    -----
    ``images[i]`` is a float32 array of shape ``(height, width, channels)`` with values in [0, 1] and 1 or 3 channels,
    without alpha. The user's pixels are copied only when an image is accessed. Pixels outside the region of interest of
    an image get the mean colour of the region.
    """

    def __init__(self, X, name="X", n_channels=None, channels=None, bits=None, first=0, remedy=_CONVERT):
        self.name, self._remedy = name, remedy
        self._n_channels = n_channels
        self._expected_by = "fit"
        self._regions = None
        if not holds_images(X, name):
            single = getattr(X, "ndim", None) == 2
            advice = f" A single image? Pass {name}[None]." if single else ""
            raise ValueError(f"{name}: {EXPECTED_IMAGES}; got {described(X)}.{advice}")
        if getattr(X, "ndim", 1) > 1:
            X = as_array(X, name)
            if X.ndim > 4:
                raise ValueError(f"{name}: {EXPECTED_IMAGES}; got an array of shape {X.shape}.")
            if X.ndim == 3 and X.shape[2] in (1, 3, 4) and min(X.shape[:2]) >= _MIN_SIDE:
                raise ValueError(
                    f"{name}: {EXPECTED_IMAGES}; got an array of shape {X.shape}. A single image? Pass "
                    f"{name}[None]. Images of {X.shape[2]} pixels a row? Pass {name}[..., None]."
                )
        else:
            X, self._regions = unwrapped(list(X))
            X = [_item(item, f"{name}[{i}]", bits) for i, item in enumerate(X, start=first)]
        if len(X) == 0:
            raise ValueError(f"{name}: expected at least one image, got none.")
        self._numbers = range(first, first + len(X))
        if self._regions is not None:
            X = [
                within_limits(item, self.region(i)) if isinstance(item, np.ndarray) else item
                for i, item in enumerate(X)
            ]
        X, self._bits = _of_known_depth(X, name, bits, first)
        self._items = X if channels is None else _converted(X, channels)
        self._shapes = {}
        self._layouts = {}

    def __len__(self):
        return len(self._items)

    @property
    def n_channels(self):
        """Number of channels of every image, without alpha. By default, the first image that is read sets it."""
        if self._n_channels is None:
            self[0]
        return self._n_channels

    @property
    def bits(self):
        """Bit depth of the images: 8, 16, or None for floats and bool. If necessary, it is read from the first file.

        With this depth, integer arrays passed to `predict` are read in the same way as the files passed to `fit`.
        """
        if self._bits is None and any(_is_file(item) for item in self._items):
            index = next(i for i, item in enumerate(self._items) if _is_file(item))
            self._bits = _BITS.get(self._item(index)[0].dtype)
        return self._bits

    def with_channels(self, n_channels):
        """Return a copy that expects its images to have the given number of channels."""
        same = copy.copy(self)
        if n_channels != self._n_channels:
            same._n_channels, same._expected_by = n_channels, "the other images"
            same._shapes, same._layouts = {}, {}  # images are read and checked again
        return same

    def of_one_kind(self):
        """Return the same images. If some are grey and some are in colour, all are converted to colour.

        Only the headers of files are read.
        """
        if isinstance(self._items, np.ndarray) or len({_is_grey(item) for item in self._items} - {None}) < 2:
            return self
        same = self.take(range(len(self)))
        same._items = _converted(self._items, "colour")
        return same

    def check_all(self):
        """Read every image once, so that an invalid image is reported now, with the user's index."""
        for i in range(len(self)):
            self.shape(i)

    def as_uint8(self):
        """Return the same images. Arrays whose values fit into 8 bits are converted to uint8.

        Images with the same pixels thus train the same network, whatever their original dtype was. Files are not
        converted.
        """
        items = list(self._items)
        for i, item in enumerate(items):
            if not _is_file(item) and item.dtype != np.uint8:
                levels, region = self._whole(i) * 255, self.region(i)
                inside = levels if region is None else levels[region]
                if np.abs(inside - np.rint(inside)).max() < 1e-3:
                    items[i] = np.rint(levels).astype(np.uint8)
        same = self.take(range(len(items)))
        same._items = items
        return same

    def raw(self):
        """Return the images as a list of paths and arrays, as the user passed them, with their regions of interest."""
        if self._regions is None:
            return list(self._items)
        return [
            item if wrapped is None else ImageInRegion(item, wrapped.region)
            for item, wrapped in zip(self._items, self._regions)
        ]

    @property
    def n_regions(self):
        """Number of images that have a region of interest. The region may be the whole image."""
        return sum(wrapped is not None for wrapped in self._regions or ())

    @property
    def have_regions(self):
        """Whether every image has a region of interest."""
        return self.n_regions == len(self)

    def within(self, region):
        """Return the same images. Images without a region of interest get the given region."""
        same = self.take(range(len(self)))
        given = ImageInRegion(None, region)
        same._regions = [given if wrapped is None else wrapped for wrapped in self._regions or [None] * len(self)]
        return same

    def in_regions_of(self, others, positions):
        """Return the same images, with the regions of interest of their source images.

        Parameters
        ----------
        others : Images
            Source images, from which these images were made.
        positions : list of int or None
            Position of the source of each image in `others`. None if the source is unknown.
        """
        if not others.have_regions or self.have_regions:
            return self
        is_shared = len({id(wrapped.region) for wrapped in others._regions}) == 1
        if not is_shared and None in positions:
            raise ValueError(
                f"{self.where(positions.index(None))}: expected the source of the defect, because the images have "
                "different regions of interest, got None. Let the augmenter record it in its provenance, or use one "
                "region for all images."
            )
        same = self.take(range(len(self)))
        same._regions = [others._regions[0 if is_shared else position] for position in positions]
        return same

    def region(self, index):
        """Return the region of interest of an image, bool (height, width), or None if every pixel counts."""
        wrapped = self._regions and self._regions[index]
        region = None if wrapped is None else wrapped.region
        if is_path(region):
            name = f"roi of {self.where(index)}"
            return region_of(Masks([region], 1, name, first=None).get(0), f"{name} ({os.fspath(region)})")
        return region

    def within_region(self, index, mask):
        """Return the part of a mask within the region of interest of its image, or None if `mask` is None."""
        region = None if mask is None else self.region(index)
        return mask if region is None else mask & region

    def path(self, index):
        """Return the path of an image, or None if it is in memory."""
        item = self._items[index]
        return item.path if isinstance(item, FileInChannels) else item if is_path(item) else None

    def where(self, index):
        """Return the name of an image in messages."""
        return f"{self.name}[{self._numbers[index]}]"

    def _place(self, index):
        """Return the name of an image in messages, with its path if it is a file."""
        path = self.path(index)
        return self.where(index) if path is None else f"{self.where(index)} ({os.fspath(path)})"

    def shape(self, index):
        """Return the height and width of an image, reading it if necessary."""
        if index not in self._shapes:
            self[index]
        return self._shapes[index]

    def __getitem__(self, index):
        image, region = self._whole(index), self.region(index)
        if region is None:
            return image
        if region.shape != image.shape[:2]:
            raise ValueError(
                f"{self._place(index)}: expected {region.shape[0]} x {region.shape[1]} pixels, the shape of its region "
                f"of interest, got {image.shape[0]} x {image.shape[1]}. Make the region as large as the images. If "
                "the images differ in size, pass one region for each image, as in with_roi(X, regions)."
            )
        return filled(image, region)

    def _whole(self, index):
        """Return an image with all of its pixels, inside and outside its region of interest."""
        item, where = self._item(index)
        image = _as_unit_float(item, where)
        if self._n_channels is None:
            self._n_channels, self._expected_by = image.shape[2], "the other images"
        if image.shape[2] != self._n_channels:
            wanted = "grey" if self._n_channels == 1 else "colour"
            raise ValueError(
                f"{where}: expected {_channels(self._n_channels)} as in {self._expected_by}, got "
                f"{_channels(image.shape[2])}. {self._remedy.format(wanted=wanted)}."
            )
        self._shapes[index] = image.shape[:2]
        self._layouts[index] = item.dtype.str, item.ndim
        return image

    def original(self, index):
        """Return an image as the user passed it, except that alpha is removed and bool becomes uint8."""
        item, _ = self._item(index)
        item = item[..., :3] if item.ndim == 3 else item
        return item.astype(np.uint8) * 255 if item.dtype == bool else item

    def restore(self, index, pixels):
        """Convert float pixels back to the dtype and the number of dimensions of the original image.

        Parameters
        ----------
        index : int
        pixels : ndarray of shape (height, width, channels), dtype float
            Pixels in [0, 1], as in ``images[index]``.

        Returns
        -------
        image : ndarray of shape (height, width) or (height, width, channels)
            Image without alpha. A bool image becomes uint8, because bool has no grey levels.
        """
        if index not in self._layouts:
            self[index]
        dtype, ndim = np.dtype(self._layouts[index][0]), self._layouts[index][1]
        if dtype == np.uint16:
            pixels = np.rint(pixels * 65535)
        elif dtype.kind != "f":
            dtype, pixels = np.dtype(np.uint8), np.rint(pixels * 255)
        return (pixels[..., 0] if ndim == 2 else pixels).astype(dtype)

    def take(self, indices):
        """Select images by position. Messages still show the original numbers of the images."""
        taken = copy.copy(self)
        taken._items = [self._items[i] for i in indices]
        taken._numbers = [self._numbers[i] for i in indices]
        taken._regions = self._regions and [self._regions[i] for i in indices]
        taken._shapes, taken._layouts = {}, {}
        return taken

    def _item(self, index):
        """Return an image as an array, and its name in messages."""
        item, where = self._items[index], self._place(index)
        if _is_file(item):
            item = _read(item, where, self._bits)
        if item.dtype.kind == "f":  # only floats need the region, which may be in a file
            item = valid_outside(item, self.region(index))
        return item, where


def _item(item, where, bits):
    """Return an item of a list as a path or an array."""
    if is_missing(item):
        raise ValueError(
            f"{where}: expected an image, got {repr(item) if isinstance(item, str) else item} (cv2.imread returns None "
            "for a file that it cannot read). Check its path, or leave out the image and its label."
        )
    if _is_file(item):
        return item
    return decode_image(item, where, bits) if is_picture(item) else as_array(item, where)


def _is_file(item):
    return is_path(item) or isinstance(item, FileInChannels)


def _converted(items, channels):
    return [FileInChannels(item, channels) if _is_file(item) else in_channels(item, channels) for item in items]


def _is_grey(item):
    """Tell whether an image is grey. Return None if the item is not an image."""
    if isinstance(item, FileInChannels):
        return item.channels == "grey"
    if is_path(item):
        return is_grey_file(item)
    return None if item.ndim not in (2, 3) else item.ndim == 2 or item.shape[2] == 1


def _read(file, where, bits=None):
    return file.read(where, bits) if isinstance(file, FileInChannels) else read_image(file, where, bits)


def _of_known_depth(items, name, bits, first):
    """Convert images of other integer types to one of uint8 and uint16. Return all images and their bit depth."""
    if isinstance(items, np.ndarray):
        arrays, whole = {0: items}, True
    else:
        arrays, whole = {i: item for i, item in enumerate(items) if isinstance(item, np.ndarray)}, False
    depths = {_BITS[array.dtype] for array in arrays.values() if array.dtype in _BITS}
    wide = {i: array for i, array in arrays.items() if array.dtype.kind in "iu" and array.dtype.itemsize > 1}
    wide = {i: array for i, array in wide.items() if array.dtype != np.uint16 and array.ndim > 1 and array.size}
    if bits is None and len(depths) == 1:
        (bits,) = depths
    if not wide:
        return items, bits
    if bits is None:
        files = ((i, item) for i, item in enumerate(items, first) if _is_file(item))
        bits = next((_BITS.get(_read(item, f"{name}[{i}]").dtype) for i, item in files), None)
    if bits is None:
        bits = 8 if max(array.max() for array in wide.values()) <= 255 else 16
    limit, dtype = 2**bits - 1, np.dtype(f"u{bits // 8}")
    for i, array in wide.items():
        low, high = array.min(), array.max()
        if low < 0 or high > limit:
            if whole:
                i = int(np.flatnonzero([one.min() < 0 or one.max() > limit for one in array])[0])
                low, high = array[i].min(), array[i].max()
            raise ValueError(
                f"{name}[{first + i}]: expected integers from 0 to {limit}, got {array.dtype} with values from {low} "
                f"to {high}. Rescale them, and pass uint8 (0 to 255) or uint16 (0 to 65535)."
            )
    if whole:
        return items.astype(dtype), bits
    return [item.astype(dtype) if i in wide else item for i, item in enumerate(items)], bits


def _as_unit_float(image, where):
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        hint = ""
        if image.ndim == 3 and image.shape[0] in (1, 3, 4):
            hint = " Move the channels to the end."
        elif image.ndim == 3 and image.shape[2] > 4:
            hint = " Feature maps? Pass images, and the extractor to the detector as feature_extractor=."
        raise ValueError(
            f"{where}: expected shape (height, width) or (height, width, channels) with 1, 3 or 4 channels, "
            f"got {image.shape}.{hint}"
        )
    if 0 in image.shape:
        raise ValueError(f"{where}: expected at least one pixel, got shape {image.shape}.")
    if image.shape[2] == 4:
        image = image[..., :3]
    # The result is always in C order, because the rounding of sums depends on the order of an array in memory.
    if image.dtype == np.uint8:
        return np.divide(image, 255, dtype=np.float32, order="C")
    if image.dtype == np.uint16:
        return np.divide(image, 65535, dtype=np.float32, order="C")
    if image.dtype == bool:
        return image.astype(np.float32, order="C")
    if image.dtype.kind != "f":
        advice = "bytes from 0 to 255, pass .view(numpy.uint8)" if image.dtype == np.int8 else "numbers, use astype"
        raise ValueError(
            f"{where}: expected dtype uint8, uint16, bool or float, got {image.dtype}. If it holds {advice}."
        )
    low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{where}: expected finite values, got NaN or infinity.")
    rounding = max(_ROUNDING, np.finfo(image.dtype).eps)
    if low < -rounding or high > 1 + rounding:
        is_near = low > -_NEAR and high < 1 + _NEAR
        raise ValueError(
            f"{where}: expected floats in [0, 1], got values from {low:.9g} to {high:.9g}. "
            + ("Clip them with np.clip(image, 0, 1), or rescale them." if is_near else "Rescale them, or pass uint8.")
        )
    image = image.astype(np.float32, order="C")
    return np.clip(image, 0, 1, out=image) if low < 0 or high > 1 else image


def _channels(n):
    return "1 channel (grey)" if n == 1 else f"{n} channels"
