"""Search for mistakes in a set of images before a detector is fitted on it."""

import os
import re
from numbers import Integral

import numpy as np
from sklearn.utils.validation import has_fit_parameter
from tqdm.auto import tqdm

from sklearn_exdd._images import Images, Masks, check_listed, holds_images, is_missing
from sklearn_exdd._labels import as_labels, find_positive, listed
from sklearn_exdd.datasets.duplicates import SIDE, group_alike, group_equal
from sklearn_exdd.datasets.findings import Finding, Findings
from sklearn_exdd.datasets.mask_placement import MIN_MASKS, misplaced
from sklearn_exdd.datasets.outlying_scores import outlying_scores, split_pipeline
from sklearn_exdd.datasets.photographs import measure, odd_photographs, resized

_NEARLY_ALL = 0.9  # fraction of an image above which the mask of a defect is suspicious


def check_images(
    X,
    y=None,
    *,
    masks=None,
    groups=None,
    splits=None,
    detector=None,
    max_scored=500,
    pos_label=None,
    verbose=0,
):
    """Look for mistakes in a set of images before fitting.

    Images that cannot be read are reported as findings instead of errors. All of them are therefore reported at once.

    Parameters
    ----------
    X : images
        Images in one of three forms: an array (n, height, width) or (n, height, width, channels) of uint8, uint16,
        bool, or float in [0, 1]; a list of such images or of Pillow images; or a list of file paths. The images of a
        list may differ in size. Files are read when they are needed.
    y : array-like of shape (n_images,), default=None
        Labels of two classes, such as 0 and 1 or "good" and "bad". If None, all images are assumed to be normal.
    masks : array or list, default=None
        Mask of each image. In a list, None means that the image does not have a mask.
    groups : array-like of shape (n_images,), default=None
        Group of each image. Several photographs of one part form a group, because they are not independent. An image
        whose entry is None, NaN or "" forms a separate group.
    splits : array-like of shape (n_images,), default=None
        Part of the data that each image belongs to, such as "train" or "test".
    detector : BaseDefectDetector or Pipeline that ends in one, default=None
        Detector to clone and fit on the normal images. Each normal image then gets a score, which is computed as if the
        detector had not been fitted on this image. If `detector` is a Pipeline, the steps before the last step
        transform the images. With :class:`~sklearn_exdd.ExDDDetector`, 145 images of 128 x 128 pixels took 6 s on one
        core. If None, scores are not checked.
    max_scored : int or None, default=500
        Maximum number of normal images to fit the detector on. If there are more, whole groups are drawn at random. If
        None, the detector is fitted on all normal images.
    pos_label : object, default=None
        Label that means defect. If `pos_label` is None, the defect label is recognised by its name, as in `fit`:
        "bad" or "NG" means defect, "good" or "OK" means normal.
    verbose : int, default=0
        If > 0, show a progress bar.

    Returns
    -------
    findings : Findings
        List of :class:`Finding`, with errors before warnings. `print` shows the list as text.

    Raises
    ------
    ValueError
        If `X` does not contain images; if `y` has more than two classes; if `y`, `masks`, `groups` or `splits` does not
        have one entry for each image; or if `detector` is not a detector.

    Notes
    -----
    The kinds of finding are:

    ================== ======== ======================================================================================
    kind               severity found if
    ================== ======== ======================================================================================
    unreadable         error    an image is missing or cannot be read
    duplicate          error    images with the same pixels differ in label, group or split
    duplicate          warning  images with the same pixels agree in label, group and split
    near_duplicate     error    images that share their fine details lie in different splits
    near_duplicate     warning  images that share their fine details are not assigned to one group
    split_group        error    images of one group lie in different splits
    channels           error    some images are grey and others are in colour
    blank              error    all pixels of an image are equal
    mask_unreadable    error    a mask cannot be read
    mask_size          error    a mask differs in size from its image
    mask_on_normal     error    the mask of a normal image marks pixels
    mask_full          error    the mask of a defect marks more than 90 % of the image
    mask_empty         error    the mask of a defect does not mark any pixel
    mask_placement     warning  most masks fit their images clearly better if all are mirrored or shifted alike
    score              warning  the score of a normal image, computed without that image, is far above the others
    size               warning  an image differs in size from the others
    dark, bright       warning  the mean grey level of an image is far from the others
    overexposed        warning  an image has far more white pixels than the others
    blur               warning  the ratio of fine to coarse details is far lower in an image than in the others
    ================== ======== ======================================================================================

    A value is far from the others if it lies more than three interquartile ranges below the first quartile or above the
    third. Comparisons with the other images need at least eight readable images.

    Near duplicates may be compressed, resized or brightened copies, photographs of one part, or parts cut from one
    piece. Rotated and mirrored copies are not found. If the details of all parts are similar, only images that are
    clearly more similar than the others are found.

    Examples
    --------
    >>> from sklearn_exdd.datasets import check_images, make_surface_defects
    >>> X, y, masks = make_surface_defects(20, image_shape=(64, 64), random_state=0)
    >>> len(check_images(X, y, masks=masks))
    0
    >>> y[1], X[1] = 1 - y[0], X[0]
    >>> findings = check_images(X, y)
    >>> findings[0].kind, findings[0].severity, findings[0].indices
    ('duplicate', 'error', (0, 1))
    """
    items, bits = _items(X)
    n_images = len(items)
    if max_scored is not None and (not isinstance(max_scored, Integral) or max_scored < 1):
        raise ValueError(f"max_scored: expected an integer of at least 1, or None, got {max_scored!r}.")
    _check_detector(detector)
    is_defect = _are_defects(y, n_images, pos_label)
    groups, splits = _names("groups", groups, n_images), _names("splits", splits, n_images)
    masks = _mask_items(masks, n_images)
    check = _Check(items, is_defect, groups, splits)
    for index, item in enumerate(tqdm(items, desc="images", unit="image", disable=not verbose)):
        check.read(index, item, bits, None if masks is None else masks[index])
    check.find_duplicates()
    check.find_split_groups()
    check.find_odd_photographs()
    check.find_misplaced_masks()
    check.find_outlying_scores(detector, max_scored)
    return Findings(check.findings, n_images, check.not_checked)


