"""The torch plumbing: devices, seeds, arrays in and out."""

import numpy as np


def resolve_device(device):
    """The device to compute on: the one named, or CUDA where there is some, or the CPU."""
    import torch

    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resize(image, shape):
    """Resize a float image bilinearly, with antialiasing.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels), float32
    shape : tuple of int (height', width')

    Returns
    -------
    resized : ndarray of shape (height', width', channels), float32
    """
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(tensor, size=shape, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()
