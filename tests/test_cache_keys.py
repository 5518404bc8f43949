"""Cache keys: the user's code and the versions of the libraries."""

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

import sklearn_exdd
from sklearn_exdd import (
    ExDDDetector,
    LearnedFeatureExtractor,
    ModuleFeatureExtractor,
    OffsetDefectAugmenter,
    StudentTeacherDetector,
    TorchvisionFeatureExtractor,
)
from sklearn_exdd import _code as code
from sklearn_exdd._code import fingerprint_of_code

EXTRACTOR = """
import numpy as np
from sklearn_exdd import BaseFeatureExtractor

LEVEL = 0.5

def scaled(cells):
    return factor() * cells

def factor():
    return LEVEL

class Base(BaseFeatureExtractor):
    stride, offset = 8, 3.5

    def _cells(self, images):
        n, height, width, channels = images.shape
        return images.reshape(n, height // 8, 8, width // 8, 8, channels)

class Cells(Base):
    def _extract(self, images):
        return scaled(self._cells(images).mean(axis=(2, 4)))
"""
AUGMENTER = """
import numpy as np
from sklearn_exdd import OffsetDefectAugmenter

STRENGTH = 0.4

class Specks(OffsetDefectAugmenter):
    def _paint(self, image, region, random_state):
        return np.where(region[..., None], STRENGTH, image), {}
"""
REGIONS = """
import numpy as np

class Corner:
    size = 12

    def draw(self, image_shape, random_state, masks=()):
        region = np.zeros(image_shape[:2], dtype=bool)
        region[: self.size, : self.size] = True
        return region
"""


def in_a_namespace(source):
    """Run source without a file, as an interactive session does."""
    namespace = {"__name__": "__main__"}
    exec(compile(source, "<input>", "exec"), namespace)
    return namespace


@pytest.fixture(params=["module", "session"])
def define(request, tmp_path, monkeypatch):
    """Return a function that runs source code and returns its names, with or without a file."""
    if request.param == "session":
        yield in_a_namespace
        return
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def import_again(source):
        (tmp_path / "users_module.py").write_text(source)
        importlib.invalidate_caches()
        sys.modules.pop("users_module", None)
        return vars(importlib.import_module("users_module"))

    yield import_again
    sys.modules.pop("users_module", None)


@pytest.fixture
def images():
    return np.random.RandomState(0).randint(60, 90, size=(6, 32, 32)).astype(np.uint8)


# Feature maps

EDITS = {
    "a method": (".mean(axis", ".max(axis"),
    "the base class": ("return images.reshape(n", "return 2 * images.reshape(n"),
    "a function of the module": ("return factor() * cells", "return factor() - cells"),
    "a function that this one calls": ("return LEVEL", "return LEVEL + 1"),
    "a constant of the module": ("LEVEL = 0.5", "LEVEL = 0.25"),
}


@pytest.mark.parametrize(("old", "new"), EDITS.values(), ids=EDITS)
def test_an_edited_extractor_computes_anew(old, new, define, images, tmp_path):
    memory = tmp_path / "cache"
    before = define(EXTRACTOR)["Cells"](memory=memory).transform(images)
    edited = define(EXTRACTOR.replace(old, new))["Cells"]
    found = edited(memory=memory).transform(images)
    np.testing.assert_array_equal(found, edited().transform(images))
    assert not np.array_equal(found, before)


def test_an_extractor_of_the_same_code_is_found(define, images, tmp_path, monkeypatch):
    expected = define(EXTRACTOR)["Cells"](memory=tmp_path).transform(images)
    again = define(EXTRACTOR.replace("class Cells", "# A comment, and other line numbers.\n\n\nclass Cells"))["Cells"]
    computed = []
    maps = again._maps
    monkeypatch.setattr(sklearn_exdd.BaseFeatureExtractor, "_maps", lambda *args: computed.append(0) or maps(*args))
    np.testing.assert_array_equal(again(memory=tmp_path).transform(images), expected)
    assert computed == []


def test_a_constant_of_the_class_is_in_the_key(define):
    one, other = (
        define(EXTRACTOR.replace("offset = 8, 3.5", offset))["Cells"](memory="cache")._own_key()
        for offset in ("offset = 8, 3.5", "offset = 8, 4.5")
    )
    assert one != other


