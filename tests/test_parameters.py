"""Every parameter of every public class is checked before anything is computed, and the message names it.

A new public estimator needs one more line in MAKE. Values that a parameter refuses are derived from its constraints.
"""

import inspect
import re
from numbers import Integral

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions, make_constraint

import sklearn_exdd
from sklearn_exdd import augment, features
from sklearn_exdd.augment.synthetic import GivenDefects
from sklearn_exdd.features.foreign import ForeignFeatureExtractor


def build():
    raise AssertionError("expected the parameters to be checked before a network is built")


def corner(image_shape=(64, 96)):
    mask = np.zeros(image_shape, dtype=bool)
    mask[5:20, 5:30] = True
    return mask


class Cells(features.BaseFeatureExtractor):
    """Extractor written by a user, with parameters that have no constraint."""

    def __init__(self, size=8, *, device=None):
        super().__init__()
        self.size = size
        self.device = device

    @property
    def stride(self):
        return self.size

    def _extract(self, images):
        return images[:, :: self.size, :: self.size]


CELLS = Cells()
ESTIMATOR = sklearn_exdd.ExDDDetector()
OFFSETS = [("offsets", augment.OffsetDefectAugmenter())]

#: One function per public class that makes an object with valid parameters, except for those that a test sets.
MAKE = {
    "BaseDefectAugmenter": sklearn_exdd.BaseDefectAugmenter,
    "BaseDefectDetector": sklearn_exdd.BaseDefectDetector,
    "BaseFeatureExtractor": sklearn_exdd.BaseFeatureExtractor,
    "BoxRegions": lambda boxes=((5, 5, 20, 30),): augment.BoxRegions(boxes),
    "CombinedDefectDetector": lambda detectors=(), **params: sklearn_exdd.CombinedDefectDetector(
        [("exdd", sklearn_exdd.ExDDDetector())] if detectors == () else detectors, **params
    ),
    "CrackRegions": augment.CrackRegions,
    "CutPasteDefectAugmenter": augment.CutPasteDefectAugmenter,
    "DDPMDefectAugmenter": augment.DDPMDefectAugmenter,
    "DefectClassifier": sklearn_exdd.DefectClassifier,
    "DefectPasteAugmenter": augment.DefectPasteAugmenter,
    "DiffusionDefectAugmenter": augment.DiffusionDefectAugmenter,
    "DriftMonitor": lambda detector=ESTIMATOR, **params: sklearn_exdd.DriftMonitor(detector, **params),
    "EfficientNetLiteFeatureExtractor": features.EfficientNetLiteFeatureExtractor,
    "ExDDDetector": sklearn_exdd.ExDDDetector,
    "GaborFeatureExtractor": features.GaborFeatureExtractor,
    "LearnedFeatureExtractor": features.LearnedFeatureExtractor,
    "MaskRegions": augment.MaskRegions,
    "MixedDefectAugmenter": lambda augmenters=OFFSETS, **params: augment.MixedDefectAugmenter(augmenters, **params),
    "ModuleFeatureExtractor": lambda build=build, **params: features.ModuleFeatureExtractor(build, **params),
    "OffsetDefectAugmenter": augment.OffsetDefectAugmenter,
    "LinearProbeDetector": sklearn_exdd.LinearProbeDetector,
    "PatchClassifierDetector": sklearn_exdd.PatchClassifierDetector,
    "PerlinDefectAugmenter": augment.PerlinDefectAugmenter,
    "PerlinRegions": augment.PerlinRegions,
    "PolygonRegions": lambda polygons=([(5, 5), (20, 5), (5, 30)],): augment.PolygonRegions(polygons),
    "RectangleRegions": augment.RectangleRegions,
    "RidgedRegions": augment.RidgedRegions,
    "SegmentationDetector": sklearn_exdd.SegmentationDetector,
    "StudentTeacherDetector": sklearn_exdd.StudentTeacherDetector,
    "TimmFeatureExtractor": features.TimmFeatureExtractor,
    "TorchvisionFeatureExtractor": features.TorchvisionFeatureExtractor,
    # Not public, but made by detectors from objects that a user passes.
    "ForeignFeatureExtractor": lambda extractor=CELLS, **params: ForeignFeatureExtractor(extractor, **params),
    "GivenDefects": lambda synthetic=None: GivenDefects(synthetic),
}
CLASSES = {
    name: getattr(module, name)
    for module in (sklearn_exdd, augment, features)
    for name in module.__all__
    if inspect.isclass(getattr(module, name)) and hasattr(getattr(module, name), "get_params")
}
CLASSES |= {"ForeignFeatureExtractor": ForeignFeatureExtractor, "GivenDefects": GivenDefects}

