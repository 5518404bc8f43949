"""Accuracy of the predicted kinds of defects, in grouped cross-validation.

    python benchmarks/kinds.py FOLDER

FOLDER (or the environment variable EXDD_DATA), parts and folds are the same as in ``benchmarks/real_data.py``. The
layout of the folder must contain the kinds of defects. Accuracy is measured on the defect images that ``predict`` calls
defects. The baseline always predicts the most frequent kind of the training set.
"""

import argparse
import json
import os
import tempfile

import numpy as np
from real_data import load, splits
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from sklearn_exdd import ExDDDetector


def run(data, part, n_folds, seed, params):
    """Return the kind and the vote of each tested image, and the most frequent kind in its training set."""
    names, majority = np.full((2, len(data.X)), None, dtype=object)
    votes = np.full(len(data.X), np.nan)
    for train, test in splits(data, part, n_folds, seed):
        X, masks = ([values[i] for i in train] for values in (data.X, data.masks))
        detector = ExDDDetector(random_state=seed, **params)
        detector.fit(X, data.y[train], masks=masks, groups=data.groups[train], kinds=data.kinds[train])
        names[test], votes[test] = detector.predict_kind([data.X[i] for i in test])
        kinds, counts = np.unique(data.kinds[train][data.y[train] == 1], return_counts=True)
        majority[test] = kinds[np.argmax(counts)]
    return names, votes, majority


def report(kinds, names, votes, majority):
    """Print accuracy and confusion matrix of the defects found. `names` has None for a missed defect."""
    found = np.array([name is not None for name in names])
    kinds, names, votes, majority = kinds[found].astype(str), names[found].astype(str), votes[found], majority[found]
    is_right = kinds == names
    print(f"{found.sum()} of {len(found)} defects found")
    print(f"correct kind: {is_right.mean():.3f}; by the majority class: {np.mean(kinds == majority):.3f}")
    print(f"mean recall of the kinds: {balanced_accuracy_score(kinds, names):.3f}")
    sure = votes >= np.median(votes)
    print(
        f"correct kind if the vote is at least the median, {np.median(votes):.2f}: {is_right[sure].mean():.3f}; "
        f"below: {is_right[~sure].mean() if (~sure).any() else np.nan:.3f}"
    )
    labels = np.unique(np.concatenate([kinds, names]))
    width = max(map(len, labels)) + 2
    print("rows: true kind, columns: predicted kind".ljust(width))
    print("".ljust(width) + "".join(label.rjust(width) for label in labels))
    for label, row in zip(labels, confusion_matrix(kinds, names, labels=labels)):
        print(label.ljust(width) + "".join(str(count).rjust(width) for count in row))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EXDD_DATA"))
    parser.add_argument("--part", choices=["report", "development", "all"], default="report")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--params", type=json.loads, default={}, help="further parameters of ExDDDetector, as JSON")
    arguments = parser.parse_args()
    if arguments.folder is None:
        raise SystemExit("Pass a folder of images, or set EXDD_DATA. " + __doc__)
    data = load(arguments.folder)
    with tempfile.TemporaryDirectory() as cache:
        params = {"memory": cache, **arguments.params}
        names, votes, majority = run(data, arguments.part, arguments.folds, arguments.seed, params)
    tested = (data.y == 1) & ~np.isnan(votes)
    report(data.kinds[tested], names[tested], votes[tested], majority[tested])


if __name__ == "__main__":
    main()
