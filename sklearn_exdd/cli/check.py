"""Command ``check``: look for mistakes in a folder of images before fitting."""

import json
import sys
import warnings
from dataclasses import asdict, replace

import numpy as np

from sklearn_exdd._images.files import why_left_out
from sklearn_exdd.cli.check_page import write_check
from sklearn_exdd.cli.command import DONE, FOUND
from sklearn_exdd.cli.pages import check_page
from sklearn_exdd.cli.pictures import LAYOUTS, list_files, open_folder, read_layout
from sklearn_exdd.datasets import Finding, Findings, check_images


def run(options):
    """Print the findings and, if --out is given, write the page."""
    out, folder = check_page(options.out), open_folder(options.folder)
    data, left_out = _load(folder)
    findings = check_images(
        data["X"],
        data["y"],
        masks=data["masks"],
        groups=data["groups"],
        splits=data["splits"],
        detector=None if options.no_scores else _make_detector(),
        verbose=options.verbose,
    )
    not_checked = [text for text in findings.not_checked if not (options.no_scores and "detector=" in text)]
    named = [replace(one, images=tuple(_name(data["X"][i], folder) for i in one.indices)) for one in findings]
    for path in left_out:
        named.append(Finding("left_out", "warning", (), (_name(path, folder),), why_left_out(path)))
    findings = Findings(named, findings.n_images, not_checked)
    print(json.dumps(_as_json(findings), indent=2) if options.json else findings)
    if out is not None:
        write_check(out, str(folder), findings, data)
        print(f"Written to {out}.", file=sys.stderr if options.json else sys.stdout)
    return FOUND if findings.errors else DONE


def _load(folder):
    """Return the arguments of check_images, and the files left out that may be images in another format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # files that are left out are reported as findings instead
        found = read_layout(folder, None)
    if found is None:
        paths, left_out = list_files(folder)
        if not paths and not left_out:
            raise ValueError(f"{str(folder)!r}: expected images, found none.")
        if any(path.parent != folder for path in paths):
            raise ValueError(f"{str(folder)!r}: expected {LAYOUTS}; or only normal images, without sub-folders.")
        return {"X": paths, "y": None, "masks": None, "groups": None, "splits": None}, left_out
    is_test = found.get("is_test")
    splits = None if is_test is None or len(np.unique(is_test)) < 2 else np.where(is_test, "test", "train")
    data = {"X": found.X, "y": found.y, "masks": found.masks, "groups": found.groups, "splits": splits}
    return data, found.left_out


def _make_detector():
    from sklearn_exdd.detectors.exdd import ExDDDetector

    return ExDDDetector(random_state=0)


def _name(path, folder):
    return path.relative_to(folder).as_posix()


def _as_json(findings):
    return {
        "n_images": findings.n_images,
        "n_errors": len(findings.errors),
        "findings": [asdict(finding) for finding in findings],
        "not_checked": findings.not_checked,
    }
