"""
An operating point by cost
==========================

A lower false-alarm rate means that more defects are missed. Before you choose a rate, count both kinds of mistakes at
several rates, and weigh them with your own costs.
"""

# %%
# The images show castings. Their rough texture hides some of the defects. The detector learns from 100 normal images
# and 10 defects. It is tested on 100 other normal images and 40 other defects.
import matplotlib.pyplot as plt
import numpy as np

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.metrics import operating_points

X, y, masks = make_surface_defects(250, defect_fraction=0.2, image_shape=(64, 64), texture="cast", random_state=0)
normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
train = np.concatenate([normal[:100], defect[:10]])
test = np.concatenate([normal[100:], defect[10:]])
detector = ExDDDetector("gabor", random_state=0).fit(X[train], y[train], masks=masks[train])
scores = detector.score_samples(X[test])

# %%
# The trade-off at a glance
# -------------------------
# The thresholds for the promised rates are computed only from the normal training images. The last line shows the
# threshold with the lowest cost on the test images, if a miss costs as much as ten false alarms. This threshold was
# chosen on the test images themselves. It will therefore cause more mistakes on new images.
points = operating_points(y[test], scores, detector.calibration_scores_, cost_miss=10)
names = ["lowest cost" if point.rate is None else f"promised {point.promised_rate:.2f}" for point in points]
print("operating point  threshold  false alarms  misses    cost")
for name, point in zip(names, points):
    print(
        f"{name:15} {point.threshold:10.3f} {point.n_false_alarms:6} of {point.n_normal}"
        f" {point.n_misses:4} of {point.n_defects} {point.cost:6.0f}"
    )

# %%
# Vary the cost of a miss
# -----------------------
# The left plot shows the mistakes at each operating point. The right plot shows the mistakes at the threshold with the
# lowest cost, for different costs of a miss. If a miss costs more, more false alarms are acceptable.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
places = np.arange(len(points))
alarms = left.barh(places - 0.2, [point.n_false_alarms for point in points], 0.38, color="#0072B2")
misses = left.barh(
    places + 0.2, [point.n_misses for point in points], 0.38, facecolor="none", edgecolor="#D55E00", hatch="////"
)
left.bar_label(alarms, padding=3)
left.bar_label(misses, padding=3)
left.set_yticks(places, names)
left.invert_yaxis()
left.margins(x=0.12)
left.set(xlabel="images", title=f"Mistakes on {points[0].n_normal} normal images and {points[0].n_defects} defects")
left.legend([alarms, misses], ["false alarms", "misses"], loc="upper right")

costs = np.geomspace(0.5, 50, 25)
cheapest = [operating_points(y[test], scores, cost_miss=cost)[0] for cost in costs]
right.step(costs, [point.n_false_alarms for point in cheapest], color="#0072B2", where="mid", label="false alarms")
right.step(costs, [point.n_misses for point in cheapest], color="#D55E00", where="mid", ls="--", label="misses")
right.set_xscale("log")
right.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
right.set(xlabel="cost of a miss, in false alarms", ylabel="images", title="Mistakes at the cheapest threshold")
right.grid(alpha=0.3)
right.legend()
