from itertools import pairwise
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from sklearn_exdd import coreset
from sklearn_exdd.coreset import greedy_k_center, project
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import GaborFeatureExtractor
from sklearn_exdd.neighbors.bounds import BFloat16Product, Float32Product, Float64Product


def naive_greedy_k_center(X, n_select, start=0):
    """Select rows by the textbook loop, with one pass over all rows per selected row."""
    X = np.asarray(X, dtype=np.float64)
    selected, nearest = [start], ((X - X[start]) ** 2).sum(axis=1)
    while len(selected) < n_select:
        nearest[selected] = -1
        best = int(np.argmax(nearest))
        selected.append(best)
        nearest = np.minimum(nearest, ((X - X[best]) ** 2).sum(axis=1))
    return np.array(selected)


def cover_radii(X, selected):
    """Return the largest distance of any row to the nearest of the first 1, 2, ... selected rows."""
    return np.minimum.accumulate(cdist(X[selected], X), axis=0).max(axis=1)


def clusters(rng, n_samples, n_features):
    """Draw tight clusters that are far apart, so that distances have two very different sizes."""
    centers = 10 * rng.normal(size=(20, n_features))
    return centers[rng.randint(20, size=n_samples)] + 0.05 * rng.normal(size=(n_samples, n_features))


def one_outlier(rng, n_samples, n_features):
    X = rng.normal(size=(n_samples, n_features))
    X[n_samples // 2] = 1e3
    return X


def heavy_tails(rng, n_samples, n_features):
    return rng.standard_t(1.5, size=(n_samples, n_features))


def on_a_curve(rng, n_samples, n_features):
    t = np.sort(rng.uniform(0, 10, n_samples))[:, None]
    return np.sin(t * np.arange(1, n_features + 1) / 3 + np.arange(n_features))


KINDS = [
    lambda rng, *shape: rng.normal(size=shape),
    lambda rng, *shape: 1e3 + rng.uniform(size=shape),
    clusters,
    one_outlier,
    heavy_tails,
    on_a_curve,
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n_samples", "n_features", "n_select"), [(1, 3, 1), (50, 1, 20), (900, 8, 900), (4000, 2, 150), (3000, 40, 200)]
)
@pytest.mark.parametrize("kind", KINDS, ids=["normal", "far off", "clusters", "outlier", "heavy tails", "curve"])
def test_the_selection_is_that_of_the_textbook_loop_row_for_row(kind, n_samples, n_features, n_select, dtype):
    X = kind(np.random.RandomState(0), n_samples, n_features).astype(dtype)
    np.testing.assert_array_equal(greedy_k_center(X, n_select), naive_greedy_k_center(X, n_select))


@pytest.mark.parametrize("product", [BFloat16Product, Float32Product, Float64Product])
@pytest.mark.parametrize("kind", KINDS)
def test_the_selection_is_the_same_with_any_precision_of_the_bounds(kind, product, monkeypatch):
    monkeypatch.setattr(coreset, "products", lambda X: [product])
    X = kind(np.random.RandomState(6), 1200, 20).astype(np.float32)
    np.testing.assert_array_equal(greedy_k_center(X, 300), naive_greedy_k_center(X, 300))


@pytest.mark.slow
def test_where_rounded_bounds_leave_too_many_pairs_tighter_ones_go_on(monkeypatch):
    monkeypatch.setattr(coreset, "products", lambda X: [BFloat16Product, Float32Product, Float64Product])
    used, tensor = [], Float32Product._tensor
    monkeypatch.setattr(Float32Product, "_tensor", lambda *columns: used.append(len(columns[0])) or tensor(*columns))
    X = clusters(np.random.RandomState(0), 6000, 40).astype(np.float32)
    np.testing.assert_array_equal(greedy_k_center(X, 1500), naive_greedy_k_center(X, 1500))
    assert used


@given(
    st.integers(0, 10_000),
    st.integers(2, 60),
    st.integers(1, 6),
    st.sampled_from([np.float32, np.float64]),
    st.data(),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_any_small_selection_is_that_of_the_textbook_loop(seed, n_samples, n_features, dtype, data):
    X = np.random.RandomState(seed).normal(size=(n_samples, n_features)).astype(dtype)
    n_select = data.draw(st.integers(1, n_samples))
    start = data.draw(st.integers(0, n_samples - 1))
    np.testing.assert_array_equal(
        greedy_k_center(X, n_select, start=start), naive_greedy_k_center(X, n_select, start=start)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_copies", [2, 5])
def test_duplicates_are_taken_last_and_the_lowest_index_first(dtype, n_copies):
    rng = np.random.RandomState(0)
    X = np.tile(rng.normal(size=(60, 5)), (n_copies, 1)).astype(dtype)[rng.permutation(60 * n_copies)]
    selected = greedy_k_center(X, len(X))
    np.testing.assert_array_equal(selected, naive_greedy_k_center(X, len(X)))
    assert len(np.unique(X[selected[:60]], axis=0)) == 60
    np.testing.assert_array_equal(selected[60:], np.sort(selected[60:]))


def test_identical_rows_are_selected_in_their_order():
    np.testing.assert_array_equal(greedy_k_center(np.full((50, 3), 0.1), 50, start=2)[:5], [2, 0, 1, 3, 4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(3))
def test_where_distances_tie_the_lowest_index_wins(seed, dtype):
    X = np.random.RandomState(seed).randint(0, 7, size=(1500, 3)).astype(dtype)
    np.testing.assert_array_equal(greedy_k_center(X, 300), naive_greedy_k_center(X, 300))


@pytest.mark.parametrize("n_components", [None, 32])
def test_on_features_of_surfaces_the_selection_is_that_of_the_textbook_loop(n_components):
    X, _, _ = make_surface_defects(6, image_shape=(160, 160), random_state=0)
    maps = GaborFeatureExtractor().fit_transform(X)
    patches = np.concatenate([feature_map.reshape(-1, feature_map.shape[2]) for feature_map in maps])
    if n_components is not None:
        patches = project(patches, n_components, random_state=0)
    assert len(patches) == 2400
    np.testing.assert_array_equal(
        greedy_k_center(patches, 240, start=1000), naive_greedy_k_center(patches, 240, start=1000)
    )


@pytest.mark.parametrize("start", [0, 7, 2999])
def test_the_selection_starts_where_told_and_repeats_no_row(start):
    X = np.random.RandomState(1).normal(size=(3000, 4)).astype(np.float32)
    selected = greedy_k_center(X, 1500, start=start)
    assert selected.dtype == np.intp
    assert selected.shape == (1500,)
    assert selected[0] == start
    assert len(set(selected.tolist())) == 1500


def test_a_shorter_selection_is_the_beginning_of_a_longer_one():
    X = np.random.RandomState(2).normal(size=(2500, 6))
    longest = greedy_k_center(X, 2500)
    assert sorted(longest) == list(range(2500))
    for n_select in (1, 2, 33, 1025):
        np.testing.assert_array_equal(greedy_k_center(X, n_select), longest[:n_select])


@pytest.mark.parametrize("kind", [clusters, heavy_tails, on_a_curve])
def test_each_row_selected_is_the_farthest_and_brings_the_cover_nearer(kind):
    X = kind(np.random.RandomState(3), 800, 5)
    selected = greedy_k_center(X, 100)
    radii = cover_radii(X, selected)
    assert all(later <= earlier for earlier, later in pairwise(radii))
    gaps = [cdist(X[selected[:n]], X[selected[[n]]]).min() for n in range(1, 100)]
    np.testing.assert_allclose(gaps, radii[:-1], rtol=1e-6)


def test_the_cover_is_at_most_twice_the_best_possible():
    X = np.random.RandomState(4).uniform(size=(14, 2))
    selected = greedy_k_center(X, 3)
    distances = cdist(X, X)
    best = min(distances[[i, j, k]].min(axis=0).max() for i in range(14) for j in range(i) for k in range(j))
    assert cover_radii(X, selected)[-1] <= 2 * best


def best_time(function, *arguments):
    """Return the lowest CPU time of three calls; the time of other processes does not count."""
    times = []
    for _ in range(3):
        start = process_time()
        function(*arguments)
        times.append(process_time() - start)
    return min(times)


@pytest.mark.parametrize("kind", [clusters, one_outlier])
def test_no_kind_of_rows_makes_the_selection_much_slower_than_the_textbook_loop(kind):
    X = kind(np.random.RandomState(0), 3000, 4).astype(np.float32)
    assert best_time(greedy_k_center, X, 300) < 10 * best_time(naive_greedy_k_center, X, 300)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rows_given_are_not_changed(dtype):
    X = np.random.RandomState(5).normal(size=(300, 3)).astype(dtype)
    before = X.copy()
    greedy_k_center(X, 50)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("n_select", [0, 11, -1, 2.0, 0.5, "all", None])
def test_a_number_of_rows_that_cannot_be_selected_is_refused(n_select):
    with pytest.raises(ValueError, match=r"^n_select: expected an integer in \[1, 10\] for 10 rows, got "):
        greedy_k_center(np.eye(10), n_select)


@pytest.mark.parametrize("start", [-1, 10, 0.0])
def test_a_start_that_is_no_row_is_refused(start):
    with pytest.raises(ValueError, match=r"^start: expected an integer in \[0, 9\] for 10 rows, got "):
        greedy_k_center(np.eye(10), 3, start=start)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "contains NaN"), (np.inf, "contains infinity")])
def test_rows_that_are_not_finite_are_refused(value, message):
    X = np.ones((4, 2))
    X[2, 1] = value
    with pytest.raises(ValueError, match=message):
        greedy_k_center(X, 2)


# Projection


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_double_precision_holds_what_single_precision_cannot(scale):
    X = scale * np.random.RandomState(7).normal(size=(400, 6))
    np.testing.assert_array_equal(greedy_k_center(X, 60), naive_greedy_k_center(X / scale, 60))


def test_numbers_whose_squares_overflow_are_refused():
    with pytest.raises(ValueError, match=r"X: expected numbers of at most .*fit into float32\), got 1.0e\+25"):
        greedy_k_center(np.array([[0], [1e25]], dtype=np.float32), 1)


def test_rows_of_few_dimensions_are_not_projected():
    X = np.random.RandomState(0).normal(size=(20, 128))
    assert project(X, random_state=0) is X


def test_a_projection_keeps_distances_about_and_follows_its_seed():
    X = np.random.RandomState(0).normal(size=(60, 1536)).astype(np.float32)
    projected = project(X, random_state=3)
    assert projected.shape == (60, 128)
    ratios = (cdist(projected, projected) / cdist(X, X).clip(1e-9))[np.triu_indices(60, 1)]
    # A squared ratio is chi-squared / 128, with standard deviation 1 / 8; that of the ratio itself is 1 / 16.
    assert abs(ratios.mean() - 1) < 0.03
    assert abs(ratios - 1).max() < 5 / 16
    np.testing.assert_array_equal(project(X, random_state=3), projected)
    assert not np.allclose(project(X, random_state=4), projected)
    assert project(X, 7, random_state=0).shape == (60, 7)
