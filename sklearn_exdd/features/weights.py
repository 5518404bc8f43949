"""Reading and checking of the weights files of backbones."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path


def read_state_dict(path, sha256=None, names=()):
    """Read a state dict from a local file. Files that contain anything but tensors are refused.

    Parameters
    ----------
    path : str or path-like
        Path of the file. A file with the suffix `.safetensors` is read as safetensors, any other file as a torch file.
    sha256 : str, default=None
        Expected SHA-256 of the file in hexadecimal digits.
    names : sequence of str, default=()
        Names that the caller accepts instead of a path. They are listed in the error message.

    Returns
    -------
    state_dict : dict of str to torch.Tensor

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the hash of the file differs from `sha256`, or if the file cannot be read as a state dict.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        came = ", a folder" if path.is_dir() else ""
        raise FileNotFoundError(f"weights: expected one of {list(names)} or an existing file, got {str(path)!r}{came}.")
    if sha256 is not None:
        digest = file_sha256(path)
        if digest != sha256.lower():
            raise ValueError(f"weights: expected SHA-256 {sha256} of {path}, got {digest}. It is a different file.")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost any error
        raise damaged(path, None, error) from error
    if isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values()):
        return state
    keys = f"a dict with the keys {list(state)[:5]}" if isinstance(state, Mapping) else type(state).__name__
    raise ValueError(
        f"weights: expected a state dict (a dict of names and tensors) in {path}, got {keys}. Save "
        "module.state_dict() alone."
    )


def load_state(module, state, path, name):
    """Load a state dict into a module and return the module.

    Parameters
    ----------
    module : torch.nn.Module
    state : dict of str to torch.Tensor
    path : str or path-like
        Path of the file that the state dict came from, for the error message.
    name : str
        Name of the backbone, for the error message.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"weights: expected the weights of {name} in {path}, got those of another model ({_short(error)}). "
            "Choose a file and a backbone that belong together."
        ) from error
    return module


def damaged(path, name, error):
    """Return the error to raise if a weights file cannot be read."""
    of = f" of {name}" if name else ""
    return ValueError(
        f"weights: expected weights{of} in {path}, got a file that is damaged or of another kind "
        f"({type(error).__name__}: {_short(error)}). Delete the file, and download or copy it again."
    )


def _short(error):
    """Return the first sentence of an error message, because torch's messages can fill a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).partition(". ")[0].rstrip(".")[:200]


def file_sha256(weights):
    """Return the SHA-256 of a weights file, or None if the file does not exist.

    The hash distinguishes models whose weights files have the same path but different contents.
    """
    if weights is None or not Path(weights).is_file():
        return None
    path = Path(weights)
    return _sha256(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache
def _sha256(path, *stat):
    return hashlib.sha256(path.read_bytes()).hexdigest()