#: Parameters that take any object, with the reason.
ANY_OBJECT = {"pos_label": "labels may be of any type; whether it is one of them is found from y"}


class Nothing:
    """Object that no parameter takes."""

    def __repr__(self):
        return "Nothing()"


def parameters_of(name):
    return [parameter for parameter in CLASSES[name]._get_param_names() if parameter not in ANY_OBJECT]


def values_outside(interval):
    """Yield values just outside an interval, and numbers that it cannot contain."""
    step = 1 if interval.type is Integral else 1e-6
    for end, beyond in (interval.left, -step), (interval.right, step):
        if end is not None:
            yield from (end, end + beyond)
    if interval.type is Integral:
        yield 1.5
    yield from (float("nan"), float("inf"), -float("inf"))


def wrong_values(name, parameter):
    """Return values of the right types that the constraints of a parameter refuse."""
    constraints = getattr(CLASSES[name], "_parameter_constraints", {}).get(parameter, [])
    if constraints == "no_validation":
        return
    constraints = [make_constraint(constraint) for constraint in constraints]
    values = []
    for constraint in constraints:
        if isinstance(constraint, Interval):
            values += values_outside(constraint)
        elif isinstance(constraint, StrOptions):
            values.append("no such option")
        elif isinstance(constraint, type(make_constraint("random_state"))):
            values += [-1, 2**32]
        elif isinstance(constraint, type(make_constraint("verbose"))):
            values.append(-1)
        elif isinstance(constraint, type(make_constraint("boolean"))):
            values += [2, "yes"]
    yield from (value for value in values if not any(constraint.is_satisfied_by(value) for constraint in constraints))


def uses_of(estimator):
    """Return the calls that check parameters. They pass None as images to show that nothing else is done first."""
    if hasattr(estimator, "draw"):
        return [lambda: estimator.draw((64, 96), np.random.RandomState(0))]
    if isinstance(estimator, features.BaseFeatureExtractor):
        return [lambda: estimator.fit(None), lambda: estimator.fit_transform(None), lambda: estimator.transform(None)]
    return [lambda: estimator.fit(None)]


def assert_refused(name, parameter, value):
    for use in uses_of(MAKE[name](**{parameter: value})):
        with pytest.raises((ValueError, TypeError)) as raised:
            use()
        message = str(raised.value)
        patterns = rf"The '{parameter}' parameter of {name} must be .*\. Got ", rf"{parameter}: expected .*, got "
        assert re.match("|".join(patterns), message, flags=re.DOTALL), message


def test_every_public_class_with_parameters_is_tested():
    assert MAKE.keys() == CLASSES.keys()


def test_no_exception_is_made_for_a_parameter_that_is_gone():
    known = {parameter for constructor in CLASSES.values() for parameter in constructor._get_param_names()}
    assert ANY_OBJECT.keys() <= known


@pytest.mark.parametrize(("name", "parameter"), [(name, one) for name in CLASSES for one in parameters_of(name)])
def test_an_object_of_a_wrong_type_is_refused(name, parameter):
    assert_refused(name, parameter, Nothing())


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [(name, one, value) for name in CLASSES for one in parameters_of(name) for value in wrong_values(name, one)],
)
def test_a_value_out_of_range_is_refused(name, parameter, value):
    assert_refused(name, parameter, value)


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_has_a_constraint_or_a_check_of_its_own(name):
    own_checks = {"build", "model", "boxes", "polygons", "masks"}
    constrained = getattr(CLASSES[name], "_parameter_constraints", {})
    assert set(parameters_of(name)) - own_checks <= constrained.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_the_default_values_pass(name):
    estimator = MAKE[name](**({"synthetic": augment.SyntheticDefects([], [], [])} if name == "GivenDefects" else {}))
    if hasattr(estimator, "_validate_params"):
        estimator._validate_params()


# Items of tuples and lists, and values that depend on the machine

