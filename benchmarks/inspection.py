"""Cost of `inspect`: its CPU time relative to `predict_map`, and the peak memory of `iter_inspect`.

    python benchmarks/inspection.py
    python benchmarks/inspection.py --detectors gabor --repeats 40 --images 200 2000

Each detector is measured in a separate process, on one thread. "ratio" is the CPU time of `inspect` divided by that of
`predict_map` on the same images, the median of paired repeats with its quartiles; the two methods take turns at going
first. The goal is a ratio of 1.1. "peak" is the resident memory (Linux) after `iter_inspect` has yielded the given
numbers of results, imports included. Its images come from a generator that makes them one at a time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

N_PAIRED = 8  # images in each call of the methods compared


def surfaces(n_images, side, seed):
    return make_surface_defects(n_images, image_shape=(side, side), random_state=seed)


def seconds_of(method, images):
    start = time.process_time()
    method(images)
    return time.process_time() - start


def ratios(detector, images, n_repeats):
    """Return the CPU milliseconds of `predict_map` per image, and the quartiles of the ratios of `inspect` to it."""
    rows = []
    for repeat in range(1 + n_repeats):  # the first call of each builds the network and prepares the banks
        first, second = (detector.predict_map, detector.inspect)[:: 1 if repeat % 2 else -1]
        seconds = seconds_of(first, images), seconds_of(second, images)
        rows.append(seconds if repeat % 2 else seconds[::-1])
    maps, inspections = np.array(rows[1:]).T
    return 1000 * float(np.median(maps)) / len(images), np.quantile(inspections / maps, [0.25, 0.5, 0.75]).tolist()


def peak():
    """Return the peak memory of this process in MiB, without that of the process that started it, unlike ru_maxrss."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def peaks(detector, side, counts):
    """Return the peak memory after each number of images."""
    images = (surfaces(1, side, seed)[0][0] for seed in range(max(counts)))
    found = {}
    for n_results, _ in enumerate(detector.iter_inspect(images), start=1):
        if n_results in counts:
            found[n_results] = peak()
    return [found[count] for count in counts]


def measure(path, arguments):
    """Measure a detector in this process, which has done nothing else before."""
    detector = joblib.load(path)
    memory = peaks(detector, arguments.side, arguments.images)
    milliseconds, quartiles = ratios(detector, surfaces(N_PAIRED, arguments.side, 1)[0], arguments.repeats)
    return {"ms": milliseconds, "quartiles": quartiles, "peaks": memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", default=["auto", "gabor"], help="values of feature_extractor")
    parser.add_argument("--side", type=int, default=256, help="side of the square images, in pixels")
    parser.add_argument("--repeats", type=int, default=20, help="pairs of calls to compare")
    parser.add_argument("--images", type=int, nargs="+", default=[200, 2000], help="numbers of images to iterate over")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the detector; set in the processes that measure
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        if arguments.one:
            print(json.dumps(measure(arguments.one, arguments)))
            return
        X, y, masks = surfaces(40, arguments.side, 0)
        columns = [f"peak after {count:,}, MiB" for count in arguments.images]
        print(f"| features | predict_map, ms per image | ratio | quartiles | {' | '.join(columns)} |")
        for name in arguments.detectors:
            path = Path(folder, name)
            joblib.dump(ExDDDetector(name, random_state=0).fit(X, y, masks=masks), path)
            command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--one", str(path)]
            one = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            low, ratio, high = one["quartiles"]
            cells = " | ".join(f"{memory:.0f}" for memory in one["peaks"])
            print(f"| {name} | {one['ms']:.0f} | {ratio:.2f} | {low:.2f} to {high:.2f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
