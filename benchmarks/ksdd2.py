"""Results of ExDD and DIAG on KolektorSDD2, with the protocols of their papers.

    python benchmarks/ksdd2.py FOLDER --json ksdd2.json

FOLDER holds ``train/`` and ``test/``, with images such as ``10000.png`` and masks such as ``10000_GT.png``. SDXL
inpaints synthetic defects, which both papers share. ``--exdd`` or ``--diag`` runs only one of the papers. The command
downloads nothing. Before any computation, it reports missing weights and the folders for them. Images and finished runs
are stored in the folder ``--work``. An interrupted command resumes from there. docs/protocols.md lists the open
details.
"""

import argparse
import json
import re
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from pickle import UnpicklingError

import joblib
import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.base import BaseEstimator
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score
from sklearn.utils import Bunch
from tqdm.auto import tqdm

from sklearn_exdd import (
    DefectClassifier,
    DiffusionDefectAugmenter,
    ExDDDetector,
    TorchvisionFeatureExtractor,
    __version__,
)
from sklearn_exdd._files import write_whole
from sklearn_exdd._images import Images, Masks
from sklearn_exdd.augment import AugmentedImages, SyntheticDefects
from sklearn_exdd.augment.pipelines import model_key
from sklearn_exdd.datasets import load_ksdd2
from sklearn_exdd.features.weights import file_sha256
from sklearn_exdd.metrics import kernel_distance, per_region_overlap_score, pixel_roc_auc_score

SPLIT = {"train": (2085, 246), "test": (894, 110)}  # normal images and defects
MODEL = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
INPAINTING = {
    "prompts": ("white marks on the wall", "copper metal scratches"),
    "negative_prompt": "smooth, plain, black, dark, shadow",
    "n_inference_steps": 30,
    "guidance_scale": 20.0,
    "strength": 0.99,
    "padding_mask_crop": 2,
    "working_size": 1024,
    "min_contrast": 0.0,  # as published: any painted defect is accepted unless it is completely invisible
}
EXDD_SHAPE = (316, 112)
EXDD = {
    "n_neighbors": 1,
    "epsilon": 1e-6,
    "coreset": "greedy",
    "normal_coreset": 0.01,
    "defect_coreset": 0.1,
    "max_defect_patches": None,
    "image_score": "exdd_code",
}
DIAG = {
    "image_size": (632, 224),
    "learning_rate": 1e-4,
    "train_batch_size": 32,
    "n_epochs": 30,
    "patience": None,
    "class_balance": None,
    "validation_fraction": 0.1,
}
COUNTS = {"ExDD": [100], "DIAG": [80, 100, 120]}  # numbers of synthetic images
PUBLISHED = {
    ("ExDD", 100): {"image AUROC": 0.942, "pixel AUROC": 0.977},
    ("DIAG zero-shot", 80): {"AP": 0.769, "precision": 0.851, "recall": 0.673},
    ("DIAG zero-shot", 100): {"AP": 0.801, "precision": 0.924, "recall": 0.664},
    ("DIAG zero-shot", 120): {"AP": 0.739, "precision": 0.944, "recall": 0.609},
    ("DIAG full-shot", 80): {"AP": 0.869, "precision": 0.912, "recall": 0.755},
    ("DIAG full-shot", 100): {"AP": 0.911, "precision": 0.978, "recall": 0.800},
    ("DIAG full-shot", 120): {"AP": 0.924, "precision": 0.896, "recall": 0.864},
}


# Functions that benchmarks/mvtec.py also uses


def warn(text):
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


