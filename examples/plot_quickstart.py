"""
Quickstart: find and locate defects
===================================

Normal parts, a handful of defect ones with masks, a detector, a map. Everything runs
offline: the surfaces are generated, and pip has installed the detector's pretrained weights.
"""

# %%
# Sixty normal pictures and ten defect ones to learn from, forty others to look at.
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
# Fit, and score what the detector has not seen. The threshold comes from the normal
# training pictures alone, each scored without its own patches.
start = time.perf_counter()
detector = ExDDDetector(random_state=0)
detector.fit(X[train_normal], X[train_defect], masks=masks[train_defect])
decisions = detector.decision_function(X[test])
print(f"Fitted on {len(train_normal)} normal and {len(train_defect)} defect pictures, ", end="")
print(f"scored {len(test)} others, in {time.perf_counter() - start:.0f} s.")
found = (decisions > 0)[y[test] == 1]
alarms = (decisions > 0)[y[test] == 0]
print(f"Found {found.sum()} of {len(found)} defects, {alarms.sum()} false alarms in {len(alarms)} normal pictures.")

# %%
# Where they are: one defect of each strength, and a normal part.
order = test[np.argsort(decisions)]
shown = [*order[y[order] == 1][[-1, len(found) // 2, len(found) // 4]], order[y[order] == 0][-2]]
display = DefectMapDisplay.from_estimator(detector, X[shown], y[shown], masks=masks[shown])

# %%
# Run as a script, the picture is written next to where it ran.
if "__file__" in globals():
    path = Path("results") / "quickstart.png"
    path.parent.mkdir(exist_ok=True)
    display.figure_.savefig(path, dpi=150, bbox_inches="tight")
    print(f"The picture is in {path}.")