def test_the_detector_does_not_mix_two_extractors_of_one_name(define, squares, tmp_path):
    X, y, masks = squares
    for source in (EXTRACTOR, EXTRACTOR.replace(".mean(axis", ".max(axis")):
        scores = []
        for memory in (None, tmp_path / "cache"):
            extractor = define(source)["Cells"](whiten=True)
            detector = ExDDDetector(extractor, memory=memory, random_state=0).fit(X, y, masks=masks)
            scores.append(detector.score_samples(X))
        np.testing.assert_array_equal(*scores)


def test_an_edited_foreign_extractor_computes_anew(define, images, tmp_path):
    source = "class Halves:\n    def transform(self, images):\n        return images[:, ::2, ::2]\n"
    maps = []
    for text in (source, source.replace("::2]", "1::2]"), source):
        detector = ExDDDetector(define(text)["Halves"](), memory=tmp_path / "cache").fit(images)
        maps.append(detector.feature_extractor_.transform(images)[0])
    assert not np.array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_an_edited_builder_computes_anew(define, images, tmp_path):
    source = """
from torch import nn, no_grad

def build():
    layer = nn.Conv2d(3, 2, 3, padding=1)
    with no_grad():
        layer.weight.fill_(0.1)
        layer.bias.fill_(0)
    return nn.Sequential(layer, nn.ReLU())
"""
    maps = []
    for text in (source, source.replace("0.1", "0.2"), source):
        extractor = ModuleFeatureExtractor(define(text)["build"], layers=("0",), memory=tmp_path / "cache")
        maps.append(extractor.transform(images)[0])
    assert not np.array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_a_builder_that_returns_a_module_is_known_by_its_weights(images):
    from torch import nn

    def key_of(weight):
        module = nn.Conv2d(3, 2, 3)
        nn.init.constant_(module.weight, weight)
        nn.init.constant_(module.bias, weight)
        return ModuleFeatureExtractor(lambda: module, layers=("0",), memory="cache")._own_key()

    assert key_of(1) == key_of(1) != key_of(2)


# Synthetic defects


@pytest.mark.parametrize(("old", "new"), [("STRENGTH, image", "1 - STRENGTH, image"), ("= 0.4", "= 0.9")])
def test_an_edited_augmenter_paints_anew(old, new, define, images, tmp_path):
    painted = []
    for source in (AUGMENTER, AUGMENTER.replace(old, new), AUGMENTER):
        specks = define(source)["Specks"](memory=tmp_path / "cache", random_state=0)
        painted.append(specks.fit(images).sample(2).images)
    assert not np.array_equal(painted[0], painted[1])
    np.testing.assert_array_equal(painted[0], painted[2])
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize(("old", "new"), [("size = 12", "size = 8"), (": self.size] =", ": 2 * self.size] =")])
def test_an_edited_region_drawer_paints_anew(old, new, define, images, tmp_path):
    masks = []
    for source in (REGIONS, REGIONS.replace(old, new), REGIONS):
        augmenter = OffsetDefectAugmenter(regions=define(source)["Corner"](), memory=tmp_path / "cache", random_state=0)
        masks.append(augmenter.fit(images).sample(1).masks)
    assert masks[0].sum() != masks[1].sum()
    np.testing.assert_array_equal(masks[0], masks[2])


def test_a_changed_foreground_paints_anew(images, tmp_path):
    def foreground_of(n_rows):
        def foreground(image, first=0):
            mask = np.zeros(image.shape[:2], dtype=bool)
            mask[first:n_rows] = True
            return mask

        return foreground

    def entries(foreground):
        OffsetDefectAugmenter(
            regions="rectangle", foreground=foreground, min_contrast=0, memory=tmp_path, random_state=0
        ).fit(images).sample(1)
        return len(list(tmp_path.iterdir()))

    assert entries(foreground_of(32)) == entries(foreground_of(32)) == 1
    assert entries(foreground_of(24)) == 2, "changing a value in the closure must change the key"
    changed = foreground_of(32)
    changed.__defaults__ = (4,)
    assert entries(changed) == 3, "changing a default must change the key"
    assert entries(functools.partial(foreground_of(32), first=8)) == 4
    assert entries(functools.partial(foreground_of(32), first=9)) == 5


# Trained networks


