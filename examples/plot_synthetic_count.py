"""
Choosing the number of synthetic defects
========================================

Augmenters can make any number of defects. Only tests on your own data show whether synthetic defects help, and which
number is best. This example shows such a test.
"""

# %%
# The images show woven cloth. Each detector learns from 24 normal images, without any real defects. All other images
# are used for testing.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import average_precision_score

from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector, OffsetDefectAugmenter, SyntheticDefectsDisplay
from sklearn_exdd.augment import SyntheticDefects
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.metrics import pixel_average_precision_score

X, y, masks = make_surface_defects(70, defect_fraction=0.4, image_shape=(96, 96), texture="fabric", random_state=1)
normal = np.flatnonzero(y == 0)
augmenters = {"CutPaste": CutPasteDefectAugmenter(), "offsets": OffsetDefectAugmenter()}

# %%
# Look at the synthetic defects
# -----------------------------
sheets = [augmenter.fit(X[normal]).sample(3, random_state=0) for augmenter in augmenters.values()]
display = SyntheticDefectsDisplay.from_samples(SyntheticDefects.concatenate(sheets))

# %%
# Measure the effect
# ------------------
# Two questions matter. Do images with defects score higher than normal images? Do defect pixels score higher than
# normal pixels? Each point is the mean over two seeds. A seed determines the training images, the synthetic defects and
# the coresets. The band shows the range of the two seeds. A difference that is smaller than the band may be due to
# chance.
counts, seeds = (0, 5, 20, 60), range(2)
results = {name: np.empty((2, len(counts), len(seeds))) for name in augmenters}
for name, augmenter in augmenters.items():
    for i, count in enumerate(counts):
        for seed in seeds:
            train = np.random.RandomState(seed).choice(normal, 24, replace=False)
            test = np.setdiff1d(np.arange(len(X)), train)
            detector = ExDDDetector(augmenter=augmenter, n_synthetic=count, random_state=seed).fit(X[train])
            ranked = average_precision_score(y[test], detector.score_samples(X[test]))
            located = pixel_average_precision_score(masks[test], detector.predict_map(X[test]))
            results[name][:, i, seed] = ranked, located

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
titles = "Average precision of images", "Average precision of pixels"
for ax, title, row in zip(axes, titles, range(2)):
    for (name, values), color, marker in zip(results.items(), ("#0072B2", "#E69F00"), "os"):
        ax.plot(counts, values[row].mean(axis=1), color=color, marker=marker, label=name)
        ax.fill_between(counts, values[row].min(axis=1), values[row].max(axis=1), color=color, alpha=0.2)
    ax.set_xscale("symlog", linthresh=5)
    ax.set(title=title, xlabel="synthetic defects in the bank", xticks=counts, xticklabels=counts, ylim=(0, 1.02))
    ax.grid(alpha=0.3)
axes[0].legend(loc="lower right")

# %%
# On this cloth, images are ranked equally well with and without synthetic defects. CutPaste, which pastes pieces of
# cloth elsewhere, improves the maps. Offsets, which change the brightness, do not. On photographs of magnetic tiles,
# the lines are nearly flat (see the page on synthetic defects). The results for your parts may differ from both.
for name, (ranked, located) in results.items():
    print(f"{name:9} images {ranked[0].mean():.2f} -> {ranked[-1].mean():.2f}, ", end="")
    print(f"pixels {located[0].mean():.2f} -> {located[-1].mean():.2f}")

# sphinx_gallery_thumbnail_number = 2
