"""
Pretrained features or filters?
===============================

The default features come from a small network. It was trained on photographs of ImageNet and is installed with the
library. The alternative, ``"gabor"``, is a bank of filters that needs no weights. The surface and the number of normal
images determine which of the two is better. Compare both on your own images.
"""

# %%
# The images show a rough casting with scratches, pits, stains and dents. Each detector learns from 5 to 40 normal
# images, and then scores 90 new images. The area under the ROC curve is 1 if every defect scores higher than every
# normal image, and 0.5 for random scores. Each detector is fitted three times, each time on different normal images.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

FEATURES = {"filters": ("gabor", "#0072B2"), "pretrained network": ("efficientnet_lite0", "#D55E00")}
COUNTS, N_REPEATS = [5, 10, 20, 40], 3
shared = {"image_shape": (96, 96), "texture": "cast"}
X_normal, *_ = make_surface_defects(120, defect_fraction=0, random_state=0, **shared)
X, y, masks = make_surface_defects(
    90, defect_fraction=0.5, defects=["scratch", "pit", "stain", "dent"], random_state=1, **shared
)
areas, detectors = {}, {}
for name, (features, _) in FEATURES.items():
    for n_images in COUNTS:
        for repeat in range(N_REPEATS):
            chosen = slice(repeat * 40, repeat * 40 + n_images)
            detector = ExDDDetector(features, random_state=0).fit(X_normal[chosen])
            areas[name, n_images, repeat] = roc_auc_score(y, detector.decision_function(X))
    detectors[name] = detector

# %%
# Each point shows one fit. The lines show the means of the three fits.
figure, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
for (name, (_, color)), shift in zip(FEATURES.items(), (0.97, 1.03)):
    values = np.array([[areas[name, n, repeat] for repeat in range(N_REPEATS)] for n in COUNTS])
    ax.plot(COUNTS, values.mean(axis=1), color=color, label=name)
    for repeat in range(N_REPEATS):
        ax.plot(shift * np.array(COUNTS), values[:, repeat], "o", color=color, alpha=0.5)
ax.set_xscale("log", base=2)
ax.set(xticks=COUNTS, xticklabels=COUNTS, xlabel="normal training images", ylabel="area under the ROC curve")
ax.legend(frameon=False, loc="lower right")

# %%
# The figure shows six defects with their true outlines (cyan), and the maps of both detectors trained on 40 normal
# images. Each map has its own colour scale.
shown = np.flatnonzero(y)[:6]
figure, axes = plt.subplots(3, 6, figsize=(11, 5.8), layout="constrained")
for ax, i in zip(axes[0], shown):
    ax.imshow(X[i], cmap="gray", vmin=0, vmax=255)
    ax.contour(masks[i], [0.5], colors="cyan", linewidths=1)
for row, name in zip(axes[1:], FEATURES):
    row[0].set_ylabel(name)
    for ax, pixel_map in zip(row, detectors[name].predict_map(X[shown])):
        ax.imshow(pixel_map, cmap="magma")
axes[0, 0].set_ylabel("image")
for ax in axes.ravel():
    ax.set(xticks=[], yticks=[])
