"""Versions that are tested, compared with the versions that are promised."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from sklearn_exdd.export.tracing import LOWEST

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]


def pinned(name):
    lines = (HERE / "constraints" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def floors(dependencies):
    versions = {}
    for dependency in map(Requirement, dependencies):
        (floor,) = dependency.specifier
        assert floor.operator == ">=", dependency
        versions[dependency.name] = Version(floor.version)
    return versions


@pytest.mark.parametrize(
    ("name", "dependencies"),
    [("lowest.txt", PROJECT["dependencies"]), ("lowest-onnx.txt", PROJECT["optional-dependencies"]["onnx"])],
)
def test_the_lowest_versions_are_those_of_the_project(name, dependencies):
    assert {package: Version(lowest) for package, lowest in pinned(name).items()} == floors(dependencies)


def test_the_export_of_networks_checks_the_versions_of_its_extra():
    extra = floors(PROJECT["optional-dependencies"]["onnx"])
    assert {package: Version(lowest) for package, lowest in LOWEST.items()}.items() <= extra.items()


def test_the_newest_versions_are_no_older_than_the_lowest():
    lowest, newest = pinned("lowest.txt"), pinned("newest.txt")
    assert lowest.keys() == newest.keys()
    for name in lowest:
        assert Version(newest[name]) >= Version(lowest[name])


@pytest.mark.parametrize("name", pinned("lowest.txt"))
def test_what_is_installed_is_no_older_than_the_lowest(name):
    assert Version(re.sub(r"\+.*", "", version(name))) >= Version(pinned("lowest.txt")[name])
