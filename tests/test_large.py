"""Fits on more images than memory holds, in several processes and on several machines."""

import itertools
import os
import pickle
import signal
import threading
import time
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
from conftest import CellStatistics
from sklearn.metrics import pairwise_distances_argmin_min, roc_auc_score
from sklearn.model_selection import GridSearchCV

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor
from sklearn_exdd._images import Images
from sklearn_exdd.banks import normal_patches, shards
from sklearn_exdd.coreset import greedy_k_center
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.features import make_feature_extractor

PATIENCE = 300  # seconds to wait for a thread or a process before it counts as missing


@pytest.fixture
def few_sampled(monkeypatch):
    """Make the samples small, so that they are true samples even of small images."""
    monkeypatch.setattr(shards, "_N_SAMPLED", 300)


def patches_of(detector, images):
    maps = detector.feature_extractor_.transform(images)
    return [one.reshape(-1, one.shape[2]).astype(np.float64) for one in maps]


def distances(queries, rows):
    return np.sqrt(((queries[:, None, :] - rows[None]) ** 2).sum(axis=2))


def assert_same_fit(first, second, X, **tolerance):
    same = partial(np.testing.assert_allclose, **tolerance) if tolerance else np.testing.assert_array_equal
    for name in ("threshold_", "false_alarm_rate_", "epsilon_", "_normal_cutoff", "border_profile_"):
        same(getattr(first, name), getattr(second, name), err_msg=name)
    for name, values in first.normal_bank_.provenance.items():
        np.testing.assert_array_equal(values, second.normal_bank_.provenance[name])
    same(first.normal_bank_.features, second.normal_bank_.features)
    same(first.score_samples(X), second.score_samples(X))


# Results


@pytest.mark.slow
@pytest.mark.parametrize("coreset", ["random", "greedy"])
def test_up_to_one_shard_nothing_changes(coreset, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    detector = ExDDDetector("gabor", coreset=coreset, normal_coreset=200, random_state=0)
    expected = detector.fit(X, y, masks=masks)
    for size in ((y == 0).sum(), 1000):
        again = ExDDDetector("gabor", coreset=coreset, normal_coreset=200, random_state=0, shard_size=int(size))
        assert_same_fit(again.fit(X, y, masks=masks), expected, unseen_surfaces[0])


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"coreset": "greedy"}, {"image_score": "exdd"}], ids=str)
@pytest.mark.usefixtures("few_sampled")
def test_neither_the_shards_nor_the_processes_change_a_fit(params, cells, surfaces, unseen_surfaces, write_images):
    X, y, masks = surfaces
    paths = write_images(X)
    params = {"normal_coreset": 0.2, "random_state": 0, **params}
    expected = ExDDDetector("gabor", shard_size=5, **params).fit(X, y, masks=masks)
    processes = ExDDDetector("gabor", shard_size=5, n_jobs=2, **params).fit(paths, y, masks=masks)
    assert_same_fit(processes, expected, unseen_surfaces[0])
    # The rounding of features depends on the batches, and the sums behind whitening on the shards. The rest is equal.
    others = ExDDDetector("gabor", shard_size=3, **params).fit(X, y, masks=masks)
    assert_same_fit(others, expected, unseen_surfaces[0], rtol=1e-4, atol=1e-4)
    sizes = [ExDDDetector(cells, shard_size=size, **params).fit(X, y, masks=masks) for size in (1, 5)]
    assert_same_fit(*sizes, unseen_surfaces[0])


