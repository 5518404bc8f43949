"""Versions of Python, of the library and of its dependencies, for bug reports."""

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from sklearn_exdd import __version__

_FOR_DEVELOPMENT = {"benchmark", "docs", "test"}  # extras that users of the library do not need


def show_versions():
    """Print the versions of Python, of this library and of its dependencies.

    Paste the output into a bug report. The function imports nothing: versions are read from the metadata of the
    installed packages, and accelerators are listed only if torch has already been imported.

    Examples
    --------
    >>> import sklearn_exdd
    >>> sklearn_exdd.show_versions()  # doctest: +ELLIPSIS
    python        ...
    platform      ...
    cores         ...
    accelerators  ...
    sklearn_exdd  ...
    <BLANKLINE>
    Required
    diffusers     ...
    """
    print_table(
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "accelerators": _accelerators(),
            "sklearn_exdd": __version__,
        }
    )
    try:
        requirements = requires("sklearn_exdd") or []
    except PackageNotFoundError:
        print("\nDependencies are unknown: sklearn_exdd is not installed, only on the path.")
        return
    for extra, names in group_by_extra(requirements).items():
        print(f"\nExtra {extra!r}" if extra else "\nRequired")
        print_table({name: _installed_version(name) for name in names})


def group_by_extra(requirements):
    """Group the names of requirements by the extra that requires them.

    Parameters
    ----------
    requirements : list of str
        Requirements as in the metadata of a package, such as ``'timm>=1; extra == "timm"'``.

    Returns
    -------
    names : dict of str to list of str
        Sorted names for each extra. Names that are required without an extra come first, under the key "". Extras for
        development are left out. Requirements of the library that refer to its own extras are also left out.
    """
    names = {"": []}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)[0]
        extra = re.search(r"""extra\s*==\s*["']([\w.-]+)["']""", requirement)
        extra = extra[1] if extra else ""
        if extra not in _FOR_DEVELOPMENT and name.replace("-", "_") != "sklearn_exdd":
            names.setdefault(extra, []).append(name)
    return {extra: sorted(names[extra]) for extra in sorted(names)}


def print_table(values):
    """Print names and values in two columns."""
    for name, value in values.items():
        print(f"{name:<12}  {value}")


def _installed_version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _accelerators():
    torch = sys.modules.get("torch")
    if torch is None:
        return "unknown, torch is not imported"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("MPS")
    return ", ".join(names) or "none"
