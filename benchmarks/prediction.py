"""Cost of a prediction: CPU seconds, fraction of each step, and peak memory of a process that only predicts.

    python benchmarks/prediction.py
    python benchmarks/prediction.py --sides 256 --detectors gabor --runs 10

Each prediction reads one image file (grey PNG) and runs on one thread. Times are the minimum of several runs. The
detectors are fitted on twelve images of 640 x 1000 pixels. Six of these images have marked defects. "first" is the time
of the first prediction. It includes the work that a process does only once: building the network and preparing the
banks.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import joblib
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from sklearn_exdd import ExDDDetector, MemoryBank, scoring
from sklearn_exdd._images import Images
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import BaseFeatureExtractor

STEPS = {
    "reading": (Images, "__getitem__"),
    "features": (BaseFeatureExtractor, "_maps"),
    "neighbours": (MemoryBank, "kneighbors"),
    "map": (scoring, "upsample"),
}


def timed(function, seconds, step):
    def call(*args, **kwargs):
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[step] += time.process_time() - start

    return call


def seconds_of(predict, image):
    """Return the CPU seconds of a prediction, and the fraction of each of its steps."""
    seconds = Counter(dict.fromkeys(STEPS, 0.0))
    with ExitStack() as stack:
        for step, (owner, name) in STEPS.items():
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), seconds, step)))
        start = time.process_time()
        predict([image])
        total = time.process_time() - start
    return total, {step: own / total for step, own in seconds.items()}


def measure(detector, method, image, n_runs):
    """Measure a prediction in this process. The process must be new, because its peak memory is also measured."""
    predict = getattr(joblib.load(detector), method)
    first, _ = seconds_of(predict, image)
    total, shares = min((seconds_of(predict, image) for _ in range(n_runs)), key=lambda run: run[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"first": first, "total": total, "shares": shares, "peak": peak}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="+", default=["auto", "gabor"], help="values of feature_extractor")
    parser.add_argument("--sides", type=int, nargs="+", default=[800, 2048], help="sides of square images, in pixels")
    parser.add_argument("--methods", nargs="+", default=["score_samples", "predict_map"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # passed to the processes that measure
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        if arguments.one:
            print(json.dumps(measure(*arguments.one, arguments.runs)))
            return
        X, y, masks = make_surface_defects(12, image_shape=(640, 1000), defect_fraction=0.5, random_state=0)
        print(f"| features | side | method | CPU s | first | peak, GB | {' | '.join(STEPS)} |")
        for name in arguments.detectors:
            detector = Path(folder, name)
            joblib.dump(ExDDDetector(name, random_state=0).fit(X, y, masks=masks), detector)
            for side in arguments.sides:
                image = Path(folder, f"{side}.png")
                Image.fromarray(make_surface_defects(1, image_shape=(side, side), random_state=1)[0][0]).save(image)
                for method in arguments.methods:
                    command = [sys.executable, "-W", "ignore", __file__, "--runs", str(arguments.runs)]
                    command += ["--one", str(detector), method, str(image)]
                    one = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
                    shares = " | ".join(f"{share:.0%}" for share in one["shares"].values())
                    cells = f"{one['total']:.2f} | {one['first']:.2f} | {one['peak']:.2f} | {shares}"
                    print(f"| {name} | {side} | {method} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