def params(text):
    """Parse the parameters of an estimator from the command line. Lists are converted to tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in dict(json.loads(text)).items()}


def check_backbone(backbone, weights, option):
    """Exit unless the weights of a torchvision model exist on this machine and match the model."""
    import torch
    from torchvision import models

    try:
        known = models.get_model_weights(backbone).__members__
    except ValueError as error:
        raise SystemExit(f"{backbone!r} is not a model of torchvision.models.") from error
    if not Path(weights).is_file():
        if weights not in known:
            raise SystemExit(f"{option}: expected one of {list(known)} or a file, found no {weights!r}.")
        url = known[weights].url
        place = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
        if not place.is_file():
            raise SystemExit(
                f"The weights {weights} of {backbone} are not on this machine. Download\n    {url}\nand save it as\n"
                f"    {place}\nor save it anywhere and add {option} FILE."
            )
    try:
        TorchvisionFeatureExtractor(backbone, weights=weights).stride  # noqa: B018 - loads the model
    except (EOFError, OSError, RuntimeError, ValueError, UnpicklingError) as error:
        raise SystemExit(f"{option}: expected weights of {backbone} in {weights}, got an error: {error}") from error


def digest(folder, paths):
    """Return a hash of the paths and sizes of the files of a data set."""
    return joblib.hash([(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths if path])


def resized(image, shape):
    """Resize an image, given as a path or an array. Return uint8 of shape (height, width) or (height, width, 3)."""
    image = Image.open(image) if isinstance(image, Path) else Image.fromarray(image)
    with image:
        image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        return np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))


def resized_mask(mask, shape):
    """Resize a mask. Mark the pixels that are at least half covered, or else the pixels covered most."""
    covered = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(shape[::-1], Image.Resampling.BOX))
    return (covered >= min(0.5, covered.max())) & (covered > 0)


def read(paths, masks, shape):
    """Read images and masks, and resize them to one shape. Masks that are None stay None."""
    images, files, pixels = Images(paths), Masks(masks, len(paths)), []
    for i in tqdm(range(len(paths)), desc="images", unit="image", leave=False):
        mask = None if masks[i] is None else files.get(i, images.shape(i))
        pixels.append((resized(paths[i], shape), None if mask is None else resized_mask(mask, shape)))
    return [list(part) for part in zip(*pixels)]


class Runs:
    """Runs whose results are stored in a folder, so that no run is computed twice.

    Parameters
    ----------
    folder : pathlib.Path
    total : int
        Number of runs, which is shown with the progress.
    """

    def __init__(self, folder, total):
        self.folder, self.total, self.number = folder, total, 0
        folder.mkdir(parents=True, exist_ok=True)

    def result(self, name, settings, compute):
        """Return a dict of metrics. It is read if a run with the same settings is finished, and computed otherwise."""
        self.number += 1
        place = self.folder / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}-{joblib.hash(settings)[:12]}.json"
        try:
            metrics, came = json.loads(place.read_text())["metrics"], "kept from an earlier run"
        except (FileNotFoundError, KeyError, ValueError):
            print(f"[{self.number}/{self.total}] {name} ...", flush=True)
            started = time.monotonic()
            metrics = compute()
            came = f"{time.monotonic() - started:.0f} s"
            content = {"name": name, "metrics": metrics, "settings": settings}
            write_whole(place, json.dumps(content, indent=1, default=str).encode())
        figures = ", ".join(f"{metric} {value:.3f}" for metric, value in metrics.items())
        print(f"[{self.number}/{self.total}] {name}: {figures} ({came})", flush=True)
        return metrics


@contextmanager
def resumable(folder):
    """Let Ctrl-C end the command. A training run that is interrupted by Ctrl-C is discarded."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*interrupted after", RuntimeWarning)
            yield
    except (KeyboardInterrupt, RuntimeWarning) as error:
        if isinstance(error, RuntimeWarning) and "interrupted after" not in str(error):
            raise
        raise SystemExit(f"Stopped. Run the same command to resume: finished work is in {folder}.") from error


def summary(name, results, published):
    """Return the mean and the spread of each metric over the seeds, and its published value."""
    figures = {}
    for metric in results[0]:
        seeds = [result[metric] for result in results]
        spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
        figures[metric] = {"mean": float(np.mean(seeds)), "deviation": spread, "seeds": seeds}
        figures[metric]["published"] = published.get(metric)
    return {"name": name, "metrics": figures}


