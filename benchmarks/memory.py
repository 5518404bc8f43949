"""Peak memory of a fit from paths, for different numbers of normal images.

    python benchmarks/memory.py --images 250 500 1000 2000
    python benchmarks/memory.py --images 200 400 --backbone wide_resnet50_2 --coreset greedy --radius 200

Each fit runs in a separate process. The peak resident memory of this process is read at the end. The first line shows a
fit on ten images: it is the memory of the interpreter, of torch and of the backbone. Images have 256 x 256 pixels.
Backbones have random weights. "features" is the size of the features of all images. "radius" is a ratio of two
distances. The first is the largest distance of a patch to the bank. The second is the largest distance of a patch to a
bank of the same size that is chosen greedily from all patches at once. Both are measured after the projection to 128
dimensions, where rows are chosen.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import pairwise_distances_argmin_min

from sklearn_exdd import ExDDDetector, TorchvisionFeatureExtractor
from sklearn_exdd.coreset import greedy_k_center, project
from sklearn_exdd.datasets import make_surface_defects


def written(folder, n_images):
    """Write normal images and return their paths."""
    paths = [folder / f"{i:05d}.png" for i in range(n_images)]
    for start in range(0, n_images, 100):
        X, _, _ = make_surface_defects(100, defect_fraction=0, image_shape=(256, 256), random_state=start)
        for path, image in zip(paths[start : start + 100], X):
            Image.fromarray(image).save(path)
    return paths


def extractor_of(arguments):
    if arguments.backbone == "gabor":
        return "gabor"
    return TorchvisionFeatureExtractor(arguments.backbone, weights=None, precision=arguments.precision)


def radius_ratio(detector, paths):
    """Return the cover radius of the bank, divided by the cover radius of a greedy selection from all patches."""

    def projected(features):
        return project(features, random_state=detector._seeds["normal"])

    maps = detector.feature_extractor_.iter_transform(paths)
    patches = np.concatenate([projected(one.reshape(-1, one.shape[2])) for one in maps])
    bank = projected(detector.normal_bank_.features)
    one_piece = patches[greedy_k_center(patches, len(bank))]
    own, other = (pairwise_distances_argmin_min(patches, rows)[1].max() for rows in (bank, one_piece))
    return float(own / other)


def fit(arguments, folder, n_images):
    """Fit. Return seconds, peak memory in GiB, bank rows, bytes of features per image, and the radius ratio."""
    size = arguments.size if arguments.size < 1 else int(arguments.size)
    detector = ExDDDetector(
        extractor_of(arguments),
        coreset=arguments.coreset,
        normal_coreset=size,
        n_jobs=arguments.n_jobs,
        random_state=0,
        verbose=arguments.verbose,
    )
    paths = sorted(folder.glob("*.png"))[:n_images]
    start = time.process_time()
    detector.fit(paths)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (feature_map,) = detector.feature_extractor_.transform(paths[:1])
    radius = radius_ratio(detector, paths) if n_images in arguments.radius else None
    n_rows = len(detector.normal_bank_)
    return {"seconds": seconds, "peak": peak, "bytes": feature_map.nbytes, "rows": n_rows, "radius": radius}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--backbone", default="resnet18", help='torchvision model, or "gabor"')
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--coreset", choices=["random", "greedy"], default="random")
    parser.add_argument("--size", type=float, default=5000, help="rows of the bank, or a share < 1")
    parser.add_argument("--radius", type=int, nargs="*", default=[], help="numbers of images at which to compare radii")
    parser.add_argument("--n-jobs", type=int)
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the folder; passed to the processes that fit
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(fit(arguments, Path(arguments.one), arguments.images[0])))
        return
    print("images | bank rows | features, GiB | peak, GiB | CPU seconds | radius")
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), max(arguments.images))
        for n_images in (10, *arguments.images):
            command = [sys.executable, __file__, *sys.argv[1:], "--images", str(n_images), "--one", folder]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            features, peak, seconds = n_images * result["bytes"] / 2**30, result["peak"], result["seconds"]
            radius = "" if result["radius"] is None else f"{result['radius']:.3f}"
            line = f"{n_images:6} | {result['rows']:9} | {features:13.2f} | {peak:9.2f} | {seconds:11.0f} | {radius}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
