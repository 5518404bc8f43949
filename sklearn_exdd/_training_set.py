"""Training data: the samples of one class as passed to `fit`, with their groups and masks."""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_exdd._images import Images, Masks, check_listed, is_image, is_missing
from sklearn_exdd._labels import are_paths, as_kinds, as_labels, find_positive, listed


@dataclass
class TrainingSet:
    """Samples of one class, as passed to `fit`.

    Parameters
    ----------
    samples : Images or ndarray of shape (n_samples, n_features)
    indices : ndarray of shape (n_samples,), dtype int
        Position of each sample in the user's X (or X_defect).
    groups : ndarray of shape (n_samples,), dtype int
        Group of each sample. Samples of one group are not independent.
    masks : Masks, default=None
    synthetic : SyntheticDefects, default=None
        Defects that an earlier Pipeline step made on these images.
    kinds : ndarray of shape (n_samples,), dtype str, default=None
        Kind of the defect in each sample, or "" if the kind is unknown or the sample is normal. None if no kinds were
        passed to `fit`.
    is_renumbered : bool, default=False
        Whether the synthetic defects refer to their source images by their positions in this set. If False, they refer
        to them by the numbers in `indices`.
    """

    samples: object
    indices: np.ndarray
    groups: np.ndarray
    masks: Masks = None
    synthetic: object = None
    kinds: np.ndarray = None
    is_renumbered: bool = False

    def __len__(self):
        return len(self.samples)

    @property
    def has_images(self):
        """Whether the samples are images rather than feature rows."""
        return isinstance(self.samples, Images)

    def take(self, rows):
        """Select samples by position, with the synthetic defects made on them."""
        samples = self.samples.take(rows) if self.has_images else self.samples[rows]
        sources = rows if self.is_renumbered else self.indices[rows]
        synthetic = self.synthetic and self.synthetic.restrict_to(sources)
        masks = self.masks and self.masks.take(rows)
        kinds = None if self.kinds is None else self.kinds[rows]
        is_renumbered = self.is_renumbered or self.synthetic is not None
        return TrainingSet(samples, self.indices[rows], self.groups[rows], masks, synthetic, kinds, is_renumbered)

    def with_channels(self, n_channels):
        """Return a copy of the set that expects its images to have the given number of channels."""
        return replace(self, samples=self.samples.with_channels(n_channels))

    def check_all(self):
        """Read every image and mask once, so that a message on an invalid image or mask contains the user's index."""
        self.samples.check_all()
        for i in range(len(self) if self.masks is not None else 0):
            self.masks.get(i, self.samples.shape(i))

    def _mask_within(self, index):
        """Return the part of a mask within the region of interest, and the words for this part in messages."""
        mask = None if self.masks is None else self.masks.get(index, self.samples.shape(index))
        within = self.samples.within_region(index, mask)
        return within, "" if within is mask else " within the region of interest"

    def mask(self, index):
        """Return the mask of a defect image as bool (height, width), or None without a mask. Refuse an empty mask."""
        mask, where = self._mask_within(index)
        if mask is not None and not mask.any():
            advice = "Leave the image out, or label it normal if the region shows no defect." if where else ""
            raise ValueError(
                f"{self.masks.where(index)}: expected a mask of the defect, got an empty one{where}. "
                + (advice or "Pass None for an image whose defect is not marked.")
            )
        return mask

    def check_masks_empty(self):
        """Refuse masks of normal images that mark a defect. Images without a mask are not read."""
        for i in [] if self.masks is None else np.flatnonzero([mask is not None for mask in self.masks.raw()]):
            mask, where = self._mask_within(i)
            if mask.any():
                raise ValueError(
                    f"{self.masks.where(i)}: expected None or an empty mask for a normal image, got one with "
                    f"{mask.sum()} defect pixels{where}. Check its label."
                )


def in_one_form(normal, defect):
    """Read every image once, and convert images whose values fit into 8 bits to uint8.

    Reading all images now ensures that messages about invalid images contain the user's index. After the conversion,
    images with the same pixels train the same network, whatever their original dtype was. Feature rows are not changed.

    Parameters
    ----------
    normal : TrainingSet
    defect : TrainingSet or None

    Returns
    -------
    normal, defect : TrainingSet
    """
    if not normal.has_images:
        return normal, defect
    sets = [normal] if defect is None else [normal, defect.with_channels(normal.samples.n_channels)]
    for part in sets:
        part.samples.check_all()
    sets = [replace(part, samples=part.samples.as_uint8()) for part in sets]
    return sets[0], None if defect is None else sets[1]


