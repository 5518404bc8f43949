"""Folders of images on disk, in the layouts that data sets come in."""

import csv
import os
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from sklearn_exdd._images import IMAGE_SUFFIXES, read_image


def _folder(path, layout):
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path)!r}; expected one that holds {layout}.")
    return path


def _parts(subset):
    if subset not in (None, "train", "test"):
        raise ValueError(f"subset: expected 'train', 'test' or None (both), got {subset!r}.")
    return ["train", "test"] if subset is None else [subset]


def list_image_files(folder, part="."):
    """Return the image files of a part of a folder, at any depth, without hidden ones, in the order of their names."""
    root = folder / part
    places = sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
    )
    images = [root / place for place in places if not place.startswith(".") and "/." not in place]
    _check_inside(folder, images)
    return images


def _check_inside(folder, files):
    """A folder from a stranger must not make us read what is not in it."""
    end = os.path.realpath(folder)
    for file in files:
        place = os.path.realpath(file)
        if not Path(place).is_relative_to(end):
            raise ValueError(
                f"{file}: expected a file within {str(folder)!r}, got a name or a link that leads to {place!r}. Copy "
                "the file, or pass the paths of your images as a list."
            )


def _pair(images, folder, part, mask_part):
    """Find the mask of each defect image: same sub-folder, same stem with or without `_mask`."""
    root = folder / part
    places, mask_of = [image.relative_to(root).with_suffix("") for image in images], {}
    for mask in list_image_files(folder, mask_part):
        place = mask.relative_to(folder / mask_part).with_suffix("")
        if place not in places:
            place = place.with_name(place.name.removesuffix("_mask"))
        if place not in places:
            raise ValueError(f"The mask {str(mask)!r} has no defect image; expected {str(root / place)!r}.<extension>.")
        mask_of[place] = mask
    return [mask_of.get(place) for place in places]


def _bunch(path, layout, X, masks, kinds, groups=None, **more):
    if not X:
        raise ValueError(f"Found no images in {str(path)!r}; expected {layout}, as {', '.join(IMAGE_SUFFIXES)} files.")
    kinds = np.array(kinds)
    return Bunch(X=X, y=(kinds != "normal").astype(int), masks=masks, kinds=kinds, groups=groups, **more)


def load_folder(path):
    """List the images of a folder with `normal/` (or `good/`), `defect/` and, if there are any, `masks/`.

    Parameters
    ----------
    path : str or path-like
        The folder. Sub-folders of `defect/` are kinds of defect. The mask of an image has the same stem, with or
        without `_mask`, in the same sub-folder of `masks/`. Hidden files are left out.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X : list of pathlib.Path, length n_samples
            The image files, sorted, normal ones first; nothing is decoded.
        y : ndarray of shape (n_samples,), dtype int
            1 for a defect, 0 for a normal image.
        masks : list of pathlib.Path or None, length n_samples
            The mask file of each defect image that has one.
        kinds : ndarray of shape (n_samples,), dtype str
            The kind of defect ("defect" where it has no name), or "normal".
        groups : None
            Only :func:`load_index` knows which images belong together.

    Raises
    ------
    FileNotFoundError
        If the folder is missing.
    ValueError
        If there are no images, a mask has no image, or a link leads out of the folder.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_exdd.datasets import load_folder
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("normal/1.png", "defect/scratch/2.png", "masks/scratch/2.png"):
    ...         Path(folder, name).parent.mkdir(parents=True)
    ...         Path(folder, name).touch()
    ...     data = load_folder(folder)
    >>> data.y.tolist(), data.kinds.tolist(), data.masks[1].name
    ([0, 1], ['normal', 'scratch'], '2.png')
    """
    layout = "normal/ (or good/), defect/ and, if there are any, masks/"
    path = _folder(path, layout)
    normal, defect = list_image_files(path, "good") + list_image_files(path, "normal"), list_image_files(path, "defect")
    names = [image.parent.relative_to(path / "defect").as_posix() for image in defect]
    kinds = ["normal"] * len(normal) + ["defect" if name in (".", "normal") else name for name in names]
    masks = [None] * len(normal) + _pair(defect, path, "defect", "masks")
    return _bunch(path, layout, normal + defect, masks, kinds)


def load_mvtec(path, subset=None):
    """List the images of one category in the layout of MVTec AD (Bergmann et al., CVPR 2019).

    Parameters
    ----------
    path : str or path-like
        The folder with `train/good`, `test/<kind>` and `ground_truth/<kind>/<stem>_mask.png`.
    subset : {"train", "test"} or None, default=None
        None returns both, train first.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        As :func:`load_folder` returns, and `is_test`, ndarray of shape (n_samples,), dtype bool.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_exdd.datasets import load_mvtec
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("train/good/0.png", "test/hole/0.png", "ground_truth/hole/0_mask.png"):
    ...         Path(folder, name).parent.mkdir(parents=True)
    ...         Path(folder, name).touch()
    ...     data = load_mvtec(folder)
    >>> data.kinds.tolist(), data.is_test.tolist(), data.masks[1].name
    (['normal', 'hole'], [False, True], '0_mask.png')
    """
    layout = "train/good/, test/<kind>/ and ground_truth/<kind>/<stem>_mask.png"
    path = _folder(path, layout)
    X, kinds, is_test = [], [], []
    for part in _parts(subset):
        images = [image for image in list_image_files(path, part) if image.parent != path / part]
        names = [image.relative_to(path / part).parts[0] for image in images]
        kinds += ["normal" if name == "good" else name for name in names]
        is_test += [part == "test"] * len(images)
        X += images
    tested = [image for image, kind, test in zip(X, kinds, is_test) if test and kind != "normal"]
    mask_of = dict(zip(tested, _pair(tested, path, "test", "ground_truth"))) if subset != "train" else {}
    return _bunch(path, layout, X, [mask_of.get(image) for image in X], kinds, is_test=np.array(is_test))


