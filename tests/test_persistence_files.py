"""Refusals: objects that no file can hold, and damaged, foreign and hostile files, whatever they contain."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    DiffusionDefectAugmenter,
    ExDDDetector,
    GaborFeatureExtractor,
    MemoryBank,
    ModuleFeatureExtractor,
    persistence,
)
from sklearn_exdd.persistence import dump, load

# Objects that cannot be written


class Own(BaseEstimator):
    def transform(self, images):
        return images


class OwnDetector(ExDDDetector):
    pass


def build():
    raise AssertionError("never called")


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (
            ExDDDetector(Own()),
            r"ExDDDetector\.feature_extractor: expected a value .* got test_persistence_files\.Own\. Use joblib",
        ),
        (
            OwnDetector(),
            r"OwnDetector: expected a value .* got test_persistence_files\.OwnDetector\. Use joblib or skops",
        ),
        (
            CutPasteDefectAugmenter(foreground=lambda image: image > 0),
            r"foreground: .* got builtins\.function\. Use joblib",
        ),
        (ModuleFeatureExtractor(build), "ModuleFeatureExtractor: expected a value that a file without code can hold"),
        (DiffusionDefectAugmenter(build), r"DiffusionDefectAugmenter\.model: .* got builtins\.function"),
        (
            ExDDDetector(random_state=np.random.RandomState(0)),
            r"random_state: .*RandomState\. Set an int or None instead",
        ),
        (
            make_pipeline(CutPasteDefectAugmenter(), ExDDDetector()),
            r"Pipeline: .* Pass the detector inside it, such as pipel",
        ),
        (
            CombinedDefectDetector([("a", ExDDDetector(pos_label=1j))]),
            r"detectors\[0\]\[1\]\.pos_label: .* builtins\.complex",
        ),
        (GaborFeatureExtractor(image_size=np.array([1j])), r"image_size: .* got numpy\.ndarray"),
        (GaborFeatureExtractor(image_size=np.ma.array([1])), r"image_size: .* got numpy\.ma\.(core\.)?MaskedArray"),
        (GaborFeatureExtractor(image_size={1, 2}), r"image_size: .* got builtins\.set"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_needs_code_to_be_made_again_is_refused_with_advice(estimator, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        dump(estimator, tmp_path / "estimator")
    assert list(tmp_path.iterdir()) == []


def test_a_fitted_detector_with_an_extractor_of_ones_own_is_refused(cells, surfaces, tmp_path):
    with pytest.raises(
        TypeError, match=r"ExDDDetector\.feature_extractor: .* got conftest\.CellStatistics\. Use joblib"
    ):
        dump(ExDDDetector(cells).fit(surfaces[0]), tmp_path / "detector")


def test_what_would_be_too_long_to_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(persistence, "_MAX_HEADER", 100)
    with pytest.raises(ValueError, match=r"detector: expected at most 0\.0001 MB of names and texts, .* Fit on paths"):
        dump(ExDDDetector(), tmp_path / "detector")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named_before_anything_is_done(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected an existing folder to write into, found no '.*nowhere'"):
        dump(ExDDDetector(), tmp_path / "nowhere" / "detector")


def test_a_disk_that_refuses_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "detector"
    dump(ExDDDetector(n_neighbors=3), path)

    def fsync(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        dump(ExDDDetector(n_neighbors=5), path)
    assert load(path).n_neighbors == 3
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_of_classes_holds_every_estimator_that_needs_no_code_of_the_users():
    import sklearn_exdd

    homes = [sklearn_exdd, sklearn_exdd.augment, sklearn_exdd.features]
    public = {getattr(home, name) for home in homes for name in home.__all__}
    estimators = {kind.__name__ for kind in public if isinstance(kind, type) and issubclass(kind, BaseEstimator)}
    bases = {"BaseDefectAugmenter", "BaseDefectDetector", "BaseFeatureExtractor"}
    bases |= {"ModuleFeatureExtractor", "PatchClassifierDetector"}  # they hold code of the user or of another library
    assert estimators - bases <= set(persistence._HOME)
    for name in persistence._HOME:
        assert persistence._class(name).__module__.startswith("sklearn_exdd.")


# Files that are read


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return the content of a file that is small enough to be damaged in every way."""
    path = tmp_path_factory.mktemp("small") / "bank"
    dump(MemoryBank([[0.0, 1.0], [2.0, 3.0]]), path)
    return path.read_bytes()


@pytest.mark.slow
def test_no_flipped_bit_goes_unseen(small, tmp_path):
    path = tmp_path / "bank"
    for position in range(len(small)):
        damaged = bytearray(small)
        damaged[position] ^= 1 << (5 * position % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="bank: expected"):
            load(path)


def test_no_missing_or_added_byte_goes_unseen(small, tmp_path):
    path = tmp_path / "bank"
    for damaged in [*(small[:length] for length in range(0, len(small), 3)), small + b"\0", small * 2]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"bank: expected a file written by .*dump, got"):
            load(path)


@pytest.mark.slow
@given(
    st.binary(max_size=300)
    | st.builds(lambda size, rest: struct.pack("<Q", size) + rest, st.integers(0, 400), st.binary())
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bytes: expected a file written by"):
        load(path)


@pytest.mark.parametrize(
    "content", [b"\x80\x04N.", b"PK\x03\x04", b"", save({"a": np.zeros(3)}), save({}, {"format": "pt"})]
)
def test_other_kinds_of_files_are_refused(content, tmp_path):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ValueError, match=r"other: expected a file written by .*dump, got another"):
        load(tmp_path / "other")


