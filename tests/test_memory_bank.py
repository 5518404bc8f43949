import copy
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from sklearn_exdd import MemoryBank
from sklearn_exdd.banks import memory_bank


def random_rows(seed, *shape, dtype=np.float32):
    return np.random.RandomState(seed).normal(size=shape).astype(dtype)


def naive_kneighbors(features, X, n_neighbors):
    """Return the nearest rows and their distances, computed in double precision from differences."""
    distances = cdist(X.astype(np.float64), features.astype(np.float64))
    order = np.argsort(distances, axis=1, kind="stable")[:, :n_neighbors]
    return np.take_along_axis(distances, order, axis=1), order


# Neighbours by brute force


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n_rows", "n_queries", "n_features", "n_neighbors"),
    [(1, 5, 3, 1), (7, 4, 2, 7), (200, 333, 1, 3), (3000, 500, 16, 5), (500, 50, 300, 20), (33, 1, 8, 1)],
)
def test_the_neighbours_are_those_of_scikit_learn(n_rows, n_queries, n_features, n_neighbors, dtype):
    rows, queries = random_rows(0, n_rows, n_features, dtype=dtype), random_rows(1, n_queries, n_features, dtype=dtype)
    distances, indices = MemoryBank(rows).kneighbors(queries, n_neighbors)
    expected = NearestNeighbors(algorithm="brute").fit(rows.astype(np.float64))
    expected_distances, expected_indices = expected.kneighbors(queries.astype(np.float64), n_neighbors)
    assert distances.dtype == dtype
    assert indices.dtype == np.intp
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-5, atol=1e-5)
    # Two rows may be equally near in single precision.
    same = indices == expected_indices
    assert same.mean() > 0.999 if dtype == np.float32 else same.all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_far_from_the_origin_no_digits_are_lost(offset, dtype):
    rows, queries = random_rows(0, 800, 16, dtype=dtype) + dtype(offset), random_rows(1, 300, 16, dtype=dtype)
    queries += dtype(offset)
    distances, _ = MemoryBank(rows).kneighbors(queries, 3)
    expected, _ = naive_kneighbors(rows, queries, 3)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)


@pytest.mark.parametrize("n_neighbors", [1, 4])
def test_a_row_is_its_own_nearest_even_in_a_tight_cluster(n_neighbors):
    rng = np.random.RandomState(0)
    centers = 20 * rng.normal(size=(12, 24))
    rows = (centers[np.arange(600) % 12] + 0.01 * rng.normal(size=(600, 24))).astype(np.float32)
    distances, indices = MemoryBank(rows).kneighbors(rows, n_neighbors)
    expected, _ = naive_kneighbors(rows, rows, n_neighbors)
    np.testing.assert_array_equal(indices[:, 0], np.arange(600))
    np.testing.assert_array_equal(distances[:, 0], 0)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 40), st.integers(1, 5), st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_any_small_bank_gives_the_naive_neighbours(seed, n_rows, n_queries, n_features, data):
    rng = np.random.RandomState(seed)
    # On a grid, many distances tie. The lowest row comes first.
    rows, queries = (rng.randint(0, 4, size=(n, n_features)).astype(float) for n in (n_rows, n_queries))
    n_neighbors = data.draw(st.integers(1, n_rows))
    distances, indices = MemoryBank(rows).kneighbors(queries, n_neighbors)
    np.testing.assert_allclose(distances, naive_kneighbors(rows, queries, n_neighbors)[0], atol=1e-12)
    np.testing.assert_allclose(distances, np.linalg.norm(rows[indices] - queries[:, None], axis=2), atol=1e-12)
    assert all(len(set(own)) == n_neighbors for own in indices.tolist())


