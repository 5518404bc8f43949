"""Accuracy on real images, of one-class and of dual detectors, in grouped cross-validation.

    python benchmarks/real_data.py FOLDER

FOLDER (or the environment variable EXDD_DATA) holds images in one of the layouts of ``sklearn_exdd.datasets``:

* a file ``index.csv`` with the columns image, label, mask, type and group
* the folders ``normal/`` and ``defect/``
* the layout of MVTec AD
* the layout of KSDD2

Images of one group are never on both sides of a split.

Half of the groups, in a fixed draw, form the *development* part. The defaults of the library were chosen on this part.
The default ``--part report`` tests only on the other half. Each fold of this half is tested with a detector that is
trained on all other images. The 95 % intervals are computed by resampling groups.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from sklearn_exdd import ExDDDetector
from sklearn_exdd._images import Images, Masks
from sklearn_exdd.augment import default_augmenter
from sklearn_exdd.datasets import load_folder, load_index, load_ksdd2, load_mvtec
from sklearn_exdd.metrics import per_region_overlap_score, pixel_roc_auc_score

N_BINS = 4096  # number of bins in the pixel histograms, which give the intervals
MAX_FPR = 0.3
METRICS = ("image AUROC", "image AP", "pixel AUROC", "AUPRO")


def load(folder):
    folder = Path(folder)
    if not folder.is_dir():
        raise SystemExit(
            f"{folder}: no such folder. Pass a folder of images, or set EXDD_DATA; see the docstring of this file."
        )
    if (folder / "index.csv").is_file():
        data = load_index(folder)
    elif (folder / "train" / "good").is_dir():
        data = load_mvtec(folder)
    elif (folder / "train").is_dir():
        data = load_ksdd2(folder)
    else:
        data = load_folder(folder)
    if data.groups is None:
        data.groups = np.arange(len(data.X))
    data.shapes = [Images([path])[0].shape[:2] for path in data.X]
    masks = Masks(data.masks, len(data.X))
    data.pixels = [masks.get(i, shape) for i, shape in enumerate(data.shapes)]
    data.pixels = [np.zeros(shape, bool) if mask is None else mask for mask, shape in zip(data.pixels, data.shapes)]
    return data


def parts(data):
    """Return the indices of the images in each part. Each half contains whole groups."""
    everything = np.arange(len(data.X))
    halves = StratifiedGroupKFold(2, shuffle=True, random_state=0)
    report, development = next(halves.split(everything, data.kinds, data.groups))
    return {"report": report, "development": development, "all": everything}


def splits(data, part, n_folds, seed):
    """Yield pairs of training and test indices that keep groups together."""
    everything = np.arange(len(data.X))
    pool = parts(data)[part]
    # Detectors for the development part never use the other half, not even for training.
    outside = np.setdiff1d(everything, pool) if part == "report" else np.array([], dtype=int)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for train, test in folds.split(pool, data.kinds[pool], data.groups[pool]):
        yield np.concatenate([outside, pool[train]]), pool[test]


def thin_defects(data, train, n_defects, seed):
    """Select about `n_defects` defect images of the training set, as whole groups and balanced over types."""
    defects, normals = train[data.y[train] == 1], train[data.y[train] == 0]
    n_parts = round(len(defects) / n_defects) if n_defects else 0
    if n_parts == 0:
        return normals
    if n_parts > 1:
        parts = StratifiedGroupKFold(n_parts, shuffle=True, random_state=seed)
        _, part = next(parts.split(defects, data.kinds[defects], data.groups[defects]))
        defects = defects[part]
    return np.sort(np.concatenate([normals, defects]))


def run(data, part, n_folds, seed, share, params):
    """Return out-of-fold scores, maps and decisions. Images that are not tested get NaN."""
    scores, alarms, folds = np.full((3, len(data.X)), np.nan)
    maps = {}
    n_train = []
    for fold, (train, test) in enumerate(splits(data, part, n_folds, seed)):
        train = thin_defects(data, train, share * data.y.sum(), 100 * seed + fold)
        n_train.append(int(data.y[train].sum()))
        X, masks = ([values[i] for i in train] for values in (data.X, data.masks))
        detector = ExDDDetector(random_state=seed, **params)
        if share > 0:
            detector.fit(X, data.y[train], masks=masks, groups=data.groups[train])
        else:
            detector.fit(X, groups=data.groups[train])
        X_test = [data.X[i] for i in test]
        scores[test] = detector.score_samples(X_test)
        folds[test] = fold
        alarms[test] = scores[test] > detector.threshold_
        maps.update(zip(test, detector.predict_map(X_test)))
    return {"scores": scores, "alarms": alarms, "folds": folds, "maps": maps, "n_defects": float(np.mean(n_train))}


def histograms(data, result):
    """Return histograms over common bins, for each image: normal pixels, defect pixels and region overlaps."""
    tested = sorted(result["maps"])
    sample = np.concatenate([result["maps"][i].ravel()[::97] for i in tested])
    edges = np.unique(np.quantile(sample, np.linspace(0, 1, N_BINS)[1:-1]))
    table = np.zeros((len(tested), 3, len(edges) + 1))
    n_regions = np.zeros(len(tested))
    for row, i in enumerate(tested):
        bins = np.searchsorted(edges, result["maps"][i])
        mask = data.pixels[i]
        regions, n_regions[row] = ndimage.label(mask, structure=np.ones((3, 3)))
        table[row, 0] = np.bincount(bins[~mask], minlength=table.shape[2])
        table[row, 1] = np.bincount(bins[mask], minlength=table.shape[2])
        for region in range(1, int(n_regions[row]) + 1):
            inside = bins[regions == region]
            table[row, 2] += np.bincount(inside, minlength=table.shape[2]) / len(inside)
    return table[:, :, ::-1], n_regions


def pixel_metrics(totals, n_regions):
    """Return pixel AUROC and AUPRO from histograms that start with the highest bin. Without masks, return NaN."""
    if not n_regions:
        return np.nan, np.nan
    false_rate, true_rate = (np.concatenate([[0], np.cumsum(row) / row.sum()]) for row in totals[:2])
    overlap = np.concatenate([[0], np.cumsum(totals[2]) / n_regions])
    grid = np.append(false_rate[false_rate < MAX_FPR], MAX_FPR)
    return np.trapezoid(true_rate, false_rate), np.trapezoid(np.interp(grid, false_rate, overlap), grid) / MAX_FPR


def image_metrics(y, scores, weights):
    return (
        roc_auc_score(y, scores, sample_weight=weights),
        average_precision_score(y, scores, sample_weight=weights),
    )


def fold_metrics(data, result, fold):
    """Return all metrics of the images tested in one fold. If they are all normal or all defects, return NaN."""
    tested = np.flatnonzero(result["folds"] == fold)
    y, masks, maps = data.y[tested], [data.pixels[i] for i in tested], [result["maps"][i] for i in tested]
    if len(np.unique(y)) < 2:
        return [np.nan] * len(METRICS)
    return [*image_metrics(y, result["scores"][tested], None), *map_metrics(masks, maps)]


def map_metrics(masks, maps):
    """Return pixel AUROC and AUPRO, or NaN if no mask marks a defect."""
    if not any(mask.any() for mask in masks):
        return np.nan, np.nan
    return pixel_roc_auc_score(masks, maps), per_region_overlap_score(masks, maps, max_fpr=MAX_FPR)


def evaluate(data, results, n_bootstrap, reference=None):
    """Return metrics averaged over seeds, with bootstrap intervals over groups, and the bootstrap draws."""
    tested = np.flatnonzero(~np.isnan(results[0]["scores"]))
    y, groups = data.y[tested], data.groups[tested]
    names, numbers = np.unique(groups, return_inverse=True)
    masks = [data.pixels[i] for i in tested]
    exact = []
    for result in results:
        maps = [result["maps"][i] for i in tested]
        exact.append([*image_metrics(y, result["scores"][tested], None), *map_metrics(masks, maps)])
    tables = [histograms(data, result) for result in results]
    rng = np.random.RandomState(0)
    draws = []
    for _ in range(n_bootstrap):
        counts = np.bincount(rng.randint(len(names), size=len(names)), minlength=len(names))
        weights = counts[numbers].astype(float)
        if not (weights[y == 1].any() and weights[y == 0].any()):
            continue
        draws.append(
            np.mean(
                [
                    [
                        *image_metrics(y, result["scores"][tested], weights),
                        *pixel_metrics(np.tensordot(weights, table, axes=1), weights @ n_regions),
                    ]
                    for result, (table, n_regions) in zip(results, tables)
                ],
                axis=0,
            )
        )
    draws = np.array(draws)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    row = {}
    for i, name in enumerate(METRICS):
        row[name] = {
            "mean": float(np.mean(exact, axis=0)[i]),
            "interval": [float(low[i]), float(high[i])],
            "seeds": [float(values[i]) for values in exact],
        }
    of_folds = [
        fold_metrics(data, result, number)
        for result in results
        for number in range(int(np.nanmax(result["folds"])) + 1)
    ]
    row["mean of folds"] = dict(zip(METRICS, map(float, np.nanmean(of_folds, axis=0))))
    row["false alarms"] = float(np.mean([result["alarms"][tested][y == 0].mean() for result in results]))
    row["found"] = float(np.mean([result["alarms"][tested][y == 1].mean() for result in results]))
    row["defects in training"] = float(np.mean([result["n_defects"] for result in results]))
    row["by type"] = {
        str(kind): float(
            np.mean(
                [
                    roc_auc_score(y[chosen], result["scores"][tested][chosen])
                    for result in results
                    for chosen in [(y == 0) | (data.kinds[tested] == kind)]
                ]
            )
        )
        for kind in np.unique(data.kinds[tested][y == 1])
    }
    if reference is not None:
        gain = draws - reference
        row["gain over one-class"] = {
            name: [float(value) for value in np.quantile(gain[:, i], [0.025, 0.5, 0.975])]
            for i, name in enumerate(METRICS)
        }
    return row, draws


def milliseconds(data, params):
    """Return the wall time per image for the features, and for features and score together, without a cache."""
    params = {**params, "memory": None}
    n_images = min(40, len(data.X))
    train = np.random.RandomState(0).permutation(len(data.X))[:160]
    X, masks = ([values[i] for i in train] for values in (data.X, data.masks))
    detector = ExDDDetector(random_state=0, **params).fit(X, data.y[train], masks=masks)
    images = [Images(data.X)[i] for i in range(n_images)]
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        detector.feature_extractor_.transform(images)
        middle = time.perf_counter()
        detector.score_samples(images)
        seconds.append((middle - start, time.perf_counter() - middle))
    features, scores = np.median(seconds, axis=0) / n_images * 1000
    return {"features": float(features), "features and score": float(scores)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EXDD_DATA"))
    parser.add_argument("--extractor", default="auto", help="feature_extractor of ExDDDetector")
    parser.add_argument("--synthetic", type=int, default=0, help="synthetic defects from a cheap mixture")
    parser.add_argument("--part", choices=["report", "development", "all"], default="report")
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.2, 1], help="shares of defects to train on")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--params", type=json.loads, default={}, help="further parameters of ExDDDetector, as JSON")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    if arguments.folder is None:
        raise SystemExit("Pass a folder of images, or set EXDD_DATA. " + __doc__)
    data = load(arguments.folder)
    with tempfile.TemporaryDirectory() as cache:
        params = {"feature_extractor": arguments.extractor, "memory": cache, **arguments.params}
        if arguments.synthetic:
            params |= {"augmenter": default_augmenter(), "n_synthetic": arguments.synthetic}
        rows, reference = {}, None
        for share in arguments.shares:
            started = time.time()
            results = [
                run(data, arguments.part, arguments.folds, seed, share, params) for seed in range(arguments.seeds)
            ]
            row, draws = evaluate(data, results, arguments.bootstrap, reference)
            reference = draws if share == 0 else reference
            name = "no real defects" if share == 0 and arguments.synthetic else "one-class"
            name = name if share == 0 else f"dual, {share:.0%} of the defects"
            rows[name] = row
            print(f"{name} ({row['defects in training']:.0f} defect images in training, {time.time() - started:.0f} s)")
            for metric in METRICS:
                low, high = row[metric]["interval"]
                gain = row.get("gain over one-class", {}).get(metric)
                more = f"   over one-class {gain[1]:+.3f} [{gain[0]:+.3f}, {gain[2]:+.3f}]" if gain else ""
                print(f"    {metric:12} {row[metric]['mean']:.3f} [{low:.3f}, {high:.3f}]{more}")
            print(
                f"    at the threshold: {row['false alarms']:.3f} false alarms, {row['found']:.3f} of the defects found"
            )
            print(
                "    image AUROC by type:", ", ".join(f"{kind} {value:.2f}" for kind, value in row["by type"].items())
            )
    cost = milliseconds(data, params)
    print(
        f"milliseconds per image: features {cost['features']:.1f}, features and score {cost['features and score']:.1f}"
    )
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"settings": settings, "rows": rows, "milliseconds": cost}, indent=1))


if __name__ == "__main__":
    main()
