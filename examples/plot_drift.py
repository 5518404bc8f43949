"""
Monitoring a line: do images still resemble the training images?
================================================================

The threshold of a detector is valid only for images that resemble its training images. A monitor raises an alarm when
new images differ from them. The probability that the monitor ever raises a false alarm is at most ``alpha``.
"""

# %%
# The production line has steady light: the brightness of its images varies by 2 %. The detector and the monitor are
# fitted on the same 100 images. The monitor observes the brightness, contrast, sharpness and size of images, and the
# scores that the detector gives to images. As a reference for the scores, it uses ``calibration_scores_``, which are
# computed as for unseen images.
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
# A quiet shift, then an ageing lamp
# ----------------------------------
# Call ``update`` with each batch of images. The result tells whether there is an alarm, and what has changed. After 400
# images, the lamp begins to lose 1 % of its light every 10 images.
monitor.update(photograph(400, light=1.0, seed=1))
print("alarms after 400 images:", monitor.alarms_)
undisturbed = deepcopy(monitor)
for batch in range(15):
    result = monitor.update(photograph(10, light=1 - 0.01 * batch, seed=100 + batch))
    if result.alarm:
        break
print("changes reported after", result.n_seen, "images:", result.changes)

# %%
# The evidence
# ------------
# For each statistic, the monitor computes a martingale. A martingale is a capital that starts at 1 and is bet against
# the hypothesis that nothing has changed. Without a change, the capital does not grow on average, whatever the bets
# are. The probability that it ever reaches the alarm line is then at most ``alpha`` divided by the number of
# statistics. The left plot shows the ageing lamp. The right plot shows the same production line if the lens loses focus
# instead.
blurry = undisturbed
blurry.update(ndimage.gaussian_filter(photograph(30, light=1.0, seed=2), (0, 0.7, 0.7)))

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", sharey=True)
DriftDisplay.from_estimator(monitor, ax=left)
left.set_title("A lamp that loses light")
DriftDisplay.from_estimator(blurry, ax=right)
right.set_title("A lens out of focus")
for ax in (left, right):
    ax.legend(loc="upper left", fontsize="small")

# %%
# An alarm persists until ``reset`` starts a new stream. In this example, ``reset`` is called after the lamp has been
# replaced.
monitor.reset()
print("alarm with a new lamp:", monitor.update(photograph(50, light=1.0, seed=3)).alarm)
