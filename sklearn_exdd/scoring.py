"""Pure functions that compute scores of patches, images and pixels from arrays."""

from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.special import logsumexp

from sklearn_exdd._torch import resize


def ratio_score(normal_distances, defect_distances, epsilon):
    """Return the ratio score of patches. It is high for a patch nearer to the defect bank than to the normal bank.

    Parameters
    ----------
    normal_distances, defect_distances : ndarray of shape (...)
        Distances to the normal and to the defect bank, >= 0.
    epsilon : float
        Constant added to the distance to the defect bank, > 0.

    Returns
    -------
    scores : ndarray of shape (...)
        ``normal_distances / (defect_distances + epsilon)``, >= 0.

    References
    ----------
    ExDD (arXiv 2507.15335): the ratio score of the dual distribution.

    Examples
    --------
    >>> import numpy as np
    >>> ratio_score(np.array([1.0, 6.0]), np.array([3.0, 1.0]), epsilon=1.0)
    array([0.25, 3.  ])
    """
    return normal_distances / (defect_distances + epsilon)


def neighborhood_weight(distance, support_distances, n_features):
    """Return the softmax weight of the distance to the nearest bank row, relative to distances to neighbouring rows.

    Parameters
    ----------
    distance : float
        Distance s* between the patch that determines the image score and the nearest bank row m*.
    support_distances : ndarray of shape (n_support,)
        Distances between the same patch and the bank rows nearest to m*, without m* itself.
    n_features : int
        Number of features of a patch. Distances are divided by the square root of this number.

    Returns
    -------
    weight : float
        ``exp(s* / D) / sum_m exp(||f* - m|| / D)`` with ``D = sqrt(n_features)``. If `support_distances` is empty, the
        weight is 0.5, which favours neither bank.

    References
    ----------
    PatchCore (CVPR 2022), eq. 7; ExDD (arXiv 2507.15335) uses one minus this weight for
    the normal bank, and the weight itself for the defect bank.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(neighborhood_weight(1.0, np.array([1.0, 1.0]), 4)), 3)
    0.5
    """
    if len(support_distances) == 0:
        return 0.5
    scale = np.sqrt(n_features)
    return np.exp(-logsumexp((np.asarray(support_distances, dtype=np.float64) - distance) / scale))


def top_mean(patch_scores, n_patches):
    """Return the mean of the highest patch scores, which serves as an image score.

    Parameters
    ----------
    patch_scores : ndarray of shape (n,)
    n_patches : int
        Number of scores to average. 1 gives the maximum. If there are fewer scores, all of them are averaged.

    Returns
    -------
    score : float

    Examples
    --------
    >>> import numpy as np
    >>> float(top_mean(np.array([1.0, 5.0, 3.0]), 2))
    4.0
    """
    n_patches = min(n_patches, len(patch_scores))
    # Sorting makes the rounding of the sum independent of the order of the patches.
    return np.sort(np.partition(patch_scores, -n_patches)[-n_patches:]).mean()


def top_share_mean(pixel_map, share, position_map=None, region=None):
    """Return the mean of the highest values of a map, which serves as an image score.

    Parameters
    ----------
    pixel_map : ndarray of shape (height, width), dtype float32
    share : float
        Fraction of the pixels to average, in (0, 1]. At least one pixel is used.
    position_map : ndarray of shape (height', width'), dtype float32, default=None
        Mean map of normal images. It is resized to the shape of `pixel_map` and subtracted from it first.
    region : ndarray of shape (height, width), dtype bool, default=None
        Mask of the pixels to use. None uses all pixels.

    Returns
    -------
    score : float

    Examples
    --------
    >>> import numpy as np
    >>> pixel_map = np.array([[1, 2], [3, 4]], dtype=np.float32)
    >>> float(top_share_mean(pixel_map, 0.5))
    3.5
    >>> float(top_share_mean(pixel_map, 0.5, position_map=np.array([[0, 0], [0, 4]], dtype=np.float32)))
    2.5
    """
    if position_map is not None:
        pixel_map = pixel_map - resize(position_map[..., None], pixel_map.shape)[..., 0]
    pixels = pixel_map.ravel() if region is None else pixel_map[region]
    return top_mean(pixels, max(1, round(share * pixels.size)))