def joined(normal, defect):
    """Concatenate the normal images and, if there are any, the defect images.

    Parameters
    ----------
    normal : TrainingSet
    defect : TrainingSet or None

    Returns
    -------
    images, labels, masks : list
        Labels are 0 (normal) and 1 (defect).
    """
    images, labels, masks = normal.samples.raw(), [0] * len(normal), [None] * len(normal)
    if defect is not None:
        images += defect.samples.raw()
        labels += [1] * len(defect)
        masks += [None] * len(defect) if defect.masks is None else defect.masks.raw()
    return images, labels, masks


def hold_out(groups, fraction, random_state):
    """Choose whole groups of normal samples, about the given fraction of all groups, to hold out of training.

    Parameters
    ----------
    groups : ndarray of shape (n_samples,)
    fraction : float
    random_state : RandomState

    Returns
    -------
    is_held_out : ndarray of shape (n_samples,), dtype bool
    """
    numbers = random_state.permutation(np.unique(groups))
    if len(numbers) < 3:
        raise ValueError(
            f"X: expected normal samples of at least 3 groups, because one group is held out, got {len(numbers)} "
            f"groups and n_samples = {len(groups)}."
        )
    n_held_out = min(max(1, round(fraction * len(numbers))), len(numbers) - 2)
    return np.isin(groups, numbers[:n_held_out])


def split_by_class(samples, is_defect, groups, masks, kinds=None):
    """Split samples into a training set of normal samples and one of defect samples. An empty set becomes None."""
    if masks is not None:
        masks = Masks(masks, len(samples))
    if kinds is not None:
        kinds = as_kinds(kinds, is_defect)
    everything, sets = TrainingSet(samples, np.arange(len(samples)), groups, masks, kinds=kinds), []
    for rows in np.flatnonzero(~is_defect), np.flatnonzero(is_defect):
        sets.append(everything.take(rows) if len(rows) else None)
    return sets


def group_numbers(groups, n_samples):
    """Return the number of the group of each sample, counted from 0.

    A sample without a group (None, NaN or blank text) forms a separate group.
    """
    if groups is None:
        return np.arange(n_samples)
    check_listed(groups, "groups")
    shape = getattr(groups, "shape", None)
    if shape is not None and len(shape) == 2 and shape[1] == 1:
        groups = groups.iloc[:, 0] if hasattr(groups, "iloc") else groups[:, 0]
    elif shape is not None and len(shape) != 1:
        raise ValueError(f"groups: expected one group for each sample of X, got an array of shape {tuple(shape)}.")
    if len(groups) != n_samples:
        raise ValueError(f"groups: expected one group for each of the {n_samples} samples of X, got {len(groups)}.")
    names = [item.item() if getattr(item, "shape", None) == () and hasattr(item, "item") else item for item in groups]
    names = [tuple(item) if isinstance(item, list) else item for item in names]
    is_blank = np.array([is_missing(item) or is_missing(name) for item, name in zip(groups, names)])
    try:
        different = {name for name, blank in zip(names, is_blank) if not blank}
    except TypeError as error:
        raise ValueError(f"groups: expected texts or numbers, got values that cannot be compared: {error}.") from error
    try:
        different = sorted(different)
    except TypeError:  # Texts and numbers are mixed. Compare all as texts: 7 and "7" may mean the same group.
        names = list(map(str, names))
        different = sorted(set(map(str, different)))
    number_of = {name: number for number, name in enumerate(different)}
    numbers = np.empty(n_samples, dtype=int)
    numbers[~is_blank] = [number_of[name] for name, blank in zip(names, is_blank) if not blank]
    numbers[is_blank] = len(different) + np.arange(is_blank.sum())
    return numbers


