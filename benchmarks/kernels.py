"""Timings of the inner kernels with pytest-benchmark, to reveal regressions.

    pip install "sklearn_exdd[benchmark]"
    python benchmarks/kernels.py --benchmark-save before
    python benchmarks/kernels.py --benchmark-compare 0001 --benchmark-compare-fail median:20%

Times are CPU times on one thread. All arguments except ``--help`` are passed to pytest.
"""

import argparse
import sys
from itertools import chain

import numpy as np
import pytest
from nearest_neighbors import patch_like

from sklearn_exdd import GaborFeatureExtractor, MemoryBank, TorchvisionFeatureExtractor, scoring
from sklearn_exdd.coreset import greedy_k_center, project
from sklearn_exdd.datasets import make_surface_defects


@pytest.fixture(autouse=True)
def one_thread():
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_greedy_k_center(benchmark, share):
    X = patch_like(20_000, 128, np.random.default_rng(0))
    benchmark(greedy_k_center, X, int(share * len(X)))


def test_projection(benchmark):
    X = patch_like(10_240, 1536, np.random.default_rng(0))
    benchmark(project, X, random_state=0)


@pytest.mark.parametrize("kind", ["patches", "noise"])
@pytest.mark.parametrize(("n_rows", "n_features"), [(5_000, 68), (10_240, 384), (10_240, 1536), (100_000, 50)])
def test_nearest_rows(benchmark, n_rows, n_features, kind):
    rng = np.random.default_rng(0)
    make = patch_like if kind == "patches" else lambda n, d, rng: rng.standard_normal((n, d), dtype=np.float32)
    bank = MemoryBank(make(n_rows, n_features, rng), algorithm="brute")
    benchmark(bank.kneighbors, make(1024, n_features, rng), 3)


def test_first_search_of_a_bank(benchmark):
    rng = np.random.default_rng(0)
    rows, queries = patch_like(10_240, 1536, rng), patch_like(1024, 1536, rng)
    benchmark(lambda: MemoryBank(rows).kneighbors(queries))


@pytest.mark.parametrize("name", ["gabor", "resnet18", "wide_resnet50_2"])
def test_features(benchmark, name):
    X = make_surface_defects(1, image_shape=(256, 256), random_state=0)[0]
    extractor = GaborFeatureExtractor().fit(X) if name == "gabor" else TorchvisionFeatureExtractor(name, weights=None)
    benchmark(extractor.transform, X)


def test_map_of_pixels(benchmark):
    scores, centers = np.random.default_rng(0).random((64, 64), dtype=np.float32), 3.5 + 8.0 * np.arange(64)
    benchmark(lambda: scoring.upsample(scores, centers, centers, (512, 512), 4.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, arguments = parser.parse_known_args()
    options = {
        "-n": "0",
        "--benchmark-timer": "time.process_time",
        "--benchmark-columns": "median,iqr,rounds",
        "--benchmark-storage": "results/kernels",
    }
    sys.exit(pytest.main([__file__, *chain(*options.items()), *arguments]))


if __name__ == "__main__":
    main()
