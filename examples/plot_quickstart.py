"""
Quickstart: find and locate defects
===================================

Fit a detector on normal parts and on a few defects with masks. Then show maps of the defects that it finds. The example
needs no downloads: the images are generated, and pip has installed the pretrained weights of the detector.
"""

# %%
# The detector learns from sixty normal images and ten defects. The other images are for testing.
import time
from pathlib import Path

import numpy as np

from sklearn_exdd import DefectMapDisplay, ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(140, defect_fraction=0.3, image_shape=(160, 160), random_state=0)
normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
train_normal, train_defect = normal[:60], defect[:10]
test = np.sort(np.concatenate([normal[60:], defect[10:]]))

# %%
# Fit the detector and score images that it has not seen. The threshold is computed only from the normal training
# images. Each of them is scored without its own patches in the bank.
start = time.perf_counter()
detector = ExDDDetector(random_state=0)
detector.fit(X[train_normal], X[train_defect], masks=masks[train_defect])
decisions = detector.decision_function(X[test])
print(f"Fitted on {len(train_normal)} normal images and {len(train_defect)} defects, ", end="")
print(f"then scored {len(test)} other images, in {time.perf_counter() - start:.0f} s.")
found = (decisions > 0)[y[test] == 1]
alarms = (decisions > 0)[y[test] == 0]
print(f"Found {found.sum()} of {len(found)} defects, {alarms.sum()} false alarms in {len(alarms)} normal images.")

# %%
# The maps show where the defects are. The rows show three defects, from strong to faint, and a normal part.
order = test[np.argsort(decisions)]
shown = [*order[y[order] == 1][[-1, len(found) // 2, len(found) // 4]], order[y[order] == 0][-2]]
display = DefectMapDisplay.from_estimator(detector, X[shown], y[shown], masks=masks[shown])

# %%
# If the example is run as a script, it saves the figure in the folder ``results``.
if "__file__" in globals():
    path = Path("results") / "quickstart.png"
    path.parent.mkdir(exist_ok=True)
    display.figure_.savefig(path, dpi=150, bbox_inches="tight")
    print(f"Figure saved to {path}.")
