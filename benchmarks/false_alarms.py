"""Check of the promised false-alarm rate: fraction of new normal images that detectors call defective.

    python benchmarks/false_alarms.py
    python benchmarks/false_alarms.py --detectors "filters, one class" --n-normals 19 --sizes 64 --fits 100
    python benchmarks/false_alarms.py --groups
    python benchmarks/false_alarms.py --marks --n-normals 100 --sizes 64 --rates .05

Each fit uses its own normal surfaces (``make_surface_defects`` without defects), and is tested on other normal
surfaces. Training and test images are thus exchangeable, as the promise requires. The thresholds for all rates are
computed from the `calibration_scores_` of one fit. A row of the table passes if its mean exceeds the promise by at most
two standard errors. Networks are trained for only a few steps, because the promise must hold even for a poor network.

``--groups`` simulates five images of each part, with slightly different light and noise. It compares fits with
``groups=`` and fits without ``groups=``.

``--marks`` tests the detector "filters, one class". It counts the new normal images whose map exceeds
`pixel_threshold_` at any pixel, and the new normal images with a marked pixel. It also checks with a Kolmogorov-Smirnov
test whether p-values are uniform. The test uses one p-value per fit, because all p-values of a fit depend on the same
calibration scores. P-values are discrete, so each of them is spread at random over its step.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.stats import kstest

from sklearn_exdd import (
    CombinedDefectDetector,
    DefectClassifier,
    ExDDDetector,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    PatchClassifierDetector,
    SegmentationDetector,
    StudentTeacherDetector,
)
from sklearn_exdd.augment import default_augmenter
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.scoring import conformal_threshold

_PHOTOS = 5  # number of images of each part


def learned():
    return LearnedFeatureExtractor(max_steps=10, n_synthetic=10, crop_size=64, train_batch_size=4, max_seconds=None)


def synthetic():
    return {"augmenter": default_augmenter(), "n_synthetic": 30}


DETECTORS = {
    "lite0, one class": ExDDDetector,
    "lite0, dual": lambda: ExDDDetector(**synthetic()),
    "filters, one class": lambda: ExDDDetector("gabor"),
    "filters, dual": lambda: ExDDDetector("gabor", **synthetic()),
    "filters, not whitened": lambda: ExDDDetector(GaborFeatureExtractor(whiten=False)),
    "banks on learned features": lambda: ExDDDetector(learned()),
    "segmentation": lambda: SegmentationDetector(learned(), n_networks=1),
    "student-teacher": lambda: StudentTeacherDetector(
        channels=(8, 16), n_synthetic=10, max_steps=10, train_batch_size=4, crop_size=64, map_source="both"
    ),
    "patch classifier": lambda: PatchClassifierDetector("gabor", **synthetic()),
    "classifier": lambda: DefectClassifier("resnet18", weights=None, image_size=64, max_steps=4, **synthetic()),
    "combined": lambda: CombinedDefectDetector(
        [("filters", ExDDDetector("gabor")), ("plain", ExDDDetector(GaborFeatureExtractor(whiten=False)))]
    ),
}


def one_fit(name, n_normals, size, n_test, rates, seed):
    """Return for each rate the promised rate and the fraction of new normal images with a false alarm."""
    X, _, _ = make_surface_defects(n_normals + n_test, defect_fraction=0, image_shape=(size, size), random_state=seed)
    detector = DETECTORS[name]().set_params(random_state=seed)
    detector.fit(X[:n_normals])
    return shares(detector, X[n_normals:], rates)


def shares(detector, X, rates, groups=None):
    """Return for each rate the promised rate and the fraction of images above its threshold."""
    is_calibrating = ~np.isnan(detector.calibration_scores_)
    calibration, groups = (
        detector.calibration_scores_[is_calibrating],
        None if groups is None else groups[is_calibrating],
    )
    scores, rows = detector.score_samples(X), []
    for rate in rates:
        threshold, promised = conformal_threshold(calibration, rate, groups)
        rows.append((promised, float((scores > threshold).mean())))
    return rows


def one_fit_of_parts(n_parts, size, n_test, rates, seed):
    """Return the results of `shares` for a fit without groups and for a fit with groups."""
    parts, _, _ = make_surface_defects(n_parts + n_test, defect_fraction=0, image_shape=(size, size), random_state=seed)
    rng = np.random.RandomState(seed)
    photos = np.repeat(parts, _PHOTOS, axis=0) * rng.uniform(0.97, 1.03, (_PHOTOS * len(parts), 1, 1))
    photos = np.rint(photos + rng.normal(0, 2, photos.shape)).clip(0, 255).astype(np.uint8)
    n_normals, numbers = _PHOTOS * n_parts, np.repeat(np.arange(n_parts), _PHOTOS)
    rows = []
    for groups in (None, numbers):
        detector = ExDDDetector("gabor", random_state=seed).fit(photos[:n_normals], groups=groups)
        rows.append(shares(detector, photos[n_normals:], rates, groups))
    return rows


def row_of(name, n_normals, size, rate, results):
    """Return a row of the table from the (promised, share) pairs of all fits."""
    promised, measured = np.array(results).T
    error = measured.std(ddof=1) / np.sqrt(len(measured))
    mean = measured.mean()
    return {
        "detector": name,
        "n_normals": n_normals,
        "size": size,
        "rate": rate,
        "promised": float(promised.mean()),
        "measured": float(mean),
        "standard_error": float(error),
        "n_fits": len(results),
        "holds": bool(mean <= promised.mean() + 2 * error),
    }


def show(row):
    verdict = "holds" if row["holds"] else "BROKEN"
    print(
        f"| {row['detector']} | {row['n_normals']} | {row['size']} | {row['rate']:g} | {row['promised']:.3f} | "
        f"{row['measured']:.3f} ± {row['standard_error']:.3f} | {verdict} |",
        flush=True,
    )


def rows_of_detectors(arguments):
    for name in arguments.detectors:
        for size in arguments.sizes:
            for n_normals in arguments.n_normals:
                results = [
                    one_fit(name, n_normals, size, arguments.n_test, arguments.rates, arguments.seed + fit)
                    for fit in range(arguments.fits)
                ]
                for rate, own in zip(arguments.rates, zip(*results)):
                    yield row_of(name, n_normals, size, rate, own)


def rows_of_marks(arguments):
    for size in arguments.sizes:
        for n_normals in arguments.n_normals:
            for rate in arguments.rates:
                above, marked, p_values = [], [], []
                for seed in range(arguments.seed, arguments.seed + arguments.fits):
                    X, _, _ = make_surface_defects(
                        n_normals + arguments.n_test, defect_fraction=0, image_shape=(size, size), random_state=seed
                    )
                    detector = ExDDDetector("gabor", max_false_alarm_rate=rate, random_state=seed).fit(X[:n_normals])
                    results = detector.inspect(X[n_normals:])
                    heights = np.array([result.map.max() for result in results])
                    promised = detector.false_alarm_rate_
                    above.append((promised, float((heights > detector.pixel_threshold_).mean())))
                    marked.append((promised, float(np.mean([result.mask.any() for result in results]))))
                    step = np.random.RandomState(seed).uniform(0, 1 / (n_normals + 1))
                    p_values.append(results[0].p_value - step)
                yield row_of("map above the pixel threshold", n_normals, size, rate, above)
                yield row_of("marked pixels", n_normals, size, rate, marked)
                test = kstest(p_values, "uniform")
                print(
                    f"p-values of {len(p_values)} fits: distance from uniform {test.statistic:.3f}, p {test.pvalue:.2f}"
                )


def rows_of_groups(arguments):
    for size in arguments.sizes:
        for n_parts in arguments.n_normals:
            results = [
                one_fit_of_parts(n_parts, size, arguments.n_test, arguments.rates, arguments.seed + fit)
                for fit in range(arguments.fits)
            ]
            for name, fits in zip(("groups not given", "groups given"), zip(*results)):
                for rate, own in zip(arguments.rates, zip(*fits)):
                    yield row_of(name, _PHOTOS * n_parts, size, rate, own)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--n-normals", nargs="+", type=int, default=[19, 49, 100, 300], help="images or parts per fit")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256], help="sides of the images, in pixels")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.05, 0.01])
    parser.add_argument("--fits", type=int, default=40, help="fits per row (default: %(default)s)")
    parser.add_argument("--n-test", type=int, default=100, help="new images, or parts, per fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", action="store_true", help="test several images of each part")
    parser.add_argument("--marks", action="store_true", help="test marked pixels and p-values")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args(arguments)
    print("| detector | normal images | pixels | rate | promised | measured | |\n|---|---|---|---|---|---|---|")
    rows, start = [], time.perf_counter()
    table = rows_of_groups if arguments.groups else rows_of_marks if arguments.marks else rows_of_detectors
    for row in table(arguments):
        show(row)
        rows.append(row)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    n_broken = sum(not row["holds"] for row in rows)
    print(f"{len(rows)} rows, {n_broken} broken, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