def test_an_edited_augmenter_trains_the_extractor_anew(define, images, tmp_path, monkeypatch):
    trained = []
    train = LearnedFeatureExtractor._train
    monkeypatch.setattr(LearnedFeatureExtractor, "_train", lambda *args: trained.append(0) or train(*args))
    for source, n_trained in ((AUGMENTER, 1), (AUGMENTER, 1), (AUGMENTER.replace("0.4", "0.9"), 2)):
        specks = define(source)["Specks"](min_contrast=0)
        params = {"n_synthetic": 2, "crop_size": 32, "max_steps": 1, "train_batch_size": 2, "whiten": False}
        LearnedFeatureExtractor(augmenter=specks, memory=tmp_path / "cache", random_state=0, **params).fit(images)
        assert len(trained) == n_trained


def test_an_edited_augmenter_trains_the_student_anew(define, images, tmp_path):
    params = {"channels": (8, 16), "n_synthetic": 2, "max_steps": 2, "crop_size": 32, "random_state": 0}
    for source, n_entries in ((AUGMENTER, 2), (AUGMENTER, 2), (AUGMENTER.replace("0.4", "0.9"), 4)):
        specks = define(source)["Specks"](min_contrast=0)
        StudentTeacherDetector(augmenter=specks, memory=tmp_path / "cache", **params).fit(images)
        assert len(list((tmp_path / "cache").glob("StudentTeacher*"))) == n_entries


# Versions


@pytest.mark.parametrize("name", ["sklearn_exdd", "numpy", "torch"])
def test_another_version_computes_anew(name, cells, squares, images, tmp_path, monkeypatch):
    X, y, _ = squares

    def count():
        n_extracted = []
        with monkeypatch.context() as patch:
            maps = type(cells)._maps
            patch.setattr(
                sklearn_exdd.BaseFeatureExtractor, "_maps", lambda *args: n_extracted.append(0) or maps(*args)
            )
            ExDDDetector(cells, memory=tmp_path / "cache", random_state=0).fit(X, y)
        OffsetDefectAugmenter(memory=tmp_path / "samples", min_contrast=0, random_state=0).fit(images).sample(1)
        return len(n_extracted), len(list((tmp_path / "samples").iterdir()))

    assert count() == (2, 1)
    assert count() == (0, 1)
    if name == "sklearn_exdd":
        monkeypatch.setattr(sklearn_exdd, "__version__", "99.0")
    else:
        installed = code._installed_version
        monkeypatch.setattr(code, "_installed_version", lambda one: "99.0" if one == name else installed(one))
    assert count() == (2, 2)
    assert count() == (0, 2)


def test_the_version_of_the_package_of_a_model_is_in_its_key(monkeypatch):
    extractor = TorchvisionFeatureExtractor("resnet18", weights=None, memory="cache")
    key = extractor._own_key()
    installed = code._installed_version
    monkeypatch.setattr(code, "_installed_version", lambda one: "99.0" if one == "torchvision" else installed(one))
    assert extractor._own_key() != key


def test_neighbours_of_plain_rows_are_searched_anew_by_another_version(tmp_path, monkeypatch):
    X = np.random.RandomState(0).randn(30, 3)
    for version, has_grown in (("1.0", True), ("1.0", False), ("2.0", True)):
        monkeypatch.setattr(sklearn_exdd, "__version__", version)
        before = len(list(tmp_path.rglob("output.pkl")))
        ExDDDetector(memory=tmp_path, random_state=0).fit(X)
        assert (len(list(tmp_path.rglob("output.pkl"))) > before) == has_grown


# Costs of a search


@pytest.mark.slow
def test_a_search_extracts_each_image_once(define, tmp_path):
    X = np.random.RandomState(0).randint(0, 255, size=(20, 32, 32)).astype(np.uint8)
    y = np.arange(20) % 2
    source = EXTRACTOR.replace(
        "        return scaled",
        "        counts['images'] = counts.get('images', 0) + len(images)\n        return scaled",
    )
    namespace = define("counts = {}\n" + source)
    detector = ExDDDetector(namespace["Cells"](), memory=tmp_path / "cache", random_state=0)
    GridSearchCV(detector, {"n_neighbors": [1, 2, 3]}, cv=5, scoring="roc_auc").fit(X, y)
    assert namespace["counts"] == {"images": len(X)}


# Fingerprints


