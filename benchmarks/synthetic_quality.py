"""Kernel distance and Fréchet distance between synthetic and real defects, for each augmenter.

    python benchmarks/synthetic_quality.py FOLDER

FOLDER is the same as for ``benchmarks/real_data.py``. Each augmenter is fitted on normal images of one half of the
groups. The patches on its defects are compared with the patches on the real defects of the other half. Then the two
halves change roles. The features are the linear responses of the embedded filters. The rows "real" compare the real
defects of the two halves. This is the best result that an augmenter can reach.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from real_data import load
from sklearn.model_selection import StratifiedGroupKFold
from synthetic_count import AUGMENTERS

from sklearn_exdd import GaborFeatureExtractor
from sklearn_exdd.metrics import frechet_distance, kernel_distance


def compare(data, real, images, masks, half, name, seconds=""):
    """Compare a set of defects with the real defects. Print a row of results and return it."""
    given = {
        "real_masks": [data.pixels[i] for i in real],
        "synthetic_masks": masks,
        "feature_extractor": GaborFeatureExtractor(response="linear"),
    }
    kernel, error = kernel_distance([data.X[i] for i in real], images, **given)
    frechet = frechet_distance([data.X[i] for i in real], images, **given)
    print(
        f"half {half}, {name:9} kernel distance {kernel:.3f} (standard error {error:.3f}), Fréchet {frechet:.3f}  "
        f"{seconds}",
        flush=True,
    )
    return {"half": half, "augmenter": name, "kernel": kernel, "error": error, "frechet": frechet}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EXDD_DATA"))
    parser.add_argument(
        "--augmenters", nargs="+", choices=list(AUGMENTERS), default=["perlin", "cutpaste", "offset", "ddpm"]
    )
    parser.add_argument("--count", type=int, default=100, help="synthetic images per augmenter")
    parser.add_argument("--normals", type=int, default=200, help="normal images to fit on")
    parser.add_argument("--seeds", type=int, default=3, help="draws of synthetic images from one fit")
    parser.add_argument("--cache", type=Path, help="folder for trained models and synthetic images")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    if arguments.folder is None:
        raise SystemExit("Pass a folder of images, or set EXDD_DATA. " + __doc__)
    data = load(arguments.folder)
    halves = StratifiedGroupKFold(2, shuffle=True, random_state=0).split(data.X, data.kinds, data.groups)
    rows = []
    warnings.filterwarnings("ignore", "real: expected more patches", UserWarning)
    for number, (train, test) in enumerate(halves):
        normals = np.random.RandomState(0).permutation(train[data.y[train] == 0])[: arguments.normals]
        real = [i for i in test if data.y[i] == 1]
        others = [i for i in train if data.y[i] == 1]
        others = [data.X[i] for i in others], [data.pixels[i] for i in others]
        rows.append(compare(data, real, *others, number, "real"))
        for name in arguments.augmenters:
            augmenter = AUGMENTERS[name].set_params(random_state=number)
            if arguments.cache and "memory" in augmenter.get_params():
                augmenter.set_params(memory=str(arguments.cache))
            started = time.process_time()
            augmenter.fit([data.X[i] for i in normals])
            fitted = time.process_time() - started
            for seed in range(arguments.seeds):
                started = time.process_time()
                images, masks = augmenter.sample(arguments.count, random_state=seed)
                each = 1000 * (time.process_time() - started) / arguments.count
                cost = f"(fit {fitted:.0f} CPU s, {each:.0f} CPU ms per image)"
                rows.append(compare(data, real, list(images), list(masks), number, name, cost))
    for name in ["real", *arguments.augmenters]:
        own = [row for row in rows if row["augmenter"] == name]
        kernel, frechet = (np.array([row[metric] for row in own]) for metric in ("kernel", "frechet"))
        print(
            f"{name:9} kernel distance {kernel.mean():.3f} ({kernel.min():.3f} to {kernel.max():.3f}), "
            f"Fréchet {frechet.mean():.3f}"
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
