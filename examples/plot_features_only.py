"""
Features only: a detector on vectors
====================================

If X is a table of numbers, a detector is a plain scikit-learn classifier. With two features, a plot shows the effect of
the second bank.
"""

# %%
# One kind of normal, one known kind of defect
# --------------------------------------------
# The rows are measurements of 120 normal parts and of 12 known defects. The normal parts lie along a curve. All defects
# are of one kind.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons
from sklearn.ensemble import IsolationForest
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects

points, arm = make_moons(240, noise=0.09, random_state=3)
normal = points[arm == 0]
defect = np.random.RandomState(0).normal((0.0, 0.6), 0.06, (12, 2))
X, y = np.concatenate([normal, defect]), np.repeat([0, 1], [len(normal), len(defect)])

# %%
# Where the decision boundary runs
# --------------------------------
# If the detector learns from normal rows only, its boundary is a band around the curve. The band has the same width
# everywhere, because the detector does not know where defects lie. If it also learns from known defects, the boundary
# moves away from the defects and leaves more room elsewhere. An isolation forest learns from one class only. A
# support-vector classifier learns from both classes, but it classifies any row that is far from all training rows as
# normal.
models = {
    "ExDD, normal rows only": ExDDDetector(max_false_alarm_rate=0.02, n_top_patches=1, random_state=0).fit(normal),
    "ExDD, both banks": ExDDDetector(max_false_alarm_rate=0.02, n_top_patches=1, random_state=0).fit(X, y),
    "IsolationForest": IsolationForest(contamination=0.02, random_state=0).fit(normal),
    "SVC": SVC(class_weight="balanced").fit(X, y),
}
figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained", sharex=True, sharey=True)
for ax, (name, model) in zip(axes.ravel(), models.items()):
    frame = np.array([[-1.8, -0.9], [1.8, 1.9], *X])
    sign = -1 if name == "IsolationForest" else 1  # scikit-learn's outlier detectors give low values to abnormal rows
    grid = DecisionBoundaryDisplay.from_estimator(
        model, frame, response_method="decision_function", ax=ax, alpha=0, grid_resolution=150, eps=0.1
    )
    decisions = sign * grid.response
    limit = np.abs(decisions).max()
    ax.contourf(grid.xx0, grid.xx1, decisions, levels=[-np.inf, 0, np.inf], colors=["#DCEAF5", "#FBE3D3"], zorder=0)
    ax.contour(grid.xx0, grid.xx1, decisions, levels=[0], colors="black", linewidths=1)
    ax.plot(*normal.T, "o", color="#0072B2", markersize=2.5, alpha=0.7, label="normal")
    ax.plot(*defect.T, "^", color="#D55E00", markersize=6, label="defect")
    ax.set(title=name, xticks=[], yticks=[], xlabel="", ylabel="")
axes[0, 0].legend(loc="lower left")

# %%
# Combine with scikit-learn
# -------------------------
# A detector on vectors passes all estimator checks of scikit-learn. It can therefore be used like any other classifier:
# after a scaler, in cross-validation, or inside a calibrator.
scores = cross_val_score(make_pipeline(StandardScaler(), ExDDDetector(random_state=0)), X, y, scoring="roc_auc", cv=3)
print("AUROC in three folds:", scores.round(3))

# %%
# Conversely, other tools can use the feature maps of images. In this example, each image is described by one vector,
# which holds the mean and the maximum of each feature.
pictures, labels, _ = make_surface_defects(120, image_shape=(64, 64), texture="cast", random_state=0)
maps = GaborFeatureExtractor().fit(pictures[labels == 0]).transform(pictures)
rows = np.array([np.concatenate([one.mean(axis=(0, 1)), one.max(axis=(0, 1))]) for one in maps])
for name, model in (("ExDDDetector", ExDDDetector(random_state=0)), ("SVC", SVC(class_weight="balanced"))):
    scores = cross_val_score(make_pipeline(StandardScaler(), model), rows, labels, scoring="roc_auc", cv=3)
    print(f"{name:12} on one vector per image: AUROC {scores.mean():.3f}")
scores = cross_val_score(ExDDDetector(random_state=0), pictures, labels, scoring="roc_auc", cv=3)
print(f"ExDDDetector on the images themselves: AUROC {scores.mean():.3f}")
