"""Reading of images and masks. Every image and mask that a user passes is read by this package."""

from sklearn_exdd._images.containers import (
    as_array,
    check_listed,
    check_no_table,
    check_unmasked,
    holds_images,
    is_image,
    is_missing,
)
from sklearn_exdd._images.decoding import IMAGE_SUFFIXES, read_image
from sklearn_exdd._images.digests import are_known, training_digests
from sklearn_exdd._images.images import Images
from sklearn_exdd._images.masks import Masks
from sklearn_exdd._images.roi import (
    ImageInRegion,
    highest_inside,
    in_region,
    is_one_region,
    lowest_outside,
    with_roi,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageInRegion",
    "Images",
    "Masks",
    "are_known",
    "as_array",
    "check_listed",
    "check_no_table",
    "check_unmasked",
    "highest_inside",
    "holds_images",
    "in_region",
    "is_image",
    "is_missing",
    "is_one_region",
    "lowest_outside",
    "read_image",
    "training_digests",
    "with_roi",
]
