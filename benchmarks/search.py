"""What a grid search costs, as a multiple of one fit and one prediction of all images, in CPU time.

    python benchmarks/search.py --images 100 --size 256

24 candidates (number of synthetic defects, neighbours, epsilon) in five folds, with ``memory=``, on generated surfaces.
"""

import argparse
import tempfile
import time

from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_exdd import CutPasteDefectAugmenter, ExDDDetector
from sklearn_exdd.datasets import make_surface_defects

CANDIDATES = {
    "cutpastedefectaugmenter__n_synthetic": [0, 50, 100, 200],
    "exdddetector__n_neighbors": [1, 3],
    "exdddetector__epsilon": ["scale", 1e-2, 1.0],
}


def pipeline(memory=None):
    detector = ExDDDetector(memory=memory, random_state=0)
    return make_pipeline(CutPasteDefectAugmenter(random_state=0), detector, memory=memory)


def cpu_seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="side of an image, in pixels")
    arguments = parser.parse_args()
    shape = (arguments.size, arguments.size)
    X, y, _ = make_surface_defects(arguments.images, image_shape=shape, random_state=0)
    pipeline().fit(X[:10], y[:10])  # imports, and whatever else only the first fit pays
    once = min(cpu_seconds(lambda: pipeline().fit(X, y).predict(X)) for _ in range(3))
    with tempfile.TemporaryDirectory() as cache:
        search = GridSearchCV(pipeline(cache), CANDIDATES, scoring="roc_auc", cv=5, refit=False, error_score="raise")
        whole = cpu_seconds(lambda: search.fit(X, y))
    print(f"one fit and prediction {once:.1f} s, the search {whole:.1f} s: {whole / once:.1f} times as much")


if __name__ == "__main__":
    main()
