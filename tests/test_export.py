"""ONNX files of detectors on filters: equal scores, decisions and maps, from raw pixels."""

import copy
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from assertions import assert_onnx_agrees, run_onnx
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sklearn_exdd import (
    CombinedDefectDetector,
    CutPasteDefectAugmenter,
    ExDDDetector,
    GaborFeatureExtractor,
    PatchClassifierDetector,
    persistence,
)
from sklearn_exdd.cli.command import main
from sklearn_exdd.datasets import make_surface_defects
from sklearn_exdd.export import comparison, refusals, to_onnx

RUNTIME_ERRORS = Exception  # the errors of onnxruntime have no common base class


def surfaces_of(shape, n_images=2, seed=5):
    return make_surface_defects(n_images, image_shape=shape, random_state=seed)[0]


def in_colour(images):
    return np.clip(images[..., None] * np.array([1, 0.9, 0.8]), 0, 255).astype(images.dtype)


def as_dtype(images, dtype):
    if dtype == "float32":
        return (images / 255).astype(np.float32)
    return images.astype(dtype) * (257 if dtype == "uint16" else 1)


@pytest.fixture(scope="module")
def grey(surfaces):
    X, y, masks = surfaces
    return ExDDDetector("gabor", random_state=0).fit(X, y, masks=masks)


@pytest.fixture(scope="module")
def colour(surfaces):
    X, y, masks = surfaces
    return ExDDDetector("gabor", random_state=0).fit(in_colour(X), y, masks=masks)