SIZES = ["64", (64,), (64, 0), (64, 64, 64), (64, 1.5), (64, None), True, (True, 64), -3, 0, 1.5, float("nan"), ()]
INTERVALS = {
    "CrackRegions": ("width", "length", "waviness", "angle"),
    "DDPMDefectAugmenter": ("amplitude",),
    "DefectPasteAugmenter": ("scale", "contrast"),
    "LearnedFeatureExtractor": ("contrast",),
    "MaskRegions": ("scale",),
    "OffsetDefectAugmenter": ("offset", "softness"),
    "PerlinDefectAugmenter": ("opacity", "gain"),
    "PerlinRegions": ("scales",),
    "RectangleRegions": ("area", "aspect", "angle"),
    "RidgedRegions": ("width", "length", "elongation", "angle"),
}
NO_INTERVALS = [(), (1,), (1, 2, 3), (2, 1), ("1", "2"), (1, None), (1, float("nan")), (1, float("inf")), [[1], [2, 3]]]


@pytest.mark.parametrize("size", SIZES, ids=repr)
@pytest.mark.parametrize("name", [name for name in CLASSES if "image_size" in parameters_of(name)])
def test_an_image_size_that_is_none_is_refused(name, size):
    assert_refused(name, "image_size", size)


@pytest.mark.parametrize("interval", NO_INTERVALS, ids=repr)
@pytest.mark.parametrize(("name", "parameter"), [(name, one) for name, some in INTERVALS.items() for one in some])
def test_what_is_no_range_is_refused(name, parameter, interval):
    assert_refused(name, parameter, interval)


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("EfficientNetLiteFeatureExtractor", "strides", ()),
        ("EfficientNetLiteFeatureExtractor", "strides", (8, 8)),
        ("EfficientNetLiteFeatureExtractor", "strides", (8, 64)),
        ("EfficientNetLiteFeatureExtractor", "strides", ("8",)),
        ("ModuleFeatureExtractor", "layers", ()),
        ("ModuleFeatureExtractor", "layers", (3,)),
        ("ModuleFeatureExtractor", "layers", "layer2"),
        ("TorchvisionFeatureExtractor", "layers", ["layer2", None]),
        ("TimmFeatureExtractor", "layers", ["layer2", None]),
        ("TimmFeatureExtractor", "layers", ("layer2",)),
        ("TimmFeatureExtractor", "layers", ()),
        ("TimmFeatureExtractor", "layers", (1, 2.0)),
        ("TimmFeatureExtractor", "layers", (True,)),
        ("TimmFeatureExtractor", "mean", ()),
        ("TimmFeatureExtractor", "mean", ("0.5",)),
        ("TorchvisionFeatureExtractor", "backbone", "swin_t"),
        ("TorchvisionFeatureExtractor", "backbone", "vit_b_16"),
        ("ModuleFeatureExtractor", "mean", ()),
        ("ModuleFeatureExtractor", "mean", (0.5, 0.5)),
        ("ModuleFeatureExtractor", "mean", (0.5, "0.5", 0.5)),
        ("ModuleFeatureExtractor", "mean", [[0.5], [0.5, 0.5], 0.5]),
        ("ModuleFeatureExtractor", "std", (0.5, 0.5)),
        ("ModuleFeatureExtractor", "std", (0.5, 0.0, 0.5)),
        ("ModuleFeatureExtractor", "std", (0.5, float("nan"), 0.5)),
        ("TimmFeatureExtractor", "std", (-1,)),
        ("ModuleFeatureExtractor", "pool_size", 4),
        ("LearnedFeatureExtractor", "crop_size", 40),
        ("StudentTeacherDetector", "layers", ()),
        ("StudentTeacherDetector", "layers", [1, 2]),
        ("StudentTeacherDetector", "channels", ()),
        ("StudentTeacherDetector", "channels", (8, 0)),
        ("StudentTeacherDetector", "channels", ("8", "16")),
        ("DDPMDefectAugmenter", "block_out_channels", (12,)),
        ("DDPMDefectAugmenter", "block_out_channels", ("8",)),
        ("PerlinDefectAugmenter", "grid", (4, 8.5)),
        ("PerlinDefectAugmenter", "grid", (4, "8")),
        ("PerlinDefectAugmenter", "opacity", (0, 1.5)),
        ("PerlinRegions", "scales", (0, 5.5)),
        ("PerlinRegions", "scales", (0, 40)),
        ("OffsetDefectAugmenter", "regions", []),
        ("OffsetDefectAugmenter", "regions", ["perlin", "blobs"]),
        ("OffsetDefectAugmenter", "regions", [Nothing()]),
        ("OffsetDefectAugmenter", "foreground", "bright"),
        ("DiffusionDefectAugmenter", "prompts", ["pit", 3]),
        ("DiffusionDefectAugmenter", "prompt_shares", ["a", "b"]),
        ("MixedDefectAugmenter", "augmenters", []),
        ("MixedDefectAugmenter", "augmenters", [("name", Nothing())]),
        ("MixedDefectAugmenter", "augmenters", (("name", augment.OffsetDefectAugmenter()),)),
        ("MixedDefectAugmenter", "shares", ["half"]),
        ("MixedDefectAugmenter", "shares", [[1], [2, 3]]),
        ("CombinedDefectDetector", "detectors", []),
        ("CombinedDefectDetector", "detectors", [("name", Nothing())]),
        ("CombinedDefectDetector", "weights", ["all"]),
        ("SegmentationDetector", "feature_extractor", features.GaborFeatureExtractor()),
    ],
    ids=repr,
)
def test_what_a_list_must_not_hold_is_refused(name, parameter, value):
    assert_refused(name, parameter, value)


