"""
Explanations: the patches behind a decision
===========================================

Every row of a memory bank records the image and the position from which its patch comes. A detector can therefore show
the patches that it compared.
"""

# %%
# Fit a detector with both banks. Keep the training images, because the explanations refer to them.
import matplotlib.pyplot as plt
import numpy as np

from sklearn_exdd import DefectMapDisplay, ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(130, defect_fraction=0.4, image_shape=(160, 160), texture="tile", random_state=3)
train, test = np.arange(70), np.arange(70, 130)
detector = ExDDDetector(random_state=0).fit(X[train], y[train], masks=masks[train])
scores = detector.score_samples(X[test])

# %%
# Patch, nearest normal, nearest defect
# -------------------------------------
# Each row shows, from left to right, the image with the patch that determined the score, the map, the nearest normal
# patch and the nearest defect patch. Both nearest patches come from training images. A defect resembles a known defect,
# and its nearest normal patch is a poor match. The last row shows a normal part. Its patch resembles a normal patch,
# and the nearest defect patch is a poor match.
order = test[np.argsort(-scores)]
shown = [*order[y[order] == 1][[2, 5]], order[y[order] == 0][-1]]
display = DefectMapDisplay.from_estimator(
    detector, X[shown], y[shown], masks=masks[shown], explain=True, X_normal=X[train], X_defect=X[train]
)

# %%
# ``explain`` returns the same information as numbers, which can be written to a report or a log.
for name, value in detector.explain(X[shown[:1]])[0].items():
    print(f"{name:16} {value if value is None or isinstance(value, (bool, int, str)) else np.round(value, 2).tolist()}")

# %%
# All patches at once
# -------------------
# Each point is a patch of a test image. Its coordinates are the distances of the patch to the defect bank and to the
# normal bank. The score is constant along each line. Patches beside a defect include part of the defect, and their
# scores are similar. For this reason, a map is wider than its defect.
kinds = {"in a normal image": "#56B4E9", "beside a defect": "#999999", "on a defect": "#D55E00"}
kind, d_normal, d_defect = [], [], []
for image, label, mask in zip(X[test], y[test], masks[test]):
    (feature_map,) = detector.feature_extractor_.transform(image[None])
    centers = detector.feature_extractor_.patch_centers(feature_map.shape, image.shape)
    kind.append(label + mask[np.ix_(*(np.rint(center).astype(int) for center in centers))].ravel())
    patches = feature_map.reshape(-1, feature_map.shape[2])
    d_normal.append(detector.normal_bank_.kneighbors(patches)[0][:, 0])
    d_defect.append(detector.defect_bank_.kneighbors(patches, 9)[0].mean(axis=1))
kind, d_normal, d_defect = map(np.concatenate, (kind, d_normal, d_defect))

figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
for number in (1, 0, 2):
    name, color = list(kinds.items())[number]
    ax.plot(d_defect[kind == number], d_normal[kind == number], ".", color=color, markersize=4, alpha=0.6, label=name)
ends = np.array([0, d_defect.max()])
for score, style in ((detector.threshold_, "-"), (2 * detector.threshold_, "--")):
    ax.plot(ends, score * (ends + detector.epsilon_), "k", linestyle=style, linewidth=1, label=f"score {score:.2f}")
ax.set(xlabel="distance to the defect bank (a.u.)", ylabel="distance to the normal bank (a.u.)")
ax.set(xlim=(0, None), ylim=(0, d_normal.max() * 1.05), title=f"Distances of {len(kind)} patches to both banks")
ax.legend(markerscale=3)
