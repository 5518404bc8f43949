"""Comparison of detectors and of synthetic defects on real images.

    python benchmarks/detectors.py FOLDER --detectors filters learned --augmenters mixture perlin

FOLDER, splits, metrics and intervals are the same as in ``benchmarks/real_data.py``: cross-validation keeps groups
together, and the 95 % intervals are intervals over groups. The results of folds are stored in the folder ``--work``. An
interrupted run resumes from them. ``--part all`` tests on all images. It also prints the results on the *reported* half
of the groups. The defaults of the library were not chosen on this half. ``--test-contrast 0.4`` lowers the contrast of
the test images in every second group. Different light or a smoother surface would have a similar effect.
"""

import argparse
import json
import os
import time
from functools import cache
from pathlib import Path

import joblib
import numpy as np
from real_data import METRICS, evaluate, load, parts, splits, thin_defects
from sklearn.base import clone

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    DDPMDefectAugmenter,
    DefectClassifier,
    EfficientNetLiteFeatureExtractor,
    ExDDDetector,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    LinearProbeDetector,
    OffsetDefectAugmenter,
    PatchClassifierDetector,
    PerlinDefectAugmenter,
    SegmentationDetector,
    StudentTeacherDetector,
)
from sklearn_exdd._images import Images
from sklearn_exdd.augment import default_augmenter

AUGMENTERS = {
    "mixture": default_augmenter(),
    "perlin": PerlinDefectAugmenter(),
    "cutpaste": CutPasteDefectAugmenter(),
    "offset": OffsetDefectAugmenter(),
    "ddpm": DDPMDefectAugmenter(),
    "ddpm, white": DDPMDefectAugmenter(perturbation="white", amplitude=(0.4, 0.8)),
    "short ddpm": DDPMDefectAugmenter(max_steps=500),
    "short ddpm, white": DDPMDefectAugmenter(max_steps=500, perturbation="white", amplitude=(0.4, 0.8)),
}


def segmentation(**params):
    """Return a function that makes a SegmentationDetector with given parameters, also for its extractor."""
    return lambda banks, network: SegmentationDetector(LearnedFeatureExtractor(augmenter=network)).set_params(**params)


def segmentation_and_banks(banks_of, **params):
    """Return a function that combines the banks of a detector with a SegmentationDetector with given parameters."""
    return lambda banks, network: CombinedDefectDetector(
        [
            ("segmentation", segmentation(validation_fraction=0, **params)(banks, network)),
            (banks_of, DETECTORS[banks_of](banks, network)),
        ],
        weights=[1, 0.5],
    )


def networks_and_banks(network_of, weight):
    """Return a function that combines networks with banks on three strides. The banks have only real defects."""
    return lambda banks, network: CombinedDefectDetector(
        [
            ("networks", DETECTORS[network_of](banks, network).set_params(validation_fraction=0)),
            ("banks", DETECTORS["lite0, three strides"](banks, network)),
        ],
        weights=[weight, 1],
    )


def student_teacher(**params):
    return lambda banks, network: StudentTeacherDetector(augmenter=network, **params)


