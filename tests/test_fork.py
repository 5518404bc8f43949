"""Forks of a process that has computed with torch: the child must finish with the right result."""

import multiprocessing
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"),
]

SCRIPT = """
import multiprocessing, os, sys, traceback, warnings
import numpy as np
import torch

torch.set_num_threads(4)  # whatever OMP_NUM_THREADS says
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about forks of processes with threads
from sklearn_exdd import ExDDDetector, MemoryBank, LearnedFeatureExtractor
from sklearn_exdd.datasets import make_surface_defects

X, y, masks = make_surface_defects(24, image_shape=(64, 64), random_state=0)
rows = np.random.RandomState(0).rand(4000, 64)
work = {work}
expected = work()
torch.ones(1000, 1000).mm(torch.ones(1000, 1000)).sort()  # starts the threads, if they are not running yet
if {pool}:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        answers = [pool.apply_async(work) for _ in range(4)]
        for answer in answers:
            np.testing.assert_allclose(answer.get(timeout=100), expected, rtol=1e-4, atol=1e-6)
else:
    child = os.fork()
    if not child:
        failed = True
        try:
            np.testing.assert_allclose(work(), expected, rtol=1e-4, atol=1e-6)
            assert torch.get_num_threads() == 1
            failed = False
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.get_num_threads() == 4, "only the child computes in one thread"
"""
WORK = {
    "scores": "ExDDDetector(random_state=0).fit(X, y).score_samples",
    "maps": "ExDDDetector(random_state=0).fit(X, y).predict_map",
    "rows": "ExDDDetector(random_state=0).fit(rows).score_samples",
    "fit": "lambda X: ExDDDetector(random_state=0).fit(X, y).score_samples(X)",
    "training": "lambda X: LearnedFeatureExtractor(max_steps=2, random_state=0).fit(X).transform(X[:1])[0].shape[:2]",
}


@pytest.mark.parametrize("pool", [True, False], ids=["pool", "fork"])
@pytest.mark.parametrize("work", WORK)
def test_what_a_forked_child_computes_ends_and_is_right(work, pool, tmp_path):
    given = "rows" if work == "rows" else "X[:8]" if work in ("scores", "maps") else "X"
    work = f"__import__('functools').partial({WORK[work]}, {given})"
    if "lambda" in work and pool:
        pytest.skip("a lambda cannot be sent to another process")
    script = SCRIPT.format(work=work, pool=pool)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
