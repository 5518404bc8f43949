"""Killed processes, full and read-only disks, damaged caches, clock jumps: nothing is lost, and no torn file is used.

benchmarks/faults.py kills processes more often.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from assertions import status_of
from hypothesis import settings

from sklearn_exdd import persistence

resource = pytest.importorskip("resource", reason="needs the resource limits of POSIX")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
N_KILLS = settings.default.max_examples // 25  # per kind of work: 4, or 200 with HYPOTHESIS_PROFILE=nightly


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import faults

        yield faults


@pytest.fixture(scope="module")
def works(script, tmp_path_factory):
    """Return each kind of work with its result without an interruption."""
    made = {}
    for name, kind in script.WORKS.items():
        work = kind()
        made[name] = work, work.do(tmp_path_factory.mktemp("reference") / name)
    return made


# Killed


@pytest.mark.parametrize("name", ["features", "synthesis", "saving", "training"])
def test_what_a_killed_process_was_at_is_done_again_as_if_nothing_had_been(name, script):
    assert script.kill(name, N_KILLS, seed=5) == []


def test_the_script_notices_a_torn_file(script, works, tmp_path):
    saving, expected = works["saving"]
    persistence.dump(saving.detectors[0], tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()

    class Careless(script.Saving):
        def do(self, folder):
            folder.mkdir(exist_ok=True)
            path = folder / "detector.safetensors"
            if path.exists():
                persistence.load(path)
            with open(path, "wb", buffering=0) as file:  # as a careless library would write
                for byte in range(0, len(content), 100):
                    file.write(content[byte : byte + 100])
                    time.sleep(0.001)
            return expected

    def kill_often():
        for number in range(20):
            (tmp_path / str(number)).mkdir()
            script.kill_once(Careless(), expected, tmp_path / str(number), np.random.RandomState(number))

    with pytest.raises(ValueError, match="got another or a damaged one"):
        kill_often()


def test_a_process_killed_while_it_writes_leaves_the_older_file(script, tmp_path):
    """The process is killed at the worst moment: after the last byte, before the rename."""
    saving = script.Saving()
    path = tmp_path / "detector.safetensors"
    persistence.dump(saving.detectors[0], path)

    def die(*names):
        os.kill(os.getpid(), signal.SIGKILL)

    def act():
        os.replace = die
        persistence.dump(saving.detectors[1], path)

    assert os.WIFSIGNALED(status_of(script.forked(act)))
    assert persistence.load(path).n_neighbors == saving.detectors[0].n_neighbors
    persistence.dump(saving.detectors[1], path)
    assert persistence.load(path).n_neighbors == saving.detectors[1].n_neighbors


# Several at once


@pytest.mark.parametrize("n_processes", [2, 4])
@pytest.mark.parametrize("name", ["features", "synthesis", "training"])
def test_processes_on_one_cache_get_what_each_would_get_alone(name, n_processes, script, works, tmp_path):
    if name == "training":  # all processes share one checkpoint, and any of them may be the last to write it
        (tmp_path / "training").mkdir()
    assert script.together(name, n_processes, tmp_path / name) == []
    assert script.same(works[name][0], works[name][0].do(tmp_path / name), works[name][1])


# Disks


def in_a_process(script, act):
    """Return whether the action succeeds in a forked process."""
    return status_of(script.forked(act)) == 0


@pytest.mark.parametrize("limit", [0, 1000, 20_000])
@pytest.mark.parametrize("name", ["features", "synthesis"])
def test_a_file_that_cannot_grow_costs_the_cache_and_not_the_result(name, limit, script, works, tmp_path):
    work, expected = works[name]

    def act():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        warnings.simplefilter("ignore")
        assert script.same(work, work.do(tmp_path / "cache"), expected)

    assert in_a_process(script, act)
    assert script.same(work, work.do(tmp_path / "cache"), expected)


def test_full_and_read_only_disks_cost_the_cache_and_not_the_result(script):
    try:
        with script.small_disk(4096):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount a disk")
    assert script.disk_faults() == []


def test_a_detector_that_finds_no_room_leaves_the_older_file(script, works, tmp_path):
    saving = script.Saving()
    path = tmp_path / "detector.safetensors"
    persistence.dump(saving.detectors[0], path)
    older = path.read_bytes()

    def act():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(older) - 1000,) * 2)
        with pytest.raises(OSError, match="File too large"):
            persistence.dump(saving.detectors[1], path)

    assert in_a_process(script, act)
    assert path.read_bytes() == older
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def open_folder():
    """Yield a folder that any user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody():
    """Drop root rights for the rest of this process, because no permission stops root."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


@pytest.mark.parametrize("name", ["features", "synthesis"])
def test_a_cache_that_may_only_be_read_is_read(name, script, works, open_folder):
    work, expected = works[name]
    work.do(open_folder / "cache")
    before = sorted(str(path) for path in open_folder.rglob("*"))
    for path in open_folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)

    def act():
        as_nobody()
        os.chdir("/")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert script.same(work, work.do(open_folder / "cache"), expected)

    assert in_a_process(script, act)
    assert sorted(str(path) for path in open_folder.rglob("*")) == before


def test_a_detector_in_a_folder_that_may_not_be_written_is_refused_by_its_name(script, open_folder):
    saving = script.Saving()

    def act():
        as_nobody()
        with pytest.raises(PermissionError, match="detector"):
            persistence.dump(saving.detectors[0], open_folder / "detector")

    assert in_a_process(script, act)


# Damaged entries


def entries(folder, name):
    suffixes = {"features": (".pkl",), "synthesis": (".png", ".json", ".npy"), "training": (".pt",)}[name]
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


def damage(path, how, rng, others=()):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: rng.randint(len(content))]
    elif how == "emptied":
        content = b""
    elif how == "half zeros":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    elif how == "a bit flipped":
        content[rng.randint(len(content))] ^= 1 << rng.randint(8)
    elif how == "of another entry":
        content = rng.choice([other for other in others if other != path and other.suffix == path.suffix]).read_bytes()
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["features", "synthesis"])
@pytest.mark.parametrize("how", ["cut", "emptied", "half zeros", "a bit flipped", "of another entry"])
def test_a_damaged_entry_is_made_again(name, how, script, works, tmp_path):
    work, expected = works[name]
    work.do(tmp_path / "cache")
    rng = np.random.RandomState(0)
    paths = entries(tmp_path / "cache", name)
    for path in paths:
        damage(path, how, rng, paths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the damage is reported
        assert script.same(work, work.do(tmp_path / "cache"), expected)
    with script.no_damage():  # the entries are whole again
        assert script.same(work, work.do(tmp_path / "cache"), expected)


def test_a_picture_that_pillow_would_take_for_an_attack_is_kept_all_the_same(script, works, tmp_path, monkeypatch):
    work, expected = works["synthesis"]
    monkeypatch.setattr("sklearn_exdd.augment.sample_cache._MAX_PIXELS", 500)
    assert script.same(work, work.do(tmp_path), expected)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 500)
    assert not [path for path in entries(tmp_path, "synthesis") if path.suffix == ".png"]
    with script.no_damage():
        assert script.same(work, work.do(tmp_path), expected)


def test_a_damaged_checkpoint_is_not_resumed(script, works, tmp_path):
    work, expected = works["training"]
    folder = tmp_path / "training"
    work.do(folder)
    (checkpoint,) = entries(folder, "training")
    content = checkpoint.read_bytes()
    for how in ("cut", "emptied", "half zeros"):
        checkpoint.write_bytes(content)
        damage(checkpoint, how, np.random.RandomState(0))
        with pytest.warns(RuntimeWarning, match="got a damaged file"):
            assert script.same(work, work.do(folder), expected)


# Clocks


@pytest.mark.parametrize("name", ["features", "synthesis", "training"])
@pytest.mark.parametrize("seconds", [-(10**8), 10**8])
def test_a_clock_that_jumps_changes_no_result(name, seconds, script, works, tmp_path, monkeypatch):
    work, expected = works[name]
    work.do(tmp_path / "cache")
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    with script.no_damage():
        assert script.same(work, work.do(tmp_path / "cache"), expected)
        assert script.same(work, work.do(tmp_path / "other"), expected)


def test_decisions_of_a_review_stay_in_their_order_when_the_clock_goes_back(tmp_path, monkeypatch):
    from datetime import UTC, datetime

    from PIL import Image

    from sklearn_exdd.review import ReviewFolder, store

    Image.new("L", (9, 9)).save(tmp_path / "part.png")
    years = iter([2031, 2024])

    class Clock:
        @staticmethod
        def now(zone):
            return datetime(next(years), 1, 1, tzinfo=UTC)

    monkeypatch.setattr(store, "datetime", Clock)
    folder = ReviewFolder(tmp_path)
    folder.correct("part.png", 1)
    folder.correct("part.png", 0)
    (decision,) = folder.decisions()
    assert decision["label"] == 0