@pytest.mark.parametrize(
    ("drawer", "message"),
    [
        (augment.BoxRegions([(5, 5, 20, 30), (1, 2, 3)]), r"boxes\[1\]: expected four numbers .*, got \(1, 2, 3\)"),
        (augment.BoxRegions([(1, 2, float("nan"), 4)]), r"boxes\[0\]: expected four numbers .*, got \(1, 2, nan, 4\)"),
        (augment.BoxRegions([3]), r"boxes\[0\]: expected four numbers .*, got 3"),
        (augment.BoxRegions({1: (5, 5, 20, 30)}), "boxes: expected a non-empty list, got {1:"),
        (augment.PolygonRegions([[(1, 2), (3,), (4, 5)]]), r"polygons\[0\]: expected at least 3 vertices .*, got \[\("),
        (augment.PolygonRegions([["a", "b", "c"]]), r"polygons\[0\]: expected at least 3 vertices .*, got \['a'"),
        (augment.PolygonRegions([[(1, 2), (3, np.inf), (4, 5)]]), r"polygons\[0\]: expected finite .*, got NaN or inf"),
        (augment.MaskRegions([corner(), 3]), r"masks\[1\]: expected an array \(height, width\) or a path, got 3"),
        (augment.MaskRegions("mask.png"), "masks: expected a non-empty list, got 'mask.png'"),
    ],
    ids=repr,
)
def test_a_wrong_item_is_named_by_its_number_wherever_it_stands(drawer, message):
    for seed in range(3):
        with pytest.raises(ValueError, match=f"^{message}"):
            drawer.draw((64, 96), np.random.RandomState(seed))
    with pytest.raises(ValueError, match=f"^{message}"):
        augment.OffsetDefectAugmenter(regions=["perlin", drawer]).fit(None)


@pytest.mark.parametrize("name", [name for name in CLASSES if "device" in parameters_of(name)])
def test_a_device_that_is_none_or_not_there_is_refused(name):
    import torch

    known = r"^device: expected a torch device such as 'cpu' or 'cuda:0', got '(gpu|)'\. Set device=None"
    for use in [use for device in ("gpu", "") for use in uses_of(MAKE[name](device=device))]:
        with pytest.raises(ValueError, match=known):
            use()
    missing = f"cuda:{torch.cuda.device_count()}"
    for use in uses_of(MAKE[name](device=missing)):
        with pytest.raises(ValueError, match=rf"^device: expected an available device, got '{missing}' \(.*\)\. Set"):
            use()
    MAKE[name](device="cpu")._validate_params()


# Objects within objects


