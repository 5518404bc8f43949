"""Views of an exact search: their bounds are never too large, and together they miss no neighbour."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from sklearn_exdd import MemoryBank, TorchvisionFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.neighbors import exact_search
from sklearn_exdd.neighbors.bounds import BFloat16Product, Float32Product
from sklearn_exdd.neighbors.exact_search import ExactSearch


@pytest.fixture(params=[True, False], ids=["bfloat16", "without bfloat16"])
def processor(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)


def name_of(view):
    return view.product.__name__ + ("" if view._reduction is None else ", reduced")


@pytest.fixture
def asked(monkeypatch):
    """Count the queries that each view receives."""
    counts = {}
    search = ExactSearch._search

    def counting(self, view, X, *args):
        counts[name_of(view)] = counts.get(name_of(view), 0) + len(X)
        return search(self, view, X, *args)

    monkeypatch.setattr(ExactSearch, "_search", counting)
    return counts


def noise(rng, n):
    return rng.normal(size=(n, 300))


def on_a_surface(rng, n):
    """Draw rows with few hidden dimensions, as patch features have."""
    waves = np.random.RandomState(9).normal(size=(6, 300))
    return np.tanh(rng.normal(size=(n, 6)) @ waves) + 0.02 * rng.normal(size=(n, 300))


def clusters(rng, n):
    centers = 20 * np.random.RandomState(9).normal(size=(40, 300))
    return centers[rng.randint(40, size=n)] + 0.01 * rng.normal(size=(n, 300))


def with_outliers(rng, n):
    X = on_a_surface(rng, n)
    X[:: max(1, n // 10)] *= 1e3
    return X


def far_off(rng, n):
    return 1e3 + on_a_surface(rng, n)


def repeated(rng, n):
    return on_a_surface(np.random.RandomState(3), 150)[rng.randint(150, size=n)]


def huge_numbers(rng, n):
    return 1e16 * on_a_surface(rng, n)


def on_a_grid(rng, n):
    return rng.randint(0, 3, size=(n, 300))


def constant(rng, n):
    return np.ones((n, 300))


def tiny_numbers(rng, n):
    return 1e-12 * on_a_surface(rng, n)


def of_a_backbone(rng, n):
    X = make_surface_defects(4, image_shape=(192, 192), random_state=rng.randint(100))[0]
    maps = TorchvisionFeatureExtractor("resnet18", weights=None).transform(X)
    return rng.permutation(np.concatenate([one.reshape(-1, one.shape[2]) for one in maps]))[:n]


KINDS = [
    noise,
    on_a_surface,
    clusters,
    with_outliers,
    far_off,
    repeated,
    on_a_grid,
    constant,
    tiny_numbers,
    huge_numbers,
    of_a_backbone,
]


def rows_and_queries(kind):
    rng = np.random.RandomState(0)
    return kind(rng, 1500).astype(np.float32), kind(rng, 200).astype(np.float32)


@pytest.mark.parametrize("n_neighbors", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_neighbours_are_those_of_scikit_learn(kind, n_neighbors, processor):
    rows, queries = rows_and_queries(kind)
    distances, indices = MemoryBank(rows).kneighbors(queries, n_neighbors)
    exact = cdist(queries.astype(np.float64), rows.astype(np.float64))
    peer = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(rows.astype(np.float64))
    expected = peer.kneighbors(queries.astype(np.float64))[0]
    np.testing.assert_allclose(distances, np.take_along_axis(exact, indices, axis=1), rtol=1e-5)
    # scikit-learn computes distances from norms as well.
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-6 * np.linalg.norm(rows, axis=1).max())
    assert all(len(set(own)) == n_neighbors for own in indices.tolist())


@pytest.mark.parametrize("kind", [noise, on_a_surface, of_a_backbone])
def test_the_same_rows_are_found_with_and_without_the_cheap_views(kind, processor, monkeypatch):
    rows, queries = rows_and_queries(kind)
    groups = np.arange(len(rows)) // 100
    exclude = np.random.RandomState(1).randint(-1, 17, size=len(queries))
    for options in ({}, {"exclude": 3}, {"exclude": exclude}):
        cheap = MemoryBank(rows, {"group": groups}).kneighbors(queries, 4, **options)
        with monkeypatch.context() as patch:
            patch.setattr(exact_search, "_MIN_ROWS", 10**9)
            plain = MemoryBank(rows, {"group": groups}).kneighbors(queries, 4, **options)
        for got, expected in zip(cheap, plain):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_no_view_promises_more_than_the_true_distance(kind):
    rows, queries = rows_and_queries(kind)
    center = rows.mean(axis=0)
    exact = cdist(queries.astype(np.float64), rows.astype(np.float64), "sqeuclidean")
    for reduction in (None, exact_search._Reduction):
        for product in (BFloat16Product, Float32Product):
            view = exact_search._View(rows, center, reduction, product)
            bounds = view.bounds(view.points(queries))[:, : len(rows)].double().numpy()
            assert (bounds <= product.reach(exact)).all(), name_of(view)


def test_a_view_that_settles_next_to_nothing_is_asked_no_more_and_one_that_does_is_enough(asked, processor):
    search = ExactSearch(rows_and_queries(noise)[0], np.arange(1500))
    search.kneighbors(np.random.RandomState(1).normal(size=(500, 300)).astype(np.float32), 1)
    reduced = next(name for name in asked if name.endswith("reduced"))
    assert asked.pop(reduced) == exact_search._N_PROBES
    assert next(iter(asked.values())) == 500
    asked.clear()
    rows = on_a_surface(np.random.RandomState(0), 2000).astype(np.float32)
    ExactSearch(rows[:1500], np.arange(1500)).kneighbors(rows[1500:], 1)
    assert asked[reduced] == 500
    assert sum(asked.values()) < 550


@pytest.mark.parametrize("exclude", [None, 3])
def test_a_view_is_prepared_once_more_than_a_few_queries_have_come(exclude, asked, processor):
    rows, queries = rows_and_queries(noise)
    groups, n_few = np.arange(len(rows)) // 100, exact_search._N_OUTRIGHT
    bank, prepared = MemoryBank(rows, {"group": groups}), MemoryBank(rows, {"group": groups})
    expected = prepared.kneighbors(queries, 3, exclude=exclude)
    asked.clear()
    for query in range(n_few):
        for got, all_of_them in zip(bank.kneighbors(queries[[query]], 3, exclude=exclude), expected):
            np.testing.assert_array_equal(got, all_of_them[[query]])
    assert not asked
    bank.kneighbors(queries[:1], 3, exclude=exclude)
    assert [count for name, count in asked.items() if name.endswith("reduced")] == [1]
    assert "BFloat16Product" not in asked, "no product is long for a single query"


@pytest.mark.parametrize(
    ("shape", "dtype", "first"),
    [
        ((1500, 300), "f8", "Float64Product"),
        ((1000, 300), "f4", "Float32Product"),
        ((1500, 200), "f4", "BFloat16Product"),
        ((1500, 300), "f4", "BFloat16Product, reduced"),
    ],
)
def test_the_first_view_goes_by_the_size_and_the_precision_of_the_bank(shape, dtype, first, asked, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    rows = on_a_surface(np.random.RandomState(0), shape[0])[:, : shape[1]].astype(dtype)
    MemoryBank(rows).kneighbors(rows[:100])
    assert next(iter(asked)) == first
