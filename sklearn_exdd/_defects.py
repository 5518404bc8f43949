"""The defects that a network is trained on: real ones, and synthetic ones on the images that are trained on."""

from os import PathLike
from typing import NamedTuple

import joblib
import numpy as np
from sklearn.base import clone

from sklearn_exdd._images import Images, Masks
from sklearn_exdd.augment import default_augmenter


class Defects(NamedTuple):
    """Images with defects; None stands for a mask that is not known, and for the source of a real defect."""

    images: Images
    masks: list
    sources: list  # indices of the normal images that they were made on


def synthesize(augmenter, n_synthetic, normals, numbers, real, attached, seed):
    """Synthetic defects on the images that are trained on.

    Parameters
    ----------
    augmenter : object or None
        None takes what is attached or else a cheap mixture.
    n_synthetic : int
        0 takes what is attached or nothing.
    normals : Images
        That are trained on.
    numbers : ndarray of shape (n_normals,)
        Their indices in the user's X.
    real : Defects or None
        For augmenters that learn from defects.
    attached : SyntheticDefects or None
        What an augmenter before the detector has made on all images of X.
    seed : int

    Returns
    -------
    synthetic : Defects or None
    """
    check_one_augmenter(augmenter, attached)
    if attached is not None:
        places = {number: i for i, number in enumerate(numbers)}
        provenance = getattr(attached, "provenance", [{}] * len(attached.images))
        sources = [sample.get("source") for sample in provenance]
        # What was made on an image that is kept out stays out.
        chosen = [i for i, source in enumerate(sources) if source is None or source in places]
        sources = [places.get(source) for source in sources]
        images, masks = attached
    elif n_synthetic > 0:
        augmenter = default_augmenter() if augmenter is None else clone(augmenter)
        own = {name: None for name in augmenter.get_params() if name.split("__")[-1] == "pos_label"}
        if augmenter.get_params(deep=False).get("random_state", 0) is None:
            own["random_state"] = seed
        augmenter.set_params(**own)  # the labels are made here: 1 means defect, whatever it is in y
        defects, masks = ([], []) if real is None else (real.images.raw(), list(real.masks))
        labels = [0] * len(normals) + [1] * len(defects)
        augmenter.fit(normals.raw() + defects, labels, masks=[None] * len(normals) + masks)
        synthetic = augmenter.sample(n_synthetic, random_state=seed)
        images, masks = synthetic
        sources = [sample.get("source") for sample in getattr(synthetic, "provenance", [{}] * len(images))]
        chosen = range(len(images))
    else:
        return None
    if len(chosen) == 0:
        return None
    samples = Images(images, "synthetic images", n_channels=normals.n_channels)
    masks = Masks(masks, len(samples), "synthetic masks")
    masks = [masks.get(i, samples.shape(i)) for i in chosen]
    return Defects(samples.take(chosen), masks, [sources[i] for i in chosen])


def check_one_augmenter(augmenter, attached):
    """Refuse an augmenter for images that have synthetic defects attached."""
    if augmenter is not None and attached is not None:
        raise ValueError(
            "augmenter: expected None for images that an augmenter has been at, as a step before the detector in a "
            "Pipeline, got another one. Use one of the two, or a MixedDefectAugmenter."
        )


def masks_of(defect):
    """Masks of defect images, None where there is none."""
    return [mask_of(defect, i) for i in range(len(defect))]


def mask_of(defect, index):
    """Mask of a defect image, None where there is none; an empty one is an error."""
    mask = None if defect.masks is None else defect.masks.get(index, defect.samples.shape(index))
    if mask is not None and not mask.any():
        raise ValueError(
            f"{defect.masks.where(index)}: expected a mask of the defect, got an empty one. Pass None for an image "
            "whose defect is not marked."
        )
    return mask


def canonical(images):
    """The images, those of 256 greys as uint8: the same pixels train the same network, whatever their form."""
    items = images.raw()
    for i, item in enumerate(items):
        if not isinstance(item, (str, PathLike)) and np.asarray(item).dtype != np.uint8:
            greys = images[i] * 255
            if np.abs(greys - np.rint(greys)).max() < 1e-3:
                items[i] = np.rint(greys).astype(np.uint8)
        images.shape(i)  # reads it, so that a wrong one is found now
    same = images.take(range(len(items)))
    same._items = items
    return same


def hash_of_pixels(normals, real, attached):
    """Of all that training sees."""
    hashes = [joblib.hash(normals.original(i)) for i in range(len(normals))]
    if real is not None:
        hashes += [joblib.hash((real.images.original(i), mask)) for i, mask in enumerate(real.masks)]
    if attached is not None:
        hashes += [joblib.hash(pair) for pair in zip(*attached)]
    return joblib.hash(hashes)
