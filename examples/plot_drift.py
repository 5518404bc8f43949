"""
Watching a line: do the pictures still resemble those of fit?
=============================================================

The threshold of a detector is right for pictures like those it was fitted on. A monitor says when
they no longer are, and raises a false alarm, ever, with a probability of at most ``alpha``.
"""

# %%
# A line under steady light: the brightness of its pictures varies by 2 %. The detector is fitted on
# 100 of them, and so is the monitor. It takes the scores that the detector has for pictures it has not
# seen (``calibration_scores_``), and the brightness, contrast, sharpness and size of the pictures.
from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
from scipy import ndimage

from sklearn_exdd import DriftDisplay, DriftMonitor, ExDDDetector
from sklearn_exdd.datasets import make_surface_defects


def photograph(n_pictures, light, seed):
    X, _, _ = make_surface_defects(n_pictures, defect_fraction=0, image_shape=(64, 64), random_state=seed)
    levels = light * np.random.RandomState(seed).normal(120, 2.4, n_pictures)
    return np.clip(X * (levels / X.mean(axis=(1, 2)))[:, None, None], 0, 255).astype(np.uint8)


X = photograph(100, light=1.0, seed=0)
detector = ExDDDetector("gabor", random_state=0).fit(X)
monitor = DriftMonitor(detector, alpha=0.01, random_state=0).fit(X)

# %%
# A shift without trouble, then a lamp that grows old
# ---------------------------------------------------
# ``update`` after each batch says whether there has been an alarm, and why. After 400 pictures the lamp
# begins to lose 1 % of its light every 10 pictures.
monitor.update(photograph(400, light=1.0, seed=1))
print("alarms after 400 pictures:", monitor.alarms_)
undisturbed = deepcopy(monitor)
for batch in range(15):
    result = monitor.update(photograph(10, light=1 - 0.01 * batch, seed=100 + batch))
    if result.alarm:
        break
print("alarms after", result.n_seen, "pictures:", result.changes)

# %%
# The evidence
# ------------
# Each statistic has a martingale: a capital that starts at 1 and is bet against the hypothesis that
# nothing has changed. Without a change it does not grow on average, whatever the bets; it reaches the
# line with a probability of at most ``alpha``, divided by the number of statistics. On the left, the
# lamp. On the right, the same line, when its lens loses focus instead.
blurry = undisturbed
blurry.update(ndimage.gaussian_filter(photograph(30, light=1.0, seed=2), (0, 0.7, 0.7)))

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
DriftDisplay.from_estimator(monitor, ax=left)
left.set_title("A lamp that loses light")
DriftDisplay.from_estimator(blurry, ax=right)
right.set_title("A lens out of focus")

# %%
# An alarm remains until somebody has looked after it. With a new lamp, ``reset`` begins a new stream.
monitor.reset()
print("new lamp:", monitor.update(photograph(50, light=1.0, seed=3)).alarm)
