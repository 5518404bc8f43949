"""Files with the weights of backbones: local ones, and those that other libraries have downloaded."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path


def read_state_dict(path, sha256=None, names=()):
    """Read the state dict of a local file, which can hold nothing but tensors.

    Parameters
    ----------
    path : str or path-like
        A file of torch, or of safetensors if its suffix is `.safetensors`.
    sha256 : str, default=None
        Expected SHA-256 of the file in hexadecimal digits.
    names : sequence of str, default=()
        Names that would have been accepted instead, for the message.

    Returns
    -------
    state_dict : dict of str to torch.Tensor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If its hash is another one, or it cannot be read as a state dict.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        came = ", a folder" if path.is_dir() else ""
        raise FileNotFoundError(f"weights: expected one of {list(names)} or an existing file, got {str(path)!r}{came}.")
    if sha256 is not None:
        digest = file_sha256(path)
        if digest != sha256.lower():
            raise ValueError(f"weights: expected SHA-256 {sha256} of {path}, got {digest}. The file is another one.")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers fail in as many ways as there are bytes
        raise damaged(path, None, error) from error
    if isinstance(state, Mapping) and all(isinstance(value, torch.Tensor) for value in state.values()):
        return state
    keys = f"a dict with the keys {list(state)[:5]}" if isinstance(state, Mapping) else type(state).__name__
    raise ValueError(
        f"weights: expected a state dict in {path}, a dict of names and tensors, got {keys}. Save "
        "module.state_dict() alone."
    )


def load_state(module, state, path, name):
    """Load a state dict into a module, and return the module.

    Parameters
    ----------
    module : torch.nn.Module
    state : dict of str to torch.Tensor
    path : str or path-like
        Where the state dict was read, for the message.
    name : str
        Name of the backbone, for the message.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"weights: expected the weights of {name} in {path}, got those of another model ({_short(error)}). Give "
            "the file or the backbone that belongs to it."
        ) from error
    return module


def damaged(path, name, error):
    """Return the error to raise if a file of weights cannot be read."""
    of = f" of {name}" if name else ""
    return ValueError(
        f"weights: expected weights{of} in {path}, got a file that is damaged or of another kind "
        f"({type(error).__name__}: {_short(error)}). Delete the file, and download or copy it again."
    )


def _short(error):
    """Return the first sentence of a message: torch's own go on for a page."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).partition(". ")[0].rstrip(".")[:200]


def file_sha256(weights):
    """Return the SHA-256 of a weights file, or None if there is no such file.

    Other weights under the same name are another model.
    """
    if weights is None or not Path(weights).is_file():
        return None
    path = Path(weights)
    return _sha256(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache
def _sha256(path, *stat):
    return hashlib.sha256(path.read_bytes()).hexdigest()