@pytest.fixture(scope="module")
def path(grey, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "grey.onnx"
    to_onnx(grey, path)
    return path


def exported(detector, tmp_path, **options):
    to_onnx(detector, tmp_path / "detector.onnx", **options)
    return tmp_path / "detector.onnx"


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_file_gives_scores_decisions_and_maps_of_new_images_and_of_those_of_fit(
    dtype, layout, grey, surfaces, unseen_surfaces, tmp_path
):
    path = exported(grey, tmp_path, dtype=dtype, layout=layout)
    images = as_dtype(np.concatenate([unseen_surfaces[0], surfaces[0][:6]]), dtype)
    assert_onnx_agrees(path, grey, images, layout)


def test_a_file_takes_colour(colour, surfaces, unseen_surfaces, tmp_path):
    path = exported(colour, tmp_path, layout="NCHW")
    images = in_colour(np.concatenate([unseen_surfaces[0], surfaces[0][:6]]))
    assert_onnx_agrees(path, colour, images, "NCHW")


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_areas_are_the_same(value, grey, path):
    (image,) = surfaces_of((64, 96), 1)
    images = np.stack([image] * 4)
    images[0, :32], images[1, :, 50:], images[2, 20:30, 20:30], images[3] = value, value, value, value
    assert_onnx_agrees(path, grey, images, tolerance=2e-5)


@pytest.mark.parametrize("shape", [(48, 48), (97, 133), (160, 201)])
def test_one_file_serves_images_of_all_sizes(shape, grey, path):
    assert_onnx_agrees(path, grey, surfaces_of(shape))


def test_an_image_scores_the_same_alone_and_in_a_batch(path, unseen_surfaces):
    X = unseen_surfaces[0][:8]
    together = run_onnx(path, X)
    for images in (X[:1], X[2:5]):
        first = 0 if len(images) == 1 else 2
        own = run_onnx(path, images)
        np.testing.assert_allclose(own["score"], together["score"][first:][: len(images)], rtol=1e-6)
        np.testing.assert_allclose(
            own["anomaly_map"], together["anomaly_map"][first:][: len(images)], rtol=1e-5, atol=1e-6
        )


PARAMETERS = [
    {"image_score": "exdd", "n_support": 6, "n_neighbors": 2, "blur": 0},
    {"image_score": "exdd_code", "n_support": 1, "blur": 30.0, "border_rings": 0},
    {"image_score": "exdd_code", "epsilon": 1e-6, "coreset": "greedy", "normal_coreset": 0.1},
    {"n_top_patches": 1000, "n_neighbors": 3, "blur": 0.5},
    {"normal_coreset": 1, "n_top_patches": 1},
]
EXTRACTORS = [
    {"response": "linear", "n_levels": 2, "n_orientations": 5, "whiten": False},
    {"tile_size": 64},
    {"image_size": 48},
    {"image_size": (56, 72)},
    {"image_size": 72},
]


@pytest.mark.parametrize("params", PARAMETERS, ids=str)
def test_every_way_to_score_is_repeated(params, surfaces, tmp_path):
    X, y, masks = surfaces
    detector = ExDDDetector("gabor", random_state=0, **params).fit(X, y, masks=masks)
    assert_onnx_agrees(exported(detector, tmp_path), detector, surfaces_of((72, 97), 3))


@pytest.mark.parametrize("params", EXTRACTORS, ids=str)
def test_every_parameter_of_the_filters_is_repeated(params, surfaces, tmp_path):
    X, y, masks = surfaces
    detector = ExDDDetector(GaborFeatureExtractor(**params), random_state=0).fit(X, y, masks=masks)
    path = exported(detector, tmp_path)
    for shape in ((96, 97), (48, 49)):  # the longer side becomes 48.5 pixels with image_size=48, and 73.5 with 72
        assert_onnx_agrees(path, detector, surfaces_of(shape))


@pytest.mark.parametrize("image_score", ["top_mean", "exdd"])
def test_a_detector_without_defects_is_repeated(image_score, surfaces, tmp_path):
    X, y, _ = surfaces
    detector = ExDDDetector("gabor", image_score=image_score, random_state=0).fit(X[y == 0])
    assert_onnx_agrees(exported(detector, tmp_path), detector, surfaces_of((64, 96)))


def test_p_values_count_the_normal_images_that_score_as_high(grey, path, unseen_surfaces):
    X = unseen_surfaces[0]
    known = grey.calibration_scores_[~np.isnan(grey.calibration_scores_)]
    expected = [(1 + (known >= score).sum()) / (len(known) + 1) for score in grey.score_samples(X)]
    assert len(set(expected)) > 3
    np.testing.assert_allclose(run_onnx(path, X)["p_value"], expected, rtol=1e-6)


def test_p_values_give_each_group_one_share(surfaces, unseen_surfaces, tmp_path):
    X, y, _ = surfaces
    detector = ExDDDetector("gabor", random_state=0).fit(X, y, groups=np.arange(len(y)) // 3)
    assert detector.false_alarm_rate_ > 1 / (1 + np.sum(y == 0))
    p_values = run_onnx(exported(detector, tmp_path), unseen_surfaces[0])["p_value"]
    np.testing.assert_allclose(p_values, detector.p_values(unseen_surfaces[0]), rtol=1e-6)


def test_masks_mark_what_predict_mask_marks_and_never_nothing_on_a_defect(grey, path, unseen_surfaces, tmp_path):
    X = unseen_surfaces[0]
    outputs, expected = run_onnx(path, X), grey.predict_mask(X)
    np.testing.assert_array_equal(outputs["mask"].any(axis=(1, 2)), outputs["is_defect"])
    clear = [(pixel_map > grey.pixel_threshold_).any() for pixel_map in grey.predict_map(X)]
    np.testing.assert_array_equal(outputs["mask"][clear], expected[clear])
    detector = copy.copy(grey)
    detector.pixel_threshold_ = 1e6
    faint = run_onnx(exported(detector, tmp_path), X)
    np.testing.assert_array_equal(faint["mask"].sum(axis=(1, 2)), faint["is_defect"])


def test_an_image_is_a_defect_where_its_p_value_is_below_the_promised_rate(surfaces, unseen_surfaces, tmp_path):
    X, y, masks = surfaces
    detector = ExDDDetector("gabor", max_false_alarm_rate=0.3, random_state=0).fit(X, y, masks=masks)
    outputs = run_onnx(exported(detector, tmp_path), unseen_surfaces[0])
    assert 0 < outputs["is_defect"].sum() < len(unseen_surfaces[0])
    np.testing.assert_array_equal(outputs["is_defect"], outputs["p_value"] <= 0.3)


def test_inputs_outputs_and_metadata_are_as_documented(grey, path):
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)

    def described(values):
        return [
            (
                value.name,
                onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
                [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
            )
            for value in values
        ]

    assert described(model.graph.input) == [("image", "UINT8", ["batch", "height", "width", 1])]
    assert described(model.graph.output) == [
        ("score", "FLOAT", ["batch"]),
        ("decision", "FLOAT", ["batch"]),
        ("is_defect", "BOOL", ["batch"]),
        ("p_value", "FLOAT", ["batch"]),
        ("anomaly_map", "FLOAT", ["batch", "height", "width"]),
        ("mask", "BOOL", ["batch", "height", "width"]),
    ]
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert not model.functions
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert list(metadata) == [
        *("class", "version", "classes", "defect_class", "threshold", "false_alarm_rate"),
        *("dtype", "layout", "channels", "min_size", "pixel_threshold"),
    ]
    assert json.loads(metadata["classes"]) == grey.classes_.tolist()
    assert json.loads(metadata["defect_class"]) == 1
    assert float(metadata["threshold"]) == grey.threshold_
    assert metadata["min_size"] == "48"
    lines = model.doc_string.replace("'detector.onnx'", repr(str(path)))
    found = {"images": np.zeros((2, 48, 56, 1), dtype=np.uint8)}
    exec(lines, found)
    assert found["found"]["anomaly_map"].shape == (2, 48, 56)


def test_labels_of_text_are_in_the_metadata(surfaces, tmp_path):
    X, y, _ = surfaces
    detector = ExDDDetector("gabor", pos_label="rejet", random_state=0).fit(X, np.where(y, "rejet", "bon"))
    import onnx

    metadata = {entry.key: entry.value for entry in onnx.load(exported(detector, tmp_path)).metadata_props}
    assert json.loads(metadata["classes"]) == ["bon", "rejet"]
    assert json.loads(metadata["defect_class"]) == "rejet"


def test_another_threshold_changes_nothing_else(grey, path, tmp_path):
    import onnx

    other = copy.copy(grey)
    other.threshold_ = 0.123
    model, changed = onnx.load(path), onnx.load(exported(other, tmp_path))
    assert [node.SerializeToString() for node in model.graph.node] == [
        node.SerializeToString() for node in changed.graph.node
    ]
    pairs = zip(model.graph.initializer, changed.graph.initializer, strict=True)
    assert sum(one.SerializeToString() != two.SerializeToString() for one, two in pairs) == 1
    pairs = zip(model.metadata_props, changed.metadata_props, strict=True)
    assert [one.key for one, two in pairs if one != two] == ["threshold"]


def test_the_same_state_gives_the_same_bytes_and_stays_as_it_is(surfaces, unseen_surfaces, tmp_path):
    X, y, masks = surfaces
    detector = ExDDDetector("gabor", random_state=0).fit(X, y, masks=masks)
    detector.partial_fit(unseen_surfaces[0][:4], unseen_surfaces[1][:4])
    before = pickle.dumps(detector)
    first = exported(detector, tmp_path).read_bytes()
    assert pickle.dumps(detector) == before
    assert exported(detector, tmp_path).read_bytes() == first
    persistence.dump(detector, tmp_path / "model")
    assert exported(persistence.load(tmp_path / "model"), tmp_path).read_bytes() == first


def test_distances_are_computed_row_by_row_and_banks_are_stored_once(grey, path):
    import onnx

    graph = onnx.load(path).graph
    assert not {"Gemm", "Einsum", "CDist"} & {node.op_type for node in graph.node}
    (scan,) = [node for node in graph.node if node.op_type == "Scan"]
    (body,) = [attribute.g for attribute in scan.attribute if attribute.name == "body"]
    assert [node.op_type for node in body.node].count("Gemm") == 2
    n_bytes = sum(bank.features.nbytes for bank in (grey.normal_bank_, grey.defect_bank_))
    assert path.stat().st_size < 1.1 * n_bytes + 300_000


def test_a_file_names_no_place_and_stands_alone(grey, tmp_path):
    content = exported(grey, tmp_path).read_bytes()
    assert os.listdir(tmp_path) == ["detector.onnx"]
    for text in (os.getcwd(), os.path.expanduser("~/"), "site-packages", "Traceback", ".py"):
        assert text.encode() not in content


def test_an_interrupted_export_leaves_no_file(grey, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        exported(grey, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 48, 48, 3), np.uint8), "(?i)dimension"),
        (np.zeros((1, 1, 48, 48, 1), np.uint8), "(?i)rank"),
        (np.zeros((1, 48, 48, 1), np.float32), "(?i)type"),
        (np.zeros((1, 47, 64, 1), np.uint8), "expected at least 48 pixels a side"),
        (np.zeros((1, 64, 20, 1), np.uint8), "expected at least 48 pixels a side"),
    ],
)
def test_what_is_not_an_image_for_it_is_an_error(images, message, path):
    with pytest.raises(RUNTIME_ERRORS, match=message):
        run_onnx(path, images)