# Functions of the augmenter for banks and the augmenter for networks. For "mixture", the augmenter for networks is
# None, which selects their own mixture. The table also has a row for each member of a combination, as it was fitted in
# the combination.
DETECTORS = {
    "filters": lambda banks, network: ExDDDetector("gabor", augmenter=banks),
    "lite0": lambda banks, network: ExDDDetector("efficientnet_lite0", augmenter=banks),
    "lite0, stride 16": lambda banks, network: ExDDDetector(
        EfficientNetLiteFeatureExtractor(strides=(16,)), augmenter=banks
    ),
    "lite0, whitened": lambda banks, network: ExDDDetector(
        EfficientNetLiteFeatureExtractor(whiten=True), augmenter=banks
    ),
    "default": lambda banks, network: ExDDDetector(),
    "lite0, three strides": lambda banks, network: ExDDDetector(EfficientNetLiteFeatureExtractor(strides=(8, 16, 32))),
    "banks and probe, lite0": lambda banks, network: CombinedDefectDetector(
        [
            ("banks", DETECTORS["lite0, three strides"](banks, network)),
            (
                "probe",
                LinearProbeDetector(EfficientNetLiteFeatureExtractor(strides=(8, 16, 32)), validation_fraction=0),
            ),
        ],
        weights=[1, 0.5],
    ),
    "brief network, lite0": segmentation(
        n_networks=1,
        feature_extractor__encoder="efficientnet_lite0",
        feature_extractor__max_steps=400,
    ),
    "brief network and banks, lite0": networks_and_banks("brief network, lite0", 0.5),
    "half networks and banks, lite0": networks_and_banks("segmentation", 0.5),
    "networks and banks, lite0": networks_and_banks("segmentation", 1),
    "filters, linear responses": lambda banks, network: ExDDDetector(
        GaborFeatureExtractor(response="linear"), augmenter=banks
    ),
    "filters, patch classifier": lambda banks, network: PatchClassifierDetector("gabor", augmenter=banks),
    "lite0, patch classifier": lambda banks, network: PatchClassifierDetector(augmenter=banks),
    "learned": lambda banks, network: ExDDDetector(LearnedFeatureExtractor(augmenter=network), augmenter=banks),
    "segmentation": segmentation(),
    "learned and segmentation": lambda banks, network: CombinedDefectDetector(
        [
            ("banks", DETECTORS["learned"](banks, network).set_params(validation_fraction=0)),
            ("segmentation", segmentation(n_networks=1, validation_fraction=0)(banks, network)),
        ]
    ),
    "segmentation and filters": segmentation_and_banks("filters"),
    "segmentation and banks, lite0": segmentation_and_banks("lite0", feature_extractor__encoder="efficientnet_lite0"),
    "six networks and filters": segmentation_and_banks("filters", n_networks=6),
    "segmentation, lite0": segmentation(feature_extractor__encoder="efficientnet_lite0"),
    "segmentation, one network, lite0": segmentation(n_networks=1, feature_extractor__encoder="efficientnet_lite0"),
    "segmentation, four networks": segmentation(n_networks=4),
    "segmentation, one network": segmentation(n_networks=1),
    "segmentation, all see real defects": segmentation(real_defects="all"),
    "segmentation, maps as they are": segmentation(image_weight=0),
    "segmentation, narrow contrast": segmentation(feature_extractor__contrast=(0.85, 1.15)),
    "student-teacher": student_teacher(),
    "student-teacher, lite0": student_teacher(teacher="efficientnet_lite0"),
    "student-teacher, two stages": student_teacher(training="two_stage"),
    "student-teacher, symmetric": student_teacher(symmetric=True),
    "student-teacher, cosine only": student_teacher(segmentation_weight=0),
    "student-teacher, segmentation only": student_teacher(cosine_weight=0),
    "classifier": lambda banks, network: DefectClassifier(
        "resnet18", weights=None, augmenter=banks, n_synthetic=300, learning_rate=1e-3
    ),
    "classifier, lite0": lambda banks, network: DefectClassifier(
        "efficientnet_lite0", augmenter=banks, n_synthetic=300
    ),
}


load = cache(load)


def of_fold(folder, detector, augmenter, share, part, n_folds, seed, fold, max_steps, contrast, work):
    """Fit a detector on a fold. Return the scores, decisions and maps of the detector and of each of its members."""
    data = load(folder)
    train, test = list(splits(data, part, n_folds, seed))[fold]
    train = thin_defects(data, train, share * data.y.sum(), 100 * seed + fold)
    X, masks = ([values[i] for i in train] for values in (data.X, data.masks))
    banks = clone(AUGMENTERS[augmenter])
    model = DETECTORS[detector](banks, None if augmenter == "mixture" else banks)
    shared = {"memory": str(Path(work)), "random_state": seed}
    for name in model.get_params():
        value = shared.get(name.split("__")[-1])
        if name.split("__")[-1] == "max_steps" and max_steps and "augmenter" not in name:
            value = max_steps
        if value is not None:
            model.set_params(**{name: value})
    labelled = {"masks": masks, "y": data.y[train]} if share else {}
    start = time.process_time()
    model.fit(X, **labelled, groups=data.groups[train])
    cost = time.process_time() - start
    members = zip([name for name, _ in model.detectors], model.detectors_) if hasattr(model, "detectors_") else ()
    X_test, results = [data.X[i] for i in test], {}
    if contrast != 1:
        lowered = np.unique(data.groups[test], return_inverse=True)[1] % 2 == 1
        X_test = [with_contrast(path, contrast) if low else path for path, low in zip(X_test, lowered)]
    for name, fitted in [("", model), *((f", {name}", member) for name, member in members)]:
        scores = fitted.score_samples(X_test)
        maps = [pixel_map.astype(np.float16) for pixel_map in fitted.predict_map(X_test)]
        results[detector + name] = {"scores": scores, "alarms": scores > fitted.threshold_, "maps": maps}
    return {"test": test, "results": results, "n_defects": int(data.y[train].sum()), "seconds": cost}


