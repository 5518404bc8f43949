"""Fingerprints of objects and of the code that they run, used as cache keys."""

import copyreg
import dis
import functools
import hashlib
import os
import sys
from collections import deque
from importlib import metadata
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)

import numpy as np

#: Names of the distributions whose versions are part of every cache key.
VERSIONS = ("numpy", "pillow", "scikit-learn", "scipy", "torch")

# Names of the packages whose code is identified by the version of the package.
_LIBRARIES = {
    *("PIL", "diffusers", "huggingface_hub", "joblib", "numpy", "safetensors", "scipy", "sklearn", "sklearn_exdd"),
    *("threadpoolctl", "timm", "torch", "torchvision", "tqdm", "transformers"),
}
_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
# Names of the estimator parameters that affect how a result is computed, but not the result itself.
_NOT_IN_KEY = {"memory", "n_jobs", "verbose"}
# Names of the class attributes that do not affect a result.
_NOT_CODE = {"_abc_impl", "_parameter_constraints"}
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, type(None), type(...), range, slice, np.dtype)
_BUILT_IN = (BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType)
# Names of the methods that change a container.
_FILLS = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "popleft", "remove"),
    *("reverse", "setdefault", "sort", "update"),
}
# Bytecode instructions that load a container, each with the scope from which it loads.
_SCOPES = {
    **dict.fromkeys(("LOAD_GLOBAL", "LOAD_NAME"), "global"),
    **dict.fromkeys(("LOAD_DEREF", "LOAD_CLASSDEREF"), "cell"),
    **dict.fromkeys(("LOAD_ATTR", "LOAD_METHOD"), "attribute"),
}
# Bytecode instructions that load a simple key.
_KEYS = ("LOAD_CONST", "LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_GLOBAL", "LOAD_SMALL_INT")


def fingerprint_of_code(*things, packages=()):
    """Return a checksum that identifies objects, the user's code that they run, and the versions of libraries.

    The checksum is the same in every process. User code is identified as follows:

    * A function is identified by its bytecode, its default values, its closure values, and the functions and constants
      that it refers to.
    * A class is identified by the methods and constants of the class and of its base classes.

    The source file is not read, because it may have been edited after the code was loaded. File names, line numbers and
    comments do not affect the checksum. Code of this package, and of the libraries that this package builds on, is
    identified by name and version. Variables that the code itself changes, such as a counter or a list of results, are
    not part of the checksum.

    Parameters
    ----------
    *things : object
        Values, arrays, functions, classes, estimators, or containers of such objects.
    packages : sequence of str, default=()
        Names of further distributions that the result depends on, in addition to those in `VERSIONS`.

    Returns
    -------
    fingerprint : str
    """
    return _Walk().digest((versions(*packages), things)).hex()


def versions(*packages):
    """Return the versions of this package, of the distributions in `VERSIONS`, and of further distributions.

    Parameters
    ----------
    *packages : str
        Names of the further distributions.

    Returns
    -------
    versions : list of (str, str)
    """
    own = [("sklearn_exdd", sys.modules["sklearn_exdd"].__version__)]
    return own + [(name, _installed_version(name)) for name in (*VERSIONS, *packages)]


@functools.cache
def _installed_version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


