"""Test of losses when processes are killed, when disks are full or read-only, and when processes share a cache.

    python benchmarks/faults.py --kills 200

The command tests each kind of work that writes files. It runs the work in a process and kills the process (SIGKILL) at
a random moment. Then it repeats the work in the same folder. The result must equal that of an uninterrupted run: bit
for bit, or up to rounding for features. The repeated work must not read a half-written file. In that case, the library
would warn. If the command is run as root, it also tests a disk (tmpfs) that is really full or read-only. It prints the
number of losses, and fails if this number is not zero. The command requires fork.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread, because a forked process does not inherit threads

import numpy as np
from tqdm.auto import tqdm

from sklearn_exdd import ExDDDetector, GaborFeatureExtractor, PerlinDefectAugmenter, persistence
from sklearn_exdd.datasets import make_surface_defects

X, Y, MASKS = make_surface_defects(10, defect_fraction=0.3, image_shape=(32, 32), random_state=0)


class Features:
    """Work of fit and score_samples with ``memory=``. Features are recomputed in other batches, so rounding differs."""

    rtol = 1e-5

    def do(self, folder):
        detector = ExDDDetector(GaborFeatureExtractor(n_levels=1), memory=str(folder), random_state=0)
        return detector.fit(X, Y, masks=MASKS).score_samples(X)


class Synthesis:
    """Work of sample with ``memory=``."""

    rtol = 0

    def do(self, folder):
        augmenter = PerlinDefectAugmenter(memory=folder, min_contrast=0, random_state=0)
        synthetic = augmenter.fit(X, Y).sample(8)
        return [synthetic.images, synthetic.masks, repr(synthetic.provenance)]


class Saving:
    """Work of persistence.dump onto an older file. Either the old or the new file must exist and be complete."""

    rtol = 0

    def __init__(self):
        extractor = GaborFeatureExtractor(n_levels=1)
        self.detectors = [ExDDDetector(extractor, n_neighbors=k, random_state=0).fit(X) for k in (1, 2)]
        self.scores = [detector.score_samples(X) for detector in self.detectors]

    def do(self, folder):
        folder.mkdir(exist_ok=True)
        path = folder / "detector.safetensors"
        if path.exists():
            found = persistence.load(path)
            np.testing.assert_array_equal(found.score_samples(X), self.scores[found.n_neighbors - 1])
        for detector in self.detectors:
            persistence.dump(detector, path)
        return persistence.load(path).score_samples(X)


class Training:
    """Training with checkpoints. A resumed run must give the same result as an uninterrupted run."""

    rtol = 0

    def do(self, folder):
        import torch

        from sklearn_exdd._torch import seeded
        from sklearn_exdd._training import train

        folder.mkdir(exist_ok=True)
        with seeded(0):
            module = torch.nn.Linear(6, 1)

        def loss_of_step(step, random_state):
            inputs = torch.from_numpy(random_state.normal(size=(8, 6)).astype(np.float32))
            return (module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()

        run = train(module, loss_of_step, max_steps=60, checkpoint=folder / "training.pt", checkpoint_every=5)
        return [run.losses, *(value.numpy() for value in module.state_dict().values())]


WORKS = {"features": Features, "synthesis": Synthesis, "saving": Saving, "training": Training}


def same(work, one, other):
    """Tell whether two results of a kind of work are equal. If its `rtol` is 0, they must be equal bit for bit."""
    if isinstance(one, list):
        return len(one) == len(other) and all(same(work, *pair) for pair in zip(one, other))
    if work.rtol == 0:
        return np.array_equal(one, other)
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=work.rtol, atol=work.rtol)


@contextlib.contextmanager
def no_damage():
    """Turn warnings of the library, for instance about a damaged file, into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        warnings.filterwarnings(
            "ignore", message="Persisting input arguments took"
        )  # joblib may warn on a busy machine
        yield


