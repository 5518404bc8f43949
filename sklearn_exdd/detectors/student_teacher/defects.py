"""Defects that a student-teacher is trained on, real or synthetic."""

from typing import NamedTuple

from sklearn_exdd._images import Images, Masks
from sklearn_exdd.augment.synthetic import images_of


class Defects(NamedTuple):
    """Images with defects.

    Attributes
    ----------
    images : Images
    masks : list of ndarray of shape (height, width), bool, or None
        None if the mask is not known.
    sources : list of int or None
        Position of the normal image that each was made on; None for a real defect.
    """

    images: Images
    masks: list
    sources: list

    @classmethod
    def from_training_set(cls, defect):
        """Take real defects."""
        n_defects = len(defect)
        return cls(defect.samples, [defect.mask(i) for i in range(n_defects)], [None] * n_defects)

    @classmethod
    def from_synthetic(cls, synthetic, normals):
        """Take synthetic defects on normal images, whose provenance, if there is any, names the sources."""
        images = images_of(synthetic, normals).with_channels(normals.n_channels)
        masks = Masks(synthetic.masks, len(images), "synthetic masks")
        provenance = getattr(synthetic, "provenance", [{}] * len(images))
        sources = [sample.get("source") for sample in provenance]
        marked = [images.within_region(i, masks.get(i, images.shape(i))) for i in range(len(images))]
        return cls(images, marked, sources)
