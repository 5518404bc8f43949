"""Nothing is sent or requested unless the user names something to download. The tests watch every socket."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# Python reports to audit hooks what Python code does with sockets. The hooks cannot be removed again.
WATCH = """
import json, sys
seen = []
uses = "connect sendto sendmsg getaddrinfo getnameinfo gethostbyname gethostbyaddr".split()
def watch(event, arguments):
    if event.startswith("socket.") and event.removeprefix("socket.") in uses:
        seen.append([event, str(arguments[1:])])
        raise OSError("no network in this test")
sys.addaudithook(watch)
"""
REPORT = "\nprint(json.dumps(seen))"


def sockets_used_by(code):
    """Run the code in a process of its own and return its uses of sockets."""
    done = subprocess.run([sys.executable, "-c", WATCH + code + REPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SURFACES = """
import warnings
warnings.simplefilter("ignore")
from sklearn_exdd import *
from sklearn_exdd.datasets import make_surface_defects
X, y, masks = make_surface_defects(10, defect_fraction=0.3, image_shape=(64, 64), random_state=0)
"""


@pytest.mark.parametrize(
    "call", ["socket.create_connection(('192.0.2.1', 80), 1)", "socket.gethostbyname('example.org')"]
)
def test_the_watch_sees_who_uses_the_network(call):
    used = sockets_used_by(f"import contextlib, socket\nwith contextlib.suppress(OSError):\n    {call}")
    assert used
    assert all(event.startswith("socket.") for event, _ in used)


def test_importing_everything_uses_no_network():
    code = """
import importlib, pkgutil, sklearn_exdd
for module in pkgutil.walk_packages(sklearn_exdd.__path__, "sklearn_exdd."):
    if "__main__" not in module.name and ".review." not in module.name:
        importlib.import_module(module.name)
import diffusers, torchvision, pynndescent
"""
    assert sockets_used_by(code) == []


def test_fit_and_predict_of_every_detector_and_augmenter_use_no_network():
    code = """
import tempfile
from sklearn_exdd import persistence
brief = LearnedFeatureExtractor(max_steps=2, n_synthetic=4, crop_size=32)
net = dict(n_synthetic=4, max_steps=2, train_batch_size=2)
detectors = [
    ExDDDetector(),
    ExDDDetector(brief),
    ExDDDetector(augmenter=CutPasteDefectAugmenter(), n_synthetic=3),
    ExDDDetector(TorchvisionFeatureExtractor("resnet18", weights=None)),
    SegmentationDetector(brief),
    StudentTeacherDetector(channels=(8, 16), crop_size=32, **net),
    DefectClassifier("resnet18", weights=None, patience=None, image_size=64, **net),
    CombinedDefectDetector([("one", ExDDDetector()), ("two", ExDDDetector())]),
    LinearProbeDetector(),
    PatchClassifierDetector(),
]
for detector in detectors:
    detector.fit(X, y, masks=masks).predict_map(X[:2])
    if type(detector) is not PatchClassifierDetector:
        with tempfile.NamedTemporaryFile() as file:
            persistence.dump(detector, file.name)
            persistence.load(file.name).predict(X[:2])
augmenters = [
    PerlinDefectAugmenter(),
    CutPasteDefectAugmenter(),
    OffsetDefectAugmenter(),
    DefectPasteAugmenter(),
    MixedDefectAugmenter([("one", PerlinDefectAugmenter()), ("two", OffsetDefectAugmenter())]),
    DDPMDefectAugmenter(crop_size=16, block_out_channels=(8,), max_steps=2, n_inference_steps=5),
]
for augmenter in augmenters:
    augmenter.fit(X, y, masks=masks).sample(1)
"""
    assert sockets_used_by(SURFACES + code) == []


def test_what_has_to_be_downloaded_is_looked_for_when_it_is_used_and_not_before(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    code = """
detector = ExDDDetector("resnet18")
DiffusionDefectAugmenter("owner/name").fit(X)
assert seen == []
try:
    detector.fit(X)
except OSError as error:
    assert "IMAGENET1K_V1 could not be downloaded" in str(error), error
"""
    assert sockets_used_by(SURFACES + code)
