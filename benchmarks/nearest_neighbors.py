"""Comparison of brute force with pynndescent: the bank size from which an index pays off.

    python benchmarks/nearest_neighbors.py

For banks of increasing size, the table shows:

* the seconds to build the index
* the milliseconds to search the 1024 patches of an image of 256 x 256 pixels
* the recall of the nearest neighbour
* the number of images after which the index has saved the time of its construction, including compilation

The first builds of a process compile code. This compilation is timed separately. Times are CPU times on one thread, as
medians of five runs. Like patch features, the rows lie near a curved surface of eight dimensions, with noise.
"""

import argparse
import os
import time

import numpy as np
from threadpoolctl import threadpool_limits

from sklearn_exdd import MemoryBank

N_QUERIES = 1024


def patch_like(n_rows, n_features, rng):
    hidden = rng.standard_normal((n_rows, 8))
    weights = np.random.default_rng(0).standard_normal((8, n_features))
    return (np.tanh(hidden @ weights) + 0.05 * rng.standard_normal((n_rows, n_features))).astype(np.float32)


def seconds(function, n_runs=5):
    taken = []
    for _ in range(n_runs):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return float(np.median(taken))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 50_000, 100_000, 200_000])
    parser.add_argument("--features", type=int, nargs="+", default=[32, 384])
    arguments = parser.parse_args()
    os.environ["NUMBA_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    rng, start = np.random.default_rng(1), time.process_time()
    for n_rows in (2_000, 10_000):  # some code is compiled only for a large bank
        MemoryBank(patch_like(n_rows, 32, rng), algorithm="pynndescent").kneighbors(patch_like(100, 32, rng))
    compilation = time.process_time() - start
    print(f"import and compilation: {compilation:.0f} s")
    print("  rows features |  build s | brute ms | index ms | ratio | recall@1 | images to pay off")
    for n_features in arguments.features:
        for n_rows in arguments.sizes:
            rows, queries = patch_like(n_rows, n_features, rng), patch_like(N_QUERIES, n_features, rng)
            brute, index = (MemoryBank(rows, algorithm=name) for name in ("brute", "pynndescent"))
            build = seconds(lambda index=index, queries=queries: index.kneighbors(queries), n_runs=1)
            exact, found = brute.kneighbors(queries)[1], index.kneighbors(queries)[1]
            slow = seconds(lambda brute=brute, queries=queries: brute.kneighbors(queries))
            fast = seconds(lambda index=index, queries=queries: index.kneighbors(queries))
            pays = f"{(compilation + build) / (slow - fast):.0f}" if slow > fast else "never"
            print(
                f"{n_rows:6} {n_features:8} | {build:8.1f} | {slow * 1000:8.0f} | {fast * 1000:8.0f} "
                f"| {slow / fast:5.1f} | {np.mean(exact == found):8.3f} | {pays}",
                flush=True,
            )


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
