"""
A cluster with Dask
===================

A single machine may be too slow to read all images. ``fit`` therefore splits its work into tasks for ``joblib``. A
search also does this. The backend of ``joblib`` decides where the tasks run. In this example, they run on two worker
processes of Dask. The results are bit-identical to those of a single process.
"""

# %%
# Files that every worker can read
# --------------------------------
# Each task receives paths instead of images. If you use several machines, put the images in a shared folder.
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client, SubprocessCluster
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklearn_exdd import DefectMapDisplay, ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(140, defect_fraction=0.2, image_shape=(96, 96), texture="cast", random_state=0)
temporary = TemporaryDirectory()
paths = np.array([Path(temporary.name, f"{i:03}.png") for i in range(len(X))])
for path, image in zip(paths, X):
    Image.fromarray(image).save(path)
train, test = np.arange(100), np.arange(100, 140)

# %%
# Two workers
# -----------
# ``pip install "sklearn_exdd[cluster]"`` installs Dask. Here, both workers are processes on this
# machine. If you use several machines, run ``dask scheduler`` on one machine and ``dask worker ADDRESS`` on the others.
# In the code, only the client changes to ``Client("tcp://ADDRESS")``.
cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
client.run(ExDDDetector().fit, X[:4])  # each worker loads the library now, not in its first task
client.get_task_stream()  # start recording tasks for the figure below

# %%
# Fit and search
# --------------
# ``shard_size`` is the number of images per task. The default, "auto", keeps features in memory if they take at most 1
# GiB. It would therefore not distribute the small fit of this example.
detector = ExDDDetector(shard_size=8, random_state=0)
search = GridSearchCV(ExDDDetector(random_state=0), {"epsilon": ["scale", 1e-6]}, scoring="average_precision", cv=3)
with joblib.parallel_config(backend="dask"):
    detector.fit(paths[train], y[train], masks=masks[train])
    search.fit(paths[train], y[train])
tasks = client.get_task_stream()

alone = clone(detector).fit(paths[train], y[train], masks=masks[train])
same = np.array_equal(alone.score_samples(paths[test]), detector.score_samples(paths[test]))
print("Scores equal those of a fit on one machine:", same)
for candidate, precision in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"]):
    print(f"{candidate}: average precision {precision:.3f}")

# %%
# Timeline of the tasks
# ---------------------
# This fit makes two passes over the shards:
#
# * The first pass draws patches for the bank.
# * The second pass scores each image, for the threshold.
#
# Between the passes, one machine merges the results. A search creates one task per candidate and fold.
names = {
    "_sampled": ("fit: patches for the bank", "#009E73"),
    "_scored": ("fit: scores for the threshold", "#E69F00"),
    "_fit_and_score": ("search: candidate and fold", "#CC79A7"),
}
figure, ax = plt.subplots(figsize=(10, 2.6), layout="constrained")
workers = sorted({task["worker"] for task in tasks})
spans = [
    (span["start"], span["stop"], task["worker"], str(task["key"]))
    for task in tasks
    for span in task["startstops"]
    if span["action"] == "compute"
]
origin = min(spans)[0]
for row, worker in enumerate(workers):
    own = sorted(span for span in spans if span[2] == worker)
    ends = [start for start, *_ in own[1:]] + [np.inf]  # a worker runs one task at a time
    for (start, stop, _, key), end in zip(own, ends):
        label, color = next(looks for name, looks in names.items() if f"of_{name}_" in key)
        ax.barh(row, min(stop, end) - start, 0.8, start - origin, color=color, edgecolor="white", label=label)
ax.set(yticks=range(len(workers)), yticklabels=[f"worker {row + 1}" for row in range(len(workers))])
ax.set(xlabel="time (s)", title=f"{len(spans)} tasks on {len(workers)} workers")
handles = dict(zip(*reversed(ax.get_legend_handles_labels())))
figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)

# %%
# Use the detector
# ----------------
# The fitted detector no longer needs the cluster.
client.close()
cluster.close()
worst = test[np.argsort(-detector.score_samples(paths[test]))[[0, 1, 2, -1]]]
DefectMapDisplay.from_estimator(detector, list(paths[worst]), y[worst], masks=masks[worst])
temporary.cleanup()
