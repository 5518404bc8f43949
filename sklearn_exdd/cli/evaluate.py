"""``evaluate``: a model against the labels and masks of a folder."""

import json
import sys

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from sklearn_exdd._images import Masks
from sklearn_exdd.cli import model
from sklearn_exdd.cli.command import DONE, UNUSABLE
from sklearn_exdd.cli.pictures import LAYOUTS, ask_each, load_labelled, open_folder
from sklearn_exdd.metrics import per_region_overlap_score, pixel_average_precision_score, pixel_roc_auc_score

_RATES = (0.0, 0.05, 0.1, 0.2)  # of false alarms, for which other thresholds are told


def run(options):
    """Print the figures."""
    folder = open_folder(options.folder)
    data = load_labelled(folder, "test")
    if data is None:
        raise ValueError(f"{str(folder)!r}: expected labels to compare with, as in {LAYOUTS}.")
    detector = model.load(options.model)
    threshold = detector.threshold_ if options.threshold is None else options.threshold

    answers = list(ask_each(detector.score_samples, data.X, "scores", options.verbose))
    usable = np.array([problem is None for _, problem in answers])
    for path, (_, problem) in zip(data.X, answers):
        if problem is not None:
            print(f"{str(path)!r}: {problem}", file=sys.stderr)
    if not usable.any():
        raise ValueError(f"{str(folder)!r}: expected images that can be used, got none.")
    scores = np.array([score for score, problem in answers if problem is None], dtype=float)
    figures = {"threshold": float(threshold), "n_unusable": int((~usable).sum())}
    figures |= compare_scores(data.y[usable] == 1, data.kinds[usable], scores, threshold)
    if not options.no_maps:
        figures |= _compare_maps(detector, data, np.flatnonzero(usable), options.verbose)
    print(json.dumps(figures, indent=2) if options.json else describe(figures))
    return DONE if usable.all() else UNUSABLE


def compare_scores(is_defect, kinds, scores, threshold):
    """Figures of the scores.

    Parameters
    ----------
    is_defect : ndarray of shape (n,), dtype bool
    kinds : ndarray of shape (n,), dtype str
        Of the defects.
    scores : ndarray of shape (n,)
    threshold : float

    Returns
    -------
    figures : dict
        None for a figure that needs normal images and defects, where one of them is missing.
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
        "other_thresholds": _trade_off(is_defect, scores) if both else None,
    }


def _trade_off(is_defect, scores):
    """For rates of false alarms, the lowest thresholds that keep them, and what is found then."""
    thresholds = np.quantile(scores[~is_defect], [1 - rate for rate in _RATES], method="higher")
    return [
        {
            "threshold": float(threshold),
            "false_alarms": int((scores[~is_defect] > threshold).sum()),
            "found": int((scores[is_defect] > threshold).sum()),
        }
        for threshold in np.unique(thresholds)[::-1]
    ]


def _compare_maps(detector, data, rows, verbose):
    """Figures of the maps; defects whose place is not known are left out."""
    all_masks, masks, maps = Masks(data.masks, len(data.X)), [], []
    rows = [i for i in rows if data.y[i] == 0 or data.masks[i] is not None]
    answers = ask_each(detector.predict_map, [data.X[i] for i in rows], "maps", verbose)
    for (pixel_map, problem), i in zip(answers, rows):
        if problem is not None:
            raise ValueError(f"{str(data.X[i])!r}: {problem}")
        maps.append(pixel_map)
        masks.append(all_masks.get(i, pixel_map.shape))
    figures = {"n_masks": sum(mask is not None for mask in masks)}
    for name, score in (
        ("pixel_roc_auc", pixel_roc_auc_score),
        ("pixel_average_precision", pixel_average_precision_score),
        ("per_region_overlap", per_region_overlap_score),
    ):
        figures[name] = score(masks, maps) if figures["n_masks"] else None
    return figures


def describe(figures):
    """The figures as a text for people."""
    n_normal, n_defect, false_alarms, found = (
        figures[name] for name in ("n_normal", "n_defect", "false_alarms", "found")
    )
    lines = [
        f"{n_normal} normal images, {n_defect} with a defect, {figures['n_unusable']} that could not be used",
        "",
        f"image AUROC    {_number(figures['image_roc_auc'])}",
        f"image AP       {_number(figures['image_average_precision'])}",
    ]
    if "n_masks" in figures:
        lines += [
            f"pixel AUROC    {_number(figures['pixel_roc_auc'])}  (of the {figures['n_masks']} defects with a mask)",
            f"pixel AP       {_number(figures['pixel_average_precision'])}",
            f"AUPRO          {_number(figures['per_region_overlap'])}  (to 30 % of false positives)",
        ]
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
    if figures["other_thresholds"]:
        lines += ["", _row("At --threshold", "false alarms", "found", "")]
    for other in figures["other_thresholds"] or ():
        shares = _share(other["false_alarms"], n_normal), _share(other["found"], n_defect)
        lines.append(_row(f"{other['threshold']:.4g}", *shares, ""))
    return "\n".join(lines)


def _row(*columns):
    return "{:15}{:>13}  {:>13}   {}".format(*columns).rstrip()


def _number(figure):
    return "   -" if figure is None else f"{figure:.3f}"


def _share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else "-"