def test_numbers_whose_squares_overflow_are_refused():
    huge = np.full((3, 2), 1e25, dtype=np.float32)
    with pytest.raises(ValueError, match=r"features: expected numbers of at most .*fit into float32\), got .*Scale"):
        MemoryBank(huge)
    with pytest.raises(ValueError, match="X: expected numbers of at most"):
        MemoryBank(np.zeros((3, 2), dtype=np.float32)).kneighbors(huge)
    assert MemoryBank(huge.astype(float)).kneighbors(huge.astype(float))[0].max() == 0


def test_identical_rows_are_all_found_once_each():
    rows = np.repeat(random_rows(0, 3, 4), 20, axis=0)
    distances, indices = MemoryBank(rows).kneighbors(rows[[25]], 20)
    np.testing.assert_array_equal(distances, 0)
    assert sorted(indices[0]) == list(range(20, 40))


def test_many_queries_are_answered_as_each_alone(monkeypatch):
    rows, queries = random_rows(0, 300, 5), random_rows(1, 100, 5)
    distances, indices = MemoryBank(rows).kneighbors(queries, 3)
    for i in (0, 57, 99):
        alone = MemoryBank(rows).kneighbors(queries[[i]], 3)
        np.testing.assert_allclose(alone[0], distances[[i]], rtol=1e-6)
        np.testing.assert_array_equal(alone[1], indices[[i]])


def test_neither_rows_nor_queries_are_changed():
    rows, queries = random_rows(0, 50, 3), random_rows(1, 20, 3)
    before = rows.copy(), queries.copy()
    MemoryBank(rows, {"group": np.arange(50) % 7}).kneighbors(queries, 2, exclude=np.arange(20) % 7)
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(queries, before[1])


def test_queries_of_another_dtype_are_answered_in_that_of_the_bank():
    bank = MemoryBank(random_rows(0, 50, 3, dtype=np.float32))
    queries = random_rows(1, 20, 3, dtype=np.float64)
    assert bank.kneighbors(queries)[0].dtype == np.float32
    assert MemoryBank([[0, 1], [2, 3]]).kneighbors([[0, 1]])[0].tolist() == [[0.0]]


# Groups left out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_neighbors", [1, 4])
def test_excluding_a_group_for_each_query_equals_a_bank_without_its_rows(n_neighbors, dtype):
    rng = np.random.RandomState(0)
    rows, queries = random_rows(0, 400, 6, dtype=dtype), random_rows(1, 90, 6, dtype=dtype)
    groups, exclude = rng.randint(0, 9, size=400), rng.randint(-1, 11, size=90)
    bank = MemoryBank(rows, {"group": groups})
    distances, indices = bank.kneighbors(queries, n_neighbors, exclude=exclude)
    assert not (groups[indices] == exclude[:, None]).any()
    for group in range(-1, 11):
        kept = np.flatnonzero(groups != group)
        own = exclude == group
        expected, within = MemoryBank(rows[kept]).kneighbors(queries[own], n_neighbors)
        np.testing.assert_array_equal(indices[own], kept[within])
        np.testing.assert_allclose(distances[own], expected, rtol=1e-6)
        at_once = bank.kneighbors(queries[own], n_neighbors, exclude=group)
        np.testing.assert_array_equal(at_once[1], indices[own])


def test_rows_left_in_are_counted_for_each_group():
    bank = MemoryBank(np.zeros((6, 1)), {"group": [5, 5, 5, 2, 2, 9]})
    assert bank.n_left_without(5) == 3
    np.testing.assert_array_equal(bank.n_left_without([5, 2, 9, 0, -1, 77]), [3, 4, 5, 6, 6, 6])


@pytest.mark.parametrize("n_neighbors", [0, -1, 6, 1.0, None])
def test_a_number_of_neighbours_that_the_bank_does_not_have_is_refused(n_neighbors):
    with pytest.raises(ValueError, match=r"^n_neighbors: expected an integer in \[1, 5\] \(the number of rows\), got "):
        MemoryBank(np.eye(5)).kneighbors(np.eye(5), n_neighbors)