def _items(X):
    """Return the images as a list of arrays and paths, and their bit depth, both as `fit` would see them.

    The bit depth is None if the images do not contain integers.
    """
    if not holds_images(X) or not len(X):
        Images(X)  # raises an error
    if getattr(X, "ndim", 1) > 1:
        Images(np.broadcast_to(False, X.shape))  # raises an error if the shape is not that of images
    try:
        images = Images(X)
        return images.raw(), images.bits
    except (OSError, ValueError):  # at least one image cannot be read
        return _readable_items(list(X))


def _readable_items(items):
    """Do the work of :func:`_items` for a list with unreadable images. They do not influence the bit depth."""
    in_memory = {i: item for i, item in enumerate(items) if not _is_path(item) and _is_readable(item)}
    first_file = next((item for item in items if _is_path(item) and _is_readable(item)), None)
    deciding = [*in_memory.values(), *([] if first_file is None else [first_file])]
    if not deciding:
        return items, None
    try:
        bits = Images(deciding).bits
    except ValueError:  # each image can be read alone, so the list must mix 8-bit and 16-bit images
        bits = 8
    for i, item in in_memory.items():
        try:
            (items[i],) = Images([item], bits=bits).raw()
        except ValueError:  # the 16-bit image, which is reported later
            continue
    return items, bits


def _is_path(item):
    return isinstance(item, (str, os.PathLike))


def _is_readable(item):
    try:
        Images([item])[0]
    except (OSError, ValueError):
        return False
    return True


def _check_detector(detector):
    if detector is None:
        return
    _, last = split_pipeline(detector)
    if isinstance(last, type):
        name = last.__name__
        raise ValueError(f"detector: expected a detector, got the class {name}. Pass an instance: {name}().")
    if not (hasattr(last, "fit") and hasattr(last, "score_samples") and has_fit_parameter(last, "groups")):
        came = repr(last) if isinstance(last, str) else type(last).__name__
        came = came if last is detector else f"a Pipeline that ends in {came}"
        raise ValueError(
            f"detector: expected a detector, such as ExDDDetector(), a Pipeline that ends in one, or None, got {came}."
        )


def _are_defects(y, n_images, pos_label):
    if y is None:
        return np.zeros(n_images, dtype=bool)
    y = as_labels(y, n_images)
    classes = np.unique(y)
    if len(classes) > 2:
        raise ValueError(f"y: expected two classes, normal and defect, got {len(classes)}: {listed(classes)}.")
    return y == find_positive(classes, pos_label)


