"""Command ``predict``: write a report with the scores, maps and regions of the images of a folder."""

import csv
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from sklearn_exdd._images.files import why_left_out
from sklearn_exdd._map_colors import is_around_peak, map_threshold
from sklearn_exdd.cli import model
from sklearn_exdd.cli.command import DONE, FOUND, UNUSABLE
from sklearn_exdd.cli.pictures import REPORT, ask_each, list_files, open_folder
from sklearn_exdd.cli.report import write_report
from sklearn_exdd.cli.worst_maps import WorstMaps
from sklearn_exdd.detectors.base.regions import check_region_params

_COLUMNS = (
    *("image", "score", "threshold", "decision", "p_value"),
    *("n_regions", "area", "diameter", "peak_row", "peak_column", "marked", "map", "problem"),
)


@dataclass
class Result:
    """Result of one image."""

    path: Path
    name: str  # path relative to the folder of the images
    score: float = None
    is_defect: bool = None
    p_value: float = None
    kind: str = None
    regions: list = None  # None if the model has no pixel threshold
    is_around_peak: bool = False  # whether pixels around the peak are marked, because no pixel is above the threshold
    map: str = ""  # path of the map file relative to the report
    problem: str = None
    pictures: tuple = None  # thumbnails of the image and its map, for the report


def run(options):
    """Score the images and write the report."""
    out, folder = _check_place(options.out), open_folder(options.folder)
    if options.n_shown < 0:
        raise ValueError(f"--n-shown: expected 0 or more, got {options.n_shown}.")
    sizes = {"min_area": options.min_area, "pixel_size": options.pixel_size}
    check_region_params(**sizes)
    detector = model.load(options.model, options.threshold)
    threshold, map_level = float(detector.threshold_), float(map_threshold(detector))
    paths, left_out = list_files(folder, Path(options.model).expanduser())
    if not paths and not left_out:
        raise ValueError(f"{str(folder)!r}: expected images, found none.")
    results = [Result(path, path.relative_to(folder).as_posix()) for path in paths]
    aside = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    try:
        (aside / "maps").mkdir(parents=True)
        worst = WorstMaps(aside, min(options.n_shown, len(paths)), map_level)
        answers = ask_each(lambda some: detector.inspect(some, **sizes), paths, "images", options.verbose)
        for (found, problem), result in zip(answers, results):
            if problem is None and not isfinite(found.score):  # NaN would never be above the threshold
                problem = f"expected a finite score, got {found.score}."
            result.problem = problem
            if problem is None:
                result.score, result.is_defect = found.score, found.score > threshold
                result.p_value, result.regions, result.kind = found.p_value, found.regions, found.kind
                if found.mask is not None:
                    result.is_around_peak = is_around_peak(found.mask, found.map, map_level)
                worst.add(result, found.map, found.mask)
        # List files that were left out as problems. Otherwise, they could be mistaken for images without a defect.
        results += [Result(path, path.relative_to(folder).as_posix(), problem=why_left_out(path)) for path in left_out]
        ranking = sorted((result for result in results if result.score is not None), key=lambda result: -result.score)
        worst.finish(ranking)
        _write_table(aside / "scores.csv", results, threshold, hasattr(detector, "kinds_"))
        facts = {
            "folder": str(folder),
            "model": Path(options.model).name,
            "detector": type(detector).__name__,
            "threshold": threshold,
            "pixel_threshold": map_level if hasattr(detector, "pixel_threshold_") else None,
            "min_area": options.min_area,
            "false_alarm_rate": detector.false_alarm_rate_ if options.threshold is None else None,
            "unit": "pixels" if options.pixel_size is None else "mm",
        }
        unusable = [result for result in results if result.problem]
        write_report(aside / "report.html", facts, ranking, options.n_shown, unusable)
        _move(aside, out)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    for result in unusable:
        print(f"{result.name!r}: {result.problem}", file=sys.stderr)
    n_defects = sum(result.is_defect for result in ranking)
    print(f"{len(results)} images: {n_defects} called defective, {len(unusable)} could not be used.")
    print(f"Written to {out / 'report.html'} and {out / 'scores.csv'}.")
    if unusable:
        return UNUSABLE
    return FOUND if n_defects and options.fail_on_defect else DONE


def _write_table(path, results, threshold, knows_kinds):
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow([*_COLUMNS, "kind"] if knows_kinds else _COLUMNS)
        for result in results:
            decision = {None: "", True: "defect", False: "normal"}[result.is_defect]
            score, p_value = ("" if value is None else value for value in (result.score, result.p_value))
            row = [result.name, score, threshold, decision, p_value, *_sizes(result.regions)]
            row += [_marked(result), result.map, result.problem or ""]
            table.writerow([*row, result.kind or ""] if knows_kinds else row)


def _sizes(regions):
    """Return the cells of a table row that describe the regions.

    The cells hold the number of regions, their total area, and the diameter and the peak of the first region.
    """
    if not regions:
        return ["", "", "", "", ""] if regions is None else [0, 0, "", "", ""]
    return [len(regions), sum(one.area for one in regions), regions[0].equivalent_diameter, *regions[0].peak]


def _marked(result):
    """Return a table cell that tells which pixels of an image are marked.

    Sizes of regions around the peak and of regions above the pixel threshold are not comparable.
    """
    if result.regions is None or not result.is_defect:
        return ""
    return "around the peak" if result.is_around_peak else "above the pixel threshold"


def _check_place(out):
    """Check that a report can be written to a folder. The folder must be new, empty or an earlier report."""
    out = Path(out).expanduser().resolve()
    inside = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if inside not in (set(), REPORT) or (out.exists() and not out.is_dir()):
        came = f"a folder with {min(inside - REPORT, default=min(inside))!r}" if inside else "a file"
        raise ValueError(
            f"--out: expected a folder that is new, empty or an earlier report, got {str(out)!r}: {came}. Pass another "
            "folder."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"--out: expected a folder that can be written to, but {str(out.parent)!r} is read-only.")
    return out


def _move(aside, out):
    """Rename the finished report to its final path. An earlier report is replaced."""
    earlier = aside.with_name(f"{aside.name}.earlier")
    if out.exists():
        out.rename(earlier)
    aside.rename(out)
    shutil.rmtree(earlier, ignore_errors=True)
