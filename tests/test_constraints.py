"""Versions that are tested, compared with the versions that are promised."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

HERE = Path(__file__).parent
DEPENDENCIES = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["dependencies"]


def pinned(name):
    lines = (HERE / "constraints" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_lowest_versions_are_those_of_the_project():
    floors = {}
    for dependency in map(Requirement, DEPENDENCIES):
        (floor,) = dependency.specifier
        assert floor.operator == ">=", dependency
        floors[dependency.name] = Version(floor.version)
    assert {name: Version(lowest) for name, lowest in pinned("lowest.txt").items()} == floors


def test_the_newest_versions_are_no_older_than_the_lowest():
    lowest, newest = pinned("lowest.txt"), pinned("newest.txt")
    assert lowest.keys() == newest.keys()
    for name in lowest:
        assert Version(newest[name]) >= Version(lowest[name])


@pytest.mark.parametrize("name", pinned("lowest.txt"))
def test_what_is_installed_is_no_older_than_the_lowest(name):
    assert Version(re.sub(r"\+.*", "", version(name))) >= Version(pinned("lowest.txt")[name])