def border_profile(patch_scores, rings, n_rings):
    """Estimate how much higher normal patches score near the border of an image.

    Parameters
    ----------
    patch_scores : ndarray of shape (n,)
        Scores of normal patches. Each score is computed with a bank that does not contain the patch itself.
    rings : ndarray of shape (n,), dtype int
        Number of patches between each patch and the border.
    n_rings : int
        Number of rings with a separate factor, counted from the border. The patches inside these rings are the
        reference.

    Returns
    -------
    factors : ndarray of shape (n_rings + 1,)
        Factor of each ring, at least 1. It is the 90 % quantile of the scores in the ring, divided by the 90 % quantile
        of the reference scores. If all patches lie in the rings, the innermost ring with patches is the reference.

    Examples
    --------
    >>> import numpy as np
    >>> border_profile(np.array([6.0, 3.0, 2.0, 2.0]), np.array([0, 1, 2, 3]), 2)
    array([3. , 1.5, 1. ])
    """
    rings = np.minimum(rings, n_rings)
    levels = np.full(n_rings + 1, np.nan)
    for ring in range(n_rings + 1):
        inside = patch_scores[rings == ring]
        levels[ring] = np.quantile(inside, 0.9) if len(inside) else levels[ring - 1]
    levels = np.where(np.isnan(levels), levels[-1], levels)  # outer rings without patches get the factor 1
    return np.maximum(levels / levels[-1], 1.0) if levels[-1] > 0 else np.ones(n_rings + 1)


