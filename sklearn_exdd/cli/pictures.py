"""The images of a folder: which there are, what is known of them, and what a detector says of each."""

import re
import sys
from pathlib import Path

from tqdm.auto import tqdm

from sklearn_exdd.datasets import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.datasets.folders import list_image_files

LAYOUTS = (
    "index.csv; normal/ (or good/), defect/ and, if there are any, masks/; train/good/ and test/<kind>/ (MVTec AD); "
    "or train/ and test/ with masks *_GT.png (KSDD2)"
)
REPORT = {"report.html", "scores.csv", "maps"}
_BATCH_SIZE = 8


def open_folder(path):
    """A folder that is there, or an error that says so."""
    path = Path(path).expanduser()
    if not path.is_dir():
        came = "got a file. Put it into a folder" if path.exists() else "found no such folder"
        raise FileNotFoundError(f"{str(path)!r}: expected a folder of images, {came}.")
    return path


def load_labelled(folder, subset):
    """Images with labels and masks, in whatever layout the folder has.

    Parameters
    ----------
    folder : pathlib.Path
    subset : {"train", "test"}
        Where the layout has these parts.

    Returns
    -------
    data : Bunch or None
        As the loaders of :mod:`sklearn_exdd.datasets` return it; None for a folder in none of their layouts.
    """
    if (folder / "index.csv").is_file():
        return load_index(folder)
    if (folder / "train" / "good").is_dir() or (folder / "test" / "good").is_dir():
        return load_mvtec(folder, subset)
    if any(_masks_beside(folder / part) for part in ("train", "test")):
        return load_ksdd2(folder, subset)
    if any((folder / name).is_dir() for name in ("normal", "good", "defect")):
        data = load_folder(folder)
        unused = sorted(set(_usable(folder)) - set(data.X))
        if unused:
            print(
                f"{len(unused)} images are not used, such as {str(unused[0].relative_to(folder))!r}: defects are "
                "expected in defect/, masks in masks/.",
                file=sys.stderr,
            )
        return data
    return None


def list_images(folder):
    """All images at any depth, without masks, reports and what the review page has written.

    Parameters
    ----------
    folder : pathlib.Path

    Returns
    -------
    paths : list of pathlib.Path
        In the order of their names.
    """
    paths = _usable(folder)
    if not paths:
        raise ValueError(f"{str(folder)!r}: expected images, found none.")
    return paths


def _usable(folder):
    left_out = [folder / name for name in ("masks", "ground_truth", "review")]
    left_out += [table.parent for table in folder.rglob("scores.csv") if (table.parent / "report.html").is_file()]
    masks = {mask for place in (folder, folder / "train", folder / "test") for mask in _masks_beside(place)}
    if (folder / "index.csv").is_file():
        masks.update(load_index(folder).masks)
    return [
        path
        for path in list_image_files(folder)
        if path not in masks and not any(path.is_relative_to(one) for one in left_out)
    ]


def _masks_beside(folder):
    """Masks as KSDD2 has them: 10000_GT.png beside 10000.png."""
    return {mask for mask in folder.glob("*_GT.*") if mask.with_stem(mask.stem.removesuffix("_GT")).is_file()}


def ask_each(method, paths, what, verbose):
    """What a detector says of each image; one that cannot be used does not stop the others.

    Parameters
    ----------
    method : callable
        Takes a list of paths, returns a result for each.
    paths : list of pathlib.Path
    what : str
        Beside the progress bar.
    verbose : int

    Yields
    ------
    result : object
        None if there is a problem.
    problem : str or None
    """
    with tqdm(total=len(paths), desc=what, unit="image", disable=not verbose) as progress:
        for start in range(0, len(paths), _BATCH_SIZE):
            batch = paths[start : start + _BATCH_SIZE]
            try:
                answers = [(result, None) for result in method(batch)]
            except Exception:  # one by one, to know which; an image may make a decoder raise anything
                answers = [_ask_one(method, path) for path in batch]
            progress.update(len(batch))
            yield from answers


def _ask_one(method, path):
    try:
        return method([path])[0], None
    except ImportError:  # nothing that another image would change
        raise
    except (OSError, ValueError) as error:
        return None, re.sub(r"^X\[0\](?: \(.*?\))?: ", "", str(error), flags=re.DOTALL)
    except Exception as error:
        return None, repr(error)
