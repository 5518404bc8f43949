"""
Student and teacher: training without a download
================================================

A student network learns to reproduce the features that a teacher network computes for normal images. A defect is where
the student fails. Both networks are trained on your own normal images.
"""

# %%
# The detector learns from sixty normal images of tiles, without any real defects. Training needs defects, so it paints
# synthetic defects onto the normal images.
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import uniform_filter1d
from sklearn.metrics import roc_auc_score

from sklearn_exdd import StudentTeacherDetector
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.metrics import pixel_average_precision_score

X, y, masks = make_surface_defects(110, defect_fraction=0.3, image_shape=(96, 96), texture="tile", random_state=1)
normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
test = np.concatenate([normal[60:], defect])

# %%
# Train
# -----
# In this example, training takes two hundred small steps, which last a few seconds. The default is a thousand larger
# steps, which last a few minutes. ``memory`` caches the weights, so the other kinds of maps need no further training.
# There are three kinds of maps. "segmentation" is the output of a network that has learned from synthetic defects to
# mark defects. "cosine" is the cosine distance between the features of the student and those of the teacher. "both"
# combines the two.
parameters = dict(channels=(16, 32), crop_size=64, n_synthetic=60, max_steps=200, train_batch_size=8, random_state=0)
maps = {}
with TemporaryDirectory() as cache:
    for kind in ("segmentation", "cosine", "both"):
        detector = StudentTeacherDetector(map_source=kind, memory=cache, **parameters).fit(X[normal[:60]])
        maps[kind] = detector.predict_map(X[test])
        auroc = roc_auc_score(y[test], detector.score_samples(X[test]))
        precision = pixel_average_precision_score(masks[test], maps[kind])
        print(f"{kind:12} image AUROC {auroc:.3f}, pixel average precision {precision:.3f}")

# %%
# The loss curves show whether longer training would help. As long as a curve falls, more steps are worthwhile.
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for ax, part, title in zip(axes, ("teacher", "student"), ("Teacher", "Student and segmentation")):
    losses = detector.losses_[part]
    ax.plot(losses, color="0.8")
    ax.plot(uniform_filter1d(losses, 15), color="#0072B2", linewidth=2)
    ax.set(title=title, xlabel="training step", ylabel="loss (no unit)", ylim=(0, None))

# %%
# Compare the maps
# ----------------
# The rows show three defects and a normal part. Within a column, all maps have the same colour scale.
shown = [*np.flatnonzero(y[test] == 1)[[0, 1, 2]], 0]
figure, axes = plt.subplots(len(shown), 1 + len(maps), figsize=(8.4, 8.6), layout="constrained")
for row, i in zip(axes, shown):
    row[0].imshow(X[test[i]], cmap="gray", vmin=0, vmax=255)
    if y[test[i]]:
        row[0].contour(masks[test[i]], [0.5], colors="#56B4E9", linewidths=1.5)
    for ax, values in zip(row[1:], maps.values()):
        ax.imshow(values[i], cmap="magma", vmin=np.median(values), vmax=np.quantile(values, 0.999))
for ax, title in zip(axes[0], ("image and true mask", *maps)):
    ax.set_title(title)
for ax in axes.ravel():
    ax.set(xticks=[], yticks=[])

# sphinx_gallery_thumbnail_number = 2
