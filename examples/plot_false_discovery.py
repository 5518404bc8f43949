"""
False discoveries: how many of the alarms are false
===================================================

A false-alarm rate limits the alarms among normal images. If defects are rare, most alarms may still be
false. The p-values of a batch can be corrected so that the fraction of false alarms among all alarms is limited.
"""

# %%
# The detector learns from 600 normal surfaces. The batches are drawn from the other images. The p-value of an image is
# the probability that a normal image scores at least as high.
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import false_discovery_control

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

X, y, _ = make_surface_defects(1050, defect_fraction=0.12, image_shape=(64, 64), random_state=0)
normal, defect = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
detector = ExDDDetector("gabor", max_false_alarm_rate=0.05, random_state=0).fit(X[normal[:600]])
p_normal, p_defect = detector.p_values(X[normal[600:]]), detector.p_values(X[defect])

# %%
# Compare two rules on batches of 200 images, with different fractions of defects. The first rule calls every image with
# a p-value of at most 0.05 a defect, as ``predict`` does. The second rule is the Benjamini-Hochberg procedure with a
# false-discovery rate of 0.1.
shares, rng = np.array([0.02, 0.05, 0.1, 0.2, 0.4]), np.random.RandomState(0)
rules = {
    "p-value at most 0.05": lambda p_values: p_values <= 0.05,
    "false-discovery rate 0.1": lambda p_values: false_discovery_control(p_values) <= 0.1,
}
false, found = ({name: [] for name in rules} for _ in range(2))
for share in shares:
    n_defects, results = round(200 * share), {name: [] for name in rules}
    for _ in range(100):
        batch = [rng.choice(p_defect, n_defects, replace=False), rng.choice(p_normal, 200 - n_defects, replace=False)]
        for name, rule in rules.items():
            called = rule(np.concatenate(batch))
            n_false, n_found = called[n_defects:].sum(), called[:n_defects].sum()
            results[name].append((n_false / max(n_false + n_found, 1), n_found / n_defects))
    for name, own in results.items():
        false[name].append(np.mean(own, axis=0)[0])
        found[name].append(np.mean(own, axis=0)[1])

# %%
# The left plot shows the p-values. The p-values of normal images are spread evenly: each bin holds about 0.05 of them
# (dotted line). The middle plot shows the fraction of false alarms among all alarms. The second rule keeps this
# fraction below its limit of 0.1 (dotted line). The right plot shows the price: the second rule finds fewer defects.
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
bins = np.linspace(0, 1, 21)
for p_values, name, color in ((p_normal, "normal", "#0072B2"), (p_defect, "defect", "#D55E00")):
    left.hist(p_values, bins, weights=np.full(len(p_values), 1 / len(p_values)), histtype="step", lw=2, color=color)
    left.text(0.98, {"normal": 0.85, "defect": 0.93}[name], name, color=color, ha="right", transform=left.transAxes)
left.axhline(0.05, color="0.7", ls=":", zorder=0)
left.set(xlabel="p-value", ylabel="share of images", title="P-values", xlim=(0, 1), ylim=(0, 1.03))
for (name, own), marker, color in zip(false.items(), "os", ("#0072B2", "#E69F00")):
    middle.plot(shares, own, marker=marker, color=color, label=name)
    right.plot(shares, found[name], marker=marker, color=color, label=name)
middle.axhline(0.1, color="0.7", ls=":", zorder=0)
middle.set(title="False alarms among alarms", ylabel="share of alarms", ylim=(0, None))
right.set(title="Defects found", ylabel="share of defects", ylim=(0, 1.03))
for ax in (middle, right):
    ax.set(xlabel="share of defects in the batch", xscale="log")
    ax.set_xticks(shares, [f"{share:g}" for share in shares])
    ax.minorticks_off()
middle.legend()
