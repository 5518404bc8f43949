"""Loaders for folders of images in common layouts of data sets."""

import os
from pathlib import Path
from warnings import warn

import numpy as np
from sklearn.utils import Bunch

from sklearn_exdd._images import IMAGE_SUFFIXES, Masks
from sklearn_exdd._images.files import Names, composed, list_files
from sklearn_exdd._labels import meaning
from sklearn_exdd.datasets.index_table import FileNames, RowFaults, read_rows
from sklearn_exdd.datasets.mask_files import pair_masks, stem_of


def _folder(path, layout):
    path = Path(path).expanduser()
    if not path.is_dir():
        came = "got a file" if path.exists() else "found no such folder"
        raise FileNotFoundError(f"{str(path)!r}: expected a folder with {layout}, {came}.")
    return path


def _parts(subset):
    if subset not in (None, "train", "test"):
        raise ValueError(f"subset: expected 'train', 'test' or None (both), got {subset!r}.")
    return ["train", "test"] if subset is None else [subset]


def sub_folder(folder, name):
    """Return the path of a sub-folder, which need not exist.

    A name that differs only in case is accepted if no sub-folder has exactly the given name and only one name fits.
    """
    if os.path.lexists(folder / name):
        return folder / name
    found = Names((child.name, child) for child in folder.iterdir()).alike(name) if folder.is_dir() else []
    return found[0] if len(found) == 1 else folder / name


def list_image_files(folder, part=".", left_out=None):
    """List the image files in a sub-folder of a folder, at any depth.

    Parameters
    ----------
    folder : pathlib.Path
    part : str, default="."
        Name of the sub-folder. If the sub-folder does not exist, no files are listed.
    left_out : list, default=None
        List to which the function adds the files that :func:`~sklearn_exdd._images.files.list_files` leaves out.

    Returns
    -------
    paths : list of pathlib.Path
        Image files, sorted by name.
    """
    root = sub_folder(folder, part)
    if not os.path.lexists(root):
        return []
    if not root.is_dir():
        came = "a file" if root.exists() else "a link to a file that does not exist"
        raise ValueError(f"{str(root)!r}: expected a folder of images, got {came}.")
    listing = list_files(root)
    if left_out is not None:
        left_out += [root / name for name in listing.left_out]
    images = [root / name for name in listing.images]
    _check_inside(folder, images)
    return images


def _check_inside(folder, files):
    """Refuse files outside the folder. The folder may come from an untrusted source and link to private files."""
    end = os.path.realpath(folder)
    for file in files:
        place = os.path.realpath(file)
        if not Path(place).is_relative_to(end):
            raise ValueError(
                f"{file}: expected a file within {str(folder)!r}, got a name or a link that leads to {place!r}. Copy "
                "the file into the folder, or pass the paths of your images as a list."
            )


def _elsewhere(folder, parts):
    """List the images outside the sub-folders of a layout, except the images of the review page and of reports."""
    known = {sub_folder(folder, part) for part in (*parts, "review")}
    images = [folder / name for name in list_files(folder).images]
    images = [image for image in images if folder / image.relative_to(folder).parts[0] not in known]
    reports = {table.parent for table in folder.rglob("scores.csv") if (table.parent / "report.html").is_file()}
    return [image for image in images if not reports.intersection(image.parents)]


def _bunch(path, layout, X, masks, kinds, groups=None, left_out=(), **more):
    layout = f"{layout}, as {', '.join(IMAGE_SUFFIXES)} files"
    left_out = sorted(left_out)
    if left_out:
        message = (
            f"{len(left_out)} file{'s' * (len(left_out) > 1)} in {str(path)!r} left out, such as "
            f"{left_out[0].relative_to(path).as_posix()!r}"
        )
    if not X:
        raise ValueError(f"Found no images in {str(path)!r}. Expected {layout}.{f' {message}.' if left_out else ''}")
    if left_out:
        warn(f"{message}: expected {layout}. Convert, move or remove other files.", UserWarning, stacklevel=3)
    kinds = np.array([composed(kind) for kind in kinds])
    y = (kinds != "normal").astype(int)
    return Bunch(X=X, y=y, masks=masks, kinds=kinds, groups=groups, left_out=left_out, **more)


