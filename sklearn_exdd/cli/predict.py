"""``predict``: scores, maps and a report of the images of a folder."""

import csv
import os
import re
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sklearn_exdd._images import read_image
from sklearn_exdd._images.files import why_left_out
from sklearn_exdd.cli import model
from sklearn_exdd.cli.command import DONE, FOUND, UNUSABLE
from sklearn_exdd.cli.map_colors import MapColors
from sklearn_exdd.cli.pictures import REPORT, ask_each, ask_scores, list_files, open_folder
from sklearn_exdd.cli.report import Thumbnails, write_report

_COLUMNS = ("image", "score", "threshold", "decision", "map", "problem")
_N_CALM = 8  # images that give the scale of the maps


@dataclass
class Result:
    """What is known of an image."""

    path: Path
    name: str  # relative to the folder
    score: float = None
    is_defect: bool = None
    map: str = ""  # relative to the report
    problem: str = None
    pictures: tuple = None  # the image and its map, for the report


def run(options):
    """Score the images, and write the report."""
    out, folder = _check_place(options.out), open_folder(options.folder)
    if options.n_shown < 0:
        raise ValueError(f"--n-shown: expected 0 or more, got {options.n_shown}.")
    detector = model.load(options.model)
    threshold = float(detector.threshold_ if options.threshold is None else options.threshold)
    paths, left_out = list_files(folder, Path(options.model).expanduser())
    if not paths and not left_out:
        raise ValueError(f"{str(folder)!r}: expected images, found none.")
    results = [Result(path, path.relative_to(folder).as_posix()) for path in paths]
    for (score, problem), result in zip(ask_scores(detector, paths, options.verbose), results):
        result.problem = problem
        if problem is None:
            result.score, result.is_defect = float(score), bool(score > threshold)
    # A file that is not looked at must not pass for one without a defect.
    results += [Result(path, path.relative_to(folder).as_posix(), problem=why_left_out(path)) for path in left_out]
    ranking = sorted((result for result in results if result.score is not None), key=lambda result: -result.score)

    aside = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    try:
        (aside / "maps").mkdir(parents=True)
        if options.n_shown:
            _draw_maps(detector, ranking, options.n_shown, threshold, aside, options.verbose)
        _write_table(aside / "scores.csv", results, threshold)
        facts = {
            "folder": str(folder),
            "model": Path(options.model).name,
            "detector": type(detector).__name__,
            "threshold": threshold,
            "false_alarm_rate": detector.false_alarm_rate_ if options.threshold is None else None,
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
    print(f"{len(results)} images: {n_defects} called defective, {len(unusable)} that could not be used.")
    print(f"Written to {out / 'report.html'} and {out / 'scores.csv'}.")
    if unusable:
        return UNUSABLE
    return FOUND if n_defects and options.fail_on_defect else DONE


def _draw_maps(detector, ranking, n_shown, threshold, out, verbose):
    """Write the maps, and keep small pictures for the report."""

    def look(paths):
        return list(zip(map(read_image, paths), detector.predict_map(paths)))

    shown = ranking[:n_shown]
    calm = ask_each(detector.predict_map, [result.path for result in ranking[-_N_CALM:]], "scale", verbose=0)
    colors = MapColors([pixel_map for pixel_map, problem in calm if problem is None], threshold)
    thumbnails = Thumbnails(len(shown))
    answers = ask_each(look, [result.path for result in shown], "maps", verbose)
    for rank, ((views, problem), result) in enumerate(zip(answers, shown), start=1):
        if problem is not None:
            result.problem = problem
            continue
        image, pixel_map = views
        stem = re.sub(r"[^\w.-]", "_", result.path.stem)[:50]
        result.map = f"maps/{rank:04d}_{stem}.png"
        colors.write(pixel_map, out / result.map)
        result.pictures = thumbnails.make(image, pixel_map, colors)


def _write_table(path, results, threshold):
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for result in results:
            decision = {None: "", True: "defect", False: "normal"}[result.is_defect]
            score = "" if result.score is None else result.score
            table.writerow([result.name, score, threshold, decision, result.map, result.problem or ""])


def _check_place(out):
    """A folder that is not there yet, or may be replaced."""
    out = Path(out).expanduser().resolve()
    inside = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if inside not in (set(), REPORT) or (out.exists() and not out.is_dir()):
        came = f"a folder with {min(inside - REPORT, default=min(inside))!r}" if inside else "a file"
        raise ValueError(
            f"--out: expected a folder that is new, empty or an earlier report, got {str(out)!r}: {came}. Give another."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"--out: expected a folder to write to, got {str(out.parent)!r}, which is read-only.")
    return out


def _move(aside, out):
    """Put the report where an earlier one may be."""
    earlier = aside.with_name(f"{aside.name}.earlier")
    if out.exists():
        out.rename(earlier)
    aside.rename(out)
    shutil.rmtree(earlier, ignore_errors=True)
