"""Fréchet inception distance (FID) as published, computed by torchmetrics. The user provides the network weights."""

import warnings
from os import PathLike

import numpy as np

from sklearn_exdd._images import Images
from sklearn_exdd.features.weights import read_state_dict

_N_FEATURES = 2048
_FILE = "pt_inception-2015-12-05-6726825d.pth"


def inception_distance(real, synthetic, weights, *, weights_sha256=None, device=None):
    """Compute the Fréchet inception distance (FID) between real and synthetic images, as reported in papers.

    Parameters
    ----------
    real, synthetic : array of shape (n, height, width[, channels]), list of arrays or list of paths
        Images to compare, of any size. At least 2 images of each kind are required. The channel of a grey image is
        repeated three times.
    weights : str or path-like
        Path of the weights of the Inception network. This is the file ``pt_inception-2015-12-05-6726825d.pth`` from the
        releases of torch-fidelity, a state dict saved by torch.
    weights_sha256 : str, default=None
        Expected SHA-256 of the file, in hexadecimal digits.
    device : str, default=None
        Device to compute on, "cpu" or "cuda". None uses CUDA if it is available, and the CPU otherwise.

    Returns
    -------
    distance : float
        Fréchet distance, at least 0, without a unit. Lower values mean that the images are more alike.

    Raises
    ------
    ImportError
        If torchmetrics or torch-fidelity is not installed.
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file does not hold the weights of this network.

    Warns
    -----
    UserWarning
        If there are only 2048 images of one kind or fewer. The network has 2048 features.

    See Also
    --------
    kernel_distance : Unbiased distance, reliable with a few dozen images or more. It can compare only the defects.
    frechet_distance : Computes the same distance with the feature extractors of this library.

    Notes
    -----
    The distance is equation 6 of [1]_ on the 2048 features of the last pooling layer. ``torchmetrics`` computes it with
    the network of ``torch-fidelity``, which was converted from the network of [1]_. As in ``torch-fidelity``, images
    are converted to 8 bits and resized to 299 x 299 pixels by bilinear interpolation without antialiasing. The distance
    is biased. Compare values only if they were computed from equal numbers of images.

    References
    ----------
    .. [1] M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs trained by a two time-scale update
       rule converge to a local Nash equilibrium", NeurIPS 2017.

    Examples
    --------
    >>> from sklearn_exdd.metrics import inception_distance
    >>> inception_distance(real, synthetic, "pt_inception-2015-12-05-6726825d.pth")  # doctest: +SKIP
    61.3
    """
    import torch

    kinds = {name: Images(X, name=name) for name, X in (("real", real), ("synthetic", synthetic))}
    for name, images in kinds.items():
        if len(images) < 2:
            raise ValueError(f"{name}: expected at least 2 images, got {len(images)}.")
        images.check_all()
    if not isinstance(weights, (str, PathLike)):
        raise TypeError(f"weights: expected the path of {_FILE}, got {weights!r}.")
    read_state_dict(weights, weights_sha256, [_FILE])  # checks the file, because torch-fidelity would run code in it
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    metric = _metric(weights).to(device)
    for name, images in kinds.items():
        for image in images:
            pixels = torch.from_numpy(np.rint(255 * image).astype(np.uint8)).permute(2, 0, 1)
            metric.update(pixels.expand(3, -1, -1)[None].to(device), real=name == "real")
    few = {name: len(images) for name, images in kinds.items() if len(images) <= _N_FEATURES}
    if few:
        warnings.warn(
            f"inception_distance: expected more images than the {_N_FEATURES} features, got {few}. The distance then "
            "depends more on the number of images than on their appearance: compare only equal numbers, or use "
            "kernel_distance.",
            UserWarning,
            stacklevel=2,
        )
    return max(float(metric.compute()), 0.0)


def _metric(weights):
    """Build the FID metric of torchmetrics with weights from a file."""
    try:
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ImportError('inception_distance needs two packages: pip install "sklearn-exdd[fid]".') from error
    try:
        return FrechetInceptionDistance(_N_FEATURES, feature_extractor_weights_path=str(weights), antialias=False)
    except RuntimeError as error:
        raise ValueError(
            f"weights: expected the Inception network of torch-fidelity in {weights}, got the weights of another "
            f"model ({str(error).splitlines()[0]} ...). Its file is called {_FILE}."
        ) from error