def load_folder(path):
    """List the images of a folder with `normal/` (or `good/`), `defect/` and optionally `masks/`.

    Parameters
    ----------
    path : str or path-like
        Folder of the images. The names of sub-folders of `defect/` are kinds of defect. The mask of an image lies in
        the same sub-folder of `masks/`. The mask of the image `a.jpg` is named `a` or `a_mask`, followed by any image
        suffix, such as `a_mask.png`. Normal images may also have masks, but these masks must be empty. Names are
        compared in Unicode's composed form. If no name is equal, a single name that differs only in case is accepted.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X : list of pathlib.Path, length n_samples
            Image files. Normal images come first. Files are listed by name and are not read.
        y : ndarray of shape (n_samples,), dtype int
            1 for a defect, 0 for a normal image.
        masks : list of pathlib.Path or None, length n_samples
            Mask file of each image. None means that the image does not have a mask.
        kinds : ndarray of shape (n_samples,), dtype str
            Kind of defect of each image: "normal" for a normal image, "defect" for a defect of unnamed kind.
        groups : None
            Always None, because only :func:`load_index` reads groups.
        left_out : list of pathlib.Path
            Files that were left out: files that may be images but do not have a supported suffix, links to folders, and
            images outside the folders of the layout.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If the folder contains no images, a mask has no image, an image has two masks, or a link leads out of the
        folder.

    Warns
    -----
    UserWarning
        If files are left out. The warning gives the number of these files and names the first of them.

    Notes
    -----
    The following files are left out without a warning:

    * hidden files
    * thumbnails of operating systems and network drives, such as `Thumbs.db` and `@eaDir/`
    * texts, tables and documents

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
    layout = "normal/ (or good/), defect/ and optionally masks/"
    path, left_out = _folder(path, layout), []
    good, normal, defect, masks = (
        list_image_files(path, part, left_out) for part in ("good", "normal", "defect", "masks")
    )
    left_out += _elsewhere(path, ("good", "normal", "defect", "masks"))
    roots = {part: sub_folder(path, part) for part in ("good", "normal", "defect", "masks")}
    names = [image.parent.relative_to(roots["defect"]).as_posix() for image in defect]
    kinds = ["normal"] * len(good + normal) + ["defect" if name in (".", "normal") else name for name in names]
    # As an alternative to masks/<kind>/, masks may lie in masks/defect/<kind>/ and masks/good/.
    pools = [[*_places(roots["defect"], defect), *_places(path, defect)]]
    pools += [[*_places(roots["good"], good), *_places(roots["normal"], normal), *_places(path, good + normal)]]
    mask_of = pair_masks(pools, masks, roots["masks"], roots["defect"])
    X = good + normal + defect
    return _bunch(path, layout, X, [mask_of.get(image) for image in X], kinds, left_out=left_out)


def _places(root, images):
    return [(image.relative_to(root), image) for image in images]


def load_mvtec(path, subset=None):
    """List the images of one category in the layout of MVTec AD (Bergmann et al., CVPR 2019).

    Parameters
    ----------
    path : str or path-like
        Folder with `train/good`, `test/<kind>` and `ground_truth/<kind>/<stem>_mask.png`.
    subset : {"train", "test"} or None, default=None
        Part to list. If None, both parts are listed, the training part first.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        The entries are described in :func:`load_folder`. An additional entry tells the two parts apart:

        is_test : ndarray of shape (n_samples,), dtype bool
            True for an image of the test part.

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
    path, left_out = _folder(path, layout), []
    X, kinds, is_test = [], [], []
    for part in _parts(subset):
        root, images = sub_folder(path, part), list_image_files(path, part, left_out)
        left_out += [image for image in images if image.parent == root]
        images = [image for image in images if image.parent != root]
        names = [image.relative_to(root).parts[0] for image in images]
        kinds += ["normal" if name.lower() == "good" else name for name in names]
        is_test += [part == "test"] * len(images)
        X += images
    mask_of = {}
    if subset != "train":
        tested = [image for image, test in zip(X, is_test) if test]
        masks = list_image_files(path, "ground_truth", left_out)
        root = sub_folder(path, "test")
        mask_of = pair_masks([_places(root, tested)], masks, sub_folder(path, "ground_truth"), root)
    left_out += _elsewhere(path, ("train", "test", "ground_truth"))
    masks, is_test = [mask_of.get(image) for image in X], np.array(is_test)
    return _bunch(path, layout, X, masks, kinds, left_out=left_out, is_test=is_test)