def test_rows_that_are_left_out_do_not_count_as_neighbours():
    bank = MemoryBank(np.eye(5), {"group": [0, 0, 0, 1, 1]})
    assert bank.kneighbors(np.eye(5)[:2], 2, exclude=0)[1].tolist() == [[3, 4]] * 2
    with pytest.raises(ValueError, match=r"expected an integer in \[1, 2\] \(the number of rows\), got 3"):
        bank.kneighbors(np.eye(5)[:2], 3, exclude=[1, 0])


# Rows and where they come from


def test_without_provenance_every_row_is_an_image_and_a_group_of_its_own():
    bank = MemoryBank(np.zeros((3, 2)))
    assert {name: values.tolist() for name, values in bank.provenance.items()} == {
        "image": [0, 1, 2],
        "row": [0.0, 0.0, 0.0],
        "column": [0.0, 0.0, 0.0],
        "group": [0, 1, 2],
        "synthetic": [False, False, False],
    }
    assert len(bank) == 3
    assert bank.n_features == 2
    assert repr(bank) == "MemoryBank(3 rows of 2 features from 3 images)"


def test_added_rows_are_found_and_are_images_of_their_own():
    bank = MemoryBank(np.zeros((2, 2)), {"image": [4, 4], "group": [7, 7], "row": [1.5, 2.5]})
    assert bank.kneighbors([[3.0, 4.0]])[0].tolist() == [[5.0]]
    assert bank.add([[3.0, 4.0], [9.0, 9.0]]) is bank
    assert [values.tolist() for values in bank.kneighbors([[3.0, 4.0]])] == [[[0.0]], [[2]]]
    assert bank.provenance["image"].tolist() == [4, 4, 8, 9]
    assert bank.provenance["group"].tolist() == [7, 7, 8, 9]
    assert bank.provenance["row"].tolist() == [1.5, 2.5, 0.0, 0.0]
    bank.add([[0.0, 0.0]], {"image": [0], "group": [0], "synthetic": [True]})
    assert bank.provenance["synthetic"].tolist() == [False] * 4 + [True]


def test_a_bank_grown_by_parts_equals_one_made_at_once():
    rows, queries = random_rows(0, 90, 4), random_rows(1, 40, 4)
    provenance = {"image": np.arange(90) // 10, "group": np.arange(90) // 30, "column": np.arange(90) / 2}
    whole = MemoryBank(rows, provenance)
    grown = MemoryBank(rows[:20], {name: values[:20] for name, values in provenance.items()})
    grown.kneighbors(queries)
    for part in (slice(20, 21), slice(21, 90)):
        grown.add(rows[part], {name: values[part] for name, values in provenance.items()})
    for name, values in whole.provenance.items():
        np.testing.assert_array_equal(grown.provenance[name], values)
        assert grown.provenance[name].dtype == values.dtype
    for exclude in (None, 1):
        for got, expected in zip(
            grown.kneighbors(queries, 3, exclude=exclude), whole.kneighbors(queries, 3, exclude=exclude)
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_adding_to_a_copy_leaves_the_original_as_it_was():
    bank = MemoryBank(np.zeros((3, 2)))
    bank.kneighbors([[1.0, 1.0]])
    grown = copy.copy(bank).add([[1.0, 1.0]])
    assert (len(bank), len(grown)) == (3, 4)
    assert bank.kneighbors([[1.0, 1.0]])[0][0, 0] == pytest.approx(np.sqrt(2))
    assert grown.kneighbors([[1.0, 1.0]])[0][0, 0] == 0
    assert len(bank.provenance["image"]) == 3


def test_a_row_tells_where_it_comes_from():
    provenance = {"image": [3, 5], "row": [3.5, 11.5], "column": [19.5, 0], "synthetic": [False, True], "group": [0, 9]}
    bank = MemoryBank(np.eye(2), provenance)
    assert bank.place(1) == {"image": 5, "patch": (11.5, 0.0), "synthetic": True}
    assert bank.place(np.intp(0)) == {"image": 3, "patch": (3.5, 19.5), "synthetic": False}


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        (
            {"image": [0, 1]},
            r"^provenance\['image'\]: expected shape \(3,\), one value per row of features, got \(2,\)",
        ),
        ({"group": [[0], [1], [2]]}, r"^provenance\['group'\]: expected shape \(3,\), .*, got \(3, 1\)"),
        ({"images": [0, 1, 2]}, r"^provenance: expected keys among \['column', .*\], also got \['images'\]"),
    ],
)
def test_provenance_that_does_not_fit_is_refused(provenance, message):
    with pytest.raises(ValueError, match=message):
        MemoryBank(np.eye(3), provenance)
    with pytest.raises(ValueError, match=message):
        MemoryBank(np.eye(3)).add(np.eye(3), provenance)


