"""Real or synthetic defects for the training of a student and a teacher."""

from typing import NamedTuple

from sklearn_exdd._images import Images, Masks
from sklearn_exdd.augment.synthetic import images_of


class Defects(NamedTuple):
    """Images with defects.

    Attributes
    ----------
    images : Images
    masks : list of ndarray of shape (height, width), dtype bool, or None
        Masks of the defects. An unknown mask is None.
    sources : list of int or None
        Positions of the normal images on which synthetic defects were made. None for a real defect.
    """

    images: Images
    masks: list
    sources: list

    @classmethod
    def from_training_set(cls, defect):
        """Create from a training set of real defects."""
        n_defects = len(defect)
        return cls(defect.samples, [defect.mask(i) for i in range(n_defects)], [None] * n_defects)

    @classmethod
    def from_synthetic(cls, synthetic, normals):
        """Create from synthetic defects on normal images. The sources are taken from the provenance, if it is known."""
        images = images_of(synthetic, normals).with_channels(normals.n_channels)
        masks = Masks(synthetic.masks, len(images), "synthetic masks")
        provenance = getattr(synthetic, "provenance", [{}] * len(images))
        sources = [sample.get("source") for sample in provenance]
        marked = [images.within_region(i, masks.get(i, images.shape(i))) for i in range(len(images))]
        return cls(images, marked, sources)
