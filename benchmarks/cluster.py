"""Speed-up of a fit from paths: a cluster of one or two workers against a single process.

    python benchmarks/cluster.py --images 400 --backbone resnet18

The cluster consists of ``dask.distributed`` worker processes on this machine. Each worker has one thread, so a machine
with two cores has room for two workers. Times are medians of whole fits, after each worker has loaded the backbone.
Other work on the machine disturbs the wall time. CPU times are therefore also shown, for this process and for its
busiest worker. Their sum is the time of a fit if each process has its own core and does not wait. The command also
prints the pickled size of the results that the tasks return, and the size of the features of all images. The results of
all fits must be the same.
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

from sklearn_exdd import ExDDDetector
from sklearn_exdd.banks import shards


def seconds(detector, paths, n_runs, client=None):
    """Return the wall seconds of a fit, and the CPU seconds of this process and of the busiest worker."""

    def processes():
        workers = {} if client is None else client.run(time.process_time)
        return np.array([time.process_time(), *(workers[address] for address in sorted(workers))])

    taken = []
    for _ in range(n_runs):
        start, before = time.perf_counter(), processes()
        detector.fit(paths)
        own, *workers = processes() - before
        taken.append((time.perf_counter() - start, own, max(workers, default=0.0)))
    return np.median(taken, axis=0)


def handed_in(detector, paths):
    """Return the bytes of the results of all tasks of a fit, and the bytes of the largest result without banks."""
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
    parser.add_argument("--backbone", default="resnet18", help='torchvision model, or "gabor"')
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
        print("one process, one thread: {:.1f} s wall time, {:.1f} s CPU time".format(*alone), flush=True)
        for n_workers in arguments.workers:
            with (
                LocalCluster(n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
                Client(cluster) as client,
                joblib.parallel_config(backend="dask"),
            ):
                client.wait_for_workers(n_workers)
                detector.fit(paths[: 4 * arguments.shard_size])
                taken = seconds(detector, paths, arguments.runs, client)
            assert detector.threshold_ == threshold
            times = "{:.1f} s wall time, {:.1f} + {:.1f} s CPU time: ".format(*taken)
            ratios = alone[0] / taken[0], alone[1] / sum(taken[1:])
            print(f"workers: {n_workers}; {times}{ratios[0]:.2f} and {ratios[1]:.2f} times as fast", flush=True)
        n_bytes, task = handed_in(detector, paths)
        (feature_map,) = detector.feature_extractor_.transform(paths[:1])
        print(
            f"results of tasks: {n_bytes / 2**20:.0f} MiB; all features: "
            f"{len(paths) * feature_map.nbytes / 2**20:.0f} MiB; largest task: {task / 2**10:.0f} KiB"
        )


if __name__ == "__main__":
    main()
