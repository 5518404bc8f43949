"""
Synthetic defects: without a single real one
============================================

Real defects are rare. Augmenters paint synthetic defects onto normal images, and also return their masks. The detector
adds the synthetic defects to its defect bank.
"""

# %%
# The detector learns only from normal images. The real defects are used for comparison and for testing.
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from sklearn_exdd import (
    CutPasteDefectAugmenter,
    DefectPasteAugmenter,
    ExDDDetector,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
    SyntheticDefectsDisplay,
)
from sklearn_exdd.augment import RidgedRegions, SyntheticDefects
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(120, defect_fraction=0.4, image_shape=(128, 128), random_state=0)
normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)

# %%
# Compare four augmenters. The last augmenter pastes real defects elsewhere, so it needs real defects with masks. The
# others need only normal images. Regions define the shape and the position of a synthetic defect. In this example, some
# regions of the third augmenter are thin ridges, which resemble scratches and cracks.
augmenters = [
    PerlinDefectAugmenter(random_state=0).fit(X[normal]),
    CutPasteDefectAugmenter(random_state=0).fit(X[normal]),
    OffsetDefectAugmenter(regions=["perlin", RidgedRegions(width=(2, 4))], random_state=0).fit(X[normal]),
    DefectPasteAugmenter(random_state=0).fit(X, y, masks=list(masks)),
]
display = SyntheticDefectsDisplay.from_samples(SyntheticDefects.concatenate([one.sample(3) for one in augmenters]))

# %%
# How many synthetic defects should you use? To answer this question, fit detectors on normal images only, and test them
# on real defects. Always use your own data for this test. The defects in this example are easy to see, so synthetic
# defects do not improve the result. With the embedded filters, synthetic defects also add little on photographs
# (docs/synthetic.md). Networks that are trained in ``fit`` depend on synthetic defects. If you have labelled images to
# tune with, pass ``make_pipeline(augmenter, detector)`` to ``GridSearchCV`` and search over ``n_synthetic``.
train, test = normal[:40], np.concatenate([normal[40:], defect])
for count in (0, 20, 60):
    detector = ExDDDetector(augmenter=OffsetDefectAugmenter(), n_synthetic=count, random_state=0).fit(X[train])
    auroc = roc_auc_score(y[test], detector.decision_function(X[test]))
    print(f"{count:2d} synthetic defects: image AUROC {auroc:.3f}")

# %%
# If the example is run as a script, it saves the figure in the folder ``results``.
if "__file__" in globals():
    path = Path("results") / "synthetic_defects.png"
    path.parent.mkdir(exist_ok=True)
    display.figure_.savefig(path, dpi=150, bbox_inches="tight")
    print(f"Figure saved to {path}.")