def load_ksdd2(path, subset=None):
    """List the images of KolektorSDD2 (Bozic, Tabernik, Skocaj, Computers in Industry, 2021).

    An image is a defect if its mask has a pixel that is not zero; the masks are read for that. Files with "(copy)" in
    the name, which the data set holds twice, are left out.

    Parameters
    ----------
    path : str or path-like
        The folder with `train/` and `test/`, which hold `10000.png` and its mask `10000_GT.png`.
    subset : {"train", "test"} or None, default=None
        None returns both, train first.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        As :func:`load_folder` returns, and `is_test`, ndarray of shape (n_samples,), dtype bool.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from sklearn_exdd.datasets import load_ksdd2
    >>> with TemporaryDirectory() as folder:
    ...     Path(folder, "test").mkdir()
    ...     for name, grey in (("1.png", 90), ("1_GT.png", 0), ("2.png", 90), ("2_GT.png", 255)):
    ...         Image.new("L", (32, 32), grey).save(Path(folder, "test", name))
    ...     data = load_ksdd2(folder)
    >>> data.y.tolist(), [mask and mask.name for mask in data.masks]
    ([0, 1], [None, '2_GT.png'])
    """
    layout = "train/ and test/ with 10000.png and its mask 10000_GT.png"
    path = _folder(path, layout)
    X, masks, is_test = [], [], []
    for part in _parts(subset):
        files = {file.stem: file for file in list_image_files(path, part) if "(copy)" not in file.name}
        for stem, file in files.items():
            image, mask = stem.removesuffix("_GT"), stem.removesuffix("_GT") + "_GT"
            if image not in files or mask not in files:
                raise ValueError(f"In {str(path / part)!r}, expected both {image}.png and {mask}.png, got {file.name}.")
            if stem == image:
                masks.append(files[mask] if read_image(files[mask]).any() else None)
                X.append(file)
                is_test.append(part == "test")
    kinds = ["normal" if mask is None else "defect" for mask in masks]
    return _bunch(path, layout, X, masks, kinds, is_test=np.array(is_test))


def load_index(path):
    """List the images that the table `index.csv` of a folder names, in the order of its rows.

    Parameters
    ----------
    path : str or path-like
        The folder that holds `index.csv`. Its columns are `image` and `label` (0 or "normal", 1 or "defect") and, if
        there are any, `mask`, `type` (the kind of defect) and `group` (images of one part share it). Paths are
        relative to the folder, and do not lead out of it.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        As :func:`load_folder` returns; with a column `group`, `groups` is an ndarray of shape (n_samples,), dtype str.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_exdd.datasets import load_index
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("a.png", "b.png", "b_mask.png"):
    ...         Path(folder, name).touch()
    ...     rows = ["image,label,mask,type,group", "a.png,0,,,part 7", "b.png,1,b_mask.png,crack,part 8"]
    ...     _ = Path(folder, "index.csv").write_text(chr(10).join(rows))
    ...     data = load_index(folder)
    >>> data.y.tolist(), data.kinds.tolist(), data.groups.tolist()
    ([0, 1], ['normal', 'crack'], ['part 7', 'part 8'])
    """
    layout = "index.csv with the columns image, label and, if wanted, mask, type, group"
    index = _folder(path, layout) / "index.csv"
    if not index.is_file():
        raise FileNotFoundError(f"There is no {str(index)!r}; expected {layout}.")
    labels = {"0": "normal", "normal": "normal", "good": "normal", "1": "defect", "defect": "defect"}
    X, masks, kinds, groups = [], [], [], []
    with open(index, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"image", "label"} <= set(rows.fieldnames or []):
            raise ValueError(f"Expected {layout}, got the columns {rows.fieldnames} in {str(index)!r}.")
        for row in rows:
            image, label, mask, kind, group = (
                (row.get(name) or "").strip() for name in ("image", "label", "mask", "type", "group")
            )
            if label.lower() not in labels:
                raise ValueError(f"{index}, line {rows.line_num}: expected a label of {list(labels)}, got {label!r}.")
            for name in [image, mask] if mask else [image]:
                if not (index.parent / name).is_file():
                    raise FileNotFoundError(f"{index}, line {rows.line_num}: there is no file {name!r} in the folder.")
                _check_inside(index.parent, [index.parent / name])
            label = labels[label.lower()]
            X.append(index.parent / image)
            masks.append(index.parent / mask if mask and label == "defect" else None)
            kinds.append(kind if label == "defect" and kind not in ("", "normal") else label)
            groups.append(group)
    has_groups = "group" in rows.fieldnames
    return _bunch(index.parent, layout, X, masks, kinds, np.array(groups) if has_groups else None)
