"""
A cluster with Dask
===================

A fit over more pictures than one machine should read is a number of tasks for ``joblib``, and so is
a search. Where they run is said outside the detector: here on two worker processes of Dask. The
result is the same, bit for bit.
"""

# %%
# Files that every worker can read
# --------------------------------
# What travels is paths, not pictures; on real machines the folder is a shared one.
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
# ``pip install "sklearn_exdd[cluster]"`` brings Dask. Here both workers are processes on this
# machine. On several machines, ``dask scheduler`` runs on one and ``dask worker ADDRESS`` on the
# others, and only the client is another one: ``Client("tcp://ADDRESS")``.
cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
client.run(ExDDDetector().fit, X[:4])  # each worker loads the library now, and not in its first task
client.get_task_stream()  # from now on the tasks are recorded, for the picture below

# %%
# Fit and search
# --------------
# ``shard_size`` is the number of pictures in a task. Left at "auto", features are kept where they
# take less than 1 GiB, as these do, and a fit is no task for others.
detector = ExDDDetector(shard_size=8, random_state=0)
search = GridSearchCV(ExDDDetector(random_state=0), {"epsilon": ["scale", 1e-6]}, scoring="average_precision", cv=3)
with joblib.parallel_config(backend="dask"):
    detector.fit(paths[train], y[train], masks=masks[train])
    search.fit(paths[train], y[train])
tasks = client.get_task_stream()

alone = clone(detector).fit(paths[train], y[train], masks=masks[train])
same = np.array_equal(alone.score_samples(paths[test]), detector.score_samples(paths[test]))
print("The scores of a fit on one machine are the same:", same)
for candidate, precision in zip(search.cv_results_["params"], search.cv_results_["mean_test_score"]):
    print(f"{candidate}: average precision {precision:.3f}")

# %%
# Who did what, and when
# ----------------------
# A fit goes over the shards four times: to learn the scale of the features, to draw patches for
# the bank, to learn the scale without some of the images, and to score each image for the
# threshold. Between two passes one machine joins the results. A search hands out a task for each
# candidate and fold.
names = {
    "_on_images": ("fit: features", "#56B4E9"),
    "_sampled": ("fit: patches for the bank", "#009E73"),
    "_moments_of_folds": ("fit: features without a fold", "#0072B2"),
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
    ends = [start for start, *_ in own[1:]] + [np.inf]  # a worker does one task at a time
    for (start, stop, _, key), end in zip(own, ends):
        label, color = next(looks for name, looks in names.items() if f"of_{name}_" in key)
        ax.barh(row, min(stop, end) - start, 0.8, start - origin, color=color, edgecolor="white", label=label)
ax.set(yticks=range(len(workers)), yticklabels=[f"worker {row + 1}" for row in range(len(workers))])
ax.set(xlabel="time (s)", title=f"{len(spans)} tasks on {len(workers)} workers")
handles = dict(zip(*reversed(ax.get_legend_handles_labels())))
figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)

# %%
# The detector is an ordinary one
# -------------------------------
# It needs no cluster any more.
client.close()
cluster.close()
worst = test[np.argsort(-detector.score_samples(paths[test]))[[0, 1, 2, -1]]]
DefectMapDisplay.from_estimator(detector, list(paths[worst]), y[worst], masks=masks[worst])
temporary.cleanup()
