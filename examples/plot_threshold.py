"""
Choosing the threshold: false alarms against misses
===================================================

A detector gives scores to images. A threshold turns the scores into decisions, and you can choose the threshold. A
lower false-alarm rate means that more defects are missed.
"""

# %%
# The images show castings. Their rough texture hides some of the defects. The detector learns from 120 normal images
# and 20 defects. The other images are used for testing.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import confusion_matrix, det_curve, make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV

from sklearn_exdd import ExDDDetector, ScoreHistogramDisplay
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(400, defect_fraction=0.3, image_shape=(64, 64), texture="cast", random_state=0)
normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
train = np.concatenate([normal[:120], defect[:20]])
test = np.concatenate([normal[120:], defect[20:]])

# %%
# Promise a rate
# --------------
# ``max_false_alarm_rate`` is the fraction of normal images that may be called defective. The threshold is computed only
# from the normal training images. Each of them is scored without its own patches in the bank. A lower rate of false
# alarms causes more misses:
thresholds = {}
print("promised  false alarms  misses")
for rate in (0.01, 0.05, 0.2):
    detector = ExDDDetector(max_false_alarm_rate=rate, random_state=0).fit(X[train], y[train], masks=masks[train])
    thresholds[rate] = detector.threshold_
    called = detector.predict(X[test])
    print(f"{rate:8.2f} {called[y[test] == 0].mean():13.3f} {1 - called[y[test] == 1].mean():7.3f}")

scores = detector.score_samples(X[test])

# %%
# Minimise your own cost
# ----------------------
# Suppose that a miss costs as much as five false alarms, and that your labelled defects resemble future defects.
# scikit-learn can then tune the threshold by cross-validation.


def cost(y_true, y_pred):
    _, n_alarms, n_misses, _ = confusion_matrix(y_true, y_pred).ravel()
    return -(5 * n_misses + n_alarms) / len(y_true)


tuned = TunedThresholdClassifierCV(ExDDDetector(random_state=0), scoring=make_scorer(cost), cv=5)
tuned.fit(X[train], y[train])
thresholds["tuned"] = tuned.estimator_.threshold_ + tuned.best_threshold_

# %%
# See the trade-off
# -----------------
# The left plot shows the scores, one of the thresholds, and the mistakes at this threshold. The right plot shows the
# rates of both kinds of mistakes. Each point on the line is one threshold.
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
ScoreHistogramDisplay.from_predictions(
    y[test], scores, threshold=thresholds[0.05], score_label="ratio score (no unit)", ax=left, n_bins=40
)
left.set_title(f"Scores of {len(test)} new images, promised rate 0.05")
alarms, misses, at = det_curve(y[test], scores)
right.plot(alarms, misses, color="0.4")
for (rate, threshold), marker, color in zip(thresholds.items(), "osD^", ("#0072B2", "#E69F00", "#009E73", "#D55E00")):
    name = "tuned by cost" if rate == "tuned" else f"promised {rate:.2f}"
    nearest = np.argmin(np.abs(at - threshold))
    right.plot(alarms[nearest], misses[nearest], marker, color=color, markersize=9, label=f"{name}: {threshold:.3f}")
right.set_xscale("symlog", linthresh=0.01)
right.set(xlim=(0, 1), ylim=(0, None), title="False alarms against misses")
right.set(xlabel="false alarms (share of normal images)", ylabel="misses (share of defects)")
right.set_xticks([0, 0.01, 0.05, 0.2, 1], ["0", "0.01", "0.05", "0.2", "1"])
right.legend(title="threshold")
right.grid(alpha=0.3)
