"""CPU time of a grid search with ``memory=``, relative to one fit and one prediction of all images.

    python benchmarks/search.py --images 100 --size 256

The search tries 24 candidates (number of synthetic defects, neighbours, epsilon) in five folds on generated surfaces.
It is compared with two other times:

* The same search without ``memory=``, with a plain Pipeline. It is extrapolated from one fold, on which each number of
  synthetic defects is fitted once.
* A cross-validation of the most expensive candidate. Each of the five folds has its own training set and synthetic
  defects, so a cache cannot make a search much cheaper than this cross-validation.
"""

import argparse
import subprocess
import tempfile
import time

from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline

from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

COUNTS = [0, 50, 100, 200]
CANDIDATES = {
    "cutpastedefectaugmenter__n_synthetic": COUNTS,
    "exdddetector__n_neighbors": [1, 3],
    "exdddetector__epsilon": ["scale", 1e-2, 1.0],
}
N_FOLDS = 5


def pipeline(memory=None, n_synthetic=100):
    detector = ExDDDetector("gabor", memory=memory, random_state=0)
    augmenter = CutPasteDefectAugmenter(n_synthetic=n_synthetic, random_state=0)
    return make_pipeline(augmenter, detector, memory=memory)


def cpu_seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="side of an image, in pixels")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of synthetic defects")
    arguments = parser.parse_args()
    shape = (arguments.size, arguments.size)
    X, y, _ = make_surface_defects(arguments.images, image_shape=shape, random_state=0)
    train, test = next(StratifiedKFold(N_FOLDS).split(X, y))
    candidates = {**CANDIDATES, "cutpastedefectaugmenter__n_synthetic": arguments.counts}
    each = len(CANDIDATES["exdddetector__n_neighbors"]) * len(CANDIDATES["exdddetector__epsilon"])

    pipeline().fit(X[:10], y[:10])  # not timed: imports, and other costs of the first fit
    once = min(cpu_seconds(lambda: pipeline().fit(X, y).predict(X)) for _ in range(3))
    folds = [
        cpu_seconds(lambda n=n: pipeline(n_synthetic=n).fit(X[train], y[train]).predict(X[test]))
        for n in arguments.counts
    ]
    with tempfile.TemporaryDirectory() as cache:
        search = GridSearchCV(pipeline(cache), candidates, scoring="roc_auc", cv=N_FOLDS, refit=False)
        whole = cpu_seconds(lambda: search.set_params(error_score="raise").fit(X, y))
        kept = int(subprocess.run(["du", "-sk", cache], capture_output=True, check=True).stdout.split()[0]) / 1024
    print(f"one fit and prediction of all images: {once:.1f} s")
    n_candidates = each * len(folds)
    print(f"search of {n_candidates} candidates: {whole:.1f} s, {whole / once:.1f} times as long; {kept:.0f} MiB cache")
    for name, seconds in (
        ("same search without memory=", N_FOLDS * each * sum(folds)),
        ("most expensive candidate alone, in all folds", N_FOLDS * max(folds)),
    ):
        print(f"{name}: {seconds:.1f} s, {seconds / once:.1f} times as long; search / this: {whole / seconds:.2f}")


if __name__ == "__main__":
    main()
