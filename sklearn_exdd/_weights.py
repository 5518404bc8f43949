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
    """Write a dict of arrays to a file, atomically.

    Parameters
    ----------
    path : pathlib.Path
        File to write; missing parent folders are created.
    arrays : dict of str to ndarray

    Returns
    -------
    written : bool
        True if the file was written. If it cannot be written, a warning is raised and the result is False.
    """
    from safetensors.numpy import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(arrays, metadata={"sha256": checksum(arrays)}))
        return True
    except OSError as error:
        warn(
            f"memory: expected to write {path}, got {type(error).__name__}: {error}. The model is used "
            "anyway, but the next fit trains it again. Free space on the disk, or choose another folder.",
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
        Arrays in the file, or None if the file does not exist or is damaged. A damaged file causes a warning.
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