def test_what_code_changes_itself_is_not_in_its_key():
    total, seen, n_calls = {"calls": 0}, [], 0

    class Counting:
        n_made = 0
        made = []

        def __call__(self, image):
            nonlocal n_calls
            n_calls += 1
            total["calls"] += 1
            seen.append(image)
            type(self).n_made += 1
            self.made.append(image)
            Counting.made[0] = image
            return n_calls

    counting = Counting()
    key = fingerprint_of_code(counting)
    counting(1)
    counting(2)
    assert (n_calls, total["calls"], seen, Counting.n_made) == (2, 2, [1, 2], 2)
    assert fingerprint_of_code(counting) == key


def test_what_code_only_reads_is_in_its_key():
    import math

    class Holder:
        sort = 3
        rows = (1, 2)

    sort, level, table = [1, 2], 3, {"a": 1}

    def read(image):
        image[level] = 1
        image[Holder.rows] = 1
        image[:level] = 1
        image[image, level] += 1
        image[table["a"]] += math.pow(level, 2)
        return sorted(image, key=lambda value: value + level + sort[0])

    keys = {fingerprint_of_code(read)}
    level = 4
    keys.add(fingerprint_of_code(read))
    table["a"] = 2
    keys.add(fingerprint_of_code(read))
    Holder.rows = (1, 3)
    keys.add(fingerprint_of_code(read))
    sort[0] = 5
    keys.add(fingerprint_of_code(read))
    assert len(keys) == 5


def test_instance_state_of_a_callable_object_is_in_its_key():
    class Above:
        def __init__(self, level):
            self.level = level

        def __call__(self, image):
            return image > self.level

    assert fingerprint_of_code(Above(1)) == fingerprint_of_code(Above(1)) != fingerprint_of_code(Above(2))
    assert fingerprint_of_code(Above(1).__call__) != fingerprint_of_code(Above(2).__call__)


def test_code_that_calls_itself_and_each_other_has_a_key():
    names = in_a_namespace(
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n > 0 and even(n - 1)\n"
    )
    edited = in_a_namespace(
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n > 1 and even(n - 1)\n"
    )
    assert fingerprint_of_code(names["even"]) != fingerprint_of_code(edited["even"])
    ring = []
    ring.append(ring)
    assert fingerprint_of_code(ring) == fingerprint_of_code(ring)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], [2, 1]),
        ((1,), [1]),
        (1, 1.0),
        (1, "1"),
        ({"a": 1}, {"a": 2}),
        (["ab", "c"], ["a", "bc"]),
        (np.zeros(2), np.zeros((2, 1))),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
        (Path("a"), Path("b")),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x.mean(), lambda x: x.max()),
        (lambda x: [x for _ in range(2)], lambda x: [x for _ in range(3)]),
        (lambda x, y=1: x, lambda x, y=2: x),
        (lambda x, *, y=1: x, lambda x, *, y=2: x),
        (np.add, np.subtract),
        (np.mean, np.median),
    ],
)
def test_different_things_have_different_fingerprints(one, other):
    assert fingerprint_of_code(one) != fingerprint_of_code(other)


def test_order_and_identity_make_no_difference():
    assert fingerprint_of_code({"a": 1, "b": 2}) == fingerprint_of_code({"b": 2, "a": 1})
    assert fingerprint_of_code({"a", "b", "c"}) == fingerprint_of_code({"c", "b", "a"})
    text = "".join(["a", "b"])
    assert fingerprint_of_code(["ab", "ab"]) == fingerprint_of_code([text, "".join(["a", "b"])])


@pytest.mark.slow
def test_another_process_has_the_same_key(tmp_path):
    (tmp_path / "users_module.py").write_text(EXTRACTOR + AUGMENTER + REGIONS + 'NAMES = {"a", "b", "c", "d"}\n')
    script = (
        "from users_module import *; import users_module, functools\n"
        "from sklearn_exdd._code import fingerprint_of_code\n"
        "things = [Cells(whiten=True), Specks(regions=Corner()), functools.partial(scaled, cells=1), NAMES]\n"
        "things += [lambda x: x in {'p', 'q', 'r'}]\n"
        "print(fingerprint_of_code(*things))"
    )
    keys = set()
    for seed in ("0", "1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}{':'}{Path(sklearn_exdd.__file__).parents[1]}"}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path
        )
        keys.add(done.stdout)
    assert len(keys) == 1