@pytest.mark.parametrize("value", [255.0, -0.1])
def test_floats_outside_the_range_are_an_error(value, grey, tmp_path):
    path = exported(grey, tmp_path, dtype="float32")
    with pytest.raises(RUNTIME_ERRORS, match=r"expected floats in \[0, 1\]"):
        run_onnx(path, np.full((1, 48, 48, 1), value, np.float32))


def test_a_combination_of_detectors_is_repeated(surfaces, unseen_surfaces, tmp_path):
    X, y, masks = surfaces
    frozen = FrozenEstimator(ExDDDetector("gabor", image_score="exdd", random_state=0).fit(unseen_surfaces[0]))
    pipeline = make_pipeline(CutPasteDefectAugmenter(n_synthetic=3), ExDDDetector("gabor", n_top_patches=1))
    members = [("plain", ExDDDetector("gabor", blur=0)), ("other", "drop"), ("painted", pipeline), ("frozen", frozen)]
    detector = CombinedDefectDetector(members, weights=[1, 5, 2, 0.5], random_state=0).fit(X, y, masks=masks)
    path = exported(FrozenEstimator(detector), tmp_path)
    assert_onnx_agrees(path, detector, surfaces_of((64, 97), 6))


def test_a_file_that_disagrees_is_refused_with_both_numbers(grey, unseen_surfaces, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "_SCORE_TOLERANCE", 0.0)
    X = surfaces_of((97, 133), 12)
    with pytest.raises(ValueError, match=r"check\[\d+\] \(97 x 133 pixels\): expected the score \S+ .*, got \S+ from"):
        exported(grey, tmp_path, check=X)
    monkeypatch.setattr(comparison, "_SCORE_TOLERANCE", 1.0)
    monkeypatch.setattr(comparison, "_MAP_TOLERANCE", 0.0)
    with pytest.raises(ValueError, match=r"expected the value at pixel \(\d+, \d+\)"):
        exported(grey, tmp_path, check=list(X))
    assert os.listdir(tmp_path) == []


