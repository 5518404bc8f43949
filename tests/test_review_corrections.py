"""Corrections at once: applied, counted, numbered, undone bit for bit, saved, and kept when the process is killed."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from test_review import write_folder

from sklearn_exdd import CombinedDefectDetector, CutPasteDefectAugmenter, ExDDDetector, partial_fit, persistence
from sklearn_exdd.review import corrections
from sklearn_exdd.review.corrections import Figures
from sklearn_exdd.review.session import ReviewSession


@pytest.fixture
def folder(tmp_path, squares):
    X, y, masks = squares
    return write_folder(tmp_path / "parts", X, y, masks)


@pytest.fixture
def normal(squares):
    """Return images of noise to fit a detector on. The first two are also in the folder."""
    X, y, _ = squares
    more = np.random.RandomState(5).randint(90, 111, size=(10, 64, 64)).astype(np.uint8)
    return np.concatenate([X[y == 0][:2], more])


@pytest.fixture
def session(folder, normal, cells):
    """Return a session that has asked its detector about all images."""
    session = ReviewSession(folder, ExDDDetector(cells, max_false_alarm_rate=0.3, random_state=0).fit(normal))
    ask_about_all(session)
    return session


def ask_about_all(session):
    for entry in session.folder.entries():
        session.judge(entry)


def names_of(session, label):
    return [entry.name for entry in session.folder.entries() if entry.label == label]


def bits(detector):
    """Return everything that a detector holds, as bytes."""
    return pickle.dumps({name: pickle.dumps(value) for name, value in sorted(vars(detector).items())})


def test_a_correction_changes_the_detector_at_once_and_keeps_the_decision(session, folder, normal, cells):
    loaded, name = session.detector, names_of(session, 1)[0]
    before = bits(loaded)
    region = np.zeros((64, 64), dtype=bool)
    region[10:30, 10:30] = True
    session.corrections.add(name, 1, region)
    assert bits(loaded) == before
    assert session.detector is not loaded
    (decision,) = folder.decisions()
    assert session.detector.corrections_ == [decision]
    expected = ExDDDetector(cells, max_false_alarm_rate=0.3, random_state=0).fit(normal)
    expected.partial_fit([folder.path / name], [1], masks=[folder.path / decision["mask"]])
    images = [folder.path / entry.name for entry in folder.entries()]
    np.testing.assert_array_equal(session.detector.score_samples(images), expected.score_samples(images))
    assert session.detector.threshold_ == expected.threshold_
    assert session.judge(folder.entries()[0]).score == expected.decision_function(images[:1])[0]
    np.testing.assert_array_equal(session.locate(name).mask, expected.predict_mask([folder.path / name])[0])
    assert session.locate(name).threshold == expected.pixel_threshold_


def test_found_defects_and_false_alarms_are_counted_by_what_the_detector_knows(session, folder):
    session.corrections.add(names_of(session, 0)[-1], 0)
    session.corrections.add(names_of(session, 1)[0], 1)
    after = session.corrections.state
    assert session.corrections.changes(session.corrections.loaded, after) == ([], len(folder.entries()))
    ask_about_all(session)
    changes, n_left_out = session.corrections.changes(session.corrections.loaded, after)
    assert n_left_out == 0
    assert [change.kind for change in changes] == ["new", "known", "corrected"]
    corrected = {own["source"] for own in session.detector.corrections_}
    known = set(names_of(session, 0)[:2])
    for kind, before, now, changed in changes:
        names = {"corrected": corrected, "known": known}.get(kind)
        names = {entry.name for entry in folder.entries()} - corrected - known if names is None else names
        counted = []
        for state in (session.corrections.loaded, after):
            is_alarm = {name: state.judged[name].score > 0 for name in names}
            defects = [is_alarm[name] for name in names if name.startswith("defect")]
            normals = [is_alarm[name] for name in names if name.startswith("normal")]
            counted.append(Figures(sum(defects), len(defects), sum(normals), len(normals)))
        assert (before, now) == tuple(counted)
        differ = [n for n in names if (session.corrections.loaded.judged[n].score > 0) != (after.judged[n].score > 0)]
        assert changed == sorted(differ)
    assert changes[0].before.n_defects == 5
    assert changes[2].after.n_found == 1


def test_the_label_of_a_correction_counts_and_unlabelled_images_do_not(session, folder):
    miss = names_of(session, 1)[0]
    (folder.path / "new.png").write_bytes((folder.path / miss).read_bytes())
    session.corrections.add(miss, 0)
    ask_about_all(session)
    changes, _ = session.corrections.changes(session.corrections.state, session.corrections.state)
    assert [(one.kind, one.after.n_defects, one.after.n_normals) for one in changes] == [
        ("new", 5, 10),
        ("known", 0, 2),
        ("corrected", 0, 1),
    ]


def test_a_detector_that_cannot_tell_what_it_knows_says_so(folder):
    class Silent(BaseEstimator):
        def decision_function(self, X):
            return np.array([0.5])

    session = ReviewSession(folder, Silent())
    ask_about_all(session)
    changes, _ = session.corrections.changes(session.corrections.state, session.corrections.state)
    assert [(one.kind, one.after) for one in changes] == [("untold", Figures(6, 6, 12, 12))]
    assert not session.corrections.can_learn
    session.corrections.add(names_of(session, 0)[0], 1)
    assert (session.corrections.steps, len(folder.decisions())) == ((), 1)


def test_undo_goes_back_bit_for_bit_and_withdraws_the_decisions(session, folder):
    normals, defects = names_of(session, 0), names_of(session, 1)
    states = [(session.detector, bits(session.detector), folder.decisions())]
    for name, label in ((defects[0], 1), (normals[3], 0), (defects[1], 1)):
        session.corrections.add(name, label)
        states.append((session.detector, bits(session.detector), folder.decisions()))
    assert len({content for _, content, _ in states}) == 4
    for number, (detector, content, decisions) in ((3, states[2]), (1, states[0])):
        step = session.corrections.steps[number - 1]
        session.corrections.undo(step)
        assert session.detector is detector
        assert bits(detector) == content
        assert folder.decisions() == decisions
    assert len(session.corrections.loaded.judged) == len(folder.entries())
    with pytest.raises(ValueError, match=rf"^The correction of '{defects[0]}' has already been undone. Nothing has"):
        session.corrections.undo(step)


def test_take_back_undoes_the_latest_correction_and_no_other(session, folder):
    assert session.take_back() is None
    first, second = names_of(session, 1)[:2]
    loaded = session.detector
    folder.correct(second, 1)
    session.corrections.add(first, 1)
    session.corrections.apply_kept()
    with pytest.raises(
        ValueError, match=rf"^'{first}' is correction 1, and others have been applied after it\. Undo it"
    ):
        session.take_back()
    with pytest.raises(ValueError, match=rf"^'{first}' is correction 1, and others have been applied after it"):
        session.corrections.undo(session.corrections.steps[0], is_last=True)
    assert len(session.corrections.steps) == 2
    session.corrections.undo(session.corrections.steps[1], is_last=True)
    assert session.take_back()["source"] == first
    assert session.detector is loaded
    folder.correct(second, 0)
    assert session.take_back()["label"] == 0
    assert folder.decisions() == []


def test_take_back_waits_for_a_correction_that_another_page_is_applying(session, folder, monkeypatch):
    loaded, is_applying, may_go_on = session.detector, Event(), Event()

    def slow_partial_fit(*arguments, **more):
        is_applying.set()
        assert may_go_on.wait(60)
        partial_fit(*arguments, **more)

    monkeypatch.setattr(corrections, "partial_fit", slow_partial_fit)
    with ThreadPoolExecutor(2) as threads:
        adding = threads.submit(session.corrections.add, names_of(session, 1)[0], 1)
        assert is_applying.wait(60)
        taking_back = threads.submit(session.take_back)
        with pytest.raises(TimeoutError):
            taking_back.result(0.5)
        may_go_on.set()
        adding.result(60)
        assert taking_back.result(60)["source"] == names_of(session, 1)[0]
    assert (folder.decisions(), session.corrections.steps) == ([], ())
    assert session.detector is loaded


def test_an_image_is_corrected_once(session, normal, cells, tmp_path):
    name = names_of(session, 0)[0]
    session.corrections.add(name, 1)
    for label in (0, 1):
        with pytest.raises(ValueError, match=rf"^Correction 1 has already called '{name}' a defect. Undo it first"):
            session.corrections.add(name, label)
    later = ReviewSession(session.folder, session.detector)
    with pytest.raises(ValueError, match=rf"^The loaded detector has already learned that '{name}' is a defect"):
        later.corrections.add(name, 0)
    assert len(session.folder.decisions()) == 1


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("no such device")])
def test_a_correction_that_fails_is_kept_and_can_be_applied_later(error, session, folder, monkeypatch):
    loaded, content, name = session.detector, bits(session.detector), names_of(session, 1)[0]
    with monkeypatch.context() as patch:
        patch.setattr(ExDDDetector, "_keep", lambda *arguments: (_ for _ in ()).throw(error))
        with pytest.raises(ValueError, match=rf"^The correction of '{name}' is stored in the folder, but .*: \w+"):
            session.corrections.add(name, 1)
    assert session.detector is loaded
    assert bits(loaded) == content
    assert session.corrections.steps == ()
    assert session.corrections.kept() == folder.decisions()
    session.corrections.apply_kept()
    assert session.corrections.kept() == []
    assert [step.decision["source"] for step in session.corrections.steps] == [name]


def test_labels_are_those_of_the_detector_inside_whatever_holds_it(folder, squares, cells):
    X, y, _ = squares
    bank = ExDDDetector(cells, random_state=0)
    with pytest.warns(UserWarning, match="sorts before"):
        pipeline = make_pipeline(CutPasteDefectAugmenter(n_synthetic=2, random_state=0), bank).fit(
            X, np.where(y == 1, "bad", "good")
        )
    session = ReviewSession(folder, pipeline)
    n_normals, n_defects = len(bank_of(session).normal_bank_), len(bank_of(session).defect_bank_)
    session.corrections.add(names_of(session, 0)[0], 1)
    assert len(bank_of(session).defect_bank_) > n_defects
    assert len(bank_of(session).normal_bank_) == n_normals
    assert len(pipeline[-1].defect_bank_) == n_defects
    with pytest.raises(TypeError, match="Pipeline"):
        folder.save(session.detector)


def bank_of(session):
    return session.detector[-1]


def test_a_saved_detector_knows_its_corrections_and_files_are_never_replaced(folder, normal, squares):
    combination = CombinedDefectDetector([("one", ExDDDetector("gabor"))], random_state=0).fit(normal)
    session = ReviewSession(folder, combination)
    session.corrections.add(names_of(session, 1)[0], 1)
    assert [folder.save(session.detector) for _ in range(2)] == [f"review/detectors/00{i}.safetensors" for i in (1, 2)]
    session.corrections.add(names_of(session, 1)[1], 1)
    saved = persistence.load(folder.path / "review" / "detectors" / "001.safetensors")
    later = ReviewSession(folder, saved)
    assert [own["source"] for own in later.corrections.kept()] == [names_of(session, 1)[1]]
    later.corrections.apply_kept()
    images = [folder.path / entry.name for entry in folder.entries()]
    np.testing.assert_array_equal(later.detector.score_samples(images), session.detector.score_samples(images))
    assert later.detector.threshold_ == session.detector.threshold_
    assert not hasattr(later.detector.fit(normal), "corrections_")


def test_detectors_saved_at_the_same_time_do_not_replace_each_other(folder, normal, monkeypatch):
    detector, dump = ExDDDetector("gabor", random_state=0).fit(normal), persistence.dump
    monkeypatch.setattr(persistence, "dump", lambda *arguments: (time.sleep(0.2), dump(*arguments)))
    with ThreadPoolExecutor(2) as threads:
        names = list(threads.map(folder.save, [detector] * 2))
    assert sorted(names) == [f"review/detectors/00{i}.safetensors" for i in (1, 2)]


def test_a_detector_that_cannot_be_saved_leaves_no_file(session, folder, tmp_path):
    session.corrections.add(names_of(session, 1)[0], 1)
    with pytest.raises(TypeError, match=r"expected a value that a file .* can hold .*, got conftest\.CellStatistics"):
        folder.save(session.detector)
    assert list((folder.path / "review" / "detectors").iterdir()) == []
    (folder.path / "review" / "detectors").rmdir()
    (tmp_path / "outside").mkdir()
    (folder.path / "review" / "detectors").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(ValueError, match="expected a path within the folder, got a link"):
        folder.save(session.detector)


@pytest.mark.slow
def test_what_was_corrected_before_a_kill_is_applied_again(folder, normal, tmp_path):
    detector = ExDDDetector("gabor", max_false_alarm_rate=0.3, random_state=0).fit(normal)
    persistence.dump(detector, tmp_path / "detector.safetensors")
    code = (
        "import sys; from sklearn_exdd import persistence; from sklearn_exdd.review import ReviewFolder\n"
        "from sklearn_exdd.review.session import ReviewSession\n"
        "session = ReviewSession(ReviewFolder(sys.argv[1]), persistence.load(sys.argv[2]))\n"
        "for entry in session.folder.entries()[::-1]:\n"
        "    session.corrections.add(entry.name, entry.label); print('corrected', flush=True)"
    )
    command = [sys.executable, "-c", code, str(folder.path), str(tmp_path / "detector.safetensors")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as killed:
        for _ in range(2):
            assert killed.stdout.readline() == b"corrected\n"
        killed.send_signal(signal.SIGKILL)
    session = ReviewSession(folder, persistence.load(tmp_path / "detector.safetensors"))
    kept = session.corrections.kept()
    assert 2 <= len(kept) <= len(folder.entries())
    assert kept == [json.loads(line) for line in (folder.path / "review" / "decisions.jsonl").read_text().splitlines()]
    session.corrections.apply_kept()
    for decision in kept:
        detector.partial_fit([folder.path / decision["source"]], [decision["label"]])
    images = [folder.path / entry.name for entry in folder.entries()]
    np.testing.assert_array_equal(session.detector.score_samples(images), detector.score_samples(images))
    assert session.detector.threshold_ == detector.threshold_
