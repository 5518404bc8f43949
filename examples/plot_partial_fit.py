"""
Correcting the detector
=======================

Parts can change. In this example, a supplier starts to stamp a mark on the parts. The detector has never seen the mark,
and raises false alarms. An operator corrects a few false alarms with ``partial_fit``. The other false alarms then
disappear, and the detector still finds defects.
"""

# %%
# A working detector
# ------------------
import matplotlib.pyplot as plt
import numpy as np

from sklearn_exdd import DefectMapDisplay, ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(160, defect_fraction=0.3, image_shape=(96, 96), texture="tile", random_state=0)
detector = ExDDDetector(random_state=0).fit(X[:80], y[:80], masks=masks[:80])

# %%
# The parts change
# ----------------
# From now on, every part has a mark in one corner.
stamp = np.ones((96, 96))
rows, columns = np.mgrid[:96, :96]
ring = np.hypot(rows - 76, columns - 76)
stamp[(ring > 7) & (ring < 10)] = 0.75
stamp[73:79, 75:77] = 0.75
stamped = np.clip(X[80:] * stamp, 0, 255).astype(np.uint8)
truth, where = y[80:], masks[80:]
print(f"{detector.predict(stamped)[truth == 0].sum()} false alarms in {(truth == 0).sum()} normal images.")

# %%
# A few corrections
# -----------------
# The operator labels three of the images with false alarms as normal, and later three more. The patches that caused
# these alarms are added to the normal bank, and the threshold is recomputed. This step does not need the original
# training images.
history, corrected = [detector.decision_function(stamped)], np.array([], dtype=int)
maps_before = detector.predict_map(stamped)
for _ in range(2):
    alarms = np.setdiff1d(np.flatnonzero((truth == 0) & (history[-1] > 0)), corrected)[:3]
    detector.partial_fit(stamped[alarms], np.zeros(len(alarms), dtype=int))
    corrected = np.concatenate([corrected, alarms])
    history.append(detector.decision_function(stamped))
rest = np.setdiff1d(np.arange(len(truth)), corrected)
for step, decisions in enumerate(history):
    found, false = (decisions[rest] > 0)[truth[rest] == 1], (decisions[rest] > 0)[truth[rest] == 0]
    print(f"after {3 * step} corrections: {found.sum()} of {len(found)} defects found, ", end="")
    print(f"{false.sum()} false alarms in {len(false)}")

# %%
# Before and after
# ----------------
# The top row shows the maps of two images before the corrections. The bottom row shows the maps of the same images
# after the corrections. A normal part is on the left, and a defect is on the right.
shown = [rest[truth[rest] == 0][2], rest[truth[rest] == 1][0]]
both = np.concatenate([maps_before[shown], detector.predict_map(stamped[shown])])
display = DefectMapDisplay.from_predictions(
    stamped[shown * 2],
    both,
    scores=np.concatenate([history[0][shown], history[-1][shown]]) + detector.threshold_,
    threshold=detector.threshold_,
    pixel_threshold=detector.pixel_threshold_,
    masks=where[shown * 2],
    map_label="ratio score (no unit)",
)

# %%
# The plot shows all stamped images that were not corrected. The scores of normal images fall below the threshold. The
# scores of almost all defects stay above it.
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for label, name, color, marker in ((0, "normal", "#0072B2", "o"), (1, "defect", "#D55E00", "^")):
    lines = np.array(history)[:, rest[truth[rest] == label]]
    ax.plot(lines, marker, color=color, alpha=0.7)
    ax.plot(lines, color=color, alpha=0.25)
    ax.plot([], [], marker, color=color, label=name)
ax.axhline(0, color="black", linestyle="--", label="threshold")
ax.set(xticks=range(len(history)), xticklabels=["before", "3 corrections", "6 corrections"], xlim=(-0.3, 2.75))
ax.set(ylabel="decision: score minus threshold (no unit)")
ax.set_title("Stamped parts before and after corrections")
ax.legend(loc="upper right")
