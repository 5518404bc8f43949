"""Storage of fitted estimators in a file of arrays and text. Loading the file runs no code from it."""

import hashlib
import json
from importlib import import_module
from inspect import signature
from math import isfinite, prod
from os import PathLike
from pathlib import Path, PurePath

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_exdd._files import check_destination, write_whole
from sklearn_exdd._images import Images

_FORMAT = 1
_MAX_HEADER = 100_000_000  # length in bytes of the longest header that safetensors reads

# Module of each class that a file can hold. Other classes are neither written nor created.
_HOME = {
    "BoxRegions": "augment",
    "CombinedDefectDetector": "detectors.combined",
    "CrackRegions": "augment",
    "CutPasteDefectAugmenter": "augment",
    "DDPMDefectAugmenter": "augment",
    "DefectClassifier": "detectors.defect_classifier",
    "DefectPasteAugmenter": "augment",
    "DiffusionDefectAugmenter": "augment",
    "DriftMonitor": "monitor",
    "EfficientNetLiteFeatureExtractor": "features",
    "ExDDDetector": "detectors.exdd",
    "GaborFeatureExtractor": "features",
    "GivenDefects": "augment.synthetic",
    "HeldOut": "detectors.combined",
    "ImageInRegion": "_images",
    "Images": "_images",
    "LearnedFeatureExtractor": "features",
    "LinearProbeDetector": "detectors.linear_probe",
    "MaskRegions": "augment",
    "MemoryBank": "banks.memory_bank",
    "MixedDefectAugmenter": "augment",
    "OffsetDefectAugmenter": "augment",
    "Patches": "banks.patches",
    "PerlinDefectAugmenter": "augment",
    "PerlinRegions": "augment",
    "PolygonRegions": "augment",
    "RectangleRegions": "augment",
    "RidgedRegions": "augment",
    "SegmentationDetector": "detectors.segmentation",
    "StudentTeacherDetector": "detectors.student_teacher",
    "SyntheticDefects": "augment",
    "TimmFeatureExtractor": "features",
    "TorchvisionFeatureExtractor": "features",
}
# Names of parameters that refer to folders on this machine. Reading such a folder may run code, because joblib's caches
# are pickles. A file from an untrusted source must therefore not be able to set these parameters.
_PLACES = {"memory"}
# Dicts from old to current names and values. Files that were written before a renaming contain the old ones.
_NEW_NAMES = {"calibration_": "_calibration", "map": "map_source"}
_NEW_VALUES = {("image_score", "weighted"): "exdd", ("image_score", "released"): "exdd_code"}
_SCALARS = {np.dtype(name).newbyteorder("<").str for name in ("?", *"bhilqBHILQefd")}


def dump(estimator, path):
    """Write a detector, an augmenter, a feature extractor or a monitor to one file.

    Parameters
    ----------
    estimator : object
        Estimator of this library, fitted or not. The file holds the whole state of the estimator, including memory
        banks and the weights of its networks. For an augmenter, the state includes the normal images on which it
        paints, or only their paths if `fit` received paths. `memory` and metadata routing requests are not saved.
    path : str or path-like
        File to write. It is written atomically, in the format of safetensors. The usual suffix is ``.safetensors``.

    Raises
    ------
    TypeError
        If the estimator holds an object that cannot be restored without running code from the file. Examples are a
        function, an object from another library, and a feature extractor or augmenter of your own.
    FileNotFoundError
        If the folder does not exist.

    See Also
    --------
    load : Reads the file.

    Notes
    -----
    The file does not contain the weights of a pretrained backbone. `load` rebuilds the backbone from its name. If the
    weights were read from a local file, this file must still exist under the same path. Pickle, joblib and skops.io
    work for all estimators. However, pickle and joblib run any code that a file contains.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_exdd import ExDDDetector, persistence
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(12, image_shape=(64, 64), random_state=0)
    >>> detector = ExDDDetector(random_state=0).fit(X, y)
    >>> with TemporaryDirectory() as folder:
    ...     persistence.dump(detector, Path(folder, "detector.safetensors"))
    ...     same = persistence.load(Path(folder, "detector.safetensors"))
    >>> bool((same.score_samples(X) == detector.score_samples(X)).all())
    True
    """
    from safetensors.numpy import save

    path = Path(path)
    check_destination(path)
    packer = _Packer()
    structure = json.dumps(packer.pack_own(estimator, type(estimator).__name__), allow_nan=False)
    header = {"format": "sklearn_exdd", "version": str(_FORMAT), "structure": structure}
    content = save(packer.tensors, {**header, "sha256": _digest(structure, packer.tensors)})
    if int.from_bytes(content[:8], "little") > _MAX_HEADER:
        raise ValueError(
            f"{path}: expected at most {_MAX_HEADER / 1e6:g} MB of names and texts, the limit of safetensors, got "
            "more. Fit on paths instead of arrays, or on fewer synthetic images."
        )
    write_whole(path, content)


