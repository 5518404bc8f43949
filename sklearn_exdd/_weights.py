"""Weights of torch modules: as arrays, and on disk."""

import io
import zipfile
from warnings import warn

import numpy as np

from sklearn_exdd._files import write_whole


def arrays_of(module):
    """The weights of a module, a dict of str to ndarray."""
    return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in module.state_dict().items()}


def load_weights(module, arrays):
    """Put such a dict into a module."""
    import torch

    module.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})


def read_weights(path):
    """What was learned before, or None; with a warning where the file is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:  # of a damaged file np.load keeps the handle
            return dict(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        warn(
            f"{path}: expected the weights of an earlier fit, got a damaged file ({error}); they are trained again.",
            RuntimeWarning,
            stacklevel=5,
        )
        return None


def write_weights(path, arrays):
    """Keep arrays in a file, which is there whole or not at all; a warning where the disk refuses."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())
    except OSError as error:
        warn(
            f"cache_dir: expected to write {path}, got {type(error).__name__}: {error}. The weights are used all the "
            "same, and trained again next time; make room or choose another folder.",
            RuntimeWarning,
            stacklevel=5,
        )