def with_contrast(path, factor):
    """Return an image with changed contrast: deviations of log pixels from their median are multiplied by a factor."""
    logs = np.log(Images([path])[0] + 0.03)
    return np.clip(np.exp(np.median(logs) + factor * (logs - np.median(logs))) - 0.03, 0, 1)


def rows(data, folds):
    """Convert the results of all folds and seeds to the input of ``evaluate``, for each detector."""
    found = {}
    for seed_folds in folds:
        for name in seed_folds[0]["results"]:
            whole = {key: np.full(len(data.X), np.nan) for key in ("scores", "alarms", "folds")} | {"maps": {}}
            for number, fold in enumerate(seed_folds):
                own, test = fold["results"][name], fold["test"]
                whole["folds"][test] = number
                for key in ("scores", "alarms"):
                    whole[key][test] = own[key]
                whole["maps"].update(zip(test, (pixel_map.astype(np.float32) for pixel_map in own["maps"])))
            whole["n_defects"] = np.mean([fold["n_defects"] for fold in seed_folds])
            found.setdefault(name, []).append(whole)
    return found


def restricted(result, images):
    """Restrict a result to some of the images."""
    outside = ~np.isin(np.arange(len(result["scores"])), images)
    own = {key: np.where(outside, np.nan, result[key]) for key in ("scores", "alarms", "folds")}
    maps = {i: pixel_map for i, pixel_map in result["maps"].items() if not outside[i]}
    return {**result, **own, "maps": maps}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EXDD_DATA"))
    parser.add_argument("--detectors", nargs="+", default=["filters", "learned and segmentation"], choices=DETECTORS)
    parser.add_argument("--augmenters", nargs="+", default=["mixture"], choices=AUGMENTERS)
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.2], help="shares of defects to train on")
    parser.add_argument("--part", choices=["report", "development", "all"], default="all")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--max-steps", type=int, help="training steps (default: that of each detector)")
    parser.add_argument("--test-contrast", type=float, default=1, help="contrast of test images in every second group")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("results/detectors"), help="folder for finished folds")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    if arguments.folder is None:
        raise SystemExit("Pass a folder of images, or set EXDD_DATA. " + __doc__)
    data = load(arguments.folder)
    cached = joblib.Memory(arguments.work / "folds", verbose=0).cache(of_fold, ignore=["work"])
    table = []
    for share in arguments.shares:
        for augmenter in arguments.augmenters:
            for detector in arguments.detectors:
                settings = (arguments.folder, detector, augmenter, share, arguments.part, arguments.folds)
                more = (arguments.max_steps, arguments.test_contrast, arguments.work)
                folds = [
                    [cached(*settings, seed, fold, *more) for fold in range(arguments.folds)]
                    for seed in range(arguments.seeds)
                ]
                seconds = np.median([fold["seconds"] for seed_folds in folds for fold in seed_folds])
                for name, results in rows(data, folds).items():
                    row, _ = evaluate(data, results, arguments.bootstrap)
                    row |= {"detector": name, "synthetic": augmenter, "share": share, "fit, CPU s": seconds}
                    if arguments.part == "all":
                        report = [restricted(result, parts(data)["report"]) for result in results]
                        row["reported half"], _ = evaluate(data, report, arguments.bootstrap)
                    table.append(row)
                    show(row)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(table, indent=1))


def show(row):
    title = f"{row['detector']}, {row['synthetic']}, {row['share']:.0%} of the defects"
    print(f"{title}; fit {row['fit, CPU s']:.0f} CPU s")
    for name, part in (("all", row), ("reported half", row.get("reported half"))):
        if part is None:
            continue
        print(f"    {name}:", ", ".join(f"{metric} {interval_of(part[metric])}" for metric in METRICS))
        print(
            "        mean of folds:", ", ".join(f"{metric} {part['mean of folds'][metric]:.3f}" for metric in METRICS)
        )
        print("        by type:", ", ".join(f"{kind} {value:.2f}" for kind, value in part["by type"].items()))
        print(f"        false alarms {part['false alarms']:.3f}, found {part['found']:.3f}", flush=True)


def interval_of(figure):
    low, high = figure["interval"]
    return f"{figure['mean']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
