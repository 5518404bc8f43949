"""Functions for work with torch: devices, precision, seeds, threads, and conversion from and to arrays."""

import os
import sys
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

_BOX = 31  # length of the window of `box_mean`, in pixels


def _compute_in_one_thread():
    torch = sys.modules.get("torch")
    if hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


# A forked process inherits the thread pool of torch, but not its threads. It would wait for the missing threads
# forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_compute_in_one_thread)


def resolve_device(device):
    """Return the torch device with a given name. None selects CUDA if it is available, and the CPU otherwise.

    Parameters
    ----------
    device : str or None

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If torch does not know the device, or cannot use it on this machine.
    """
    import torch

    if device is not None:
        return _usable_device(str(device))
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_device(device):
    """Refuse a device that cannot be used. None is accepted without importing torch."""
    if device is not None:
        resolve_device(device)


@lru_cache
def _usable_device(name):
    import torch

    advice = "Set device=None to use CUDA if it is available, and the CPU otherwise."
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device: expected a torch device such as 'cpu' or 'cuda:0', got {name!r}. {advice}"
        ) from error
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, ImportError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(f"device: expected an available device, got {name!r} ({reason}). {advice}") from error
    return device


def resize(image, shape):
    """Resize a float image bilinearly, with antialiasing.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels), dtype float32
    shape : tuple of int (height', width')

    Returns
    -------
    resized : ndarray of shape (height', width', channels), dtype float32
    """
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(tensor, size=shape, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def resolve_precision(precision, device):
    """Tell whether to compute in bfloat16.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
        "auto" selects bfloat16 if the device has bfloat16 instructions, and float32 otherwise.
    device : torch.device

    Returns
    -------
    bfloat16 : bool
    """
    if precision != "auto":
        return precision == "bfloat16"
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # Without bfloat16 instructions, bfloat16 is emulated and several times slower than float32.
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def box_mean(planes, axis):
    """Average the pixels along an axis, in a window of 31 pixels around each pixel.

    Windows at the border contain fewer pixels. The function uses cumulative sums, which is five times faster than
    pooling.
    """
    import torch
    from torch.nn import functional

    size = planes.shape[axis]
    sums = functional.pad(planes.double().cumsum(axis), (1, 0) if axis == 3 else (0, 0, 1, 0))
    at = torch.arange(size, device=planes.device)
    first, end = (at - _BOX // 2).clamp(min=0), (at + _BOX // 2 + 1).clamp(max=size)
    counts = (end - first).view((-1, 1) if axis == 2 else (-1,))
    return ((sums.index_select(axis, end) - sums.index_select(axis, first)) / counts).to(planes.dtype)


@contextmanager
def seeded(seed, device="cpu"):
    """Seed torch's global generators within the context, and restore their state afterwards.

    Parameters
    ----------
    seed : int
    device : torch.device or str, default="cpu"
    """
    import torch

    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def arrays_of(module):
    """Return the state dict of a module, with its tensors converted to arrays."""
    return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in module.state_dict().items()}


def load_weights(module, arrays):
    """Load the arrays that :func:`arrays_of` returned into a module."""
    import torch

    module.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})


@contextmanager
def share_out_threads(n_jobs):
    """Divide the threads of torch among `n_jobs` parallel jobs within the context."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(max(1, n_threads // n_jobs))
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