class _Walk:
    """Traversal of objects and their code. Each object is visited only once."""

    def __init__(self):
        self._known, self._path = {}, []

    def digest(self, thing):
        """Return the checksum of an object, as bytes."""
        if isinstance(thing, _PLAIN):
            return _hash(type(thing).__name__, repr(thing))
        known = self._known.get(id(thing))
        if known is not None:
            return known[1]
        if id(thing) in self._path:  # an object that refers to itself
            return _hash("recursion", str(len(self._path) - self._path.index(id(thing))))
        self._path.append(id(thing))
        try:
            digest = _hash(*self._parts(thing))
        finally:
            self._path.pop()
        self._known[id(thing)] = thing, digest  # a stored object stays alive, so that its id is not reused
        return digest

    def _parts(self, thing):
        for kinds, parts in (
            (np.ndarray, self._array),
            (np.generic, lambda thing: ("number", str(thing.dtype), thing.tobytes())),
            (os.PathLike, lambda thing: ("path", str(os.fspath(thing)))),
            (CodeType, self._code),
            (type, self._class),
            (FunctionType, self._function),
            (MethodType, lambda thing: ("method", self.digest(thing.__func__), self.digest(thing.__self__))),
            (ModuleType, lambda thing: ("module", *_named_version(thing.__name__))),
            (functools.partial, lambda thing: ("partial", self.digest([thing.func, thing.args, thing.keywords]))),
            ((staticmethod, classmethod), lambda thing: (type(thing).__name__, self.digest(thing.__func__))),
            (property, lambda thing: ("property", self.digest([thing.fget, thing.fset, thing.fdel]))),
            (functools.cached_property, lambda thing: ("cached property", self.digest(thing.func))),
            (functools._lru_cache_wrapper, lambda thing: ("cache", self.digest(thing.__wrapped__))),
            (_BUILT_IN, self._built_in),
        ):
            if isinstance(thing, kinds):
                return parts(thing)
        kind = type(thing)
        if kind in (list, tuple):
            return kind.__name__, *map(self.digest, thing)
        if kind in (set, frozenset):
            return kind.__name__, *sorted(map(self.digest, thing))
        if kind is dict:
            return "dict", *sorted(self.digest(key) + self.digest(value) for key, value in thing.items())
        return self._object(thing)

    # Objects

    def _array(self, array):
        if array.dtype.hasobject:
            return "objects", str(array.dtype), str(array.shape), *map(self.digest, array.ravel().tolist())
        content = np.ascontiguousarray(array) if array.dtype.kind in "buif" else array.tobytes()
        return "array", str(array.dtype), str(array.shape), content

    def _built_in(self, thing):
        owner = getattr(thing, "__self__", None)
        owner = None if isinstance(owner, ModuleType) else owner
        return "built in", str(getattr(thing, "__module__", None)), thing.__qualname__, self.digest(owner)

    def _object(self, thing):
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(thing, torch.Tensor):
            flat = thing.detach().cpu().contiguous().reshape(-1)
            content = flat.view(torch.uint8).numpy() if len(flat) else b""
            return "tensor", str(thing.dtype), str(tuple(thing.shape)), content
        kind = self.digest(type(thing))
        try:
            reduced = thing.__reduce_ex__(4)
        except Exception:  # objects that cannot be pickled, such as locks and open files, raise many types of errors
            return "state", kind, self.digest(getattr(thing, "__dict__", None))
        if isinstance(reduced, str):
            return "global", kind, reduced
        function, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        if hasattr(thing, "get_params") and isinstance(state, dict):
            state = {name: value for name, value in state.items() if name not in _NOT_IN_KEY}
        function = None if function is copyreg.__newobj__ else function
        return "object", kind, self.digest([function, arguments, state, list(items or ()), dict(pairs or ())])

    # Code

    def _class(self, kind):
        parts = ["class"]
        own = [base for base in kind.__mro__ if not _is_library(base.__module__)]
        changed = set().union(*(_changed_names(code) for base in own for code in _codes_of(base)))
        for base in kind.__mro__:
            parts += [base.__qualname__, *_named_version(base.__module__)]
            for name, value in sorted(vars(base).items()) if base in own else ():
                is_written = not (
                    name.startswith("__") or name in _NOT_CODE or _is_state(changed, "attribute", name, value)
                )
                if is_written or _is_code(value):  # skips other data that Python itself stores in classes
                    parts += [name, self.digest(value)]
        return parts

    def _function(self, function):
        top = function.__module__ or ""
        name = ["function", str(function.__qualname__), *_named_version(top)]
        if _is_library(top):
            return name
        changed = _changed_names(function.__code__)
        parts = [*name, self.digest(function.__code__)]
        parts += [self.digest(part) for part in (function.__defaults__, function.__kwdefaults__)]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            try:
                value = cell.cell_contents
            except ValueError:
                value = "no value yet"
            if not _is_state(changed, "cell", name, value):
                parts += ["cell", name, self.digest(value)]
        for name, attributes in sorted(_global_names(function.__code__).items()):
            value = function.__globals__.get(name, function)
            if value is not function and not _is_state(changed, "global", name, value):
                parts += ["global", name, *self._reference(value, attributes, top)]
        for name, value in sorted(vars(function).items()):
            # `__wrapped__` is skipped, because the wrapped function is also in the closure.
            if name != "__wrapped__" and not _is_state(changed, "attribute", name, value):
                parts += ["attribute", name, self.digest(value)]
        return parts

    def _reference(self, value, attributes, module):
        """Return checksums of a global variable that code uses. For a module, they cover the attributes used."""
        home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        is_code = _is_code(value)
        if isinstance(home, str) and (is_code or isinstance(value, ModuleType)) and _is_foreign(home, module):
            return [str(getattr(value, "__qualname__", "")), *_named_version(home)]
        if not isinstance(value, ModuleType):
            return [self.digest(value)]
        parts = list(_named_version(home))
        for name in sorted(attributes & vars(value).keys()):
            parts += [name, *self._reference(vars(value)[name], set(), home)]
        return parts

    def _code(self, code):
        arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        table = getattr(code, "co_exceptiontable", b"")
        return "code", code.co_code, table, repr(arguments), repr(names), *map(self.digest, code.co_consts)