def load(path):
    """Read an estimator that :func:`dump` wrote.

    Parameters
    ----------
    path : str or path-like
        File to read. A file from an untrusted source cannot run code: it contains no code, and can name only classes of
        this library. Memory use is proportional to the size of the file. However, the author of the file controls the
        predictions of the estimator. Names in the file, such as the ID of a model, are looked up when the estimator
        uses them.

    Returns
    -------
    estimator : object
        Estimator that equals the saved estimator bit for bit.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged, of another kind, or in a newer format than this version reads.

    See Also
    --------
    dump : Writes the file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_exdd import GaborFeatureExtractor, persistence
    >>> with TemporaryDirectory() as folder:
    ...     persistence.dump(GaborFeatureExtractor(image_size=64), Path(folder, "filters.safetensors"))
    ...     persistence.load(Path(folder, "filters.safetensors"))
    GaborFeatureExtractor(image_size=64)
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected a file written by sklearn_exdd.persistence.dump, "
            + ("got a folder." if path.is_dir() else "found no such file.")
        )
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            version = int(header.get("version", 0)) if header.get("format") == "sklearn_exdd" else 0
            if version < 1:
                raise ValueError("it is not marked as one")
            if version <= _FORMAT:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                if header["sha256"] != _digest(header["structure"], tensors):
                    raise ValueError("its checksum differs")
                return _made_own(json.loads(header["structure"]), tensors)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # damaged files raise many types of errors
        raise ValueError(
            f"{path}: expected a file written by sklearn_exdd.persistence.dump, got another or a damaged one ({error})."
        ) from error
    raise ValueError(
        f"{path}: expected format {_FORMAT} or older, got format {version}, written by a newer sklearn_exdd. Upgrade "
        "sklearn_exdd, or predict with the newer version."
    )


class _Packer:
    """Conversion of values to JSON, with arrays stored separately.

    None, bool, int, float, str and list become the corresponding JSON values. Any other value becomes a JSON object
    whose first key names the kind of the value.
    """

    def __init__(self):
        self.tensors = {}
        self._known = {}  # name of each array; the array is stored with it, to keep it alive

    def pack(self, value, where):
        """Convert a value to JSON types. `where` is the name of the value in messages."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if isfinite(value) else {"float": repr(value)}
        if kind is list or kind is tuple:
            items = [self.pack(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return items if kind is list else {"tuple": items}
        if kind is dict:
            return {"dict": [[self.pack(key, where), self.pack(item, f"{where}.{key}")] for key, item in value.items()]}
        if isinstance(value, PurePath):
            return {"path": str(value)}
        if isinstance(value, np.generic) and value.dtype.newbyteorder("<").str in _SCALARS:
            return {"scalar": [value.dtype.newbyteorder("<").str, self.pack(value.item(), where)]}
        if kind is np.str_:
            return {"scalar": ["text", str(value)]}
        if kind in (np.ndarray, np.memmap) and value.dtype.kind == "O":
            return {"objects": [self.pack(item, where) for item in value.ravel()], "shape": list(value.shape)}
        if kind in (np.ndarray, np.memmap) and (
            value.dtype.kind == "U" or value.dtype.newbyteorder("<").str in _SCALARS
        ):
            return self._pack_array(value, where)
        return self.pack_own(value, where)

    def pack_own(self, value, where):
        """Convert an object of this library to JSON types."""
        kind = type(value)
        if kind.__name__ not in _HOME or _class(kind.__name__) is not kind:
            raise TypeError(
                f"{where}: expected a value that a file without code can hold (an estimator of sklearn_exdd, array, "
                f"number or text), got {kind.__module__}.{kind.__qualname__}. {_advice(value)}"
            )
        arguments, attributes = _parts(value)
        return {
            "type": kind.__name__,
            "arguments": {name: self.pack(item, f"{where}.{name}") for name, item in arguments.items()},
            "attributes": {name: self.pack(item, f"{where}.{name}") for name, item in attributes.items()},
        }

    def _pack_array(self, array, where):
        key = array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str
        if key not in self._known:
            packed = {}
            stored = array.astype(array.dtype.newbyteorder("<"), copy=False)
            if array.dtype.kind == "U":
                packed["text"] = list(array.shape)
                stored = np.ascontiguousarray(stored).reshape(-1, 1).view("<u4")
            elif array.flags.f_contiguous and not array.flags.c_contiguous:  # affects the rounding of products
                packed["order"] = "F"
                stored = stored.T
            name = where.partition(".")[2].encode("ascii", "backslashreplace").decode()
            name = name if name not in self.tensors else f"{name}#{len(self.tensors)}"
            self.tensors[name] = np.asarray(stored, order="C")
            self._known[key] = {"array": name, **packed}, array
        return self._known[key][0]


def _made(packed, tensors):
    """Restore a value that a :class:`_Packer` packed."""
    match packed:
        case None | bool() | int() | float() | str():
            return packed
        case [*items]:
            return [_made(item, tensors) for item in items]
        case {"tuple": [*items]}:
            return tuple(_made(item, tensors) for item in items)
        case {"dict": [*pairs]}:
            return {_made(key, tensors): _made(item, tensors) for key, item in pairs}
        case {"float": "nan" | "inf" | "-inf" as text}:
            return float(text)
        case {"path": str(text)}:
            return Path(text)
        case {"scalar": ["text", str(text)]}:
            return np.str_(text)
        case {"scalar": [str(dtype), item]} if dtype in _SCALARS:
            return np.dtype(dtype).type(_made(item, tensors))
        case {"objects": [*items], "shape": [*shape]} if prod(shape) == len(items):
            array = np.empty(len(items), dtype=object)
            for i, item in enumerate(items):  # a single assignment would turn lists into axes of the array
                array[i] = _made(item, tensors)
            return array.reshape(shape)
        case {"array": str(name), "text": [*shape]}:
            codes = tensors[name]
            if codes.dtype != np.uint32 or codes.ndim != 2 or codes.max(initial=0) > 0x10FFFF:
                raise ValueError(f"{name}: expected the characters of texts")
            return codes.view(f"<U{codes.shape[1]}").reshape(shape)
        case {"array": str(name)}:
            return tensors[name].T if packed.get("order") == "F" else tensors[name]
    return _made_own(packed, tensors)


def _made_own(packed, tensors):
    """Restore an object of this library."""
    match packed:
        case {"type": str(name), "arguments": dict(arguments), "attributes": dict(attributes)} if name in _HOME:
            kind = _class(name)
            arguments, attributes = _renamed(kind, arguments), _renamed(kind, attributes)
            allowed = set(signature(kind).parameters) - _PLACES
            unknown = set(arguments) - allowed | {key for key in attributes if not _is_found(key)}
            if unknown:
                raise ValueError(f"expected parameters and attributes of {name}, also got {sorted(unknown)}")
            made = kind(**{key: _made(item, tensors) for key, item in arguments.items()})
            vars(made).update({key: _made(item, tensors) for key, item in attributes.items()})
            return made
    raise ValueError(f"expected a value that this version knows, got {str(packed)[:80]}")


def _renamed(kind, values):
    """Replace old names and old values of parameters or attributes with the current names and values."""
    if kind.__name__ not in ("ExDDDetector", "StudentTeacherDetector"):
        return values
    return {
        _NEW_NAMES.get(name, name): _NEW_VALUES.get((name, value), value) if isinstance(value, str) else value
        for name, value in values.items()
    }


def _parts(value):
    """Return the constructor arguments of an object, and the attributes that `fit` has set."""
    if isinstance(value, Images):
        kept = (str, PathLike, np.ndarray)
        items = [item if isinstance(item, kept) else np.asarray(item) for item in value._items]
        found = {"_numbers": list(value._numbers)}
        if value._regions is not None:
            found["_regions"] = value._regions
        return {"X": items, "name": value.name, "n_channels": value.n_channels}, found
    if not isinstance(value, BaseEstimator):
        return {name: getattr(value, name) for name in signature(type(value)).parameters}, {}
    arguments = value.get_params(deep=False)
    found = {name: item for name, item in value.__getstate__().items() if _is_found(name)}
    return {name: item for name, item in arguments.items() if name not in _PLACES}, found


def _is_found(name):
    """Tell whether an attribute is set by fit rather than by the constructor."""
    return (name[:1] == "_" or name[-1:] == "_") and name[:2] != "__" and name != "_metadata_request"


def _class(name):
    return getattr(import_module(f"sklearn_exdd.{_HOME[name]}"), name)


def _advice(value):
    if isinstance(value, (np.random.RandomState, np.random.Generator)):
        return "Set an int or None instead: the fitted state no longer depends on it."
    if type(value).__module__.startswith("sklearn.") and hasattr(value, "fit"):
        return "Pass the detector inside it, such as pipeline[-1] or search.best_estimator_."
    return "Use joblib or skops.io instead, and load such files only from sources you trust."


def _digest(structure, tensors):
    digest = hashlib.sha256(structure.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
