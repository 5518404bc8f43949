"""
Synthetic defects: without a single real one
============================================

Defects are rare. Augmenters paint them onto normal pictures, with masks, and the detector puts
them into its defect bank.
"""

# %%
# Normal pictures to learn from. The defect ones serve to look at and to measure.
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
# Four kinds of augmenters. The last one pastes real defects elsewhere, so it needs some, with
# their masks; the others need normal pictures alone. Regions say where a defect goes: here,
# offsets also follow thin ridges, as scratches and cracks do.
augmenters = [
    PerlinDefectAugmenter(random_state=0).fit(X[normal]),
    CutPasteDefectAugmenter(random_state=0).fit(X[normal]),
    OffsetDefectAugmenter(regions=["perlin", RidgedRegions(width=(2, 4))], random_state=0).fit(X[normal]),
    DefectPasteAugmenter(random_state=0).fit(X, y, masks=list(masks)),
]
display = SyntheticDefectsDisplay.from_samples(SyntheticDefects.concatenate([one.sample(3) for one in augmenters]))

# %%
# How many? Fitted on normal pictures alone, tested on defects that nothing has seen. Always ask
# your own data: these generated defects stand out so well that synthetic ones add nothing, and with
# the embedded filters they add little on photographs, too (docs/synthetic.md); networks that learn in
# ``fit`` live from them. Where there are labelled images to tune with,
# ``make_pipeline(augmenter, detector)`` goes into ``GridSearchCV``, with ``n_synthetic`` as one of its
# parameters.
train, test = normal[:40], np.concatenate([normal[40:], defect])
for count in (0, 20, 60):
    detector = ExDDDetector(augmenter=OffsetDefectAugmenter(), n_synthetic=count, random_state=0).fit(X[train])
    auroc = roc_auc_score(y[test], detector.decision_function(X[test]))
    print(f"{count:2d} synthetic defects: image AUROC {auroc:.3f}")

# %%
# Run as a script, the picture is written next to where it ran.
if "__file__" in globals():
    path = Path("results") / "synthetic_defects.png"
    path.parent.mkdir(exist_ok=True)
    display.figure_.savefig(path, dpi=150, bbox_inches="tight")
    print(f"The picture is in {path}.")
