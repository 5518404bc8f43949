"""Statistics of the maps of normal images: means, standard deviations, and the mean at each position."""

import numpy as np
from scipy import ndimage

from sklearn_exdd._torch import resize

_POSITIONS = 24  # number of cells of the position map along each axis


def scale_of(maps):
    """Return the mean and standard deviation of the logits and of the cosine distances, over several images.

    Parameters
    ----------
    maps : list of (ndarray, ndarray)
        Logits and cosine distances of each image.

    Returns
    -------
    scale : ndarray of shape (2, 2)
    """
    parts = [np.concatenate([own[part].ravel() for own in maps]) for part in (0, 1)]
    return np.array([[part.mean(), max(float(part.std()), 1e-12)] for part in parts], dtype=np.float64)


def shrunk_mean(maps):
    """Return the mean map of normal images, shrunk towards zero according to the variance expected from chance.

    Parameters
    ----------
    maps : list of ndarray of shape (height, width)
        Maps of normal images. They may differ in size.

    Returns
    -------
    position_map : ndarray of shape (24, 24), dtype float32
    """
    maps = np.stack([resize(one[..., None], (_POSITIONS, _POSITIONS))[..., 0] for one in maps])
    maps = maps + maps[:, ::-1]
    maps = ndimage.gaussian_filter((maps + maps[:, :, ::-1]) / 4, (0, 1, 1), mode="nearest")
    mean = maps.mean(axis=0) - maps.mean()
    chance = (maps - maps.mean(axis=(1, 2), keepdims=True)).var(axis=0, ddof=1).mean() / len(maps)
    return (mean * max(0, 1 - chance / max(mean.var(), 1e-12))).astype(np.float32)