def test_detectors_that_no_file_can_repeat_are_refused(grey, surfaces, cells, tmp_path, monkeypatch):
    X, approximate = surfaces[0][:8], copy.deepcopy(grey)
    approximate.normal_bank_.algorithm = "pynndescent"
    rows = np.random.RandomState(0).normal(size=(8, 3))
    cases = [
        (ExDDDetector("gabor"), NotFittedError, "not fitted"),
        (
            ExDDDetector("gabor").fit(rows),
            ValueError,
            "expected a detector fitted on images, got one fitted on",
        ),
        (ExDDDetector(cells).fit(X), TypeError, "feature_extractor: expected .* got CellStatistics.*ModuleFeatureExtr"),
        (approximate, ValueError, "Fit with algorithm='brute'"),
        (LogisticRegression(), TypeError, "got LogisticRegression.*fitted_detector"),
        (PatchClassifierDetector(), TypeError, "got PatchClassifierDetector"),
        (
            CombinedDefectDetector([("a", ExDDDetector("gabor")), ("b", ExDDDetector(cells))]).fit(X),
            TypeError,
            r"detector\.b\.feature_extractor: expected",
        ),
    ]
    for detector, error, message in cases:
        with pytest.raises(error, match=message):
            exported(detector, tmp_path)
    for wrong in ({"dtype": "int8"}, {"layout": "HWC"}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name}: expected one of"):
            exported(cases[0][0], tmp_path, **wrong)
    with pytest.raises(FileNotFoundError, match="expected an existing folder to write into"):
        exported(cases[0][0], tmp_path / "missing")
    with pytest.raises(IsADirectoryError, match="expected a file to write, got a folder"):
        to_onnx(cases[0][0], tmp_path)
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setattr(refusals, "find_spec", lambda name, missing=package: None if name == missing else True)
        with pytest.raises(ImportError, match=f"pip install {package}"):
            exported(cases[0][0], tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_shell_writes_the_same_file(grey, path, tmp_path, capsys):
    persistence.dump(grey, tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "model.onnx")]) == 0
    assert (tmp_path / "model.onnx").read_bytes() == path.read_bytes()
    assert "model.onnx" in capsys.readouterr().out
    arguments = ["--dtype", "float32", "--layout", "NCHW"]
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "other.onnx"), *arguments]) == 0
    images = np.full((1, 48, 48, 1), 0.5, np.float32)
    assert run_onnx(tmp_path / "other.onnx", images, "NCHW")["score"].shape == (1,)


def test_the_shell_says_what_cannot_be_exported(grey, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise TypeError("expected another detector")

    persistence.dump(grey, tmp_path / "model")
    monkeypatch.setattr("sklearn_exdd.cli.export.to_onnx", refuse)
    assert main(["export", str(tmp_path / "model"), "-o", str(tmp_path / "model.onnx")]) == 2
    assert "model: expected another detector" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_needs_neither_torch_nor_this_library_nor_does_the_export_need_the_exporter_of_torch(path, tmp_path):
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'sklearn', 'scipy', 'sklearn_exdd', 'onnx']))\n"
        "import numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        "print(session.run(['score'], {'image': numpy.zeros((2, 48, 48, 1), numpy.uint8)})[0].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(2,)\n"
    assert done.stderr == ""  # the runtime must not warn
    code = (
        "import sys, numpy as np\n"
        "from sklearn_exdd import ExDDDetector\n"
        "from sklearn_exdd.export import to_onnx\n"
        "X = np.random.RandomState(0).randint(0, 255, (4, 64, 64)).astype(np.uint8)\n"
        f"to_onnx(ExDDDetector('gabor').fit(X), {str(tmp_path / 'detector.onnx')!r})\n"
        "print([name for name in ('onnxscript', 'torch.onnx._internal.exporter._core') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