def test_rows_and_queries_of_another_width_are_refused():
    bank = MemoryBank(np.eye(3))
    with pytest.raises(ValueError, match=r"^features: expected 3 columns as in the bank, got 2"):
        bank.add(np.eye(2))
    with pytest.raises(ValueError, match=r"^X: expected 3 features as in the bank, got 2"):
        bank.kneighbors(np.eye(2))
    assert len(bank) == 3


@pytest.mark.parametrize(("value", "message"), [(np.nan, "contains NaN"), (np.inf, "contains infinity")])
def test_values_that_are_not_finite_are_refused(value, message):
    rows = np.full((2, 2), value)
    with pytest.raises(ValueError, match=message):
        MemoryBank(rows)
    with pytest.raises(ValueError, match=message):
        MemoryBank(np.eye(2)).kneighbors(rows)


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match=r"^algorithm: expected 'auto', 'brute' or 'pynndescent', got 'kd_tree'"):
        MemoryBank(np.eye(2), algorithm="kd_tree")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))])
def test_a_copied_bank_gives_the_same_answers(duplicate):
    bank = MemoryBank(random_rows(0, 60, 4), {"group": np.arange(60) % 5})
    queries = random_rows(1, 30, 4)
    expected = bank.kneighbors(queries, 3, exclude=2)
    for got, same in zip(duplicate(bank).kneighbors(queries, 3, exclude=2), expected):
        np.testing.assert_array_equal(got, same)


def test_a_pickle_holds_little_more_than_the_rows():
    bank = MemoryBank(random_rows(0, 1000, 100))
    bank.kneighbors(bank.features, 2)
    assert len(pickle.dumps(bank)) < 1.2 * bank.features.nbytes


# The index


class FakeIndex:
    """Index that answers approximately and marks neighbours that it has lost."""

    built = []

    def __init__(self, data, n_neighbors, random_state):
        self.data, self.queries, self.random_state = data, [], random_state
        FakeIndex.built.append(self)

    def prepare(self):
        pass

    def query(self, X, k):
        self.queries.append(k)
        distances, indices = naive_kneighbors(self.data, X, k)
        distances += 0.01 * np.arange(k)
        indices[0, : k // 2], distances[0, : k // 2] = -1, np.inf
        return indices.astype(np.int32), distances.astype(np.float32)


@pytest.fixture
def fake_index(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=FakeIndex))
    monkeypatch.setattr(FakeIndex, "built", [])
    return FakeIndex


def test_auto_takes_the_index_only_for_banks_above_the_limit(monkeypatch, fake_index):
    monkeypatch.setattr(memory_bank, "_BRUTE_FORCE_ROWS", 50)
    queries = random_rows(1, 20, 4)
    bank = MemoryBank(random_rows(0, 50, 4))
    bank.kneighbors(queries, 3)
    assert fake_index.built == []
    bank.add(random_rows(2, 1, 4))
    got = bank.kneighbors(queries, 3)
    bank.kneighbors(queries, 12)
    (index,) = fake_index.built
    assert index.queries == [12, 21]
    for values, expected in zip(got, MemoryBank(bank.features, algorithm="brute").kneighbors(queries, 3)):
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert len(fake_index.built) == 1
    bank.add(random_rows(3, 1, 4)).kneighbors(queries, 3)
    assert [len(index.data) for index in fake_index.built] == [51, 52]


