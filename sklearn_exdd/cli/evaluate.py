"""Command ``evaluate``: compare the results of a model with the labels and masks of a folder."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from sklearn_exdd._images import Masks
from sklearn_exdd.cli import model
from sklearn_exdd.cli.command import DONE, UNUSABLE
from sklearn_exdd.cli.evaluation_page import n_needed, percent, write_evaluation
from sklearn_exdd.cli.pages import check_page
from sklearn_exdd.cli.pictures import LAYOUTS, ask_each, ask_scores, load_labelled, open_folder
from sklearn_exdd.metrics import (
    operating_points,
    per_region_overlap_score,
    pixel_average_precision_score,
    pixel_roc_auc_score,
)


def run(options):
    """Print the metrics and, if --out is given, write the page."""
    out, folder = check_page(options.out), open_folder(options.folder)
    detector = model.load(options.model, options.threshold)
    data = load_labelled(folder, "test")
    if data is None:
        raise ValueError(f"{str(folder)!r}: expected labels to compare with, in one of these layouts: {LAYOUTS}.")
    threshold = float(detector.threshold_)

    answers = list(ask_scores(detector, data.X, options.verbose))
    usable = np.array([problem is None for _, problem in answers])
    for path, (_, problem) in zip(data.X, answers):
        if problem is not None:
            _report(path, problem)
    if not usable.any():
        raise ValueError(f"{str(folder)!r}: expected at least one image that can be used, got none.")
    scores = np.array([score for score, problem in answers if problem is None], dtype=float)
    is_known = detector.is_training_image([data.X[i] for i in np.flatnonzero(usable)])
    figures = {"threshold": threshold, "n_unusable": int((~usable).sum()), "n_training": int(is_known.sum())}
    is_defect = data.y[usable] == 1
    figures |= compare_scores(is_defect, data.kinds[usable], scores, threshold)
    points = _operating_points(detector, is_defect, scores, options)
    figures |= {
        "cost_false_alarm": options.cost_false_alarm,
        "cost_miss": options.cost_miss,
        "operating_points": points and [asdict(point) for point in points],
    }
    if not options.no_maps:
        figures |= _compare_maps(detector, data, np.flatnonzero(usable), options.verbose)
    print(json.dumps(figures, indent=2) if options.json else describe(figures))
    if out is not None:
        facts = {"folder": str(folder), "model": Path(options.model).name, "detector": type(detector).__name__}
        write_evaluation(out, facts, figures, points, is_defect, scores)
        print(f"Written to {out}.", file=sys.stderr if options.json else sys.stdout)
    return UNUSABLE if figures["n_unusable"] or figures.get("n_unusable_masks") else DONE


def _report(path, problem):
    print(f"{str(path)!r}: {problem}", file=sys.stderr)


def compare_scores(is_defect, kinds, scores, threshold):
    """Compute the metrics that depend only on the scores.

    Parameters
    ----------
    is_defect : ndarray of shape (n,), dtype bool
    kinds : ndarray of shape (n,), dtype str
        Kind of defect of each image, or "normal".
    scores : ndarray of shape (n,)
    threshold : float

    Returns
    -------
    figures : dict
        Metrics by name. A metric that needs both normal images and defects is None if one of the two is missing.
    """
    called, both = scores > threshold, is_defect.any() and not is_defect.all()
    found_by_kind = {
        str(kind): {"found": int(called[kinds == kind].sum()), "n": int((kinds == kind).sum())}
        for kind in np.unique(kinds[is_defect])
    }
    return {
        "n_normal": int((~is_defect).sum()),
        "n_defect": int(is_defect.sum()),
        "image_roc_auc": float(roc_auc_score(is_defect, scores)) if both else None,
        "image_average_precision": float(average_precision_score(is_defect, scores)) if both else None,
        "false_alarms": int((called & ~is_defect).sum()),
        "found": int((called & is_defect).sum()),
        "found_by_kind": found_by_kind,
    }


def _operating_points(detector, is_defect, scores, options):
    """Return the operating points, or None if normal images or defects are missing."""
    if is_defect.all() or not is_defect.any():
        return None
    costs = {"cost_false_alarm": options.cost_false_alarm, "cost_miss": options.cost_miss}
    known = getattr(detector, "calibration_scores_", None)
    if known is not None:
        costs["calibration_groups"] = detector._groups_at(np.arange(len(known)))
    return operating_points(is_defect, scores, known, **costs)


def _compare_maps(detector, data, rows, verbose):
    """Compute the metrics of the anomaly maps.

    Defect images without a mask, with an empty mask or with an unusable mask are left out. An unusable mask does not
    raise an error, because the metrics of the scores, which have already been computed, would be lost.
    """
    roi = getattr(detector, "roi_", None)
    all_masks, masks, maps, empty, unusable = Masks(data.masks, len(data.X)), [], [], [], []
    rows = [i for i in rows if data.y[i] == 0 or data.masks[i] is not None]
    answers = ask_each(detector.predict_map, [data.X[i] for i in rows], "maps", verbose)
    for (pixel_map, problem), i in zip(answers, rows):
        path = data.X[i] if problem is not None else data.masks[i]
        if problem is None:
            mask, problem = _read_mask(all_masks, i, pixel_map, data.y[i] == 1, roi)
        if problem is not None:
            _report(path, problem)
            unusable.append(path)
        elif data.y[i] and not mask.any():
            empty.append(path)
        else:
            masks.append(mask if data.y[i] else None)
            maps.append(pixel_map)
    figures = {
        "n_masks": sum(mask is not None for mask in masks),
        "n_empty_masks": len(empty),
        "n_unusable_masks": len(unusable),
        "first_empty_mask": str(empty[0]) if empty else None,
        "first_unusable_mask": str(unusable[0]) if unusable else None,
    }
    for name, score in (
        ("pixel_roc_auc", pixel_roc_auc_score),
        ("pixel_average_precision", pixel_average_precision_score),
        ("per_region_overlap", per_region_overlap_score),
    ):
        figures[name] = _score_maps(score, masks, maps, roi) if figures["n_masks"] else None
    return figures


def _read_mask(masks, index, pixel_map, is_defect, roi):
    """Return the mask of an image within the region of interest, and a message if the mask cannot be used.

    The mask is None if the image does not have a usable mask. The message is None if the mask can be used.
    """
    try:
        mask = masks.get(index, pixel_map.shape)
    except (OSError, ValueError) as error:
        return None, re.sub(r"^masks\[\d+\](?: \(.*?\))?: ", "", str(error), flags=re.DOTALL)
    if mask is not None and roi is not None:
        mask = mask & roi
    if not is_defect and mask is not None and mask.any():
        return None, f"expected an empty mask of a normal image, got a mask with {mask.sum()} defect pixels."
    return mask, None


def _score_maps(score, masks, maps, roi):
    """Return a metric of the maps, or None if the metric is undefined, for example without any normal pixel."""
    try:
        return score(masks, maps, roi=roi)
    except ValueError as error:
        print(f"{score.__name__}: {error}", file=sys.stderr)
        return None


def describe(figures):
    """Format the metrics as text."""
    n_normal, n_defect, false_alarms, found = (
        figures[name] for name in ("n_normal", "n_defect", "false_alarms", "found")
    )
    lines = [
        f"{n_normal} normal images, {n_defect} with a defect, {figures['n_unusable']} could not be used",
        *(
            [
                f"{figures['n_training']} of these images were used in fit. Leave them out: results on new images are "
                "worse."
            ]
            if figures["n_training"]
            else []
        ),
        "",
        f"image AUROC    {_number(figures['image_roc_auc'])}",
        f"image AP       {_number(figures['image_average_precision'])}",
    ]
    if "n_masks" in figures:
        lines += [
            f"pixel AUROC    {_number(figures['pixel_roc_auc'])}  (on the {figures['n_masks']} defects with a mask)",
            f"pixel AP       {_number(figures['pixel_average_precision'])}",
            f"AUPRO          {_number(figures['per_region_overlap'])}  (up to 30 % false positives)",
        ]
        for count, first, what in (
            ("n_empty_masks", "first_empty_mask", "mark nothing"),
            ("n_unusable_masks", "first_unusable_mask", "could not be used"),
        ):
            if figures[count]:
                lines.append(f"Masks that {what}: {figures[count]}, such as {figures[first]!r}. They are left out.")
    lines += [
        "",
        f"At the threshold {figures['threshold']:.4g}:",
        _row("", "called normal", "called defect", ""),
        _row("normal images", n_normal - false_alarms, false_alarms, f"{_share(false_alarms, n_normal)} false alarms"),
        _row("defects", n_defect - found, found, f"{_share(found, n_defect)} found"),
    ]
    kinds = figures["found_by_kind"]
    if len(kinds) > 1:
        lines.append("Found, by kind: " + ", ".join(f"{kind} {n['found']} of {n['n']}" for kind, n in kinds.items()))
    if figures["operating_points"]:
        lines += ["", *_describe_points(figures)]
    return "\n".join(lines)


def _describe_points(figures):
    """Format the operating points as a table, followed by notes on how they were found."""
    points = figures["operating_points"]
    lines = ["{:15}{:>22}{:>15}{:>15}{:>10}".format("", "--threshold", "false alarms", "misses", "cost")]
    for point in points:
        name = "lowest cost" if point["rate"] is None else f"promised {percent(point['promised_rate'])}"
        counts = f"{point['n_false_alarms']} of {point['n_normal']}", f"{point['n_misses']} of {point['n_defects']}"
        lines.append("{:15}{:>22}{:>15}{:>15}{:>10.4g}".format(name, repr(point["threshold"]), *counts, point["cost"]))
    lines += [
        f"A false alarm costs {figures['cost_false_alarm']:g} and a miss {figures['cost_miss']:g} (--cost-false-alarm, "
        "--cost-miss). The threshold with",
        "the lowest cost was chosen on these images. Expect more mistakes on new images.",
    ]
    short = [point for point in points if point["rate"] is not None and point["promised_rate"] > point["rate"]]
    if short:
        lowest = min(point["rate"] for point in short)
        lines.append(
            f"fit had too few normal images to promise {percent(lowest)}. This takes {n_needed(lowest)} normal images "
            "or groups."
        )
    return lines


def _row(*columns):
    return "{:15}{:>13}  {:>13}   {}".format(*columns).rstrip()


def _number(figure):
    return "   -" if figure is None else f"{figure:.3f}"


def _share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"
