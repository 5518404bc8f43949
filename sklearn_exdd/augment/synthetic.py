"""Synthetic defects with their masks and provenance, and functions that make them and attach them to images."""

from dataclasses import dataclass

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, _fit_context

from sklearn_exdd._composition import clone_with_seed
from sklearn_exdd._images import Images


@dataclass
class SyntheticDefects:
    """Synthetic defect images with their masks and provenance.

    It can be unpacked into images and masks: ``images, masks = augmenter.sample(10)``.

    Parameters
    ----------
    images : ndarray of shape (n, height, width[, channels]) or list of such arrays
        Images with defects. The source of an image is the normal image on which the defect was made. An image has the
        shape and dtype of its source, except that an alpha channel is dropped, and bool becomes uint8.
    masks : ndarray of shape (n, height, width) or list of such arrays, dtype bool
        Masks of the defects. Outside its mask, an image is equal to its source.
    provenance : list of dict
        One dict per image, with at least these keys:

        * "augmenter": name of the class of the augmenter.
        * "region": name of the class of the region drawer, "defect" for a real defect with its own region, or "given"
          for a region passed to ``paint``.
        * "source": index of the source in the X passed to ``fit``, or None.
        * "seed": seed of the call that made the image.
        * "contrast": mean change within the mask, divided by the standard deviation of the texture.
        * "n_redraws": number of redraws.
        * "prompt" and "model": prompt and model of the augmenter, or None.

    Examples
    --------
    >>> from sklearn_exdd import OffsetDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(4, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> synthetic = OffsetDefectAugmenter(random_state=0).fit(X).sample(3)
    >>> images, masks = synthetic
    >>> images.shape, masks.dtype, synthetic.provenance[0]["augmenter"]
    ((3, 64, 64), dtype('bool'), 'OffsetDefectAugmenter')
    """

    images: object
    masks: object
    provenance: list

    def __iter__(self):
        return iter((self.images, self.masks))

    @classmethod
    def from_samples(cls, samples):
        """Create an instance from (image, mask, provenance) tuples."""
        images, masks, provenance = ([sample[part] for sample in samples] for part in range(3))
        same = len({(image.shape, image.dtype) for image in images}) == 1
        return cls(np.stack(images), np.stack(masks), provenance) if same else cls(images, masks, provenance)

    @classmethod
    def concatenate(cls, parts):
        """Concatenate several instances."""
        return cls.from_samples([sample for part in parts for sample in zip(part.images, part.masks, part.provenance)])

    def restrict_to(self, sources):
        """Select the defects made on the given source images and renumber their sources.

        Parameters
        ----------
        sources : sequence of int
            Indices of the source images. Index ``sources[i]`` becomes i. Defects without a known source are also
            selected.

        Returns
        -------
        synthetic : SyntheticDefects or None
            Selected defects, or None if no defect is selected.
        """
        number_of = {int(source): number for number, source in enumerate(sources)}
        number_of[None] = None
        kept = [
            (image, mask, {**provenance, "source": number_of[provenance["source"]]})
            for image, mask, provenance in zip(*self, self.provenance)
            if provenance["source"] in number_of
        ]
        return self.from_samples(kept) if kept else None


class AugmentedImages(list):
    """List of the images passed to an augmenter, with synthetic defects attached.

    The list has the same length as X, so y stays aligned with it. The ``fit`` of a detector adds the attached defects
    to its defect bank.

    Attributes
    ----------
    synthetic : SyntheticDefects or None
        Attached defects. The "source" in their provenance is an index into this list.
    masks : array or list, or None
        Masks of the real defects, as passed to the augmenter. Later steps of a Pipeline that receive no masks use them.

    Examples
    --------
    >>> from sklearn_exdd import OffsetDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(4, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> augmented = OffsetDefectAugmenter(n_synthetic=3, random_state=0).fit_transform(X)
    >>> len(augmented), len(augmented.synthetic.images)
    (4, 3)
    """

    def __init__(self, items, synthetic, masks=None):
        super().__init__(items)
        self.synthetic, self.masks = synthetic, masks

    @classmethod
    def attach(cls, X, synthetic, masks):
        """Attach synthetic defects (or None) and masks (or None) to the images of X, besides what X carries already."""
        parts = [part for part in (getattr(X, "synthetic", None), synthetic) if part is not None]
        masks = getattr(X, "masks", None) if masks is None else masks
        return cls(Images(X).raw(), SyntheticDefects.concatenate(parts) if parts else None, masks)


def masks_for(estimator, X, masks):
    """Return the masks passed to `fit` or, if it received none, those that an earlier Pipeline step received with X.

    An estimator after ``set_fit_request(masks=False)`` does without.
    """
    carried = getattr(X, "masks", None)
    if masks is not None or carried is None:
        return masks
    # Requests exist only with metadata routing. Without it, a subclass may give fit any signature.
    routed = get_config()["enable_metadata_routing"]
    return None if routed and estimator.get_metadata_routing().fit.requests.get("masks") is False else carried


def images_of(synthetic, sources):
    """Return the images of synthetic defects, each with the region of interest of its source.

    Parameters
    ----------
    synthetic : SyntheticDefects
        Synthetic defects. If they have provenance, its "source" is an index into `sources`.
    sources : Images

    Returns
    -------
    images : Images
    """
    images, _ = synthetic
    images = Images(images, "synthetic images")
    provenance = getattr(synthetic, "provenance", None) or [{}] * len(images)
    return images.in_regions_of(sources, [one.get("source") for one in provenance])


class GivenDefects(BaseEstimator):
    """Augmenter that only returns given synthetic defects.

    Parameters
    ----------
    synthetic : SyntheticDefects
    """

    _parameter_constraints = {"synthetic": [SyntheticDefects]}

    def __init__(self, synthetic):
        self.synthetic = synthetic

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, masks=None):
        """Return the estimator unchanged, because it has nothing to learn."""
        return self

    def sample(self, n_samples=None, random_state=None):
        """Return all given defects, whatever `n_samples` is."""
        return self.synthetic


def synthesize(augmenter, n_samples, images, labels, masks, *, seed, memory=None):
    """Fit a clone of an augmenter and make synthetic defects.

    Parameters
    ----------
    augmenter : object
        Augmenter with ``fit(X, y, masks=)`` and ``sample(n_samples, random_state=)``.
    n_samples : int
    images, labels, masks : list
        Images to fit on, their labels (1 means defect), and their masks (or None).
    seed : int
        Seed of the augmenter if its `random_state` is None.
    memory : str, path-like, joblib.Memory or None, default=None
        Cache folder of the augmenter if its `memory` is None.

    Returns
    -------
    synthetic : SyntheticDefects
        Result of the augmenter's ``sample``. If the augmenter is not part of this library, the result may have another
        type.
    """
    augmenter = clone_with_seed(augmenter, seed, memory=memory)
    random_state = augmenter.get_params(deep=False).get("random_state", seed)
    return augmenter.fit(images, labels, masks=masks).sample(n_samples, random_state=random_state)


def check_one_augmenter(augmenter, synthetic):
    """Raise an error if an augmenter is given for images that already carry synthetic defects."""
    if augmenter is not None and synthetic is not None:
        raise ValueError(
            "augmenter: expected None, because X already carries synthetic defects from an earlier Pipeline step, got "
            f"{augmenter!r}. Remove one of the two, or combine them in a MixedDefectAugmenter."
        )
