"""What the feature extractors cost: milliseconds an image on one thread.

    python benchmarks/feature_extraction.py

CPU time of the process, which other work on the machine disturbs less than the clock on
the wall; medians over images of 256 x 256, one at a time. Backbones have random weights:
the cost is the same.
"""

import argparse
import time

import numpy as np

from sklearn_exdd import GaborFeatureExtractor, TorchvisionFeatureExtractor


def milliseconds(extractor, image, n_runs):
    extractor.transform(image)
    taken = []
    for _ in range(n_runs):
        start = time.process_time()
        extractor.transform(image)
        taken.append(1000 * (time.process_time() - start))
    return np.median(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rng = np.random.RandomState(0)
    grey, colour = rng.rand(1, 256, 256), rng.rand(1, 256, 256, 3)
    for kind, image in (("grey", grey), ("colour", colour)):
        cost = milliseconds(GaborFeatureExtractor(whiten=False), image, arguments.runs)
        print(f"{'gabor, ' + kind:26} {cost:6.1f} ms")
    for backbone in ("resnet18", "wide_resnet50_2"):
        for precision in ("float32", "bfloat16"):
            extractor = TorchvisionFeatureExtractor(backbone, weights=None, precision=precision)
            cost = milliseconds(extractor, colour, arguments.runs)
            print(f"{backbone + ', ' + precision:26} {cost:6.1f} ms")


if __name__ == "__main__":
    main()