def show(n_seeds, rows):
    """Print rows with the same metrics as a table."""
    title = f"mean ± standard deviation, {n_seeds} seeds" if n_seeds > 1 else "one seed"
    lines = [[title, *(word for metric in rows[0]["metrics"] for word in (metric, "published"))]]
    for row in rows:
        cells = [row["name"]]
        for figure in row["metrics"].values():
            spread, published = figure["deviation"], figure["published"]
            cells.append(f"{figure['mean']:.3f}" + ("" if spread is None else f" ± {spread:.3f}"))
            cells.append("-" if published is None else f"{published:.3f}")
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines)]
    print()
    for cells in lines:
        print("   ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())


def write_figures(path, arguments, rows, **more):
    """Write the table as JSON."""
    settings = {name: str(value) for name, value in vars(arguments).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"settings": settings, **more, "rows": rows}, indent=1).encode())


# KolektorSDD2


def load(folder):
    """Load the training and the test part, with normal images first. Compare both with the published split."""
    try:
        data = load_ksdd2(folder)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"{error} Pass the folder of KolektorSDD2.") from error
    copies = sorted(path.name for path in folder.rglob("*(copy)*"))
    if copies:
        print(f"Left out: {', '.join(copies)}.")
    parts = {"counts": {}, "digest": digest(folder, data.X + data.masks)}
    for part, is_test in ("train", False), ("test", True):
        rows = np.flatnonzero(data.is_test == is_test)
        rows = rows[np.argsort(data.y[rows], kind="stable")]
        parts[part] = Bunch(X=[data.X[i] for i in rows], y=data.y[rows], masks=[data.masks[i] for i in rows])
        n_defects = int(data.y[rows].sum())
        counts = parts["counts"][part] = (len(rows) - n_defects, n_defects)
        if 0 in counts:
            raise SystemExit(f"{folder / part}: expected normal images and defects, got {counts[0]} and {counts[1]}.")
        print(f"{part}: {counts[0]} normal images, {counts[1]} defects")
        if counts != SPLIT[part]:
            warn(
                f"{folder / part} is not the published split, {SPLIT[part][0]} normal images and {SPLIT[part][1]} "
                "defects: the published results do not apply to it."
            )
    return Bunch(**parts)


