"""Test of a fitted detector under load: threads, processes, and tens of thousands of consecutive predictions.

    python benchmarks/load.py --n 50000

The command prints whether threads and processes get the same scores as a single caller. It also prints the growth of
the memory of the process over many predictions. It fails if scores differ or memory grows by 20 MiB or more.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from joblib import Parallel, delayed

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects

_WARM_UP = 500  # number of predictions after which memory must not grow


def fitted(shape=(32, 32)):
    """Return a fitted detector, and images that it has not seen."""
    X, y, masks = make_surface_defects(40, defect_fraction=0.3, image_shape=shape, random_state=0)
    detector = ExDDDetector(GaborFeatureExtractor(n_levels=1), random_state=0)
    return detector.fit(X[:20], y[:20], masks=masks[:20]), X[20:]


def resident():
    """Return the resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_threads(detector, X, n_threads, n_calls):
    """Return the scores and maps of `n_calls` calls that several threads make at the same time."""

    def call(number):
        one = X[number % len(X)][None]
        return detector.score_samples(one)[0], detector.predict_map(one)[0]

    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(call, range(n_calls)))


def in_processes(detector, X, n_processes, n_threads, n_calls):
    """Return the scores and maps of `n_calls` simultaneous calls in each of several processes with threads."""
    calls = [delayed(in_threads)(detector, X, n_threads, n_calls)] * n_processes
    return Parallel(n_jobs=n_processes, backend="loky")(calls)


def same(found, alone):
    """Tell whether scores and maps equal those of a single caller bit for bit."""
    expected = [alone[i % len(alone)] for i in range(len(found))]
    return all(score == one and np.array_equal(pixels, own) for (score, pixels), (one, own) in zip(found, expected))


def growth(detector, X, n_predictions):
    """Return the memory growth in MiB and the seconds of `n_predictions` predictions after a warm-up."""
    started, base = None, 0
    for number in range(_WARM_UP + n_predictions):
        if number == _WARM_UP:
            started, base = time.perf_counter(), resident()
        detector.predict(X[number % len(X)][None])
    return resident() - base, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000, help="number of consecutive predictions")
    arguments = parser.parse_args()
    detector, X = fitted()
    alone, found = in_threads(detector, X, 1, len(X)), in_threads(detector, X, 8, 2000)
    in_threads_same = same(found, alone)
    print(f"8 threads, {len(found)} calls: scores and maps {'identical' if in_threads_same else 'DIFFERENT'}")
    in_processes_same = all(same(found, alone) for found in in_processes(detector, X, 4, 8, 500))
    print(f"4 processes with 8 threads each, 2000 calls: {'identical' if in_processes_same else 'DIFFERENT'}")
    grown, seconds = growth(detector, X, arguments.n)
    print(f"{arguments.n} predictions in {seconds:.0f} s: memory grew by {grown:.1f} MiB, to {resident():.0f} MiB")
    sys.exit(not (in_threads_same and in_processes_same and grown < 20))


if __name__ == "__main__":
    main()
