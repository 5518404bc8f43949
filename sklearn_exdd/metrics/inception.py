"""Published FID: the Fréchet distance of torchmetrics, with an Inception network whose weights the user provides."""

import warnings
from os import PathLike

import numpy as np

from sklearn_exdd._images import Images
from sklearn_exdd.features.weights import read_state_dict

_N_FEATURES = 2048
_FILE = "pt_inception-2015-12-05-6726825d.pth"


def inception_distance(real, synthetic, weights, *, weights_sha256=None, device=None):
    """Compute the Fréchet inception distance between real and synthetic images: FID as papers report it.

    Parameters
    ----------
    real, synthetic : array of shape (n, height, width[, channels]), list of arrays or list of paths
        Images to compare, of any size; at least 2 of each kind. Grey images are repeated in three channels.
    weights : str or path-like
        Path of the state dict of the Inception network, saved by torch: the file
        ``pt_inception-2015-12-05-6726825d.pth`` from the releases of torch-fidelity.
    weights_sha256 : str, default=None
        Expected SHA-256 of the file, in hexadecimal digits.
    device : str, default=None
        Device to compute on, "cpu" or "cuda". None uses CUDA if it is available.

    Returns
    -------
    distance : float
        Fréchet distance, at least 0, lower = more alike; no unit.

    Raises
    ------
    ImportError
        If torchmetrics or torch-fidelity is not installed.
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file holds anything but the weights of this network.

    Warns
    -----
    UserWarning
        If there are at most 2048 images of one kind, as many as the network has features.

    See Also
    --------
    kernel_distance : Unbiased distance that compares the defects alone and is reliable from a few dozen images on.
    frechet_distance : Computes the same distance with the feature extractors of this library.

    Notes
    -----
    The distance is equation 6 of [1]_ on the 2048 features of the last pooling layer. ``torchmetrics`` computes it with
    the network of ``torch-fidelity``, which was converted from the network of [1]_. As in ``torch-fidelity``, images
    are converted to 8 bits and resized to 299 x 299 pixels by bilinear interpolation without antialiasing. The distance
    is biased: compare only values for equal numbers of images.

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
    read_state_dict(weights, weights_sha256, [_FILE])  # because torch-fidelity would run any code in the file
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