def upsample(patch_map, row_centers, column_centers, image_shape, blur=0.0):
    """Upsample a map from the patch grid to the pixels of an image, by bilinear interpolation, and blur the result.

    Parameters
    ----------
    patch_map : ndarray of shape (height', width')
    row_centers : ndarray of shape (height',)
        Vertical coordinates of the patch centres in pixels, in ascending order. The centre of the first pixel is at 0.
    column_centers : ndarray of shape (width',)
        Horizontal coordinates of the patch centres.
    image_shape : tuple of int (height, width)
    blur : float, default=0.0
        Standard deviation of a Gaussian blur, in pixels, as in :func:`smooth`.

    Returns
    -------
    pixel_map : ndarray of shape (height, width)
        Map in the dtype of `patch_map`. Beyond the outermost patch centres, its values are constant.

    Examples
    --------
    >>> import numpy as np
    >>> upsample(np.array([[0.0, 1.0]]), np.array([0.0]), np.array([0.5, 2.5]), (1, 4))
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    rows, columns = (
        _interpolation_matrix(tuple(centers), size, blur).astype(patch_map.dtype)
        for centers, size in zip((row_centers, column_centers), image_shape)
    )
    return rows @ patch_map @ columns.T


def mask_coverage(mask, row_centers, column_centers):
    """Return for each patch the fraction of its cell that a mask covers.

    Parameters
    ----------
    mask : ndarray of shape (height, width), dtype bool
    row_centers, column_centers : ndarray of shape (height',) and (width',)
        Centres of the patches, as in :func:`upsample`. A pixel belongs to the cell of the nearest centre.

    Returns
    -------
    coverage : ndarray of shape (height', width'), dtype float64
        Fractions in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> mask_coverage(np.array([[True, False, True, True]]), np.array([0.0]), np.array([0.5, 2.5]))
    array([[0.5, 1. ]])
    """
    sums = mask.astype(np.float64)
    for axis, centers in enumerate((row_centers, column_centers)):
        cells = np.searchsorted((centers[1:] + centers[:-1]) / 2, np.arange(mask.shape[axis]))
        indicator = cells == np.arange(len(centers))[:, None]
        weights = indicator / np.maximum(indicator.sum(axis=1, keepdims=True), 1)
        sums = np.moveaxis(np.tensordot(weights, sums, axes=(1, axis)), 0, axis)
    return sums


def patches_on_mask(mask, row_centers, column_centers):
    """Select the patches whose cell is at least half covered by a mask.

    Parameters
    ----------
    mask, row_centers, column_centers
        As in :func:`mask_coverage`.

    Returns
    -------
    on_mask : ndarray of shape (height', width'), dtype bool
        True for the selected patches. A thin mask may cover half of fewer than three cells. In this case, the three
        patches that the mask covers most are selected.

    Examples
    --------
    >>> import numpy as np
    >>> patches_on_mask(np.array([[True, False, True, True]]), np.array([0.0]), np.array([0.5, 2.5]))
    array([[ True,  True]])
    """
    coverage = mask_coverage(mask, row_centers, column_centers)
    return (coverage >= min(0.5, np.sort(coverage, axis=None)[-3:][0])) & (coverage > 0)


@lru_cache(maxsize=4)  # most images of a batch have the same shape
def _interpolation_matrix(centers, size, blur):
    """Return the interpolation weight of each patch centre for each pixel of an axis.

    The weights include the blur. This is possible because the blur is linear and separable.
    """
    weights = np.stack([np.interp(np.arange(size), centers, unit) for unit in np.eye(len(centers))], axis=1)
    return ndimage.gaussian_filter1d(weights, blur, axis=0) if blur else weights


def smooth(pixel_map, sigma):
    """Blur a map with a Gaussian filter, and keep its float dtype.

    Parameters
    ----------
    pixel_map : ndarray of shape (height, width)
    sigma : float
        Standard deviation in pixels; 0 leaves the map unchanged.

    Returns
    -------
    pixel_map : ndarray of shape (height, width)

    Examples
    --------
    >>> import numpy as np
    >>> smooth(np.ones((3, 3)), sigma=2.0).round(6).min()
    np.float64(1.0)
    """
    return ndimage.gaussian_filter(pixel_map, sigma) if sigma else pixel_map


def conformal_p_values(scores, calibration_scores, groups=None):
    """Return conformal p-values: the probability that a normal sample scores at least as high as the given score.

    Parameters
    ----------
    scores : array-like of shape (n_samples,)
        Scores of new samples.
    calibration_scores : array-like of shape (n_calibrating,)
        Scores of normal samples. Each score is computed by a detector that did not learn from the sample.
    groups : array-like of shape (n_calibrating,), default=None
        Group of each calibration sample. Samples of one group are not independent. If None, each sample forms a
        separate group.

    Returns
    -------
    p_values : ndarray of shape (n_samples,), dtype float64
        p-values in (0, 1]; NaN for a score that is NaN. Without groups,
        ``(1 + #{calibration >= score}) / (n_calibrating + 1)``. With groups,
        ``(1 + sum over groups of the fraction of calibration >= score) / (n_groups + 1)``.

    Notes
    -----
    Suppose that a new normal sample is exchangeable with the calibration samples or, with groups, that its group is
    exchangeable with the calibration groups. For every alpha, its p-value is then at most alpha with a probability of
    at most alpha.

    References
    ----------
    V. Vovk et al., "Algorithmic learning in a random world", 2005. With groups: Y. Lee, R. F. Barber and R. Willett,
    "Distribution-free inference with hierarchical data", 2023.

    Examples
    --------
    >>> import numpy as np
    >>> conformal_p_values([0.5, 17, 99], np.arange(19.0))
    array([0.95, 0.15, 0.05])
    >>> conformal_p_values([17], np.arange(19.0), groups=[*range(18), 17])
    array([0.10526316])
    """
    scores, calibration = np.asarray(scores, dtype=np.float64), np.asarray(calibration_scores, dtype=np.float64)
    groups = np.arange(len(calibration)) if groups is None else groups
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(calibration)
    # Rounding makes the fractions of a group add up to exactly 1.
    reached = np.round(np.cumsum(1 / sizes[numbers[order]][::-1]), 9)
    reached = np.append(reached[::-1], 0.0)[np.searchsorted(calibration[order], scores)]
    return np.where(np.isnan(scores), np.nan, (1 + reached) / (1 + len(sizes)))


def conformal_threshold(scores, false_alarm_rate, groups=None):
    """Return the threshold that a new normal score exceeds with at most the given probability.

    Parameters
    ----------
    scores : array-like of shape (n_scores,)
        Scores of normal samples. Each score is computed by a detector that did not learn from the sample.
    false_alarm_rate : float
        Highest allowed probability alpha of a false alarm, in (0, 1).
    groups : array-like of shape (n_scores,), default=None
        Group of each sample, as in :func:`conformal_p_values`.

    Returns
    -------
    threshold : float
        Highest score whose p-value exceeds `attained_rate`. Without groups, this is the score of rank
        ``ceil((n + 1) (1 - alpha))``, counted from the smallest, or the largest score if there are too few scores.
    attained_rate : float
        False-alarm rate that `threshold` promises. It equals `false_alarm_rate` if the number n of groups is at least
        ``1 / alpha - 1``, and ``1 / (n + 1)`` otherwise. Without groups, n is the number of scores.

    Notes
    -----
    A score exceeds `threshold` if and only if its p-value is at most `attained_rate`.

    References
    ----------
    V. Vovk et al., "Algorithmic learning in a random world", 2005: split conformal
    prediction, here with leave-one-out scores.

    Examples
    --------
    >>> import numpy as np
    >>> conformal_threshold(np.arange(99.0), 0.05)
    (94.0, 0.05)
    >>> conformal_threshold(np.arange(9.0), 0.05)
    (8.0, 0.1)
    >>> conformal_threshold(np.arange(99.0), 0.05, groups=np.arange(99) // 11)
    (98.0, 0.1)
    """
    values = np.unique(np.asarray(scores, dtype=np.float64))
    n_groups = len(scores if groups is None else np.unique(groups))
    attained = max(false_alarm_rate, 1 / (n_groups + 1))
    exceeds = conformal_p_values(values, scores, groups) > attained
    return float(values[exceeds][-1]), attained
