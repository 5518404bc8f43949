"""Results of the student-teacher detector on MVTec AD, with the protocol of its paper as far as it is known.

    python benchmarks/mvtec.py FOLDER --json mvtec.json

FOLDER holds the fifteen categories of the data set (``bottle/``, ``cable/``, ...), or is the folder of one category.
For each category, a DDPM is trained on the normal images and generates defects with masks. The student-teacher detector
is trained on the normal images and the generated defects, and tested on the test images of the category. The command
downloads nothing. Before any computation, it reports missing weights and the folders for them. Trained models and
finished runs are stored in the folder ``--work``. An interrupted command resumes from there. docs/protocols.md lists
the details that the paper leaves open.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from ksdd2 import Runs, check_backbone, digest, params, read, resumable, show, summary, warn, write_figures
from sklearn.metrics import roc_auc_score

from sklearn_exdd import DDPMDefectAugmenter, StudentTeacherDetector, __version__
from sklearn_exdd.datasets import load_mvtec
from sklearn_exdd.features.weights import file_sha256
from sklearn_exdd.metrics import per_region_overlap_score, pixel_roc_auc_score

SPLIT = {  # normal training images, normal test images, defects
    "bottle": (209, 20, 63),
    "cable": (224, 58, 92),
    "capsule": (219, 23, 109),
    "carpet": (280, 28, 89),
    "grid": (264, 21, 57),
    "hazelnut": (391, 40, 70),
    "leather": (245, 32, 92),
    "metal_nut": (220, 22, 93),
    "pill": (267, 26, 141),
    "screw": (320, 41, 119),
    "tile": (230, 33, 84),
    "toothbrush": (60, 12, 30),
    "transistor": (213, 60, 40),
    "wood": (247, 19, 60),
    "zipper": (240, 32, 119),
}
AUGMENTER = {"perturbation": "correlated", "regions": "perlin"}
DETECTOR = {
    "n_synthetic": 300,
    "cosine_weight": 1.0,
    "segmentation_weight": 1.0,
    "training": "joint",
    "crop_size": 256,
    "max_steps": 5000,
    "top_share": 100 / 256**2,
    "validation_fraction": 0.05,
}
PUBLISHED = {"image AUROC": 0.984, "pixel AUROC": 0.983}  # means over the categories


def load(folder, chosen):
    """Load the categories and compare them with the published split."""
    if (folder / "train" / "good").is_dir():
        folders = {folder.resolve().name: folder}
    else:
        folders = {name: folder / name for name in chosen or SPLIT if (folder / name).is_dir()}
    unknown = sorted(set(chosen or []) - set(folders))
    if not folders or unknown:
        raise SystemExit(
            f"{folder}: expected the folder of MVTec AD, which contains {', '.join(unknown or SPLIT)}, or one of these "
            "categories, which contains train/good."
        )
    categories = {}
    for name, own in folders.items():
        try:
            data = load_mvtec(own)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(str(error)) from error
        counts = tuple(
            int(np.sum(rows)) for rows in (~data.is_test, data.is_test & (data.y == 0), data.is_test & (data.y == 1))
        )
        if 0 in counts:
            raise SystemExit(
                f"{own}: expected normal training images, normal test images and defects, got {counts[0]}, {counts[1]} "
                f"and {counts[2]}."
            )
        if data.y[~data.is_test].any():
            raise SystemExit(f"{own / 'train'}: expected only normal images, in good/, got other folders beside it.")
        unmarked = [X for X, y, mask in zip(data.X, data.y, data.masks) if y and mask is None]
        if unmarked:
            raise SystemExit(f"{own}: expected a mask of each defect in ground_truth/, found none for {unmarked[0]}.")
        if counts != SPLIT.get(name):
            warn(
                f"{own}: {counts[0]} normal training images, {counts[1]} normal test images and {counts[2]} defects "
                f"differ from the published split, {SPLIT.get(name, 'which has no such category')}."
            )
        categories[name] = data
    if set(categories) != set(SPLIT):
        warn(f"{len(categories)} of the {len(SPLIT)} categories: the published means are over all of them.")
    return categories


def run(data, shape, teacher, weights, settings, augmenter, work, seed):
    train, test = np.flatnonzero(~data.is_test), np.flatnonzero(data.is_test)
    X, _ = read([data.X[i] for i in train], [None] * len(train), shape)
    augmenter = DDPMDefectAugmenter(**augmenter, memory=work / "ddpm", random_state=seed, verbose=1)
    detector = StudentTeacherDetector(
        teacher,
        weights=weights,
        augmenter=augmenter,
        memory=work / "training",
        random_state=seed,
        verbose=1,
        **settings,
    ).fit(X)
    X, masks = read([data.X[i] for i in test], [data.masks[i] for i in test], shape)
    maps = detector.predict_map(X)
    return {
        "image AUROC": float(roc_auc_score(data.y[test], detector.score_samples(X))),
        "pixel AUROC": pixel_roc_auc_score(masks, maps),
        "AUPRO": per_region_overlap_score(masks, maps),
    }


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--categories", nargs="+", choices=list(SPLIT), metavar="NAME", help="all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="side to which images and masks are resized, in pixels")
    parser.add_argument("--teacher", default="resnet18", help="torchvision model, or 'learned', which needs no weights")
    parser.add_argument("--weights", default="IMAGENET1K_V1", help="name or file of the teacher's weights")
    parser.add_argument("--params", type=params, default={}, help="parameters of StudentTeacherDetector, as JSON")
    parser.add_argument("--augmenter-params", type=params, default={}, help="params of DDPMDefectAugmenter, as JSON")
    parser.add_argument("--work", type=Path, default=Path("results/mvtec"), help="folder for finished work")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args(argv)
    arguments.folder = arguments.folder.expanduser()
    if arguments.seeds < 1:
        parser.error("--seeds: expected at least one seed.")
    return arguments


def main(argv=None):
    arguments = parse(argv)
    categories = load(arguments.folder, arguments.categories)
    teacher, weights, work = arguments.teacher, arguments.weights, arguments.work
    if teacher != "learned":
        check_backbone(teacher, weights, "--weights")
    settings, augmenter = {**DETECTOR, **arguments.params}, {**AUGMENTER, **arguments.augmenter_params}
    shape = (arguments.size, arguments.size)
    known = {"version": __version__, "shape": shape, "detector": settings, "augmenter": augmenter}
    known |= {"teacher": teacher, "weights": None if teacher == "learned" else file_sha256(weights) or weights}
    runs = Runs(work / "runs", arguments.seeds * len(categories))
    results = {name: [] for name in categories}
    with resumable(work):
        for seed in range(arguments.seeds):
            for name, data in categories.items():
                own = {**known, "category": name, "seed": seed}
                own["data"] = digest(arguments.folder, data.X + data.masks)
                compute = partial(run, data, shape, teacher, weights, settings, augmenter, work, seed)
                results[name].append(runs.result(f"{name}, seed {seed}", own, compute))
    means = [
        {metric: float(np.mean([result[metric] for result in of_seed])) for metric in of_seed[0]}
        for of_seed in zip(*results.values())
    ]
    rows = [summary(name, own, {}) for name, own in results.items()]
    whole = set(categories) == set(SPLIT)
    rows.append(summary(f"mean of {len(categories)}", means, PUBLISHED if whole else {}))
    show(arguments.seeds, rows)
    if arguments.json:
        write_figures(arguments.json, arguments, rows)


if __name__ == "__main__":
    main()
