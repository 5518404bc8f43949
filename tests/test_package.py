"""The package as a whole: what it loads, which names it offers, and which modules may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_exdd

PACKAGE = Path(sklearn_exdd.__file__).parent
HEAVY = ["torch", "torchvision", "diffusers", "pynndescent", "numba", "matplotlib", "timm"]

# From the bottom up: a room (a module or a folder of the package) may import from lower floors and from itself.
FLOORS = [
    {"_code"},
    {"_cache", "_composition", "_files", "_images", "_map_colors", "_params", "_torch"},
    {"_labels"},
    {"_training", "_training_set", "_weights", "neighbors", "scoring"},
    {"augment", "coreset"},
    {"features"},
    {"banks"},
    {"detectors"},
    {"recommendation"},
]
# Rooms beside the floors. No floor may import them.
AROUND = {
    "__main__": {"cli"},
    "_versions": {""},
    "cli": {
        *(
            "",
            "_files",
            "_images",
            "_map_colors",
            "augment",
            "datasets",
            "detectors",
            "display",
            "export",
            "features",
            "metrics",
        ),
        *("_versions", "persistence", "review"),
    },
    "metrics": {"_composition", "_images", "_training_set", "features", "scoring"},
    "datasets": {"_images", "_labels", "review"},  # an expert's decisions on the review page are data
    "monitor": {"_composition", "_images", "_params"},
    "persistence": {"_files", "_images"},  # loads classes of all rooms by name
    "export": {"", "_files", "_images", "augment", "banks", "datasets", "detectors", "features"},
    "review": {"_composition", "_files", "_images", "_map_colors", "augment", "persistence"},
    "display": {"_composition", "_images", "_map_colors", "scoring"},
}


def rooms_within_reach(room):
    """Return the rooms that a room may import, including itself."""
    if room in AROUND:
        return {room} | AROUND[room]
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    return {room}.union(*FLOORS[:floor])


def imported_modules(source, module):
    """Return the modules and names of this package that the source of a module imports, also inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        else:
            continue
        modules |= {name for name in names if name.partition(".")[0] == "sklearn_exdd"}
    return modules


def imported_rooms(source, module="sklearn_exdd.scoring"):
    """Return the rooms that the source of a module imports, also inside functions; "" is the package itself."""
    rooms = {name.split(".")[1] if "." in name else "" for name in imported_modules(source, module)}
    return {room if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file() else "" for room in rooms}


MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import sklearn_exdd.metrics", {"metrics"}),
        ("import sklearn_exdd.features.gabor as gabor, numpy", {"features"}),
        ("from sklearn_exdd import coreset, scoring", {"coreset", "scoring"}),
        ("from sklearn_exdd import ExDDDetector", {""}),
        ("from sklearn_exdd.features.base import BaseFeatureExtractor", {"features"}),
        ("from . import display", {"display"}),
        ("from .datasets import load_folder", {"datasets"}),
        ("def f():\n    if True:\n        from sklearn_exdd.detectors.exdd import ExDDDetector", {"detectors"}),
        ("import importlib\nimportlib.import_module('sklearn_exdd.detectors.exdd')", {"detectors"}),
        ("import numpy\nfrom torch import nn\nfrom sklearn_exdd_other import x", set()),
    ],
)
def test_every_way_to_import_a_room_is_seen(source, rooms):
    assert imported_rooms(source) == rooms


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("_images", "_torch"),
        ("neighbors", "features"),
        ("features", "banks"),
        ("features", "detectors"),
        ("banks", "detectors"),
        ("scoring", "metrics"),
        ("detectors", "display"),
        ("datasets", "detectors"),
    ],
)
def test_the_plan_of_the_house_forbids_what_it_should(room, forbidden):
    assert forbidden not in rooms_within_reach(room)
    assert room in rooms_within_reach(room)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_the_rooms_below_it(path):
    room = room_of(path)
    module = ".".join(["sklearn_exdd", *path.relative_to(PACKAGE).with_suffix("").parts])
    imported = imported_rooms(path.read_text(encoding="utf-8"), module)
    if room == "__init__":
        assert imported == set(), "the package itself loads nothing; its names are looked up when used"
    else:
        assert imported <= rooms_within_reach(room)


DETECTORS = sorted((PACKAGE / "detectors").rglob("*.py"))


@pytest.mark.parametrize("path", DETECTORS, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_detectors_do_not_import_each_other(path):
    own = path.relative_to(PACKAGE / "detectors").parts[0].removesuffix(".py")
    module = ".".join(["sklearn_exdd", *path.relative_to(PACKAGE).with_suffix("").parts])
    imported = imported_modules(path.read_text(encoding="utf-8"), module)
    parts = {name.split(".")[2] for name in imported if name.startswith("sklearn_exdd.detectors.")}
    assert parts <= {"base", own}


def test_the_rooms_stay_few_and_their_files_short():
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__main__.py"]) <= 16
    lengths = {path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_every_module_has_a_room_in_the_plan():
    planned = {"__init__", *AROUND}.union(*FLOORS)
    assert {room_of(path) for path in MODULES} <= planned


def test_no_module_is_an_attic():
    names = {part for path in MODULES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert "exdd" in names
    assert not names & {"utils", "_utils", "util", "helpers", "common", "misc", "tools"}


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, sklearn_exdd; dir(sklearn_exdd); print(*[m for m in {HEAVY} if m in sys.modules], 'end')"
    assert run_python(code) == ["end"]


@pytest.mark.slow
def test_a_detector_is_used_without_what_it_does_not_need():
    code = (
        "import sys, numpy as np; from sklearn_exdd import ExDDDetector; "
        "rng = np.random.RandomState(0); "
        "ExDDDetector('gabor').fit(rng.randint(0, 255, (4, 64, 64)).astype(np.uint8)); "
        f"print(*[m for m in {HEAVY[2:]} if m in sys.modules], 'end')"
    )
    assert run_python(code) == ["end"]


@pytest.mark.parametrize("name", sklearn_exdd.__all__)
def test_every_public_name_resolves_to_what_bears_it(name):
    value = getattr(sklearn_exdd, name)
    if name == "__version__":
        assert value.count(".") == 2
    else:
        assert value.__name__.removeprefix("sklearn_exdd.") == name
        assert value.__doc__


def test_the_public_names_are_sorted_listed_and_importable_at_once():
    assert sklearn_exdd.__all__ == sorted(set(sklearn_exdd.__all__))
    assert dir(sklearn_exdd) == sklearn_exdd.__all__
    namespace = {}
    exec("from sklearn_exdd import *", namespace)
    assert set(sklearn_exdd.__all__) <= set(namespace)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'sklearn_exdd' has no attribute 'Detector'"):
        sklearn_exdd.Detector  # noqa: B018