@pytest.mark.parametrize(("place", "came"), [("nothing", "found no such file"), (".", "got a folder")])
def test_what_is_no_file_is_said(place, came, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"expected a file written by .*dump, {came}"):
        load(tmp_path / place)


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"expected a file to write, got a folder\. Add the name of a file"):
        dump(GaborFeatureExtractor(), tmp_path)


def forged(path, structure, tensors=None, **header):
    """Write a file whose checksum is right, whatever it contains."""
    structure = structure if isinstance(structure, str) else json.dumps(structure)
    tensors = tensors or {}
    digest = persistence._digest(structure, tensors)
    header = {"format": "sklearn_exdd", "version": "1", "structure": structure, "sha256": digest, **header}
    path.write_bytes(save(tensors, header))
    return path


def own(name, **arguments):
    return {"type": name, "arguments": arguments, "attributes": {}}


def test_a_newer_format_is_refused_by_its_number(tmp_path):
    path = forged(tmp_path / "newer", "whatever a later version means by it", version="2")
    with pytest.raises(
        ValueError, match=r"newer: expected format 1 or older, got format 2, written by a newer sklearn_exdd"
    ):
        load(path)


CODES = {"codes": np.full((1, 2), 0x110000, dtype=np.uint32), "row": np.zeros(3)}


@pytest.mark.parametrize(
    "structure",
    [
        own("system"), own("os.system"), own("Pipeline"), own("ModuleFeatureExtractor"),
        own("ForeignFeatureExtractor"), own("__builtins__"), own("PurePath"), {"type": "MemoryBank"},
        {"type": ["MemoryBank"], "arguments": {}}, own("ExDDDetector", memory="/tmp"),
        own("PerlinDefectAugmenter", memory="/tmp"), own("ExDDDetector", nothing=1),
        {**own("ExDDDetector"), "attributes": {"__class__": 1}},
        {**own("ExDDDetector"), "attributes": {"predict": 1}},
        {**own("ExDDDetector"), "attributes": {"memory": "/tmp"}}, own("MemoryBank"), own("MemoryBank", features=[]),
        own("MemoryBank", features={"array": "nowhere"}), own("MemoryBank", features={"array": "row"}),
        own("Images", X=5), own("Images", X=[]), own("CombinedDefectDetector"),
        own("ExDDDetector", blur={"float": "1e9"}), own("ExDDDetector", blur={"array": "codes", "text": [1]}),
        own("ExDDDetector", blur={"array": "row", "text": [3]}), own("ExDDDetector", blur={"scalar": ["|O", 1]}),
        own("ExDDDetector", blur={"scalar": ["<U999999999", "a"]}),
        own("ExDDDetector", blur={"scalar": ["<i2", 10**9]}), own("ExDDDetector", blur={"scalar": ["<f4", {}]}),
        own("ExDDDetector", blur={"objects": [], "shape": [10**9, 0, "a"]}),
        own("ExDDDetector", blur={"reduce": []}), own("ExDDDetector", blur={"objects": [1], "shape": [10**9]}),
        own("ExDDDetector", blur={"dict": [[[], 1]]}), own("ExDDDetector", blur={"dict": [[1]]}),
        own("ExDDDetector", blur={"dict": 3}), own("ExDDDetector", blur={}), [], None, 5, "text", {"path": "a"}, "{",
        "[" * 100_000 + "]" * 100_000, '{"tuple": [' * 5_000 + "]}" * 5_000,
    ],
    ids=lambda structure: str(structure)[:60],
)  # fmt: skip
def test_a_hostile_structure_is_refused(structure, tmp_path):
    with pytest.raises(ValueError, match=r"hostile: expected a file written by .*dump, got"):
        load(forged(tmp_path / "hostile", structure, CODES))


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["row", "codes", "text", "<f4", *persistence._HOME]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["tuple", "dict", "float", "path", "scalar", "objects", "shape", "array", "order", "type"]),
            inner,
        )
        | st.builds(
            lambda name, arguments, attributes: {"type": name, "arguments": arguments, "attributes": attributes},
            st.sampled_from(sorted(persistence._HOME)),
            st.dictionaries(
                st.sampled_from(["X", "features", "feature_extractor", "augmenters", "memory", "path"]), inner
            ),
            st.dictionaries(st.sampled_from(["a_", "_b", "__c", "d"]), inner, max_size=2),
        )
    ),
    max_leaves=10,
)


@pytest.mark.slow
@given(junk)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_structure_is_one_of_ours_or_refused(tmp_path_factory, structure):
    path = forged(tmp_path_factory.getbasetemp() / "junk", structure, CODES)
    try:
        made = type(load(path)).__name__
    except ValueError as error:
        made = "refused" if str(path) in str(error) else "refused without a name"
    assert made in {"refused", *persistence._HOME}


@pytest.mark.slow
def test_an_array_that_is_named_often_is_in_memory_once(tmp_path):
    import tracemalloc

    structure = own("ExDDDetector", blur=[{"array": "large"}] * 10_000)
    path = forged(tmp_path / "often", structure, {"large": np.zeros(10**6)})
    tracemalloc.start()
    try:
        load(path)
        assert tracemalloc.get_traced_memory()[1] < 5 * path.stat().st_size
    finally:
        tracemalloc.stop()


def test_a_file_can_be_looked_into_without_this_library(small, tmp_path):
    (tmp_path / "bank").write_bytes(small)
    with safe_open(tmp_path / "bank", framework="numpy") as file:
        assert "features" in file.keys()  # noqa: SIM118
        assert json.loads(file.metadata()["structure"])["type"] == "MemoryBank"
