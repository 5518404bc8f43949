"""Search for the mask file of each image by the names of the files."""

from sklearn_exdd._images.files import Names


def pair_masks(pools, masks, mask_root, root):
    """Find the mask of each image.

    A mask lies in the sub-folder of `mask_root` that corresponds to the sub-folder of its image. Its name is the stem
    of the image's name, with or without `_mask`, and any suffix.

    Parameters
    ----------
    pools : list of list of (pathlib.Path, pathlib.Path)
        Pools of images, in order of preference. A mask belongs to the first pool with a matching image. Each image is
        given as a pair of paths: the path that the mask must have within `mask_root`, apart from `_mask` and the
        suffix, and the path of the image.
    masks : list of pathlib.Path
        Mask files.
    mask_root : pathlib.Path
        Folder of the masks.
    root : pathlib.Path
        Folder of the defect images, for messages.

    Returns
    -------
    mask_of : dict of pathlib.Path to pathlib.Path
        Mask file of each image that has a mask.
    """
    names = [Names((stem_of(place), image) for place, image in pool) for pool in pools]
    mask_of = {}
    for mask in masks:
        place = mask.relative_to(mask_root)
        images = _meant(place, names)
        if not images:
            raise ValueError(
                f"The mask {str(mask)!r} has no image. Expected {str(root / _without_mask(stem_of(place)))!r}"
                ".<extension>, or a normal image of this name. Rename the mask or remove it."
            )
        # If the folder contains both a.png and a.jpg, the mask a.png belongs to a.png.
        same = [image for image in images if image.name == mask.name]
        for image in same or images:
            if image in mask_of:
                raise ValueError(
                    f"{str(image)!r}: expected one mask, got {str(mask_of[image])!r} and {str(mask)!r}. Remove one."
                )
            mask_of[image] = mask
    return mask_of


def stem_of(place):
    """Return a path as text with forward slashes and without its suffix."""
    return place.with_suffix("").as_posix()


def _without_mask(stem):
    name = stem.rpartition("/")[2]
    return stem[: -len("_mask")] if name.lower().endswith("_mask") and len(name) > len("_mask") else stem


def _meant(place, names):
    """Find the images that a mask may belong to. Without an image of an equal name, ignore differences in case."""
    stem = stem_of(place)
    for look in (Names.equal, Names.alike):
        for one in dict.fromkeys((stem, _without_mask(stem))):
            for pool in names:
                images = look(pool, one)
                if images:
                    return images
    return []