def test_what_is_found_on_shards_is_what_their_banks_give(surfaces):
    X, y, masks = surfaces
    detector = ExDDDetector(
        GaborFeatureExtractor(whiten=False),
        normal_coreset=300,
        n_neighbors=2,
        n_top_patches=3,
        border_rings=0,
        max_false_alarm_rate=0.25,
        shard_size=4,
        random_state=0,
    ).fit(X, y, masks=masks)
    bank, normal, defect, scores = detector.normal_bank_, [], [], []
    patches = patches_of(detector, X[y == 0])
    for image, own in zip(np.flatnonzero(y == 0), patches):
        rest = bank.features[bank.provenance["image"] != image]
        normal.append(np.sort(distances(own, rest), axis=1)[:, :2].mean(axis=1))
        defect.append(np.sort(distances(own, detector.defect_bank_.features), axis=1)[:, :2].mean(axis=1))
    # The sample contains all patches here.
    assert detector.epsilon_ == pytest.approx(0.5 * np.median(defect), rel=1e-4)
    assert detector._normal_cutoff == pytest.approx(np.quantile(normal, 0.99), rel=1e-4)
    for i, (own_normal, own_defect) in enumerate(zip(normal, defect)):
        epsilon = 0.5 * np.median(np.delete(defect, i, axis=0))
        scores.append(np.sort(own_normal / (own_defect + epsilon))[-3:].mean())
    assert detector.threshold_ == pytest.approx(np.sort(scores)[int(np.ceil(0.75 * 17)) - 1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("few_sampled")
def test_a_sample_stands_for_all_patches():
    X, y, masks = make_surface_defects(60, defect_fraction=0.2, image_shape=(96, 96), random_state=0)
    X_test, y_test, _ = make_surface_defects(40, defect_fraction=0.5, image_shape=(96, 96), random_state=1)
    whole, parts = (
        ExDDDetector("gabor", normal_coreset=2000, shard_size=size, random_state=0).fit(X, y, masks=masks)
        for size in (48, 8)
    )
    assert parts.epsilon_ == pytest.approx(whole.epsilon_, rel=0.1)
    assert parts._normal_cutoff == pytest.approx(whole._normal_cutoff, rel=0.1)
    assert parts.threshold_ == pytest.approx(whole.threshold_, rel=0.1)
    aucs = [roc_auc_score(y_test, detector.score_samples(X_test)) for detector in (whole, parts)]
    assert aucs[1] > aucs[0] - 0.03
    assert np.corrcoef(whole.score_samples(X_test), parts.score_samples(X_test))[0, 1] > 0.98


@pytest.mark.usefixtures("few_sampled")
def test_groups_are_left_out_on_shards_too(squares, cells):
    X, y, _ = squares
    X = np.concatenate([X[y == 0]] * 2)
    alone, together = (
        ExDDDetector(cells, normal_coreset=1.0, shard_size=5).fit(X, groups=groups).threshold_
        for groups in (None, np.tile(np.arange(12), 2))
    )
    assert alone == pytest.approx(0, abs=1e-6), "each image has a duplicate"
    assert together > 1e-4


@pytest.mark.parametrize("coreset", ["random", "greedy"])
@pytest.mark.parametrize(("size", "expected"), [(1.0, 768), (0.1, 77), (1e-3, 1), (70, 70), (700, 700), (10**6, 768)])
@pytest.mark.usefixtures("few_sampled")
def test_a_coreset_of_shards_has_the_size_asked_for(coreset, size, expected, squares, cells):
    X, y, _ = squares
    bank = (
        ExDDDetector(cells, coreset=coreset, normal_coreset=size, shard_size=5, random_state=0)
        .fit(X[y == 0])
        .normal_bank_
    )
    rows = {tuple(row) for row in np.column_stack([bank.provenance[name] for name in ("image", "row", "column")])}
    assert len(bank) == len(rows) == expected
    for row in range(0, expected, 50):
        image = X[y == 0][bank.provenance["image"][row]]
        (feature_map,) = cells.transform([image])
        place = [int((bank.provenance[name][row] - 3.5) / 8) for name in ("row", "column")]
        np.testing.assert_array_equal(bank.features[row], feature_map[tuple(place)])


@pytest.mark.parametrize("coreset", ["random", "greedy"])
@pytest.mark.parametrize("value", [0, 128])
@pytest.mark.usefixtures("few_sampled")
def test_patches_that_are_all_the_same_fill_a_bank(coreset, value, cells):
    X = np.full((20, 64, 64), value, dtype=np.uint8)
    X[3, 30:40, 30:40] = 255
    detector = ExDDDetector(cells, coreset=coreset, normal_coreset=100, shard_size=5, random_state=0).fit(X)
    assert len(detector.normal_bank_) == 100
    assert np.isfinite(detector.score_samples(X)).all()


@pytest.mark.parametrize("size", [500, 0.1], ids=str)
@pytest.mark.usefixtures("few_sampled")
def test_images_of_other_sizes_than_the_first_make_no_difference_to_the_size(size, cells):
    rng = np.random.RandomState(0)
    # The large images are not among those from which the number of patches is estimated.
    sides = [24] * 50
    sides[3], sides[11] = 240, 320
    images = [rng.randint(0, 255, (side, side)).astype(np.uint8) for side in sides]
    n_patches = sum((side // 8) ** 2 for side in sides)
    detector = ExDDDetector(cells, normal_coreset=size, shard_size=7, random_state=0).fit(images)
    assert len(detector.normal_bank_) == (size if size == 500 else np.ceil(size * n_patches))
    shares = np.bincount(detector.normal_bank_.provenance["image"], minlength=50) / len(detector.normal_bank_)
    assert shares[11] == pytest.approx(1600 / n_patches, abs=0.08), "every patch has the same chance"


@pytest.mark.slow
def test_a_random_coreset_of_shards_is_even_over_images_and_places(cells):
    X = np.random.RandomState(0).randint(0, 255, (40, 64, 64)).astype(np.uint8)
    counts = np.zeros((40, 64))
    for seed in range(30):
        bank = ExDDDetector(cells, normal_coreset=256, shard_size=9, random_state=seed).fit(X).normal_bank_
        place = (bank.provenance["row"] // 8 * 8 + bank.provenance["column"] // 8).astype(int)
        np.add.at(counts, (bank.provenance["image"], place), 1)
    # Each of 2560 patches is in a tenth of the banks: 192 per image (standard deviation 13) and 120 per place (10).
    assert abs(counts.sum(axis=1) - 192).max() < 4 * 13.2
    assert abs(counts.sum(axis=0) - 120).max() < 4 * 10.4


@pytest.mark.slow
@pytest.mark.parametrize("odd", [False, True], ids=["clean", "with an odd image"])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_greedy_coreset_of_shards_covers_as_one_piece_does(odd, share, monkeypatch):
    monkeypatch.setattr(shards, "_N_SAMPLED", 1500)
    X, _, _ = make_surface_defects(32, defect_fraction=0, image_shape=(192, 192), random_state=0)
    if odd:
        X[7, :64, :64] = np.random.RandomState(0).randint(0, 256, (64, 64))
    detector = ExDDDetector("gabor", coreset="greedy", normal_coreset=share, shard_size=4, random_state=0).fit(X)
    patches = np.concatenate(patches_of(detector, X))
    assert len(detector.normal_bank_) == np.ceil(share * len(patches))
    radius = detector.normal_bank_.kneighbors(patches)[0].max()
    one_piece = greedy_k_center(patches, len(detector.normal_bank_))
    assert radius < 1.05 * pairwise_distances_argmin_min(patches, patches[one_piece])[1].max()


def test_more_than_fits_is_cut_into_shards_of_itself(squares, cells, monkeypatch):
    X, y, _ = squares
    made, init = [], shards.Shards.__init__

    def watched(self, *args, **params):
        made.append(params["size"])
        init(self, *args, **params)

    monkeypatch.setattr(shards.Shards, "__init__", watched)
    monkeypatch.setattr(normal_patches, "_SHARD_SIZE", 5)
    monkeypatch.setattr(normal_patches, "_MAX_BYTES", 12 * 64 * 4 * 4)
    ExDDDetector(cells).fit(X[y == 0])
    assert made == []
    monkeypatch.setattr(normal_patches, "_MAX_BYTES", 12 * 64 * 4 * 4 - 1)
    detector = ExDDDetector(cells, random_state=0).fit(X[y == 0])
    assert made == [5]
    assert_same_fit(detector, ExDDDetector(cells, random_state=0, shard_size=2).fit(X[y == 0]), X)


@pytest.mark.usefixtures("few_sampled")
def test_corrections_go_on_from_the_images_whose_patches_were_kept(squares, unseen_squares, cells, monkeypatch):
    X, y, masks = squares
    monkeypatch.setattr(shards, "_N_CALIBRATING", 5)
    detector = ExDDDetector(cells, normal_coreset=200, max_false_alarm_rate=0.3, shard_size=4, random_state=0)
    detector.fit(X, y, masks=masks)
    assert len(set(detector._calibration.provenance["image"])) == 5
    before = detector.threshold_
    alarm = unseen_squares[0][unseen_squares[1] == 1][:1]
    assert detector.predict(alarm) == [1]
    detector.partial_fit(alarm, [0])
    assert len(set(detector._calibration.provenance["image"])) == 6
    assert detector.score_samples(alarm) < before


# Extractors


@pytest.mark.slow
def test_whitening_learned_on_shards_is_that_of_all_images(surfaces):
    X = surfaces[0]
    whole, parts = (ExDDDetector("gabor", shard_size=size).fit(X).feature_extractor_ for size in (24, 5))
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-4, atol=1e-6)
    assert parts.n_features_out_ == whole.n_features_out_
    maps = [np.concatenate([one.ravel() for one in extractor.transform(X)]) for extractor in (whole, parts)]
    np.testing.assert_allclose(np.abs(maps[1]), np.abs(maps[0]), atol=1e-2)


def test_an_extractor_stops_where_its_maps_take_too_much(surfaces):
    X = Images(surfaces[0])
    extractor = make_feature_extractor("gabor")
    n_bytes = sum(one.nbytes for one in make_feature_extractor("gabor").set_params(whiten=False).fit_transform(X))
    assert extractor._fit_transform_within(X, n_bytes - 1) is None
    assert not hasattr(extractor, "mean_")
    assert len(extractor._fit_transform_within(X, n_bytes)) == len(X)


@pytest.mark.usefixtures("few_sampled")
def test_an_extractor_that_learns_is_fitted_once_before_the_shards(squares, cells):
    X, y, masks = squares
    seen = []

    class LearningCells(type(cells)):
        learns_from_defects, learns_from_normals = True, False

        def fit_transform(self, X, y=None, *, masks=None):
            seen.append((len(X), y, masks))
            return super().fit_transform(X)

    detector = ExDDDetector(LearningCells(), shard_size=5, random_state=0).fit(X, y, masks=masks)
    ((n_images, labels, seen_masks),) = seen
    assert (n_images, labels) == (18, [0] * 12 + [1] * 6)
    assert seen_masks[:12] == [None] * 12
    assert_same_fit(detector, ExDDDetector(cells, shard_size=5, random_state=0).fit(X, y, masks=masks), X)


class Shifted:
    """Foreign extractor that learns."""

    def fit(self, images):
        self.mean_ = np.mean([image.mean() for image in images])

    def transform(self, images):
        return images[:, ::8, ::8] - self.mean_


def test_foreign_extractors_go_over_shards(squares, unseen_squares):
    X, y, _ = squares
    detector = ExDDDetector(Shifted(), shard_size=5, random_state=0).fit(X, y)
    assert roc_auc_score(unseen_squares[1], detector.score_samples(unseen_squares[0])) == 1


# Memory and traffic


class Wide(CellStatistics):
    """Extractor whose features take far more memory than the pixels."""

    def _extract(self, images):
        return np.repeat(super()._extract(images), 128, axis=3)


def peak_of_fit(paths, shard_size):
    import tracemalloc

    detector = ExDDDetector(Wide(batch_size=4), normal_coreset=100, shard_size=shard_size, n_neighbors=1)
    tracemalloc.start()
    detector.fit(paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
@pytest.mark.usefixtures("few_sampled")
def test_memory_grows_with_the_coreset_and_not_with_the_images(write_images, monkeypatch):
    monkeypatch.setattr(shards, "_N_CALIBRATING", 10)
    X = np.random.RandomState(0).randint(0, 255, (160, 64, 64)).astype(np.uint8)
    paths = write_images(X)
    ExDDDetector(Wide(), normal_coreset=100, shard_size=5, n_neighbors=1).fit(paths[:10])  # imports
    few, many, kept = peak_of_fit(paths[:40], 5), peak_of_fit(paths, 5), peak_of_fit(paths, 160)
    n_bytes = 160 * 64 * 512 * 4
    assert kept > n_bytes
    assert many < n_bytes / 2
    assert many < 1.1 * few


@pytest.mark.slow
@pytest.mark.parametrize("coreset", ["random", "greedy"])
@pytest.mark.usefixtures("few_sampled")
def test_little_travels(coreset, write_images, monkeypatch):
    X = np.random.RandomState(0).randint(0, 255, (100, 64, 64)).astype(np.uint8)
    sent, handed_in = [], []

    def parallel(n_jobs):
        def run(tasks):
            results = []
            for function, args, kwargs in tasks:
                sent.append(len(pickle.dumps((args[0], args[1]))))
                results.append(function(*args, **kwargs))
                handed_in.append(len(pickle.dumps(results[-1])))
            return results

        return run

    monkeypatch.setattr(shards, "Parallel", parallel)
    monkeypatch.setattr(shards, "_N_CALIBRATING", 10)
    detector = ExDDDetector(Wide(), coreset=coreset, normal_coreset=100, n_neighbors=1, shard_size=10)
    detector.fit(write_images(X))
    n_bytes = 100 * 64 * 512 * 4
    assert max(sent) < 5000, "only paths and an extractor are sent"
    assert sum(handed_in) < n_bytes * (0.2 if coreset == "random" else 0.3)


@pytest.mark.parametrize(
    ("whiten", "coreset", "expected"),
    [
        (False, "random", ["sample", "scores"]),
        (False, "greedy", ["sample", "coreset", "scores"]),
        (True, "random", ["features", "sample", "whitening", "scores"]),
        (True, "greedy", ["features", "sample", "coreset", "whitening", "scores"]),
    ],
)
def test_the_passes_are_those_that_the_guide_lists(whiten, coreset, expected, squares, monkeypatch):
    passes, run = [], shards.Shards._run
    monkeypatch.setattr(shards.Shards, "_run", lambda self, name, *args: passes.append(name) or run(self, name, *args))
    extractor = GaborFeatureExtractor(whiten=whiten)
    detector = ExDDDetector(extractor, coreset=coreset, normal_coreset=100, shard_size=5, random_state=0)
    detector.fit(squares[0][squares[1] == 0])
    assert passes == expected


@pytest.mark.slow
def test_with_memory_the_passes_extract_every_image_once(squares, cells, tmp_path, monkeypatch):
    X, y, _ = squares
    counts, extract = [], type(cells)._extract
    monkeypatch.setattr(
        type(cells), "_extract", lambda self, images: counts.append(len(images)) or extract(self, images)
    )
    params = {"coreset": "greedy", "normal_coreset": 50, "shard_size": 5, "random_state": 0}
    first = ExDDDetector(cells, memory=str(tmp_path), **params).fit(X, y)
    assert sum(counts) == len(X)
    assert_same_fit(ExDDDetector(cells, **params).fit(X, y), first, X)


# Threads


class Watched(CellStatistics):
    """Extractor that records how many threads torch may use. The first `n_together` batches wait for each other."""

    seen = []
    n_together = 1
    numbers = itertools.count()
    together = threading.Barrier(1)

    def _extract(self, images):
        import torch

        self.seen.append((torch.get_num_threads(), threading.current_thread().name))
        if next(self.numbers) < self.n_together:
            self.together.wait(timeout=PATIENCE)
        return super()._extract(images)


@pytest.mark.parametrize(("n_jobs", "expected"), [(None, 4), (1, 4), (2, 2), (3, 1), (8, 1)])
def test_threads_that_extract_share_out_those_of_torch(n_jobs, expected, surfaces, monkeypatch):
    import torch

    # torch's own functions are replaced: processes that other tests fork from this one could not use its threads.
    threads = {"n": 4}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads["n"])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.update(n=n))
    n_workers = n_jobs or 1
    monkeypatch.setattr(Watched, "seen", [])
    monkeypatch.setattr(Watched, "n_together", n_workers)
    monkeypatch.setattr(Watched, "numbers", itertools.count())
    monkeypatch.setattr(Watched, "together", threading.Barrier(n_workers))
    Watched(n_jobs=n_jobs, batch_size=2).transform(surfaces[0])
    assert torch.get_num_threads() == 4
    assert len(Watched.seen) == 12
    assert {n_threads for n_threads, _ in Watched.seen} == {expected}
    assert len({name for _, name in Watched.seen}) == n_workers


class Counting(CellStatistics):
    """Extractor that writes down how many threads each process may use.

    All processes except the creator wait until two of them have done so.
    """

    def __init__(self, folder=None, creator=None, *, batch_size=16, n_jobs=None, memory=None, verbose=0):
        super().__init__(batch_size=batch_size, n_jobs=n_jobs, memory=memory, verbose=verbose)
        self.folder = folder
        self.creator = creator

    def _extract(self, images):
        import torch

        path = Path(self.folder, str(os.getpid()))
        path.with_suffix(".tmp").write_text(f"{torch.get_num_threads() * (self.n_jobs or 1)}")
        os.replace(path.with_suffix(".tmp"), path)
        deadline = time.monotonic() + PATIENCE
        while os.getpid() != self.creator and len(self.counts()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        return super()._extract(images)

    def counts(self):
        """Return the number of threads of each process except the creator."""
        paths = [path for path in Path(self.folder).iterdir() if path.name.isdigit()]
        return {int(path.name): int(path.read_text()) for path in paths if int(path.name) != self.creator}


@pytest.mark.slow
def test_processes_share_out_the_cores(squares, tmp_path, monkeypatch):
    X, y, _ = squares
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)  # new processes see these variables
    extractor = Counting(str(tmp_path), os.getpid())
    ExDDDetector(extractor, n_jobs=2, shard_size=3).fit(X[y == 0])
    joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    assert (tmp_path / str(os.getpid())).exists()  # the creator looks at a few images first
    counts = extractor.counts()
    assert len(counts) == 2
    assert sum(counts.values()) <= max(2, joblib.cpu_count())


def test_the_next_batch_is_read_while_one_is_extracted(squares):
    X = squares[0]
    reading = [threading.Event() for _ in X]

    class Pixels:
        dtype, ndim, shape = X.dtype, 2, X[0].shape

        def __init__(self, number):
            self.number = number

        def __array__(self, dtype=None, copy=None):
            reading[self.number].set()
            return X[self.number]

    class Waits(CellStatistics):
        n_extracted = 0

        def _extract(self, images):
            self.n_extracted += 1
            if self.n_extracted < len(X):
                assert reading[self.n_extracted].wait(PATIENCE), "the next image is not read until this one is done"
            return super()._extract(images)

    maps = Waits(batch_size=1).transform([Pixels(i) for i in range(len(X))])
    for one, expected in zip(maps, CellStatistics().transform(X)):
        np.testing.assert_array_equal(one, expected)


# Errors


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_bad_image_is_called_by_its_number_and_path(n_jobs, squares, cells, write_images):
    X, y, _ = squares
    paths = write_images(X)
    bad = int(np.flatnonzero(y == 0)[-1])
    paths[bad].write_bytes(b"no image")
    with pytest.raises(ValueError, match=rf"X\[{bad}\] \({paths[bad]}\): expected an image"):
        ExDDDetector(cells, shard_size=4, n_jobs=n_jobs).fit(paths, y)


@pytest.mark.parametrize("shard_size", [0, 2.5, "all"])
def test_a_shard_size_has_to_be_a_number_of_images(shard_size, squares):
    with pytest.raises(ValueError, match="The 'shard_size' parameter of ExDDDetector must be"):
        ExDDDetector(shard_size=shard_size).fit(squares[0])


def test_a_bank_of_shards_that_is_too_small_says_so(squares, cells):
    X, y, _ = squares
    with pytest.raises(
        ValueError, match=r"at most 8, .* normal bank \(with normal_coreset=0.01 of 768 patches\), got 9"
    ):
        ExDDDetector(cells, normal_coreset=0.01, n_neighbors=9, shard_size=5).fit(X[y == 0])


def test_progress_is_shown_on_the_error_stream(squares, cells, capsys):
    X, y, _ = squares
    ExDDDetector(shard_size=5, coreset="greedy", normal_coreset=100).fit(X, y)
    assert capsys.readouterr() == ("", "")
    ExDDDetector(shard_size=5, coreset="greedy", normal_coreset=100, verbose=1).fit(X, y)
    out, err = capsys.readouterr()
    assert out == ""
    for name in ("features", "sample", "coreset", "neighbours", "scores"):
        assert f"{name}: 100%" in err
    ExDDDetector(verbose=1).fit(X, y)
    assert "neighbours: 100%" in capsys.readouterr().err


class Fatal(CellStatistics):
    """Extractor that kills its process, once for each of its files, unless the process is its creator."""

    def __init__(self, lives=(), creator=None, *, batch_size=16, n_jobs=None, memory=None, verbose=0):
        super().__init__(batch_size=batch_size, n_jobs=n_jobs, memory=memory, verbose=verbose)
        self.lives = lives
        self.creator = creator

    def _extract(self, images):
        if os.getpid() != self.creator:
            for life in self.lives:
                try:
                    os.remove(life)
                except FileNotFoundError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return super()._extract(images)


@pytest.fixture
def fatal(tmp_path):
    """Return a function that makes an extractor with the given number of lives."""

    def make(n_lives):
        lives = [tmp_path / f"life{i}" for i in range(n_lives)]
        for life in lives:
            life.touch()
        return Fatal(tuple(map(str, lives)), os.getpid())

    return make


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning")
def test_a_lost_process_does_not_lose_the_fit(fatal, cells, squares):
    X, y, _ = squares
    expected = ExDDDetector(cells, shard_size=3, random_state=0).fit(X, y)
    detector = ExDDDetector(fatal(1), shard_size=3, n_jobs=2, random_state=0)
    with pytest.warns(RuntimeWarning, match="(?s)A worker was lost.*This pass is repeated"):
        detector.fit(X, y)
    assert_same_fit(detector, expected, X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped:UserWarning")
def test_processes_that_are_lost_again_and_again_end_the_fit(fatal, squares):
    X, y, _ = squares
    detector = ExDDDetector(fatal(20), shard_size=3, n_jobs=2)
    with pytest.warns(RuntimeWarning, match="A worker was lost"), pytest.raises(RuntimeError, match="terminated"):
        detector.fit(X, y)


# Several machines


@pytest.fixture(scope="module")
def client():
    """Return a client of a cluster of two workers."""
    distributed = pytest.importorskip("distributed", reason="extra cluster")
    import dask

    timeouts = {f"distributed.comm.timeouts.{name}": f"{PATIENCE}s" for name in ("connect", "tcp")}
    with (
        dask.config.set(timeouts),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, timeout=PATIENCE) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("coreset", ["random", "greedy"])
def test_a_cluster_fits_what_one_machine_fits(coreset, surfaces, write_images, client):
    X, y, masks = surfaces
    paths = write_images(X)
    params = {"coreset": coreset, "normal_coreset": 0.2, "random_state": 0}
    expected = ExDDDetector(shard_size=5, **params).fit(paths, y, masks=masks)
    with joblib.parallel_config(backend="dask"):
        detector = ExDDDetector(shard_size=3, **params).fit(paths, y, masks=masks)
    assert_same_fit(detector, expected, X)


@pytest.mark.slow
def test_the_cluster_does_the_extraction(squares, write_images, client, tmp_path):
    X, y, _ = squares
    (tmp_path / "counts").mkdir()
    extractor = Counting(str(tmp_path / "counts"), os.getpid())
    with joblib.parallel_config(backend="dask"):
        ExDDDetector(extractor, shard_size=3).fit(write_images(X), y)
    assert set(client.run(os.getpid).values()) == set(extractor.counts())


@pytest.mark.slow
def test_a_search_runs_on_a_cluster(surfaces, write_images, client):
    X, y, _ = surfaces
    grid = {"n_neighbors": [1, 3], "shard_size": ["auto", 4]}
    paths = np.array(write_images(X))
    search = GridSearchCV(ExDDDetector(random_state=0), grid, cv=3, scoring="roc_auc", error_score="raise")
    expected = search.fit(paths, y).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend="dask"):
        found = search.fit(paths, y).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_a_worker_that_is_killed_does_not_lose_the_fit(fatal, cells, squares, write_images, client):
    X, y, _ = squares
    expected = ExDDDetector(cells, shard_size=2, random_state=0).fit(X, y)
    extractor = fatal(1)
    with joblib.parallel_config(backend="dask"):
        detector = ExDDDetector(extractor, shard_size=2, random_state=0).fit(write_images(X), y)
    assert not Path(extractor.lives[0]).exists()
    assert_same_fit(detector, expected, X)


@pytest.mark.slow
def test_what_only_a_killed_worker_held_is_sent_again(cells, squares, monkeypatch):
    from concurrent.futures import CancelledError

    X, y, _ = squares
    expected = ExDDDetector(cells, shard_size=3, random_state=0).fit(X, y)
    failures = iter([CancelledError("lost dependencies")])

    class Parallel(joblib.Parallel):
        def __call__(self, tasks):
            for failure in failures:
                raise failure
            return super().__call__(tasks)

    monkeypatch.setattr(shards, "Parallel", Parallel)
    with pytest.warns(RuntimeWarning, match="lost dependencies"):
        detector = ExDDDetector(cells, shard_size=3, random_state=0).fit(X, y)
    assert_same_fit(detector, expected, X)
