"""Trained weights on disk: safetensors files with a checksum."""

import hashlib
from warnings import warn

import numpy as np

from sklearn_exdd._files import write_whole


def checksum(arrays):
    """Return the SHA-256 of the names and contents of a dict of arrays, in hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()


def write_weights(path, arrays):
    """Write a dict of str to ndarray atomically.

    Parameters
    ----------
    path : pathlib.Path
        File to write; missing parent folders are created.
    arrays : dict of str to ndarray

    Returns
    -------
    written : bool
        False, after a warning, if the file cannot be written.
    """
    from safetensors.numpy import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(arrays, metadata={"sha256": checksum(arrays)}))
        return True
    except OSError as error:
        warn(
            f"memory: expected to write {path}, got {type(error).__name__}: {error}. The model is used "
            "anyway, but will be trained again next time. Make room or choose another folder.",
            RuntimeWarning,
            stacklevel=4,
        )
        return False


def read_weights(path):
    """Read a dict of arrays that :func:`write_weights` wrote.

    Parameters
    ----------
    path : pathlib.Path

    Returns
    -------
    arrays : dict of str to ndarray, or None
        None if the file does not exist or, after a warning, if it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            expected = (file.metadata() or {}).get("sha256")
        if expected != checksum(arrays):
            raise ValueError("its checksum differs")
        return arrays
    except (OSError, ValueError, SafetensorError) as error:
        warn(
            f"{path}: expected the weights of an earlier fit, got a damaged file ({error}); the model is trained "
            "again.",
            RuntimeWarning,
            stacklevel=4,
        )
        return None
