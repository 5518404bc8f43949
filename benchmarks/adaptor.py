"""Comparison of the memory bank with networks that adapt pretrained features and discriminate negatives.

    python benchmarks/adaptor.py FOLDER

FOLDER, folds, metrics and intervals are the same as in ``benchmarks/real_data.py``. All rows of the table use the
features of EfficientNet-Lite0 at strides 8, 16 and 32, and train without defect images. As in SimpleNet [1]_ and
SuperSimpleNet [2]_, a linear adaptor and a discriminator with one hidden layer learn to distinguish normal patches from
negatives. The loss is a truncated L1 loss. The variants differ in their negatives:

* "noise": adapted features plus Gaussian noise
* "regions": the same noise, but only inside Perlin-shaped regions; the discriminator also sees the neighbours of a
  patch
* "synthetic": patches on synthetic defects of the default mixture
* "noise and synthetic": half of the negatives from each of the two

"adapted bank" is the memory bank on the features that were adapted by "noise". "sum" adds the standardised scores of
"bank" and "noise". The CPU seconds of a fit do not include the extraction of features from the normal images, because
all rows need these features. Figures in brackets are 95 % intervals.

.. [1] Z. Liu et al., "SimpleNet: A simple network for image anomaly detection and localization", CVPR 2023.
.. [2] B. Rolih et al., "SuperSimpleNet", arXiv 2408.03143, ICPR 2024.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from detectors import interval_of, rows
from real_data import METRICS, evaluate, load, splits
from sklearn.metrics import roc_auc_score
from torch import nn

from sklearn_exdd import EfficientNetLiteFeatureExtractor, ExDDDetector, scoring
from sklearn_exdd.augment import PerlinRegions, default_augmenter
from sklearn_exdd.banks.pixel_maps import pixel_map
from sklearn_exdd.features.patch_grid import PatchGrid

N_ROWS = 1024  # number of normal patches per training step; the number of negatives is the same
CROP = 12  # side of a crop in patches, for a discriminator that sees neighbours
REGIONS = PerlinRegions(scales=(1, 3), threshold=0.25, max_area=0.5)
VARIANTS = {  # variant: whether its negatives are noise, noise in regions, synthetic defects
    "noise": (True, False, False),
    "regions": (True, True, False),
    "synthetic": (False, False, True),
    "noise and synthetic": (True, False, True),
}


class Discriminator(nn.Module):
    """Linear adaptor, followed by a network with one hidden layer. High outputs mean defect.

    Parameters
    ----------
    n_features : int
    n_hidden : int
    sees_neighbors : bool
        Whether the hidden units of 3 x 3 patches are combined.
    """

    def __init__(self, n_features, n_hidden, sees_neighbors):
        super().__init__()
        self.adaptor = nn.Linear(n_features, n_features, bias=False)
        nn.init.eye_(self.adaptor.weight)
        self.hidden = nn.Linear(n_features, n_hidden)
        self.norm = nn.BatchNorm1d(n_hidden)
        self.neighbors = None
        if sees_neighbors:
            self.neighbors = nn.Conv2d(
                n_hidden, n_hidden, 3, padding=1, padding_mode="replicate", groups=n_hidden, bias=False
            )
        self.output = nn.Linear(n_hidden, 1, bias=False)

    def forward(self, adapted):
        """Compute outputs of shape (n, height, width) for adapted features of shape (n, height, width, n_features)."""
        hidden = self.hidden(adapted)
        hidden = nn.functional.leaky_relu(self.norm(hidden.flatten(0, 2)), 0.2).reshape(hidden.shape)
        if self.neighbors is not None:
            hidden = self.neighbors(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.output(hidden)[..., 0]


class Adapted:
    """Feature extractor that applies a linear map to pretrained features."""

    def __init__(self, extractor, matrix):
        self.extractor, self.matrix = extractor, matrix

    def transform(self, images):
        return np.stack([feature_map @ self.matrix for feature_map in self.extractor.transform(list(images))])


def trained(maps, synthetic, variant, settings, seed):
    """Train an adaptor and a discriminator.

    Parameters
    ----------
    maps : list of ndarray of shape (height', width', n_features)
        Standardised feature maps of normal images.
    synthetic : ndarray of shape (n_patches, n_features)
        Standardised features of synthetic defects.
    variant : str
        Key of VARIANTS.
    settings : argparse.Namespace
    seed : int

    Returns
    -------
    model : Discriminator
    """
    has_noise, in_regions, has_synthetic = VARIANTS[variant]
    rng, generator = np.random.RandomState(seed), torch.Generator().manual_seed(seed)
    normal = torch.from_numpy(np.concatenate([one.reshape(-1, one.shape[2]) for one in maps]))
    synthetic = torch.from_numpy(synthetic)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Discriminator(normal.shape[1], settings.hidden, in_regions)
    optimizer = torch.optim.AdamW(
        [
            {"params": model.adaptor.parameters(), "lr": settings.learning_rate / 2},
            {"params": [p for name, p in model.named_parameters() if not name.startswith("adaptor")]},
        ],
        lr=settings.learning_rate,
        weight_decay=1e-5,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in range(settings.steps):
        if in_regions:
            features = crops(maps, rng)
            region = np.stack([REGIONS.draw(features.shape[1:3], rng) for _ in features])
            region = torch.from_numpy(region)
        else:
            features = normal[torch.randint(len(normal), (N_ROWS,), generator=generator)][:, None, None]
            region = torch.ones(features.shape[:3], dtype=torch.bool)
        adapted = model.adaptor(features)
        parts, labels = [adapted], [torch.zeros_like(region)]
        if has_noise:
            some = slice(len(adapted) // 2) if has_synthetic else slice(None)
            noise = settings.noise * torch.randn(adapted[some].shape, generator=generator)
            parts.append(adapted[some] + noise * region[some, ..., None])
            labels.append(region[some])
        if has_synthetic:
            drawn = torch.randint(len(synthetic), (N_ROWS // 2 if has_noise else N_ROWS,), generator=generator)
            parts.append(model.adaptor(synthetic[drawn])[:, None, None])
            labels.append(torch.ones(len(drawn), 1, 1, dtype=torch.bool))
        outputs, labels = model(torch.cat(parts)), torch.cat(labels)
        losses = torch.relu(0.5 - torch.where(labels, outputs, -outputs))
        loss = sum((losses * part).sum() / part.sum().clamp(min=1) for part in (labels, ~labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def crops(maps, rng):
    """Draw square pieces of feature maps with about N_ROWS patches in total."""
    side = min(CROP, *(min(one.shape[:2]) for one in maps))
    pieces = []
    for index in rng.randint(len(maps), size=max(2, N_ROWS // side**2)):
        top, left = (rng.randint(size - side + 1) for size in maps[index].shape[:2])
        pieces.append(maps[index][top : top + side, left : left + side])
    return torch.from_numpy(np.stack(pieces))


def synthetic_patches(images, extractor, count, seed):
    """Return features of the patches on synthetic defects, as an ndarray of shape (n_patches, n_features)."""
    synthetic = default_augmenter().set_params(random_state=seed).fit(images).sample(count)
    patches = []
    for feature_map, mask in zip(extractor.iter_transform(synthetic.images), synthetic.masks):
        centers = extractor.patch_centers(feature_map.shape, mask.shape)
        patches.append(feature_map[scoring.patches_on_mask(mask, *centers)])
    return np.concatenate(patches)


def of_fold(data, train, test, settings, seed, memory):
    """Return the scores, the maps and the CPU seconds of the fit, for each row of the table."""
    train = train[data.y[train] == 0]
    X, X_test = ([data.X[i] for i in part] for part in (train, test))
    groups = data.groups[train]
    extractor = EfficientNetLiteFeatureExtractor(strides=(8, 16, 32), memory=memory)
    maps = extractor.fit_transform(X)
    test_maps = extractor.transform(X_test)
    shapes = [data.shapes[i] for i in test]

    found, normal_scores = {}, {}

    def run_bank(name, features):
        start = time.process_time()
        bank = ExDDDetector(features, memory=memory, random_state=seed).fit(X, groups=groups)
        seconds = time.process_time() - start
        normal_scores[name] = bank.calibration_scores_
        scores, maps_of_test = bank.score_samples(X_test), list(bank.predict_map(X_test))
        found[name] = {"scores": scores, "maps": maps_of_test, "seconds": seconds}

    run_bank("bank", extractor)
    patches = np.concatenate([one.reshape(-1, one.shape[2]) for one in maps])
    mean, scale = patches.mean(axis=0), patches.std(axis=0)
    del patches
    maps, test_maps = ([(one - mean) / scale for one in several] for several in (maps, test_maps))
    start = time.process_time()
    uncached = EfficientNetLiteFeatureExtractor(strides=(8, 16, 32)).fit(X[:2])
    synthetic = (synthetic_patches(X, uncached, settings.synthetic, seed) - mean) / scale
    painting = time.process_time() - start

    for variant in settings.variants:
        start = time.process_time()
        model = trained(maps, synthetic, variant, settings, seed)
        seconds = time.process_time() - start + painting * VARIANTS[variant][2]
        scores, maps_of_test = scored(model, test_maps, shapes, extractor)
        found[variant] = {"scores": scores, "maps": maps_of_test, "seconds": seconds}
        if variant == "noise":
            normal_scores[variant], _ = scored(model, maps, None, extractor)
            run_bank("adapted bank", Adapted(extractor, model.adaptor.weight.detach().numpy().T / scale[:, None]))
    if "noise" in found:
        found["sum"] = summed([(found[name], normal_scores[name]) for name in ("bank", "noise")])
    for name, own in found.items():
        own["alarms"] = np.zeros(len(test))  # a placeholder, because thresholds are not compared
        print(f"fold, {name}: image AUROC {roc_auc_score(data.y[test], own['scores']):.3f}", file=sys.stderr)
    seconds = {name: own.pop("seconds") for name, own in found.items()}
    return {"test": test, "results": found, "n_defects": 0, "seconds": seconds}


@torch.no_grad()
def scored(model, maps, shapes, extractor):
    """Return image scores, and also pixel maps unless `shapes` is None."""
    scores, pixel_maps = [], []
    for i, feature_map in enumerate(maps):
        patch_scores = model(model.adaptor(torch.from_numpy(feature_map)[None]))[0].numpy().ravel()
        scores.append(scoring.top_mean(patch_scores, 10))
        if shapes is not None:
            pixel_maps.append(pixel_map(patch_scores, PatchGrid(feature_map.shape[:2]), shapes[i], extractor, 4.0))
    return np.array(scores), pixel_maps


def summed(members):
    """Add the scores and maps of detectors, after standardisation by the scores of the normal training images."""
    scores, maps, seconds = 0, 0, 0
    for own, normal in members:
        center, scale = np.mean(normal), np.std(normal)
        scores = scores + (own["scores"] - center) / scale
        standardised = [(one - center) / scale for one in own["maps"]]
        maps = standardised if maps == 0 else [one + other for one, other in zip(maps, standardised)]
        seconds += own["seconds"]
    return {"scores": scores, "maps": maps, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EXDD_DATA"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--part", choices=["report", "development", "all"], default="development")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200, help="training steps, each on 1024 patches and negatives")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of noise, in those of features")
    parser.add_argument("--synthetic", type=int, default=100, help="synthetic defect images")
    parser.add_argument("--hidden", type=int, default=128, help="hidden units of the discriminator")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if arguments.folder is None:
        raise SystemExit("Pass a folder of images, or set EXDD_DATA. " + __doc__)
    torch.set_num_threads(1)
    data = load(arguments.folder)
    with tempfile.TemporaryDirectory() as memory:
        folds = [
            [
                of_fold(data, train, test, arguments, seed, memory)
                for train, test in splits(data, arguments.part, arguments.folds, seed)
            ]
            for seed in range(arguments.seeds)
        ]
    table = []
    for name, results in rows(data, folds).items():
        row, _ = evaluate(data, results, arguments.bootstrap)
        seconds = [fold["seconds"][name] for of_seed in folds for fold in of_seed]
        table.append(row | {"detector": name, "fit, CPU s": float(np.median(seconds))})
        print(f"{name}; fit {table[-1]['fit, CPU s']:.0f} CPU s")
        print("    " + ", ".join(f"{metric} {interval_of(row[metric])}" for metric in METRICS))
        print("    mean of folds:", ", ".join(f"{metric} {row['mean of folds'][metric]:.3f}" for metric in METRICS))
        print("    by type:", ", ".join(f"{kind} {value:.2f}" for kind, value in row["by type"].items()), flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        settings = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"settings": settings, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
