"""
A region of interest
====================

Clamps, rulers and backgrounds may differ between images, but they are not defects. A region of interest is a mask of
the part to inspect. Pixels outside the region do not affect scores, maps or the threshold.
"""

# %%
# The images show a ring. The camera and the ring do not move. The background changes: bright bars lie at random
# positions.
import matplotlib.pyplot as plt
import numpy as np

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

SIDE = 128
rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
radius = np.hypot(rows, columns)
roi = (radius < 58) & (radius > 18)


def photographs(n, defect_fraction, random_state):
    """Return images of rings on an untidy table, with their labels and masks."""
    X, y, masks = make_surface_defects(
        n, image_shape=(SIDE, SIDE), defect_fraction=defect_fraction, defects="pit", random_state=random_state
    )
    rng = np.random.default_rng(random_state)
    for image in X:
        background = np.full((SIDE, SIDE), 60.0)
        for _ in range(2):
            angle, offset = rng.uniform(0, np.pi), rng.uniform(-70, 70)
            bar = np.abs(rows * np.cos(angle) + columns * np.sin(angle) - offset) < 5
            background[bar] = rng.uniform(120, 250)
        image[~roi] = (background + rng.normal(0, 4, (SIDE, SIDE)))[~roi].clip(0, 255)
    is_seen = (masks & roi).any(axis=(1, 2))  # leave out defects outside the ring
    keep = (y == 0) | is_seen
    return X[keep], y[keep], masks[keep] & roi


X_train, *_ = photographs(60, 0, random_state=0)
X, y, masks = photographs(120, 0.4, random_state=1)

# %%
# To use a region, pass it to ``fit``. The detector stores the region and applies it to all new images.
detectors = {
    "whole image": ExDDDetector("gabor", max_false_alarm_rate=0.05, random_state=0).fit(X_train),
    "region of interest": ExDDDetector("gabor", max_false_alarm_rate=0.05, random_state=0).fit(X_train, roi=roi),
}
for name, detector in detectors.items():
    called = detector.predict(X) == 1
    found, false_alarms = (called & (y == 1)).sum(), (called & (y == 0)).sum()
    print(f"{name}: {found} of {y.sum()} defects found, {false_alarms} false alarms on {(y == 0).sum()} normal images")

# %%
# The figure shows four defects with their true outlines (cyan), and the maps of both detectors. All maps in a row have
# the same colour scale. The detector for the whole image marks the bars instead of the defects.
shown = np.flatnonzero(y)[:4]
figure, axes = plt.subplots(3, 4, figsize=(9, 7.2), layout="constrained")
for column, i in zip(axes.T, shown):
    column[0].imshow(X[i], cmap="gray", vmin=0, vmax=255)
    column[0].contour(masks[i], [0.5], colors="cyan", linewidths=1)
    column[0].contour(roi, [0.5], colors="#E69F00", linewidths=1.5, linestyles="--")
for row, (name, detector) in zip(axes[1:], detectors.items()):
    maps = detector.predict_map(X[shown])
    for ax, pixel_map in zip(row, maps):
        ax.imshow(pixel_map, cmap="magma", vmin=maps.min(), vmax=maps.max())
    row[0].set_ylabel(name)
axes[0, 0].set_ylabel("image and region")
for ax in axes.ravel():
    ax.set(xticks=[], yticks=[])
