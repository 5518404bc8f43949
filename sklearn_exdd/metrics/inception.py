"""The published FID: torchmetrics' Fréchet distance in the features of an Inception network whose weights you give."""

import warnings
from os import PathLike

import numpy as np

from sklearn_exdd._images import Images
from sklearn_exdd.features.weights import read_state_dict

_N_FEATURES = 2048
_FILE = "pt_inception-2015-12-05-6726825d.pth"


def inception_distance(real, synthetic, weights, *, weights_sha256=None, device=None):
    """Fréchet inception distance between real and synthetic images: FID as papers report it.

    Parameters
    ----------
    real, synthetic : array of shape (n, height, width[, channels]), list of arrays or list of paths
        Images to compare, of any size; at least 2 of each kind. Grey images are repeated in three channels.
    weights : str or path-like
        State dict of the Inception network, saved by torch: the file ``pt_inception-2015-12-05-6726825d.pth`` of the
        releases of torch-fidelity.
    weights_sha256 : str, default=None
        Expected SHA-256 of the file, in hexadecimal digits.
    device : str, default=None
        "cpu" or "cuda"; None takes CUDA where it is available.

    Returns
    -------
    distance : float
        At least 0, lower = more alike; no unit.

    Raises
    ------
    ImportError
        If torchmetrics or torch-fidelity is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds anything but the weights of this network.

    Warns
    -----
    UserWarning
        If one kind has no more images than the network has features, 2048.

    See Also
    --------
    kernel_distance : Unbiased, on the defects alone, and reliable from a few dozen images on.
    frechet_distance : The same distance in the features of the library's extractors.

    Notes
    -----
    Equation 6 of [1]_ on the 2048 features of the last pooling layer, by ``torchmetrics`` with the network of
    ``torch-fidelity``, which was converted from the one of [1]_. Images become 8-bit and are resized to 299 x 299
    pixels by bilinear interpolation without antialiasing, as there. The distance is biased: compare values of equal
    numbers of images only.

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
    read_state_dict(weights, weights_sha256, [_FILE])  # torch-fidelity would run whatever code the file holds
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
            "depends on the number of images more than on their looks: compare equal numbers only, or use "
            "kernel_distance.",
            UserWarning,
            stacklevel=2,
        )
    return max(float(metric.compute()), 0.0)


def _metric(weights):
    """Build torchmetrics' FID with the weights of a file."""
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