@pytest.mark.parametrize("n_neighbors", [1, 8, 30])
def test_what_the_index_loses_is_searched_by_brute_force(fake_index, n_neighbors):
    rows, queries = random_rows(0, 200, 4), random_rows(1, 50, 4)
    groups = np.repeat([0, 1], [160, 40])  # without group 0 hardly any candidates are left
    for exclude in (None, 0):
        got = MemoryBank(rows, {"group": groups}, algorithm="pynndescent").kneighbors(
            queries, n_neighbors, exclude=exclude
        )
        expected = MemoryBank(rows, {"group": groups}).kneighbors(queries, n_neighbors, exclude=exclude)
        np.testing.assert_array_equal(got[1], expected[1])
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
    assert len(fake_index.built) == 2


@pytest.mark.slow
def test_small_banks_are_searched_without_loading_the_index():
    code = (
        "import sys, numpy as np; from sklearn_exdd import MemoryBank; "
        "MemoryBank(np.random.RandomState(0).normal(size=(9000, 4))).kneighbors(np.zeros((5, 4)), 3); "
        "print(sorted({'pynndescent', 'numba'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def on_a_manifold(rng, n_samples):
    """Return rows of 16 features that vary in 3 directions, like the patches of a single surface."""
    t = rng.uniform(0, 3, size=(n_samples, 3))
    waves = np.random.RandomState(9).normal(size=(3, 16))
    return (np.sin(t @ waves) + 0.01 * rng.normal(size=(n_samples, 16))).astype(np.float32)


@pytest.mark.slow
def test_the_index_finds_what_brute_force_finds():
    # A single test covers everything, because the index is compiled once per process, which takes a while.
    rng = np.random.RandomState(0)
    rows, queries = on_a_manifold(rng, 3000), on_a_manifold(rng, 400)
    groups = np.arange(3000) // 30
    exact = MemoryBank(rows, {"group": groups}, algorithm="brute")
    bank = MemoryBank(rows, {"group": groups}, algorithm="pynndescent", random_state=3)

    for n_neighbors in (1, 5):
        distances, indices = bank.kneighbors(queries, n_neighbors)
        expected_distances, expected = exact.kneighbors(queries, n_neighbors)
        recall = np.mean([len(set(own) & set(true)) / n_neighbors for own, true in zip(indices, expected)])
        assert recall >= 0.99
        found = indices == expected
        np.testing.assert_allclose(distances[found], expected_distances[found], rtol=1e-5)

    exclude = rng.randint(0, 100, size=400)
    _, indices = bank.kneighbors(queries, 5, exclude=exclude)
    assert not (groups[indices] == exclude[:, None]).any()
    assert (indices == exact.kneighbors(queries, 5, exclude=exclude)[1]).mean() >= 0.99

    pickled = pickle.dumps(bank)
    assert len(pickled) < 1.5 * rows.nbytes
    for same in (pickle.loads(pickled), MemoryBank(rows, {"group": groups}, algorithm="pynndescent", random_state=3)):
        for got, before in zip(same.kneighbors(queries, 5), bank.kneighbors(queries, 5)):
            np.testing.assert_array_equal(got, before)

    added = on_a_manifold(rng, 1) + 9
    _, indices = bank.add(added).kneighbors(added)
    assert indices.tolist() == [[3000]]

    for n_rows in (1, 2, 5, 12):
        few = MemoryBank(rows[:n_rows], algorithm="pynndescent")
        np.testing.assert_array_equal(few.kneighbors(queries)[1], MemoryBank(rows[:n_rows]).kneighbors(queries)[1])
    same_rows = MemoryBank(np.ones((200, 16), dtype=np.float32), algorithm="pynndescent")
    np.testing.assert_array_equal(same_rows.kneighbors(same_rows.features, 3)[0], 0)