def hold_out_of_each_kind(groups, fraction, random_state):
    """Hold out a fraction of the groups of each kind for validation.

    Two groups are of the same kind if they have images in the same elements of `groups`.

    Parameters
    ----------
    groups : list of ndarray
        Group of each image. The first array holds the groups of the normal images. Each further array holds the groups
        of a set of defect images.
    fraction : float
    random_state : RandomState

    Returns
    -------
    is_validation : list of ndarray of bool
        Whether each image is held out, in arrays of the same form as `groups`.
    """
    numbers = np.unique(np.concatenate(groups))
    parts_of = np.stack([np.isin(numbers, own) for own in groups], axis=1)
    held_out = []
    for kind in np.unique(parts_of, axis=0):
        of_kind = random_state.permutation(numbers[(parts_of == kind).all(axis=1)])
        n_held_out = max(1, round(fraction * len(of_kind)))
        held_out.append(of_kind[: min(n_held_out, len(of_kind) - 1)])
    is_validation = [np.isin(own, np.concatenate(held_out)) for own in groups]
    counts = {}
    for name, parts in ("normal", is_validation[:1]), ("defect", is_validation[1:]):
        counts[f"{name} images for validation"] = sum(int(part.sum()) for part in parts)
        counts[f"{name} images for training"] = sum(int((~part).sum()) for part in parts)
    if 0 in counts.values():
        raise ValueError(
            f"validation_fraction: expected {fraction:g} of {len(numbers)} groups to leave at least one of each, got "
            + ", ".join(f"{count} {name}" for name, count in counts.items())
            + ". Pass more images or smaller groups, or raise n_synthetic."
        )
    return is_validation


def are_defect_images(y, X, holds_images=True):
    """Tell whether the second argument of `fit` holds defect images rather than labels of X.

    Parameters
    ----------
    y : array-like or None
    X : sequence
    holds_images : bool, default=True
        Whether X holds images rather than feature rows. Only texts that are passed with images can be paths.

    Returns
    -------
    bool
    """
    if y is None or getattr(y, "ndim", 1) != 1:
        return getattr(y, "ndim", 1) > 2
    if not hasattr(y, "__len__") or len(y) == 0:
        return False
    first = next(iter(y))
    if not isinstance(first, str):
        return is_image(first)
    return holds_images and are_paths(y, len(X))


def find_defects(y, n_images, pos_label):
    """Tell which images show defects according to their labels. If `y` is None, all images are normal."""
    if y is None:
        return np.zeros(n_images, dtype=bool)
    if are_defect_images(y, (), holds_images=False):
        raise ValueError("y: expected labels, one for each image of X, got images. Add them to X, with labels 0 and 1.")
    y = as_labels(y, n_images)
    classes = np.unique(y)
    if len(classes) > 2:
        raise ValueError(f"y: expected two classes, normal and defect, got {len(classes)}: {listed(classes)}.")
    return y == find_positive(classes, pos_label)


def images_by_class(images, y, masks, pos_label):
    """Split the arguments of an augmenter's `fit` into a normal and a defect training set. The latter may be None."""
    if are_defect_images(y, images):
        numbers, defects = np.arange(len(images)), Images(y, "X_defect")
        apart = np.arange(len(defects))
        masks = None if masks is None else Masks(masks, len(defects))
        return TrainingSet(images, numbers, numbers), TrainingSet(defects, apart, len(images) + apart, masks)
    if masks is not None and y is None:
        raise ValueError("masks: expected None without labels y, which say which images are defects. Pass y, too.")
    is_defect = find_defects(y, len(images), pos_label)
    if is_defect.all():
        raise ValueError("y: expected at least one normal image to make defects on, got defects only.")
    normal, defect = split_by_class(images, is_defect, np.arange(len(images)), masks)
    normal.check_masks_empty()
    return normal, defect


def with_marks(defect):
    """Select the defect images whose mask marks at least one pixel. Return None if all masks are missing or empty."""
    masks = defect.masks
    rows = []
    for i in range(0 if masks is None else len(defect)):
        mask = defect.samples.within_region(i, masks.get(i, defect.samples.shape(i)))
        if mask is not None and mask.any():
            rows.append(i)
    return defect.take(rows) if rows else None


def by_brightness(training_set):
    """Sort images by mean brightness, which does not depend on their dtype."""
    images = training_set.samples
    means = [images[i].mean(dtype=np.float64) for i in range(len(images))]
    return training_set.take(np.argsort(means, kind="stable"))
