"""
A detector as one ONNX file
===========================

A detector is fitted in Python. However, Python may not be available on a production line, or torch may be too large for
it. An ONNX file holds all steps of a prediction, from the raw pixels of the camera to the score, the decision and the
map. Any program can run the file with onnxruntime.
"""

# %%
# Fit and export
# --------------
# ``to_onnx`` runs the exported model and compares its predictions with those of the detector. It writes the file only
# if the predictions agree.
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
import onnxruntime

from sklearn_exdd import ExDDDetector
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.export import to_onnx

X, y, masks = make_surface_defects(120, defect_fraction=0.25, image_shape=(128, 128), random_state=0)
detector = ExDDDetector("gabor", random_state=0).fit(X[:80], y[:80], masks=masks[:80])
path = Path(mkdtemp(), "detector.onnx")
to_onnx(detector, path, check=X[80:84])
print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")

# %%
# Run it
# ------
# These lines need only numpy and onnxruntime. The input is a batch of raw images of any size, with shape
# (batch, height, width, channels). The metadata of the file describe the detector.
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(names, {"image": X[80:, ..., None]})))
for name, values in found.items():
    print(f"{name:<12} {values.dtype!s:<8} {values.shape}")
print(session.get_modelmeta().custom_metadata_map)

# %%
# Compare with the detector
# -------------------------
scores, maps = detector.score_samples(X[80:]), detector.predict_map(X[80:])
print(f"Scores differ by at most {np.abs(found['score'] - scores).max() / detector.threshold_:.0e} of the threshold,")
print(f"maps by at most {np.abs(found['anomaly_map'] - maps).max() / maps.max():.0e} of their largest value.")

# %%
# Scores and maps from the file
# -----------------------------
# A p-value is the fraction of normal images that look at least as unusual as the image. For example, 0.02 means one
# normal image in fifty.
shown = np.argsort(found["p_value"], kind="stable")[[0, 1, len(scores) // 2, -1]]
figure, axes = plt.subplots(2, 4, figsize=(9, 4.6), layout="constrained")
for (top, bottom), i in zip(axes.T, shown):
    top.imshow(X[80 + i], cmap="gray", vmin=0, vmax=255)
    label = "defect" if found["is_defect"][i] else "normal"
    top.set_title(f"{label}, score {found['score'][i]:.2f}\np-value {found['p_value'][i]:.2f}", fontsize=9)
    picture = bottom.imshow(found["anomaly_map"][i], cmap="inferno", vmin=0, vmax=found["anomaly_map"][shown].max())
    for ax in (top, bottom):
        ax.set_xticks([])
        ax.set_yticks([])
axes[0, 0].set_ylabel("image")
axes[1, 0].set_ylabel("map from the file")
figure.colorbar(picture, ax=axes, label="ratio score (no unit)", shrink=0.8)