def forked(act, *arguments):
    """Run a function in a forked process and return its process id. The exit code is 0, or 1 on failure."""
    import torch

    sys.stdout.flush()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # otherwise, it would wait forever for its parent's threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about fork with threads; these threads only sleep
        process = os.fork()
    if process:
        torch.set_num_threads(n_threads)
        return process
    status = 1
    with contextlib.suppress(BaseException):
        try:
            # Replace tqdm's lock, because it is shared with the parent. If this process were killed while it holds the
            # lock, the parent would wait forever.
            tqdm.set_lock(threading.RLock())
            act(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
    os._exit(status)


def again_and_again(work, folder):
    for number in itertools.count():
        work.do(folder / f"{number:06d}")


def kill_once(work, expected, folder, rng):
    """Kill the work at a random moment after it has started, then repeat it."""
    process = forked(again_and_again, work, folder)
    deadline = time.monotonic() + 60
    while not any(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.4))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status):
        raise AssertionError("the process exited before it was killed")
    begun = sorted(folder.iterdir())[-2:]
    if not begun:
        raise AssertionError("the process had not started its work after a minute")
    for place in begun:
        with no_damage():
            if not same(work, work.do(place), expected):
                raise AssertionError(f"{place}: expected the result of an uninterrupted run, got a different one")


def kill(name, n_kills, seed=0):
    """Kill a kind of work `n_kills` times, and return a message for each loss."""
    work, losses = WORKS[name](), []
    with tempfile.TemporaryDirectory() as place:
        expected = work.do(Path(place) / "reference")
        for number in range(n_kills):
            folder = Path(place) / f"kill{number}"
            folder.mkdir()
            try:
                kill_once(work, expected, folder, np.random.RandomState([seed, number]))
            except Exception:
                losses.append(f"{name}, kill {number}:\n{traceback.format_exc()}")
            shutil.rmtree(folder, ignore_errors=True)
    return losses


def together(name, n_processes, folder):
    """Run several processes at once on one folder. Return the processes that failed or got a different result."""
    work = WORKS[name]()
    with tempfile.TemporaryDirectory() as place:
        expected = work.do(Path(place) / "reference")

    def act():
        with no_damage():
            if not same(work, work.do(folder), expected):
                raise AssertionError("different result")

    processes = [forked(act) for _ in range(n_processes)]
    return [process for process in processes if os.waitpid(process, 0)[1] != 0]


@contextlib.contextmanager
def small_disk(size):
    """Mount a separate disk of `size` bytes."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def disk_faults():
    """Run all kinds of work on a read-only disk and on a disk that becomes full. Return unexpected results."""
    failures = []
    for name, full in itertools.product(["features", "synthesis", "saving"], [4096, 40_000, 200_000]):
        work = WORKS[name]()
        with tempfile.TemporaryDirectory() as place:
            expected = work.do(Path(place) / "reference")
        with small_disk(full) as disk, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library warns that the disk is full
            try:
                result = work.do(disk / "cache")
            except OSError as error:
                result = error
            refuses = name == "saving" and full < 200_000
            if not (isinstance(result, OSError) if refuses else same(work, result, expected)):
                failures.append(f"{name} on a disk of {full} bytes: {result!r}"[:500])
        for prepared in (False, True):
            with small_disk(10**7) as disk, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if prepared:
                    work.do(disk / "cache")
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
                try:
                    result = work.do(disk / "cache")
                except OSError as error:
                    result = error
                refuses = name == "saving" or (name == "features" and not prepared)
                if not (isinstance(result, OSError) if refuses else same(work, result, expected)):
                    failures.append(f"{name} on a read-only disk, {prepared=}: {result!r}"[:500])
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    losses, counts = [], Counter()
    for name, share in zip(WORKS, np.array_split(np.arange(arguments.kills), len(WORKS))):
        started = time.perf_counter()
        lost = kill(name, len(share), arguments.seed)
        seconds = time.perf_counter() - started
        print(f"{name:10} {len(share)} kills, {len(lost)} losses, {seconds:.0f} s", flush=True)
        losses += lost
    for name, n_processes in itertools.product(["features", "synthesis"], [2, 4]):
        for _ in range(5):
            with tempfile.TemporaryDirectory() as place:
                failed = together(name, n_processes, Path(place))
            counts[f"{name}, {n_processes} processes at once"] += len(failed)
    for what, n_failed in counts.items():
        print(f"{what}: 5 runs, {n_failed} failures")
    if os.name == "posix" and os.getuid() == 0:
        failures = disk_faults()
        print(f"full and read-only disks: 15 cases, {len(failures)} failures")
        losses += failures
    print("\n".join(losses))
    sys.exit(bool(losses) or bool(sum(counts.values())))


if __name__ == "__main__":
    main()
