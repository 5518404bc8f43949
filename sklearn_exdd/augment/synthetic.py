"""Synthetic defects with their masks and provenance: making them, and attaching them to X."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator, _fit_context

from sklearn_exdd._composition import clone_with_seed
from sklearn_exdd._images import Images


@dataclass
class SyntheticDefects:
    """Synthetic defect images with their masks and provenance.

    It can be unpacked: ``images, masks = augmenter.sample(10)``.

    Parameters
    ----------
    images : ndarray of shape (n, height, width[, channels]) or list of such arrays
        Images with the shapes and dtypes of the normal images that they were made on (an alpha channel is dropped; a
        bool image becomes uint8).
    masks : ndarray of shape (n, height, width) or list of such arrays, dtype bool
        Masks that are True where an image may differ from its source. Everywhere else, the two are equal.
    provenance : list of dict
        Dict of each image with at least these keys: "augmenter", "region", "source", "seed", "contrast", "n_redraws",
        "prompt" and "model". "augmenter" and "region" are names of classes, except that "region" is "defect" for a real
        defect with its own region, and "given" for a region passed to ``paint``. "source" is the index of the normal
        image in the X passed to ``fit``, or None. "contrast" is the mean change within the mask, divided by the
        standard deviation of the texture. "prompt" and "model" may be None.

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
        """Collect (image, mask, provenance) triples."""
        images, masks, provenance = ([sample[part] for sample in samples] for part in range(3))
        same = len({(image.shape, image.dtype) for image in images}) == 1
        return cls(np.stack(images), np.stack(masks), provenance) if same else cls(images, masks, provenance)

    @classmethod
    def concatenate(cls, parts):
        """Concatenate the images of several parts."""
        return cls.from_samples([sample for part in parts for sample in zip(part.images, part.masks, part.provenance)])

    def restrict_to(self, sources):
        """Select the defects made on the given source images and renumber their sources.

        Parameters
        ----------
        sources : sequence of int
            Indices of the source images; ``sources[i]`` becomes i. Defects of unknown source are selected, too.

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

    The list is as long as X, so that y still fits. The ``fit`` of a detector adds the attached defects to its defect
    bank.

    Attributes
    ----------
    synthetic : SyntheticDefects or None
        Attached defects. "source" in their provenance is an index into this list.
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
    if masks is None and estimator.get_metadata_routing().fit.requests.get("masks") is not False:
        return getattr(X, "masks", None)
    return masks


def images_of(synthetic, sources):
    """Return the images of synthetic defects, each with the region of interest of its source.

    Parameters
    ----------
    synthetic : SyntheticDefects
        Synthetic defects. "source" in their provenance, if they have any, is an index into `sources`.
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
    """Stand-in for an augmenter that returns given synthetic defects.

    Parameters
    ----------
    synthetic : SyntheticDefects
    """

    _parameter_constraints = {"synthetic": [SyntheticDefects]}

    def __init__(self, synthetic):
        self.synthetic = synthetic

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, masks=None):
        """Return the estimator, which has nothing to learn."""
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
        Images to fit on, their labels (1 for defects), and their masks or None.
    seed : int
        Seed of an augmenter without a `random_state` of its own.
    memory : str, path-like, joblib.Memory or None, default=None
        Cache folder of an augmenter without a `memory` of its own.

    Returns
    -------
    synthetic : SyntheticDefects
        Result of the augmenter's ``sample``, which may have another type if the augmenter is not one of this library.
    """
    augmenter = clone_with_seed(augmenter, seed, memory=memory)
    random_state = augmenter.get_params(deep=False).get("random_state", seed)
    return augmenter.fit(images, labels, masks=masks).sample(n_samples, random_state=random_state)


def check_one_augmenter(augmenter, synthetic):
    """Refuse an augmenter for images that already carry synthetic defects."""
    if augmenter is not None and synthetic is not None:
        raise ValueError(
            "augmenter: expected None, because X already carries synthetic defects from an earlier Pipeline step, got "
            f"{augmenter!r}. Remove one of the two, or combine them in a MixedDefectAugmenter."
        )