def check_pipeline(model):
    """Return the folder and the weight variant of an inpainting pipeline. Exit if it is not on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    index = Path(model) / "model_index.json"
    if not index.is_file():
        with suppress(HFValidationError, TypeError):  # the name cannot be a hub id, or the id does not exist
            index = Path(try_to_load_from_cache(model, "model_index.json") or index)
    missing, files = ["model_index.json"], {}
    if index.is_file():
        for name, entry in json.loads(index.read_text()).items():
            if name.startswith(("unet", "transformer", "vae", "text_encoder", "image_encoder")) and entry[1]:
                own = index.parent.joinpath(name).glob("*")
                files[name] = [file for file in own if file.suffix in (".safetensors", ".bin") and file.is_file()]
        missing = [f"weights in {name}/" for name in files if not files[name]]
    if missing:
        raise SystemExit(
            f"The diffusion model {str(model)!r} is not on this machine, or not all of it: missing "
            f'{", ".join(missing)}. With access to the hub, run\n    python -c "from huggingface_hub import '
            f"snapshot_download as get; get('{MODEL}', local_dir='sdxl-inpainting', allow_patterns=['*.json', '*.txt', "
            "'*.fp16.safetensors'])\"\n(about 7 GB), copy the folder sdxl-inpainting to this machine, and add "
            "--model sdxl-inpainting."
        )
    halves = all(any(".fp16." in file.name for file in own) for own in files.values())
    return str(index.parent), "fp16" if halves else None


class RealMasks(BaseEstimator):
    """Regions of DIAG: the mask of one real defect, resized to the shape of an image."""

    def draw(self, image_shape, random_state, masks=()):
        return resized_mask(masks[random_state.randint(len(masks))], image_shape)


def boxes(mask):
    """Fill the bounding boxes of the regions. The released code fills its defect bank from crops of these boxes."""
    filled = np.zeros_like(mask)
    for box in ndimage.find_objects(ndimage.label(mask, structure=np.ones((3, 3)))[0]):
        filled[box] = True
    return filled


def run_exdd(data, backbone, weights, settings, synthetic, seed):
    X, masks = read(data.train.X, data.train.masks, EXDD_SHAPE)
    masks = [None if mask is None else boxes(mask) for mask in masks]
    if synthetic is not None:
        synthetic = SyntheticDefects(
            [resized(image, EXDD_SHAPE) for image in synthetic.images],
            [boxes(resized_mask(mask, EXDD_SHAPE)) for mask in synthetic.masks],
            synthetic.provenance,
        )
    layers = ("layer2", "layer3")
    extractor = TorchvisionFeatureExtractor(backbone, layers=layers, weights=weights, precision="float32")
    detector = ExDDDetector(extractor, random_state=seed, verbose=1, **settings)
    detector.fit(AugmentedImages(X, synthetic), data.train.y, masks=masks)
    X, masks = read(data.test.X, data.test.masks, EXDD_SHAPE)
    maps = detector.predict_map(X)
    return {
        "image AUROC": float(roc_auc_score(data.test.y, detector.score_samples(X))),
        "pixel AUROC": pixel_roc_auc_score(masks, maps),
        "AUPRO": per_region_overlap_score(masks, maps),
    }


def run_diag(data, full_shot, backbone, weights, settings, memory, synthetic, seed):
    y = data.train.y if full_shot else data.train.y[data.train.y == 0]
    X = AugmentedImages(data.train.X[: len(y)], synthetic)
    classifier = DefectClassifier(
        backbone, weights=weights, memory=memory, random_state=seed, verbose=1, **settings
    ).fit(X, y)
    scores = classifier.score_samples(data.test.X)
    found = scores > classifier.threshold_  # from normal training images, not from the test part
    return {
        "AP": float(average_precision_score(data.test.y, scores)),
        "precision": float(precision_score(data.test.y, found, zero_division=0)),
        "recall": float(recall_score(data.test.y, found)),
    }


def run_distance(data, synthetic, seed):
    defects = np.flatnonzero(data.train.y)
    X, masks = ([values[i] for i in defects] for values in (data.train.X, data.train.masks))
    distance, error = kernel_distance(
        X, list(synthetic.images), real_masks=masks, synthetic_masks=list(synthetic.masks), feature_extractor="gabor"
    )
    return {"distance": distance, "its standard error": error}


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exdd", action="store_true", help="run only ExDD (default: both papers)")
    parser.add_argument("--diag", action="store_true", help="run only DIAG")
    parser.add_argument("--shots", nargs="+", choices=["zero", "full"], default=["zero", "full"], help="modes of DIAG")
    parser.add_argument("--counts", type=int, nargs="+", help="synthetic images; default: ExDD 100, DIAG 80 100 120")
    parser.add_argument("--seeds", type=int, default=3, help="repeated runs, each with its own synthetic images")
    parser.add_argument("--model", default=MODEL, help="folder of an inpainting pipeline, or its id in the hub's cache")
    for name, backbone in ("exdd", "wide_resnet50_2"), ("diag", "resnet50"):
        parser.add_argument(f"--{name}-backbone", default=backbone, help=f"torchvision model, {backbone} by default")
        parser.add_argument(f"--{name}-weights", default="IMAGENET1K_V1", help="name or file of its weights")
        parser.add_argument(f"--{name}-params", type=params, default={}, help="further parameters, as JSON")
    parser.add_argument("--inpainting-params", type=params, default={}, help="of DiffusionDefectAugmenter, as JSON")
    parser.add_argument("--distance", action="store_true", help="also measure kernel distances to real defects")
    parser.add_argument("--work", type=Path, default=Path("results/ksdd2"), help="folder for finished work")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args(argv)
    arguments.folder = arguments.folder.expanduser()
    if not (arguments.exdd or arguments.diag):
        arguments.exdd = arguments.diag = True
    arguments.counts = sorted(set(arguments.counts or []))
    counts = arguments.counts or [1]
    if arguments.seeds < 1 or min(counts) < 0:
        parser.error("--seeds, --counts: expected at least one seed, and numbers of images >= 0.")
    if min(counts) == 0 and arguments.diag and "zero" in arguments.shots:
        parser.error("--counts: expected synthetic images for DIAG's zero-shot, which has no other defects, got 0.")
    if arguments.distance and min(counts) < 3 and arguments.counts:
        parser.error("--counts: expected at least 3 synthetic images for --distance.")
    return arguments


def methods_of(arguments, data):
    """Return for each method the numbers of synthetic images, the settings, and a function of images and seed."""
    methods = {}
    if arguments.exdd:
        backbone, weights = arguments.exdd_backbone, arguments.exdd_weights
        check_backbone(backbone, weights, "--exdd-weights")
        settings = {**EXDD, **arguments.exdd_params}
        known = {**settings, "backbone": backbone, "weights": file_sha256(weights) or weights, "shape": EXDD_SHAPE}
        methods["ExDD"] = COUNTS["ExDD"], known, partial(run_exdd, data, backbone, weights, settings)
    if arguments.diag:
        backbone, weights = arguments.diag_backbone, arguments.diag_weights
        check_backbone(backbone, weights, "--diag-weights")
        settings = {**DIAG, **arguments.diag_params}
        known = {**settings, "backbone": backbone, "weights": file_sha256(weights) or weights}
        for shot in arguments.shots:
            run = partial(run_diag, data, shot == "full", backbone, weights, settings, arguments.work / "training")
            methods[f"DIAG {shot}-shot"] = COUNTS["DIAG"], known, run
    if arguments.distance:
        counts = sorted({count for counts, *_ in methods.values() for count in counts})
        methods["kernel distance"] = counts, {}, partial(run_distance, data)
    return methods


def main(argv=None):
    arguments = parse(argv)
    data, work = load(arguments.folder), arguments.work
    methods = methods_of(arguments, data)
    jobs = [(name, count) for name, (counts, *_) in methods.items() for count in arguments.counts or counts]
    largest = max(count for _, count in jobs)
    if largest:
        import torch

        model, variant = check_pipeline(arguments.model)
        inpainting = {**INPAINTING, "variant": variant, **arguments.inpainting_params}
        painted = {"inpainting": inpainting, "model": model_key(model)}
        if not torch.cuda.is_available():
            warn("no GPU found: without one, SDXL takes minutes per image.")

    @lru_cache(maxsize=1)
    def synthetic_of(seed):
        augmenter = DiffusionDefectAugmenter(
            model, **inpainting, regions=RealMasks(), memory=work / "synthetic", random_state=seed, verbose=1
        )
        return augmenter.fit(data.train.X, data.train.y, masks=data.train.masks).sample(largest)

    def compute(run, count, seed):
        if count == 0:
            return run(None, seed)
        made = synthetic_of(seed)  # smaller numbers use the first images
        return run(SyntheticDefects(made.images[:count], made.masks[:count], made.provenance[:count]), seed)

    runs, results = Runs(work / "runs", arguments.seeds * len(jobs)), {job: [] for job in jobs}
    with resumable(work):
        for seed in range(arguments.seeds):
            for name, count in jobs:
                _, known, run = methods[name]
                settings = {"method": name, "count": count, "seed": seed, "data": data.digest, "version": __version__}
                settings |= {"settings": known} | (painted if count else {})
                title = f"{name}, {count} synthetic images, seed {seed}"
                results[name, count].append(runs.result(title, settings, partial(compute, run, count, seed)))

    rows = [summary(f"{name}, {count}", results[name, count], PUBLISHED.get((name, count), {})) for name, count in jobs]
    for method in ("ExDD", "DIAG", "kernel"):
        own = [row for row in rows if row["name"].startswith(method)]
        if own:
            show(arguments.seeds, own)
    if arguments.diag:
        print(
            "\nPublished precision and recall use the threshold that is best on the test part. Ours use a false-alarm\n"
            "rate of 0.01, set on normal training images held out of training. AP needs no threshold."
        )
    if arguments.json:
        write_figures(arguments.json, arguments, rows, counts=data.counts)


if __name__ == "__main__":
    main()