# References of classes and functions


def _codes_of(kind):
    """Yield the code objects of the methods of a class."""
    for value in vars(kind).values():
        if isinstance(value, property):
            functions = [value.fget, value.fset, value.fdel]
        else:
            functions = [getattr(value, "__func__", None) or getattr(value, "func", None) or value]
        yield from (function.__code__ for function in functions if isinstance(function, FunctionType))


def _is_code(value):
    kinds = (FunctionType, MethodType, BuiltinFunctionType, type, property, staticmethod, classmethod)
    return isinstance(value, (*kinds, functools.cached_property, functools.partial, functools._lru_cache_wrapper))


def _instructions(code):
    """Yield (code, instructions) for a code object and for all code objects nested in it."""
    yield code, [one for one in dis.get_instructions(code) if one.opname not in ("CACHE", "PRECALL")]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)


@functools.lru_cache(maxsize=4096)
def _global_names(code):
    """Return a dict that maps each global variable used by a code object to the attributes read from the variable."""
    names = {}
    for _, instructions in _instructions(code):
        for one, following in zip(instructions, [*instructions[1:], None]):
            if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                attributes = names.setdefault(one.argval, set())
                if following is not None and following.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                    attributes.add(following.argval)
    return names


@functools.lru_cache(maxsize=4096)
def _changed_names(code):
    """Find the variables that a code object itself changes. They hold state, not constants.

    The search recognises the following changes:

    * assignments to globals and to variables of an enclosing function
    * assignments to class attributes, such as ``type(self).n += 1``
    * calls of methods such as ``append`` on a variable or an attribute
    * assignments to the items of a variable or an attribute

    Returns
    -------
    changed : set of (scope, name, how)
        `scope` is "global", "cell" or "attribute". `how` is "assigned" or "filled".
    """
    changed = set()
    for part, instructions in _instructions(code):
        before = [None] * 4
        for one in instructions:
            source = None
            if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                changed.add(("global", one.argval, "assigned"))
            elif one.opname == "STORE_DEREF" and one.argval in part.co_freevars:
                changed.add(("cell", one.argval, "assigned"))
            elif one.opname in ("LOAD_ATTR", "LOAD_METHOD") and one.argval in _FILLS:
                source = before[-1]
            elif one.opname == "LOAD_ATTR" and _is(before[-1], "COPY") and not _is_instance(before[-2]):
                changed.add(("attribute", one.argval, "assigned"))
            elif one.opname == "STORE_SUBSCR" and _is(before[-1], *_KEYS):
                source = before[-2]
            elif _is(before[-1], "COPY") and _is(before[-2], "COPY") and _is(before[-3], *_KEYS):
                source = before[-4]  # total["x"] += 1
            if source is not None and source.opname in _SCOPES:
                changed.add((_SCOPES[source.opname], source.argval, "filled"))
            before = [*before[1:], one]
    return changed


def _is(instruction, *names):
    return instruction is not None and instruction.opname in names


def _is_instance(instruction):
    """Tell whether an attribute belongs to an instance: it is read from a local variable other than `cls`."""
    return instruction is not None and instruction.opname.startswith("LOAD_FAST") and instruction.argval != "cls"


def _is_state(changed, scope, name, value):
    return (scope, name, "assigned") in changed or (
        (scope, name, "filled") in changed and isinstance(value, (list, dict, set, bytearray, deque, np.ndarray))
    )


# Origin of code


def _is_library(module):
    top = str(module).partition(".")[0]
    return top in _LIBRARIES or _is_standard(top)


def _is_standard(top):
    """Tell whether a module is part of Python's standard library, and not a user's file of the same name."""
    if top not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is None or (file.startswith(os.path.dirname(os.__file__)) and not _is_installed(file))


def _is_installed(file):
    return not {"site-packages", "dist-packages"}.isdisjoint(os.path.normpath(file).split(os.sep))


def _is_foreign(home, module):
    """Tell whether a module belongs to a library, or to another package than the module that refers to it."""
    if _is_library(home):
        return True
    file = getattr(sys.modules.get(home), "__file__", None) or ""
    return _is_installed(file) and home.partition(".")[0] != str(module).partition(".")[0]


def _named_version(module):
    """Return the name of a module and the version of its package. An unknown version is ""."""
    top = str(module).partition(".")[0]
    if _is_standard(top):
        return str(module), ""
    if top in _LIBRARIES:
        return str(module), dict(versions()).get(_DISTRIBUTIONS.get(top, top)) or _installed_version(top)
    return str(module), str(getattr(sys.modules.get(top), "__version__", ""))


def _hash(*parts):
    total = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(f"{len(content) if isinstance(content, bytes) else content.nbytes} ".encode())
        total.update(content)
    return total.digest()
