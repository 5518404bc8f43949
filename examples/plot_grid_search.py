"""
Grid search: a heat map of candidates
=====================================

A detector is an estimator, so ``GridSearchCV`` can tune it. With ``memory=``, the features of each
image are extracted only once, whatever the number of folds and candidates.
"""

# %%
# The images show castings. Their rough texture hides some of the defects.
from tempfile import TemporaryDirectory
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(120, defect_fraction=0.3, image_shape=(64, 64), texture="cast", random_state=0)

# %%
# Search epsilon and the number of patches
# ----------------------------------------
# ``epsilon`` controls the influence of the defect bank. With a large value, only the distance to the normal bank
# counts. With the published value 1e-6, the smallest distance to a defect decides. ``n_top_patches`` is the number of
# patches from which the score of an image is computed.
epsilons = [1e-6, 0.1, 1.0, "scale", 10.0, 100.0]
counts = [1, 3, 10, 30]
with TemporaryDirectory() as cache:
    search = GridSearchCV(
        ExDDDetector(random_state=0, memory=cache),
        {"epsilon": epsilons, "n_top_patches": counts},
        scoring="average_precision",
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    start = perf_counter()
    search.fit(X, y)
    seconds = perf_counter() - start
    start = perf_counter()
    ExDDDetector(random_state=0).fit(X, y).score_samples(X)
    alone = perf_counter() - start
n_fits = 3 * len(search.cv_results_["params"])
print(f"{n_fits} fits with predictions and a final fit took as long as {seconds / alone:.0f} without a cache.")
print("Best:", search.best_params_)

# %%
# The heat map
# ------------
# Each cell shows the mean and the standard deviation over three folds. If two candidates differ by less than the
# standard deviation, keep the default. A candidate that is best by chance is unlikely to be best on other images.
mean, spread = (search.cv_results_[f"{kind}_test_score"].reshape(len(epsilons), -1) for kind in ("mean", "std"))
figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
image = ax.imshow(mean, cmap="viridis", aspect="auto")
for (row, column), value in np.ndenumerate(mean):
    light = value > (mean.min() + mean.max()) / 2
    text = f"{value:.3f}\n± {spread[row, column]:.3f}"
    ax.text(column, row, text, ha="center", va="center", color="black" if light else "white")
best = np.unravel_index(mean.argmax(), mean.shape)
ax.add_patch(plt.Rectangle((best[1] - 0.5, best[0] - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=3))
ax.set(xticks=range(len(counts)), xticklabels=counts, xlabel="n_top_patches")
ax.set(yticks=range(len(epsilons)), yticklabels=epsilons, ylabel="epsilon")
ax.set_title("Average precision of image scores (best: red frame)")
figure.colorbar(image, label="average precision (no unit), mean of 3 folds")