def load_ksdd2(path, subset=None):
    """List the images of KolektorSDD2 (Bozic, Tabernik, Skocaj, Computers in Industry, 2021).

    The masks are read, because an image is a defect if its mask marks at least one pixel. Files with "(copy)" in their
    names are left out, because they are duplicates.

    Parameters
    ----------
    path : str or path-like
        Folder with the sub-folders `train/` and `test/`. They contain images such as `10000.png`, each with a mask such
        as `10000_GT.png`.
    subset : {"train", "test"} or None, default=None
        Part to list. If None, both parts are listed, the training part first.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        The entries are described in :func:`load_folder`. An additional entry tells the two parts apart:

        is_test : ndarray of shape (n_samples,), dtype bool
            True for an image of the test part.

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
    path, left_out = _folder(path, layout), []
    X, masks, is_test = [], [], []
    for part in _parts(subset):
        files = [file for file in list_image_files(path, part, left_out) if "(copy)" not in file.name]
        images = [file for file in files if not file.stem.lower().endswith("_gt")]
        mask_of = _pair_ksdd2(
            sub_folder(path, part), images, [file for file in files if file.stem.lower().endswith("_gt")]
        )
        X += images
        found = Masks([mask_of[image] for image in images], len(images), str(sub_folder(path, part)))
        masks += [mask_of[image] if found.get(i).any() else None for i, image in enumerate(images)]
        is_test += [part == "test"] * len(images)
    left_out += _elsewhere(path, ("train", "test"))
    kinds = ["normal" if mask is None else "defect" for mask in masks]
    return _bunch(path, layout, X, masks, kinds, left_out=left_out, is_test=np.array(is_test))


def _pair_ksdd2(root, images, masks):
    """Find the mask of every image. Raise an error if an image or a mask is missing or occurs twice."""
    names = Names((stem_of(place), image) for place, image in _places(root, images))
    mask_of = {}
    for mask in masks:
        stem = stem_of(mask.relative_to(root))[: -len("_GT")]
        found = names.find(stem)
        if not found:
            raise ValueError(_lonely(root, stem.rpartition("/")[2], mask))
        if len(found) > 1 or found[0] in mask_of:
            twice = sorted({mask.name, mask_of.get(found[0], mask).name, *(image.name for image in found)})
            raise ValueError(
                f"In {str(root)!r}, expected one image and one mask of each name, got {twice}. Remove one."
            )
        mask_of[found[0]] = mask
    for image in images:
        if image not in mask_of:
            raise ValueError(_lonely(root, image.stem, image))
    return mask_of


def _lonely(root, stem, file):
    return f"In {str(root)!r}, expected both {stem}.png and {stem}_GT.png, got {file.name}."


def load_index(path):
    """List the images named in the table `index.csv` of a folder, in the order of its rows.

    Parameters
    ----------
    path : str or path-like
        Folder with `index.csv`. The table has one row for each image. Its columns are:

        * `image`: path of the image file
        * `label`: 0 for a normal image and 1 for a defect, or names such as "good" and "bad" or "OK" and "NG"
        * `mask` (optional): path of the mask file
        * `type` (optional): kind of defect
        * `group` (optional): group of the image. Photographs of one part belong to one group. An image whose cell is
          blank forms a separate group.

        Paths are relative to the folder and must not lead out of it. The text is in UTF-8, or in UTF-16 with a byte
        order mark. Columns are separated by commas, semicolons or tabs.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        The entries are described in :func:`load_folder`. If the column `group` is not blank, the entry `groups` is an
        ndarray of str with one group for each image.

    Raises
    ------
    FileNotFoundError
        If the table, or a file named in it, does not exist.
    ValueError
        If the table cannot be read, or a row is wrong. All wrong rows are reported together. The first ten are listed
        with their line numbers.

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
    layout = "index.csv with the columns image and label, and optionally mask, type and group"
    index = _folder(path, layout) / "index.csv"
    if not index.is_file():
        came = "Got a folder of this name" if index.is_dir() else "The file does not exist"
        raise FileNotFoundError(f"{str(index)!r}: expected {layout}. {came}.")
    X, masks, kinds, groups, lines = [], [], [], [], {}
    files, faults = FileNames(index.parent), RowFaults(index)
    for line, row in read_rows(index, layout, {"image", "label"}):
        image, label, mask, kind, group = (row.get(name, "") for name in ("image", "label", "mask", "type", "group"))
        with faults.of(line):
            is_defect = meaning(label)
            if is_defect is None:
                raise ValueError(f"expected a label such as 0, good or OK, or 1, bad or NG, got {label!r}.")
            image, mask = _named(files, index.parent, image), _named(files, index.parent, mask) if mask else None
            if lines.setdefault(image, line) != line:
                raise ValueError(
                    f"expected one row for each image, got {image.relative_to(index.parent).as_posix()!r} again, as in "
                    f"line {lines[image]}. Remove one of the rows. If the image has several defects, join their masks."
                )
            X.append(image)
            masks.append(mask)
            # Ignore the type of a normal image, because it may name the product. Also ignore types such as "good",
            # because they do not name a defect.
            is_kind = is_defect and kind and meaning(kind) is not False
            kinds.append(kind if is_kind else "defect" if is_defect else "normal")
            groups.append(group)
    faults.raise_any()
    groups = _own_groups(groups, X, index.parent) if any(groups) else None
    return _bunch(index.parent, layout, X, masks, kinds, groups)


def _named(files, folder, name):
    path = files.locate(name)
    if path is None:
        is_folder = name and (folder / name).is_dir()
        came = f"{name!r} is a folder, not a file" if is_folder else f"the folder contains no file {name!r}"
        raise FileNotFoundError(f"{came}.")
    _check_inside(folder, [path])
    return path


def _own_groups(groups, X, folder):
    """Fill in missing groups. An image without a group forms a separate group, which is named after the image."""
    taken, own = {composed(group) for group in groups}, []
    for group, image in zip(map(composed, groups), X):
        if not group:
            group = image.relative_to(folder).as_posix()
            while group in taken:
                group += " alone"
        own.append(group)
    return np.array(own)
