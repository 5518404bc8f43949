"""Mask files, which are matched with images by their names."""

from sklearn_exdd._images.files import Names


def pair_masks(pools, masks, mask_root, root):
    """Find the mask of each image: same sub-folder, same stem, with or without `_mask`.

    Parameters
    ----------
    pools : list of list of (pathlib.Path, pathlib.Path)
        Pairs of a place (sub-folder and file name of the mask) and its image. A mask belongs to an image of the first
        pool with a match.
    masks : list of pathlib.Path
        Mask files.
    mask_root : pathlib.Path
        Folder of the masks.
    root : pathlib.Path
        Folder of the defect images, for messages.

    Returns
    -------
    mask_of : dict of pathlib.Path to pathlib.Path
        Mask of each image that has one.
    """
    names = [Names((stem_of(place), image) for place, image in pool) for pool in pools]
    mask_of = {}
    for mask in masks:
        place = mask.relative_to(mask_root)
        images = _meant(place, names)
        if not images:
            raise ValueError(
                f"The mask {str(mask)!r} has no defect image; expected {str(root / _without_mask(stem_of(place)))!r}"
                ".<extension>, or a normal image of this name. Rename the mask or remove it."
            )
        # If a mask fits both a.png and a.jpg, the image with the suffix of the mask is preferred.
        same = [image for image in images if image.name == mask.name]
        for image in same or images:
            if image in mask_of:
                raise ValueError(
                    f"{str(image)!r}: expected one mask, got {str(mask_of[image])!r} and {str(mask)!r}. Remove one."
                )
            mask_of[image] = mask
    return mask_of


def stem_of(place):
    """Return a place without its suffix, with forward slashes."""
    return place.with_suffix("").as_posix()


def _without_mask(stem):
    name = stem.rpartition("/")[2]
    return stem[: -len("_mask")] if name.lower().endswith("_mask") and len(name) > len("_mask") else stem


def _meant(place, names):
    """Find the images that a mask may belong to, by an equal name or else by a name that differs only in case."""
    stem = stem_of(place)
    for look in (Names.equal, Names.alike):
        for one in dict.fromkeys((stem, _without_mask(stem))):
            for pool in names:
                images = look(pool, one)
                if images:
                    return images
    return []
