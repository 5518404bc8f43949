"""The versions that a bug report lists."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from types import SimpleNamespace

import pytest

import sklearn_exdd
from sklearn_exdd import _versions
from sklearn_exdd.cli.command import main


def table_of(text):
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in text.splitlines() if "  " in line)


def test_the_installed_version_is_that_of_the_package():
    assert version("sklearn_exdd") == sklearn_exdd.__version__


def test_the_system_and_every_required_package_are_printed(capsys):
    sklearn_exdd.show_versions()
    table = table_of(capsys.readouterr().out)
    assert table["python"] == platform.python_version()
    assert table["platform"] == platform.platform()
    assert table["cores"] == str(os.cpu_count())
    assert table["sklearn_exdd"] == sklearn_exdd.__version__
    required = [re.match(r"[\w.-]+", line)[0] for line in requires("sklearn_exdd") if "extra ==" not in line]
    assert "scikit-learn" in required
    for name in required:
        assert table[name] == version(name)


def test_a_missing_extra_is_said(monkeypatch, capsys):
    monkeypatch.setattr(_versions, "requires", lambda name: ["numpy>=1.26", 'no-such-package>=2; extra == "plot"'])
    sklearn_exdd.show_versions()
    out = capsys.readouterr().out
    assert out.index("Required\nnumpy") < out.index("Extra 'plot'\nno-such-package")
    assert table_of(out)["no-such-package"] == "not installed"


def test_requirements_are_grouped_by_extra():
    requirements = [
        "scipy>=1.11.1",
        "numpy",
        'transformers>=5; extra == "diffusion"',
        "accelerate; extra == 'diffusion'",
        'pytest; extra == "test"',
        'sklearn-exdd[plot]; extra == "diffusion"',
        'timm; python_version < "4" and extra == "timm"',
    ]
    assert _versions.group_by_extra(requirements) == {
        "": ["numpy", "scipy"],
        "diffusion": ["accelerate", "transformers"],
        "timm": ["timm"],
    }


def test_a_library_that_is_only_on_the_path_is_said(monkeypatch, capsys):
    def fail(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_versions, "requires", fail)
    sklearn_exdd.show_versions()
    out = capsys.readouterr().out
    assert "Dependencies are unknown" in out
    assert table_of(out)["sklearn_exdd"] == sklearn_exdd.__version__


def test_nothing_heavy_is_imported_and_accelerators_stay_unknown():
    code = (
        "import sys, sklearn_exdd; sklearn_exdd.show_versions(); print(*({'torch', 'numpy'} & set(sys.modules)), 'end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nend\n")
    assert table_of(done.stdout)["accelerators"] == "unknown, torch is not imported"


@pytest.mark.parametrize(
    ("devices", "has_mps", "shown"),
    [([], False, "none"), (["first", "second"], False, "first, second"), ([], True, "MPS")],
)
def test_accelerators_are_listed_once_torch_is_imported(devices, has_mps, shown, monkeypatch, capsys):
    cuda = SimpleNamespace(device_count=lambda: len(devices), get_device_name=lambda i: devices[i])
    mps = SimpleNamespace(is_available=lambda: has_mps)
    torch = SimpleNamespace(cuda=cuda, backends=SimpleNamespace(mps=mps))
    monkeypatch.setitem(sys.modules, "torch", torch)
    sklearn_exdd.show_versions()
    assert table_of(capsys.readouterr().out)["accelerators"] == shown


def test_the_shell_prints_the_same(capsys):
    sklearn_exdd.show_versions()
    expected = capsys.readouterr().out
    assert main(["versions"]) == 0
    assert capsys.readouterr().out == expected
