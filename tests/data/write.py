"""Write the files of this folder, once for each format of sklearn_exdd.persistence: ``python tests/data/write.py``.

Files of earlier formats are left unchanged.
"""

import json
from pathlib import Path

import numpy as np

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    DDPMDefectAugmenter,
    ExDDDetector,
    GaborFeatureExtractor,
    MixedDefectAugmenter,
    PerlinDefectAugmenter,
    StudentTeacherDetector,
)
from sklearn_exdd.augment import RidgedRegions
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.persistence import _FORMAT, dump

SEED = {"random_state": 0}


def test_data(kind):
    """Return the test data for estimators of a kind."""
    if kind == "rows":
        return np.random.RandomState(1).normal(size=(6, 4))
    return make_surface_defects(4, defect_fraction=0.5, image_shape=(32, 32), random_state=1)[0]


def answer(kind, estimator):
    """Return the output of an estimator of a kind on its test data, in a form that JSON can hold."""
    if kind == "augmenter":
        synthetic = estimator.sample(3, random_state=1)
        return {
            "sources": [provenance["source"] for provenance in synthetic.provenance],
            "areas": [int(mask.sum()) for mask in synthetic.masks],
        }
    X = test_data(kind)
    return {"decisions": estimator.decision_function(X).tolist(), "labels": estimator.predict(X).tolist()}


def estimators():
    """Yield the name, kind and fitted estimator of each file."""
    X, y, masks = make_surface_defects(10, defect_fraction=0.3, image_shape=(32, 32), random_state=0)
    labels = np.where(y == 1, "scratched", "good")
    rows = np.random.RandomState(0).normal(size=(40, 4))
    ratio = ExDDDetector(
        GaborFeatureExtractor(n_levels=1),
        augmenter=CutPasteDefectAugmenter(min_contrast=0.3),
        n_synthetic=4,
        normal_coreset=60,
        **SEED,
    )
    yield "exdd", "images", ratio.fit(X, labels, masks=masks)
    combined = CombinedDefectDetector([("a", ExDDDetector(coreset="greedy")), ("b", ExDDDetector())], **SEED)
    yield "combined", "rows", combined.fit(rows, (rows[:, 0] > 1).astype(int))
    student = StudentTeacherDetector(
        channels=(8,), n_synthetic=4, max_steps=4, train_batch_size=2, crop_size=32, map_source="both", **SEED
    )
    yield "student_teacher", "images", student.fit(X, labels, masks=masks)
    mixed = MixedDefectAugmenter(
        [
            ("ddpm", DDPMDefectAugmenter(crop_size=16, block_out_channels=(8,), max_steps=2, min_contrast=0)),
            ("perlin", PerlinDefectAugmenter(min_contrast=0)),
            ("cut", CutPasteDefectAugmenter(regions=RidgedRegions(), min_contrast=0)),
        ],
        **SEED,
    )
    yield "mixed", "augmenter", mixed.fit(X[y == 0][:4])


if __name__ == "__main__":
    for name, kind, estimator in estimators():
        path = Path(__file__).parent / f"{name}_format_{_FORMAT}.safetensors"
        dump(estimator, path)
        path.with_suffix(".json").write_text(json.dumps({"kind": kind, **answer(kind, estimator)}) + "\n")