def _names(name, values, n_images):
    """Return the group or the split of each image as text. The entry of an image without one is None."""
    if values is None:
        return None
    check_listed(values, name)
    values = list(values) if hasattr(values, "__iter__") and not isinstance(values, str) else values
    if not isinstance(values, list) or len(values) != n_images:
        came = len(values) if isinstance(values, list) else repr(values)
        raise ValueError(f"{name}: expected one entry for each of the {n_images} images, got {came}.")
    return [None if is_missing(value) else str(value) for value in values]


def _mask_items(masks, n_images):
    if masks is None:
        return None
    check_listed(masks, "masks")
    if isinstance(masks, (str, os.PathLike)) or not hasattr(masks, "__len__") or len(masks) != n_images:
        came = len(masks) if hasattr(masks, "__len__") and not isinstance(masks, str) else repr(masks)
        raise ValueError(f"masks: expected one mask or None for each of the {n_images} images, got {came}.")
    return list(masks)


class _Check:
    """Findings and measured properties of the images, collected while the images are checked."""

    def __init__(self, items, is_defect, groups, splits):
        self.items, self.is_defect, self.groups, self.splits = items, is_defect, groups, splits
        self.findings, self.not_checked = [], []
        self.photographs, self.marks = {}, {}
        self._alike = []

    def add(self, kind, severity, indices, message):
        indices = tuple(int(index) for index in indices)
        self.findings.append(Finding(kind, severity, indices, tuple(map(self._name, indices)), message))

    def _name(self, index):
        item = self.items[index]
        item = getattr(item, "image", item)  # the image inside an ImageInRegion
        return os.fspath(item) if _is_path(item) and not is_missing(item) else f"X[{index}]"

    def read(self, index, item, bits, mask):
        """Read an image and its mask, and measure them. Add a finding if either cannot be read."""
        try:
            image = Images([item], bits=bits, first=index)[0]
            self.photographs[index] = measure(image)
        except (OSError, ValueError) as error:
            self.add("unreadable", "error", [index], _without_place(error))
            return
        if not is_missing(mask):
            self._read_mask(index, mask, image.shape[:2], Images([item], bits=bits).region(0))

    def _read_mask(self, index, mask, shape, region):
        try:
            marks = Masks([mask], 1, first=index).get(0)
        except (OSError, ValueError) as error:
            self.add("mask_unreadable", "error", [index], _without_place(error))
            return
        counted, where = marks, ""
        if region is not None and marks.shape == shape:
            counted, where = marks[region], " in the region of interest"
        share = float(counted.mean()) if marks.size else 0.0
        if marks.shape != shape:
            came = "{} x {}".format(*marks.shape)
            message = (
                f"The mask has {came} pixels, but its image has {shape[0]} x {shape[1]}. Export the mask at the size "
                "of the image."
            )
            self.add("mask_size", "error", [index], message)
        elif not self.is_defect[index]:
            if share:
                message = (
                    f"The mask of a normal image marks {counted.sum()} pixels{where}. Empty the mask, or label the "
                    "image as a defect."
                )
                self.add("mask_on_normal", "error", [index], message)
        elif not share:
            message = f"The mask of a defect marks no pixel{where}. Draw the defect, or pass None as the mask."
            self.add("mask_empty", "error", [index], message)
        elif share > _NEARLY_ALL:
            message = f"The mask marks {100 * share:.0f} % of the image. Is it inverted? Mark only the defect."
            self.add("mask_full", "error", [index], message)
        else:
            self.marks[index] = resized(marks, (SIDE, SIDE))

    def find_duplicates(self):
        """Find images with the same pixels, and images that share their fine details."""
        rows = np.array(sorted(self.photographs), dtype=int)
        equal = group_equal([self.photographs[row].digest for row in rows])
        for group in equal:
            self._add_copies("duplicate", rows[group], "have the same pixels")
        later = {member for group in equal for member in group[1:]}
        single = np.array([row for place, row in enumerate(rows) if place not in later], dtype=int)
        reduced = [self.photographs[row].reduced for row in single]
        alike = group_alike(np.stack(reduced).astype(np.float32)) if reduced else []
        for group in alike:
            self._add_copies("near_duplicate", single[group], "share their details")
        self._alike = [rows[group] for group in equal] + [single[group] for group in alike]

    def _add_copies(self, kind, rows, what):
        is_exact, differ = kind == "duplicate", []
        if len(set(self.is_defect[rows].tolist())) > 1:
            differ.append("are labelled both normal and defect")
        if self.splits is not None and len({self.splits[row] for row in rows}) > 1:
            parts = sorted({str(self.splits[row]) for row in rows})
            differ.append(f"lie in {', '.join(parts[:-1])} and {parts[-1]}")
        n_groups = len({self.groups[row] or row for row in rows}) if self.groups is not None else 0
        if n_groups > 1:
            differ.append(f"belong to {n_groups} groups")
        if not is_exact and n_groups == 1 and not any("lie in" in one for one in differ):
            return  # the groups say that these are photographs of one part
        is_error = bool(differ) if is_exact else any("lie in" in one for one in differ)
        remedy = (
            "Keep one of them, under the right label."
            if is_exact
            else "If they show one part, or parts cut from one piece, assign them to one group (groups=, or the column "
            "group of index.csv) and keep them in one split. If they are copies, keep one."
        )
        more = "".join(f", and {text}" for text in differ)
        self.add(kind, "error" if is_error else "warning", rows, f"{len(rows)} images {what}{more}. {remedy}")

    def find_split_groups(self):
        """Find groups that lie in several splits."""
        if self.groups is None or self.splits is None:
            return
        members = {}
        for index, (group, split) in enumerate(zip(self.groups, self.splits)):
            if group is not None and split is not None:
                members.setdefault(group, {}).setdefault(split, []).append(index)
        for group, parts in members.items():
            if len(parts) > 1:
                message = (
                    f"The group {group!r} lies in the splits {' and '.join(sorted(parts))}. Move all its images to one "
                    "split."
                )
                self.add("split_group", "error", sorted(index for own in parts.values() for index in own), message)

    def find_odd_photographs(self):
        """Find images that differ from the others in size, exposure or sharpness."""
        rows = np.array(sorted(self.photographs), dtype=int)
        if not len(rows):
            return
        for kind, severity, places, message in odd_photographs([self.photographs[row] for row in rows]):
            self.add(kind, severity, rows[places], message)

    def find_misplaced_masks(self):
        """Find out whether all masks are mirrored or shifted relative to their images."""
        rows = sorted(self.marks)
        if 0 < len(rows) < MIN_MASKS:
            self.not_checked.append(f"placement of masks: expected at least {MIN_MASKS} masks, got {len(rows)}.")
        images = [self.photographs[row].reduced.astype(np.float32) for row in rows]
        placement = misplaced(images, [self.marks[row] for row in rows])
        if placement:
            message = (
                f"The {len(rows)} masks fit their images clearly better in another position. They seem to be "
                f"{placement}. Compare some masks with their images, and export the masks again."
            )
            self.add("mask_placement", "warning", rows, message)

    def find_outlying_scores(self, detector, max_scored):
        """Fit the detector on normal images, and find images that score far higher than the others."""
        rows = np.array([row for row in sorted(self.photographs) if not self.is_defect[row]], dtype=int)
        if detector is None:
            self.not_checked.append("scores of normal images: pass a detector, such as detector=ExDDDetector().")
            return
        is_colour = {self.photographs[row].n_channels > 1 for row in rows}
        items = [self.items[row] for row in rows]
        found = outlying_scores(detector, items, self._independent(rows), len(is_colour) > 1, max_scored)
        places, message, not_checked = found
        self.not_checked += not_checked
        if message:
            self.add("score", "warning", rows[places], message)

    def _independent(self, rows):
        """Return a group number for each row.

        The numbers stand for the groups that the user passed. If the user did not pass groups, duplicates form groups.
        """
        names = {row: f"image {row}" for row in rows.tolist()}
        if self.groups is not None:
            names.update({row: f"group {self.groups[row]}" for row in names if self.groups[row] is not None})
        else:
            for members in self._alike:  # sets of duplicates that share an image are joined
                joined = {names[row] for row in names.keys() & set(members.tolist())}
                names.update({row: f"alike {members[0]}" for row, name in names.items() if name in joined})
        return np.unique([names[row] for row in rows.tolist()], return_inverse=True)[1]


def _without_place(error):
    text = re.sub(r"^(X|masks)\[\d+\](?: \(.*?\))?: ", "", str(error), flags=re.DOTALL)
    return text[:1].upper() + text[1:]
