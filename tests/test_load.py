"""One fitted detector with many callers: threads, processes, thousands of calls, and corrections in between."""

import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread

import numpy as np
import pytest
from assertions import status_of
from sklearn.base import clone

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    DefectClassifier,
    ExDDDetector,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    MemoryBank,
    StudentTeacherDetector,
    TorchvisionFeatureExtractor,
)

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SMALL = GaborFeatureExtractor(n_levels=2)
DETECTORS = {
    "filters": ExDDDetector(SMALL, random_state=0),
    "torchvision": ExDDDetector(TorchvisionFeatureExtractor("resnet18", weights=None, layers=("layer1",))),
    "learned": ExDDDetector(LearnedFeatureExtractor(max_steps=2, n_synthetic=4, crop_size=32), random_state=0),
    "combined": CombinedDefectDetector(
        [("one", ExDDDetector(SMALL)), ("two", ExDDDetector(SMALL, blur=0))], random_state=0
    ),
    "student-teacher": StudentTeacherDetector(
        channels=(8, 16), n_synthetic=4, max_steps=2, train_batch_size=2, crop_size=32, random_state=0
    ),
    "classifier": DefectClassifier(
        "resnet18", weights=None, layer="layer1", image_size=None, augmenter=CutPasteDefectAugmenter(random_state=0),
        n_synthetic=4, train_batch_size=4, max_steps=2, patience=None, random_state=0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import load

        yield load


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_threads_that_start_at_once_get_the_scores_of_a_single_caller(name, surfaces, unseen_surfaces):
    X, y, masks = surfaces
    X_test = unseen_surfaces[0][:4]
    detector = clone(DETECTORS[name]).fit(X[:8], y[:8], masks=masks[:8])
    scores, maps = detector.score_samples(X_test), detector.predict_map(X_test)
    fresh = pickle.loads(pickle.dumps(detector))  # its networks and tables are not built yet
    together = Barrier(8)

    def call(number):
        together.wait()
        return [fresh.score_samples(X_test), fresh.predict_map(X_test)][:: 1 if number % 2 else -1]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(8)))
    for number, result in enumerate(results):
        found_scores, found_maps = result[:: 1 if number % 2 else -1]
        np.testing.assert_array_equal(found_scores, scores)
        np.testing.assert_array_equal(found_maps, maps)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_get_the_scores_of_a_single_caller(script, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        from faults import forked
    detector, X = script.fitted()
    scores = detector.score_samples(X)
    processes = [forked(lambda i=i: np.save(tmp_path / f"{i}.npy", detector.score_samples(X))) for i in range(4)]
    assert [status_of(process) for process in processes] == [0] * 4
    for i in range(4):
        np.testing.assert_array_equal(np.load(tmp_path / f"{i}.npy"), scores)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_thousands_of_predictions_leave_the_memory_as_it_is(script):
    detector, X = script.fitted()
    grown, _ = script.growth(detector, X, 2000)
    assert grown < 10


# Corrections while others predict


def fitted_on_rows():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(60, 3))
    X[:10] += 4
    y = (np.arange(60) < 10).astype(int)
    return ExDDDetector(max_false_alarm_rate=0.1, random_state=0).fit(X, y), rng.normal(2, 2, size=(40, 3))


@pytest.mark.slow
def test_predictions_during_corrections_are_those_of_some_state_in_between():
    detector, X_new = fitted_on_rows()
    states, copy = [], pickle.loads(pickle.dumps(detector))
    labels = np.arange(20) % 2
    for i in range(20):
        states.append(copy.score_samples(X_new[20:]))
        copy.partial_fit(X_new[i : i + 1], labels[i : i + 1])
    states.append(copy.score_samples(X_new[20:]))
    done, predicting, seen, errors = Event(), Event(), [], []

    def predict():
        try:
            while not done.is_set():
                predicting.set()
                seen.append(detector.score_samples(X_new[20:]))
        except Exception as error:
            errors.append(error)

    readers = [Thread(target=predict) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for i in range(20):
            predicting.clear()
            assert predicting.wait(300), errors  # each correction comes while another thread predicts
            detector.partial_fit(X_new[i : i + 1], labels[i : i + 1])
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert errors == []
    assert len(seen) >= 20
    np.testing.assert_array_equal(detector.score_samples(X_new[20:]), states[-1])
    assert all(any(np.array_equal(one, state) for state in states) for one in seen)


@pytest.mark.parametrize("method", ["decision_function", "predict", "explain"])
def test_a_correction_in_the_middle_of_a_prediction_is_seen_whole_or_not_at_all(method, monkeypatch):
    detector, X_new = fitted_on_rows()
    X_test, before = X_new[20:], pickle.loads(pickle.dumps(detector))
    after = pickle.loads(pickle.dumps(detector)).partial_fit(X_new[:20], np.zeros(20, dtype=int))
    assert not np.array_equal(before.decision_function(X_test), after.decision_function(X_test))
    corrections = iter([None])
    look = MemoryBank.kneighbors

    def look_and_be_corrected(self, *arguments, **more):
        found = look(self, *arguments, **more)
        for _ in corrections:  # once, as if another thread did so at the worst moment
            detector.partial_fit(X_new[:20], np.zeros(20, dtype=int))
        return found

    monkeypatch.setattr(MemoryBank, "kneighbors", look_and_be_corrected)
    found = getattr(detector, method)(X_test)
    monkeypatch.undo()
    np.testing.assert_equal(found, getattr(before, method)(X_test))


def test_a_correction_that_fails_leaves_the_detector_as_it_was():
    detector, X_new = fitted_on_rows()
    scores = detector.score_samples(X_new)
    X_wrong = X_new[:3].copy()
    X_wrong[2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        detector.partial_fit(X_wrong, [0, 1, 0])
    np.testing.assert_array_equal(detector.score_samples(X_new), scores)
