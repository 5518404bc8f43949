"""Accuracy for different numbers of synthetic defects, for each augmenter, with and without real defects.

    python benchmarks/synthetic_count.py FOLDER --plot synthetic_count.png

FOLDER is the same as for ``benchmarks/real_data.py``. Cross-validation keeps groups together. Held-out images are never
augmented, and augmenters are fitted only on the training images of a fold. A gain is the paired difference to the same
detector without synthetic defects. The 95 % intervals are computed by resampling groups. The detector has default
parameters that are not tuned.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from real_data import image_metrics, load, splits, thin_defects
from sklearn.base import clone

from sklearn_exdd import (
    CutPasteDefectAugmenter,
    DDPMDefectAugmenter,
    DefectPasteAugmenter,
    ExDDDetector,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
)

AUGMENTERS = {
    "perlin": PerlinDefectAugmenter(),
    "cutpaste": CutPasteDefectAugmenter(),
    "offset": OffsetDefectAugmenter(),
    "paste": DefectPasteAugmenter(),
    "ddpm": DDPMDefectAugmenter(),
    "in&out": MixedDefectAugmenter([("ddpm", DDPMDefectAugmenter()), ("perlin", PerlinDefectAugmenter())]),
}
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # colours of Okabe and Ito


def scores_of(data, augmenter, count, share, arguments, seed, cache):
    """Return the out-of-fold scores of the images."""
    scores = np.full(len(data.X), np.nan)
    for fold, (train, test) in enumerate(splits(data, arguments.part, arguments.folds, seed)):
        train = thin_defects(data, train, share * data.y.sum(), 100 * seed + fold)
        if arguments.max_normals:
            normals = train[data.y[train] == 0]
            chosen = np.random.RandomState(seed).permutation(normals)[: arguments.max_normals]
            train = np.sort(np.concatenate([chosen, train[data.y[train] == 1]]))
        X, masks = ([values[i] for i in train] for values in (data.X, data.masks))
        detector = ExDDDetector("gabor", memory=str(cache / "features"), random_state=seed)
        if count:
            own = clone(augmenter)
            caches = {name: str(cache / "synthetic") for name in own.get_params() if name.split("__")[-1] == "memory"}
            detector.set_params(augmenter=own.set_params(**caches), n_synthetic=count)
        y = data.y[train] if share else None
        detector.fit(X, y, masks=masks if share else None, groups=data.groups[train])
        scores[test] = detector.score_samples([data.X[i] for i in test])
    return scores


def resampled(data, scores, n_bootstrap):
    """Return the AUROC and AP of images, averaged over seeds, for all images and for each resampling of groups."""
    tested = np.flatnonzero(~np.isnan(scores[0]))
    y = data.y[tested]
    names, numbers = np.unique(data.groups[tested], return_inverse=True)
    rng = np.random.RandomState(0)
    draws = []
    for draw in range(n_bootstrap + 1):
        counts = (
            np.ones(len(names))
            if draw == 0
            else np.bincount(rng.randint(len(names), size=len(names)), minlength=len(names))
        )
        weights = counts[numbers].astype(float)
        if weights[y == 1].any() and weights[y == 0].any():
            draws.append(np.mean([image_metrics(y, one[tested], weights) for one in scores], axis=0))
    return np.array(draws)


def plot(rows, arguments):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1,
        len(arguments.shares),
        figsize=(4.2 * len(arguments.shares), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, share in zip(axes[0], arguments.shares):
        for number, name in enumerate(arguments.augmenters):
            own = [row for row in rows if row["share"] == share and row["augmenter"] in (name, None)]
            if len(own) < 2:
                continue
            counts, means = [row["count"] for row in own], [row["image AUROC"]["mean"] for row in own]
            low, high = zip(*(row["image AUROC"]["interval"] for row in own))
            axis.plot(counts, means, marker="osD^vP"[number % 6], color=COLORS[number % 6], label=name)
            axis.fill_between(counts, low, high, color=COLORS[number % 6], alpha=0.08)
        axis.set(title=f"{share:.0%} of the real defects", xlabel="number of synthetic defects")
    axes[0, 0].set_ylabel("image AUROC, 95 % interval over groups")
    axes[0, -1].legend()
    arguments.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.plot, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EXDD_DATA"))
    parser.add_argument("--augmenters", nargs="+", choices=list(AUGMENTERS), default=list(AUGMENTERS))
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 50, 100, 200])
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.05, 0.2], help="shares of defects to train on")
    parser.add_argument("--part", choices=["report", "development", "all"], default="all")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-normals", type=int, default=None, help="normal images to train on; all by default")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--cache", type=Path, help="folder for features and synthetic images, to resume a run")
    parser.add_argument("--plot", type=Path, help="file to write the plot to")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    if arguments.folder is None:
        raise SystemExit("Pass a folder of images, or set EXDD_DATA. " + __doc__)
    data = load(arguments.folder)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        cache = arguments.cache or Path(temporary)
        for share in arguments.shares:
            reference = None
            jobs = [(None, 0)] + [(name, count) for name in arguments.augmenters for count in arguments.counts]
            for name, count in jobs:
                if name == "paste" and share == 0:
                    continue  # without real defects, there is nothing to paste
                started = time.time()
                scores = [
                    scores_of(data, AUGMENTERS.get(name), count, share, arguments, seed, cache)
                    for seed in range(arguments.seeds)
                ]
                draws = resampled(data, scores, arguments.bootstrap)
                reference = draws if reference is None else reference
                row = {"augmenter": name, "count": count, "share": share}
                for column, metric in enumerate(("image AUROC", "image AP")):
                    own, gain = draws[:, column], (draws - reference)[:, column]
                    row[metric] = {
                        "mean": float(own[0]),
                        "interval": np.quantile(own[1:], [0.025, 0.975]).tolist(),
                        "gain": float(gain[0]),
                        "gain interval": np.quantile(gain[1:], [0.025, 0.975]).tolist(),
                    }
                rows.append(row)
                auroc = row["image AUROC"]
                print(
                    f"{share:4.0%} real, {count:3d} {name or 'synthetic':9}  image AUROC {auroc['mean']:.3f} "
                    f"[{auroc['interval'][0]:.3f}, {auroc['interval'][1]:.3f}]  gain {auroc['gain']:+.3f} "
                    f"[{auroc['gain interval'][0]:+.3f}, {auroc['gain interval'][1]:+.3f}]  AP "
                    f"{row['image AP']['mean']:.3f}  ({time.time() - started:.0f} s)",
                    flush=True,
                )
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))
    if arguments.plot:
        plot(rows, arguments)


if __name__ == "__main__":
    main()