@pytest.mark.parametrize(
    "estimator",
    [
        augment.OffsetDefectAugmenter(regions=augment.PerlinRegions(threshold=3)),
        augment.OffsetDefectAugmenter(regions=["rectangle", augment.PerlinRegions(threshold=3)]),
        augment.MixedDefectAugmenter(
            [*OFFSETS, ("own", augment.CutPasteDefectAugmenter(regions=augment.PerlinRegions(threshold=3)))]
        ),
        features.LearnedFeatureExtractor(
            augmenter=augment.OffsetDefectAugmenter(regions=augment.PerlinRegions(threshold=3))
        ),
        sklearn_exdd.ExDDDetector(augmenter=augment.OffsetDefectAugmenter(regions=augment.PerlinRegions(threshold=3))),
        sklearn_exdd.CombinedDefectDetector(
            [
                (
                    "own",
                    sklearn_exdd.PatchClassifierDetector(
                        augmenter=augment.OffsetDefectAugmenter(regions=augment.PerlinRegions(threshold=3))
                    ),
                )
            ]
        ),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_what_an_estimator_works_with_is_checked_before_the_images_are_read(estimator):
    with pytest.raises(ValueError, match=r"^The 'threshold' parameter of PerlinRegions must be a float in the range"):
        estimator.fit(None)


@pytest.mark.parametrize(
    "detector",
    [
        sklearn_exdd.ExDDDetector(features.GaborFeatureExtractor(n_levels=9)),
        sklearn_exdd.PatchClassifierDetector(
            features.GaborFeatureExtractor(n_levels=9), augmenter=augment.OffsetDefectAugmenter()
        ),
        sklearn_exdd.StudentTeacherDetector(features.GaborFeatureExtractor(n_levels=9)),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_the_extractor_of_a_detector_is_checked_in_fit(detector, surfaces):
    with pytest.raises(ValueError, match=r"^The 'n_levels' parameter of GaborFeatureExtractor must be an int in the"):
        detector.fit(surfaces[0])


def test_a_class_in_the_place_of_an_object_is_refused(surfaces):
    with pytest.raises(TypeError, match=r"^feature_extractor: expected a name or an object with .*, got type"):
        sklearn_exdd.ExDDDetector(features.GaborFeatureExtractor).fit(surfaces[0])


def test_an_extractor_is_checked_once_in_a_call_and_its_drawers_once_in_a_fit(surfaces, monkeypatch):
    checked = []
    check = BaseEstimator._validate_params

    def count(estimator):
        checked.append(type(estimator).__name__)
        check(estimator)

    monkeypatch.setattr(BaseEstimator, "_validate_params", count)
    extractor = features.GaborFeatureExtractor(batch_size=2)
    for use in (extractor.fit, extractor.transform):
        checked.clear()
        use(surfaces[0])
        assert checked == ["GaborFeatureExtractor"]
    checked.clear()
    augmenter = augment.OffsetDefectAugmenter(regions=augment.RectangleRegions(), random_state=0).fit(surfaces[0])
    augmenter.sample(5)
    assert checked == ["OffsetDefectAugmenter", "RectangleRegions"]


# Classes written by users


def test_parameters_without_a_constraint_may_be_anything(surfaces):
    maps = Cells(size=4, device=Nothing()).fit(surfaces[0]).transform(surfaces[0])
    assert maps[0].shape == (16, 16, 1)


class Bare(sklearn_exdd.BaseDefectDetector):
    """Detector written by a user, without constraints."""

    def __init__(self, *, augmenter=None, device=None, pos_label=None):
        self.augmenter = augmenter
        self.device = device
        self.pos_label = pos_label

    def _fit(self, normal, defect):
        self.n_channels_, self.threshold_ = normal.samples.n_channels, 0.5

    def _score(self, samples):
        return np.array([image.mean() for image in samples])


def test_a_detector_without_constraints_works(surfaces):
    assert Bare(augmenter=Nothing(), device=Nothing()).fit(surfaces[0]).predict(surfaces[0]).shape == (24,)


def test_scikit_learn_can_be_told_to_skip_the_checks(surfaces):
    extractor = features.GaborFeatureExtractor(n_levels=2, verbose=-1, whiten=False)
    with pytest.raises(ValueError, match="The 'verbose' parameter"):
        extractor.transform(surfaces[0][:1])
    with sklearn.config_context(skip_parameter_validation=True):
        assert len(extractor.transform(surfaces[0][:1])) == 1


# The memory bank is not an estimator, but gives the same messages.


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"algorithm": "faiss"}, "algorithm: expected 'auto', 'brute' or 'pynndescent', got 'faiss'"),
        ({"algorithm": Nothing()}, r"algorithm: expected .*, got Nothing\(\)"),
        ({"random_state": -1}, r"random_state: expected an integer in \[0, 2\*\*32 - 1\], got -1"),
        ({"random_state": None}, r"random_state: expected an integer in \[0, 2\*\*32 - 1\], got None"),
        ({"provenance": Nothing()}, r"provenance: expected a dict of str to array-like or None, got Nothing\(\)"),
        (
            {"provenance": {"image": ["a", "b"]}},
            r"provenance\['image'\]: expected one int64 per row .*, got \['a', 'b'\]",
        ),
    ],
    ids=repr,
)
def test_a_wrong_parameter_of_a_memory_bank_is_refused(params, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        sklearn_exdd.MemoryBank(np.eye(2), **params)
