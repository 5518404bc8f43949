"""Whitening, which standardises features and decorrelates them by PCA."""

import numpy as np

# Fraction of the variance that whitening keeps. Keeping all of it would amplify directions in which normal patches
# hardly vary.
_VARIANCE_SHARE = 0.999
_RECOVERED_SHARE = 0.9999  # same fraction for features that are recovered from whitened features
_SHRINKAGE = 0.5  # weight of the mean variance in each shrunk variance


def mean_of(feature_map):
    """Return the mean feature vector, in float64, of a map of shape (height', width', n_features)."""
    return feature_map.reshape(-1, feature_map.shape[2]).mean(axis=0, dtype=np.float64)


def moments_of(parts, shift):
    """Accumulate the moments of patches.

    Parameters
    ----------
    parts : iterable of ndarray of shape (n_patches, n_features)
    shift : ndarray of shape (n_features,)
        Vector that is subtracted from each patch first. This reduces rounding errors.

    Returns
    -------
    count : int
    total : ndarray of shape (n_features,)
    products : ndarray of shape (n_features, n_features)
        Sum of outer products.
    """
    count, total, products = 0, np.zeros(len(shift)), np.zeros((len(shift), len(shift)))
    for patches in parts:
        patches = patches - shift
        count += len(patches)
        total += patches.sum(axis=0)
        products += patches.T @ patches
    return count, total, products


def whitening_of(shift, moments, share=_VARIANCE_SHARE):
    """Compute the whitening from the moments of normal patches.

    Parameters
    ----------
    shift : ndarray of shape (n_features,)
    moments : tuple
        Moments that :func:`moments_of` returns for this shift.
    share : float, default=0.999
        Fraction of the variance that the kept directions explain, in (0, 1).

    Returns
    -------
    mean : ndarray of shape (n_features,), dtype float32
    components : ndarray of shape (n_features, n_kept), dtype float32
        Whitening matrix. The whitened patches are ``(patches - mean) @ components``.
    """
    count, total, products = moments
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    # A feature that is constant on normal patches (up to rounding) is not scaled.
    scale = np.sqrt(np.diag(covariance).clip(0))
    scale = np.where(scale > 1e-6 * (np.abs(shift) + 1e-6), scale, 1.0)
    variances, directions = np.linalg.eigh(covariance / np.outer(scale, scale))
    variances, directions = variances[::-1].clip(0), directions[:, ::-1]
    explained = np.cumsum(variances) / max(variances.sum(), np.finfo(float).tiny)
    n_kept = min(int(np.searchsorted(explained, share)) + 1, len(explained))
    mean_variance = max(variances.mean(), 1e-12)
    shrunk = (1 - _SHRINKAGE) * variances[:n_kept] + _SHRINKAGE * mean_variance
    components = directions[:, :n_kept] / scale[:, None] / np.sqrt(shrunk)
    return (shift + mean).astype(np.float32), components.astype(np.float32)


def whitenings_without(mean, components, moments):
    """Compute, for each fold, a linear map from whitened features to features whitened without the fold.

    Parameters
    ----------
    mean, components : ndarray
        Whitening of all images, from :func:`whitening_of`.
    moments : list of tuple
        Moments of the whitened features of each fold, from :func:`moments_of` with a shift of 0.

    Returns
    -------
    maps : list of (ndarray of shape (n_kept, n_kept'), ndarray of shape (n_kept',)), float32
        Matrix and offset of each fold. The features whitened without the fold are ``whitened @ matrix + offset``.

    Notes
    -----
    The original features are recovered from the whitened features, except for the directions with the least variance
    (0.1 %), which whitening drops. The new whitening keeps nearly all of the recovered variance. It thus has about as
    many directions as a whitening of the original features without the fold. The number of directions matters, because
    an image stands out in directions in which the other images hardly vary.
    """
    mean, components = mean.astype(np.float64), components.astype(np.float64)
    back = np.linalg.pinv(components)
    weights = np.linalg.norm(components, axis=1)
    back[:, weights < 1e-9 * weights.max(initial=0)] = 0  # constant features stay exactly constant
    total = [sum(terms) for terms in zip(*moments)]
    maps = []
    for own in moments:
        count, sums, products = (everything - part for everything, part in zip(total, own))
        recovered = count, sums @ back, back.T @ products @ back
        own_mean, own_components = whitening_of(mean, recovered, _RECOVERED_SHARE)
        matrix, offset = back @ own_components, (mean - own_mean) @ own_components
        maps.append((matrix.astype(np.float32), offset.astype(np.float32)))
    return maps
