"""
Naming the kind of a defect
===========================

If a detector was fitted with the kinds of its training defects, it can name the kind of a new defect. It finds the most
similar patches in its defect bank, and these patches vote for their kinds.
"""

# %%
# The images show rough castings with scratches, pits, stains and dents. The detector learns from half of them. Normal
# images have the kind "normal".
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

parts = []
for seed, kind in enumerate(["scratch", "pit", "stain", "dent"]):
    X, y, masks = make_surface_defects(
        36, defect_fraction=16 / 36, image_shape=(96, 96), texture="cast", defects=kind, random_state=seed
    )
    parts.append((X, y, masks, np.where(y == 1, kind, "normal")))
X, y, masks, kinds = map(np.concatenate, zip(*parts))
train = np.arange(len(X)) % 2 == 0
detector = ExDDDetector("gabor", max_false_alarm_rate=0.05, random_state=0)
detector.fit(X[train], y[train], masks=list(masks[train]), kinds=kinds[train])

# %%
# For each image that ``predict`` calls a defect, ``predict_kind`` returns a kind and the fraction of votes for it.
# Images that ``predict`` calls normal do not get a kind.
names, votes = detector.predict_kind(X[~train])
is_named = np.array([name is not None for name in names])
is_found = is_named & (y[~train] == 1)
print(f"{is_found.sum()} of {(y[~train] == 1).sum()} defects found")
print(f"correct kind: {np.mean(names[is_found] == kinds[~train][is_found]):.2f} (by chance: {1 / 4:.2f})")

# %%
# If the predicted kind is wrong, the vote is often close.
figure, axes = plt.subplots(2, 5, figsize=(11, 5), layout="constrained")
for ax, i in zip(axes.ravel(), np.flatnonzero(is_found)[:: max(1, is_found.sum() // 10)]):
    ax.imshow(X[~train][i], cmap="gray", vmin=0, vmax=255)
    ax.contour(masks[~train][i], [0.5], colors="#E69F00", linewidths=1)
    true = kinds[~train][i]
    ax.set_title(
        f"{names[i]}, vote {votes[i]:.2f}" + ("" if names[i] == true else f"\ntrue kind: {true}"),
        color="black" if names[i] == true else "#D55E00",
        fontsize="medium",
    )
    ax.axis("off")

# %%
# A confusion matrix shows which kinds are confused with each other.
display = ConfusionMatrixDisplay.from_predictions(
    kinds[~train][is_found],
    names[is_found].astype(str),
    cmap="Blues",
    colorbar=False,
    text_kw={"fontsize": "large", "weight": "bold"},
)
display.ax_.set(xlabel="predicted kind", ylabel="true kind", title="Kinds of the defects found")
display.figure_.set_layout_engine("constrained")
