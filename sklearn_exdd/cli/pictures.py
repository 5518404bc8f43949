"""Images of a folder: the lists of their files, labels and masks, and the results of a detector for each image."""

import os
import re
import sys
import warnings
from math import isfinite
from pathlib import Path

from tqdm.auto import tqdm

from sklearn_exdd._images.files import Names, why_left_out
from sklearn_exdd.datasets import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.datasets.folders import list_image_files, sub_folder

LAYOUTS = (
    "index.csv; normal/ (or good/), defect/ and optionally masks/; train/good/ and test/<kind>/ (MVTec AD); or train/ "
    "and test/ with masks *_GT.png (KSDD2)"
)
REPORT = {"report.html", "scores.csv", "maps"}
_BATCH_SIZE = 8


def open_folder(path):
    """Return the path of a folder. Raise an error if the folder does not exist."""
    path = Path(path).expanduser()
    if not path.is_dir():
        came = "got a file. Put it into a folder" if path.exists() else "found no such folder"
        raise FileNotFoundError(f"{str(path)!r}: expected a folder of images, {came}.")
    return path


def load_labelled(folder, subset):
    """List the images of a folder with their labels and masks, in any of the supported layouts.

    Files that are left out are named on standard error.

    Parameters
    ----------
    folder : pathlib.Path
    subset : {"train", "test"}
        Part of the data to list. It has no effect if the layout does not have these parts.

    Returns
    -------
    data : Bunch or None
        Result of the loader in :mod:`sklearn_exdd.datasets` for the layout, or None if the layout is not recognised.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = read_layout(folder, subset)
    for warning in caught:
        print(warning.message, file=sys.stderr)
    return data


def read_layout(folder, subset):
    """List the images as :func:`load_labelled` does, but issue a Python warning if files are left out.

    If `subset` is None, both parts are listed.
    """
    if (folder / "index.csv").exists():
        return load_index(folder)
    if any(sub_folder(sub_folder(folder, part), "good").is_dir() for part in ("train", "test")):
        return load_mvtec(folder, subset)
    if any(_masks_beside(list_image_files(folder, part)) for part in ("train", "test")):
        return load_ksdd2(folder, subset)
    if any(sub_folder(folder, name).is_dir() for name in ("normal", "good", "defect")):
        return load_folder(folder)
    return None


def list_images(folder, model=None):
    """List all images of a folder at any depth, except masks and files of reports and of the review page.

    Files that may be images but do not have a supported format are named on standard error.

    Parameters
    ----------
    folder : pathlib.Path
    model : pathlib.Path, default=None
        Model file. It is never listed, even if it lies in the folder.

    Returns
    -------
    paths : list of pathlib.Path
        Images, sorted by name.
    """
    paths, left_out = list_files(folder, model)
    if not paths:
        came = f"none, but {len(left_out)} other files, such as {left_out[0].name!r}" if left_out else "none"
        raise ValueError(f"{str(folder)!r}: expected images, found {came}.")
    for path in left_out:
        print(f"{str(path.relative_to(folder))!r}: {why_left_out(path)}", file=sys.stderr)
    return paths


def list_files(folder, model=None):
    """List the images as :func:`list_images` does, and also list other files that may be images.

    Parameters
    ----------
    folder : pathlib.Path
    model : pathlib.Path, default=None
        Model file. It is never listed, even if it lies in the folder.

    Returns
    -------
    paths, left_out : list of pathlib.Path
        Images, and other files that may be images. Each list is sorted by name.
    """
    left_out = []
    paths = list_image_files(folder, left_out=left_out)
    aside = [sub_folder(folder, name) for name in ("masks", "ground_truth", "review")]
    aside += [table.parent for table in folder.rglob("scores.csv") if (table.parent / "report.html").is_file()]
    masks = _masks_beside(paths)
    if (folder / "index.csv").exists():
        masks.update(load_index(folder).masks)
    model = model and os.path.realpath(model)
    return [
        [
            path
            for path in files
            if path not in masks
            and not any(path.is_relative_to(one) for one in aside)
            and os.path.realpath(path) != model
        ]
        for files in (paths, sorted(left_out))
    ]


def _masks_beside(paths):
    """Select the masks of the KSDD2 layout, where a mask such as 10000_GT.png lies beside its image 10000.png."""
    names = Names((path.with_suffix("").as_posix(), path) for path in paths)
    masks = [path for path in paths if path.stem.lower().endswith("_gt")]
    return {mask for mask in masks if names.find(mask.with_suffix("").as_posix()[: -len("_GT")])}


def ask_each(method, paths, what, verbose):
    """Yield the result of a detector for each image. If an image cannot be used, the others still get results.

    Parameters
    ----------
    method : callable
        Method of the detector that takes a list of paths and returns one result for each path.
    paths : list of pathlib.Path
    what : str
        Label of the progress bar.
    verbose : int
        If > 0, show a progress bar.

    Yields
    ------
    result : object
        Result of an image, or None if the image cannot be used.
    problem : str or None
        Reason why the image cannot be used, or None if it can be used.
    """
    with tqdm(total=len(paths), desc=what, unit="image", disable=not verbose) as progress:
        for start in range(0, len(paths), _BATCH_SIZE):
            batch = paths[start : start + _BATCH_SIZE]
            try:
                answers = [(result, None) for result in method(batch)]
            # Image decoders may raise any kind of exception. Try the images one by one to find out which of them fail.
            except Exception:
                answers = [_ask_one(method, path) for path in batch]
            progress.update(len(batch))
            yield from answers


def ask_scores(detector, paths, verbose):
    """Yield the score and the problem of each image, as :func:`ask_each` does.

    A score that is not finite is a problem.
    """
    for score, problem in ask_each(detector.score_samples, paths, "scores", verbose):
        if problem is None and not isfinite(score):  # NaN would never be above the threshold
            score, problem = None, f"expected a finite score, got {score}."
        yield score, problem


def _ask_one(method, path):
    try:
        return method([path])[0], None
    except ImportError:  # a missing package would fail for every image
        raise
    except (OSError, ValueError) as error:
        return None, re.sub(r"^X\[0\](?: \(.*?\))?: ", "", str(error), flags=re.DOTALL)
    except Exception as error:
        return None, repr(error)
