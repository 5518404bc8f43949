"""How much faster a fit from paths is on a cluster of one and of two workers than on one machine.

    python benchmarks/cluster.py --images 400 --backbone resnet18

The cluster is one of ``dask.distributed``: worker processes of one thread each on this machine, so a machine of two
cores has room for two. Wall clock of whole fits, medians; before, each worker has loaded the backbone. What the tasks
hand in is counted as pickled bytes, beside what the features of all images would take. The fits must agree.
"""

import argparse
import pickle
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from distributed import Client, LocalCluster
from memory import extractor_of, written

from sklearn_exdd import ExDDDetector, shards


def seconds(detector, paths, n_runs):
    taken = []
    for _ in range(n_runs):
        start = time.perf_counter()
        detector.fit(paths)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def handed_in(detector, paths):
    """Bytes that the tasks of a fit hand in, and bytes of the largest task without the banks."""
    sizes = [[], []]

    class Counting(joblib.Parallel):
        def __call__(self, tasks):
            results = []
            for function, args, kwargs in tasks:
                sizes[1].append(len(pickle.dumps(args[:2])))
                results.append(function(*args, **kwargs))
                sizes[0].append(len(pickle.dumps(results[-1])))
            return results

    parallel, shards.Parallel = shards.Parallel, Counting
    try:
        detector.fit(paths)
    finally:
        shards.Parallel = parallel
    return sum(sizes[0]), max(sizes[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--backbone", default="resnet18", help='a torchvision model, or "gabor"')
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--coreset", choices=["random", "greedy"], default="random")
    parser.add_argument("--shard-size", type=int, default=25)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    detector = ExDDDetector(
        extractor_of(arguments), coreset=arguments.coreset, shard_size=arguments.shard_size, random_state=0
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder), arguments.images)
        alone = seconds(detector, paths, arguments.runs)
        threshold = detector.threshold_
        print(f"one process, one thread: {alone:.1f} s")
        for n_workers in arguments.workers:
            with (
                LocalCluster(n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
                Client(cluster),
                joblib.parallel_config(backend="dask"),
            ):
                detector.fit(paths[: 4 * arguments.shard_size])
                taken = seconds(detector, paths, arguments.runs)
            assert detector.threshold_ == threshold
            print(f"{n_workers} workers: {taken:.1f} s, {alone / taken:.2f} times as fast as one process", flush=True)
        n_bytes, task = handed_in(detector, paths)
        (feature_map,) = detector.feature_extractor_.transform(paths[:1])
        print(
            f"handed in: {n_bytes / 2**20:.0f} MiB, of {len(paths) * feature_map.nbytes / 2**20:.0f} MiB of features; "
            f"largest task: {task / 2**10:.0f} KiB"
        )


if __name__ == "__main__":
    main()
