"""Metrics that measure how well anomaly maps agree with the pixels and the regions of the true masks."""

from numbers import Real

import numpy as np
from scipy.ndimage import label
from sklearn.metrics import auc

from sklearn_exdd._images import Masks, as_array, check_listed, check_no_table, is_missing, is_one_region

# Maximum number of values in an integer mask. The number is checked only if all maps together have only two values.
_MAX_LABELS = 16
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def _checked_pairs(masks, maps):
    """Check masks and maps. Return a list with a pair of a bool mask and a floating-point map for each image."""
    for name, values in (("masks", masks), ("maps", maps)):
        check_listed(values, name)
        check_no_table(values, name, f"expected a list or an array of {name}")
        if not hasattr(values, "__len__"):
            raise TypeError(
                f"{name}: expected an array (n_images, height, width) or a list of arrays (height, width), got "
                f"{type(values).__name__}. Put the {name[:-1]} of a single image in a list."
            )
    if len(masks) != len(maps):
        raise ValueError(
            f"masks, maps: expected one of each for every image, got {len(masks)} masks and {len(maps)} maps. "
            "Give None as the mask of an image without a defect."
        )
    if getattr(maps, "ndim", 1) > 1:
        maps = as_array(maps, "maps")
    pairs, masks = [], Masks(masks, len(masks), soft=False)
    for index, anomaly_map in enumerate(maps):
        mask = masks.get(index)
        if is_missing(anomaly_map):
            raise ValueError(
                f"maps[{index}]: expected an anomaly map, got {anomaly_map!r}. Leave the image out, with its mask."
            )
        anomaly_map = as_array(anomaly_map, f"maps[{index}]")
        if anomaly_map.ndim != 2:
            raise ValueError(
                f"maps[{index}]: expected a 2-D array (height, width), got shape {anomaly_map.shape}. Pass one map for "
                "each image, without a channel axis, after the masks."
            )
        if anomaly_map.dtype.kind not in "buif":
            raise ValueError(
                f"maps[{index}]: expected numbers, got dtype {anomaly_map.dtype}. Pass the masks first, then the maps."
            )
        # float32 is kept, because conversion would double the memory without changing any rank.
        if anomaly_map.dtype not in (np.float32, np.float64):
            anomaly_map = anomaly_map.astype(np.float64)
        if not np.isfinite(anomaly_map).all():
            raise ValueError(
                f"maps[{index}]: expected finite values, got NaN or infinity. Check the detector that made the map."
            )
        mask = np.zeros(anomaly_map.shape, dtype=bool) if mask is None else mask
        if mask.shape != anomaly_map.shape:
            raise ValueError(
                f"{masks.where(index)}: expected the shape of its map, {anomaly_map.shape}, got {mask.shape}. Resize "
                "the map to the size of the mask."
            )
        pairs.append((mask, anomaly_map))
    _check_not_swapped(masks, pairs)
    return pairs


def _check_not_swapped(masks, pairs):
    """Refuse integer masks with many values if the maps have only two values.

    Masks and maps are then probably swapped. Floating-point maps that were passed as masks have already been refused.
    """
    values = set()
    for _, anomaly_map in pairs:
        values |= {anomaly_map.min(), anomaly_map.max()}
        if len(values) > 2 or not np.isin(anomaly_map, list(values)).all():
            return
    for index, mask in enumerate(masks.raw()):
        if isinstance(mask, np.ndarray) and mask.dtype.kind in "iu" and len(np.unique(mask)) > _MAX_LABELS:
            raise ValueError(
                f"{masks.where(index)}: expected a mask, got integers with more than {_MAX_LABELS} values, and maps "
                "with two. Are masks and maps swapped? Pass the masks first, like y_true in scikit-learn. If the mask "
                "has many labels, pass mask > 0."
            )


def _regions_of(roi, pairs):
    """Return the region of interest of each pair of mask and map. The region is None if all pixels of a pair count."""
    if roi is None:
        return [None] * len(pairs)
    masks = Masks([roi] * len(pairs) if is_one_region(roi) else roi, len(pairs), "roi")
    return [masks.get(i, mask.shape) for i, (mask, _) in enumerate(pairs)]


def _operating_points(masks, maps, roi, region_weights=False):
    """Return the weight of the defect pixels found and the number of false positives at each threshold.

    The thresholds are the map values of the defect pixels, because the recall changes only at these values. Usually,
    only a small fraction of all pixels are defect pixels. It is therefore enough to sort the values of normal pixels
    and to look up the values of defect pixels among them. This method does not need an index array over all pixels. It
    gives the points of the exact curve, with ties grouped.

    Returns
    -------
    found : ndarray of shape (n_points,), dtype float64
        Total weight of the defect pixels whose map value equals the threshold. The highest threshold comes first. The
        weight of a pixel is 1 or, with `region_weights`, one over the number of pixels in its region.
    false_positives_above, false_positives : ndarray of shape (n_points,), dtype int64
        Number of normal pixels above the threshold, and number of normal pixels at or above the threshold.
    n_normal : int
        Number of normal pixels.
    """
    pairs = _checked_pairs(masks, maps)
    regions = _regions_of(roi, pairs)
    pairs = [(mask if one is None else mask & one, own) for (mask, own), one in zip(pairs, regions)]
    n_defect = sum(np.count_nonzero(mask) for mask, _ in pairs)
    n_normal = sum(mask.size if one is None else int(one.sum()) for (mask, _), one in zip(pairs, regions)) - n_defect
    if not n_defect or not n_normal:
        raise ValueError(
            "masks: expected at least one defect pixel and one normal pixel, got no "
            f"{'normal' if n_defect else 'defect'} pixel in {len(pairs)} masks. In cross-validation, use stratified "
            "folds."
        )
    normal = np.empty(n_normal, dtype=np.result_type(*(anomaly_map for _, anomaly_map in pairs)))
    defect, weights, start = [], [], 0
    for (mask, anomaly_map), region in zip(pairs, regions):
        outside = anomaly_map[~mask if region is None else region & ~mask]
        normal[start : start + len(outside)] = outside
        start += len(outside)
        defect.append(anomaly_map[mask])
        blobs = label(mask, structure=_EIGHT_NEIGHBOURS)[0][mask] if region_weights else None
        weights.append(np.ones(len(defect[-1])) if blobs is None else 1.0 / np.bincount(blobs)[blobs])
    normal.sort()
    values, group = np.unique(np.concatenate(defect), return_inverse=True)
    found = np.bincount(group, weights=np.concatenate(weights))[::-1]
    above = n_normal - np.searchsorted(normal, values, side="right")[::-1]
    at_or_above = n_normal - np.searchsorted(normal, values, side="left")[::-1]
    return found, above, at_or_above, n_normal


def pixel_roc_auc_score(masks, maps, *, roi=None):
    """Compute the area under the ROC curve over all pixels of all images.

    Parameters
    ----------
    masks : array-like of shape (n_images, height, width) or list of (array-like of shape (height, width), path or None)
        True masks, in any form that `fit` accepts. The mask of an image without a defect is `None`. Floats other than 0
        and 1 are refused, because a mask with such floats is usually a map. The images may differ in size.
    maps : array-like of shape (n_images, height, width) or list of array-like of shape (height, width)
        Anomaly maps, where higher values mean more defective. Each map has the shape of its mask.
    roi : array of shape (height, width), Pillow image, path, or list of these, default=None
        Mask of the region of interest. Only pixels where the mask is True count. Pass a single mask for all images or a
        list with one mask for each image, in any form that :func:`~sklearn_exdd.datasets.with_roi` accepts. If None,
        all pixels count.

    Returns
    -------
    score : float
        Area under the curve, between 0 and 1. Uninformative maps get 0.5.

    Raises
    ------
    ValueError
        If the numbers of masks and maps differ, a mask and its map differ in shape, a map holds values that are not
        finite, or one of the two classes has no pixels.

    Notes
    -----
    The value is the same as that of :func:`sklearn.metrics.roc_auc_score` on the concatenated pixels, but is computed
    in a fraction of the time and memory. The score usually looks high, because normal pixels far outnumber defect
    pixels. If this is a problem, consider :func:`pixel_average_precision_score`. Large defects also count more than
    small defects. If this is a problem, consider :func:`per_region_overlap_score`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.metrics import pixel_roc_auc_score
    >>> masks = [np.array([[0, 1], [0, 0]]), None]
    >>> maps = np.array([[[0.1, 0.8], [0.3, 0.2]], [[0.1, 0.2], [0.9, 0.1]]])
    >>> round(pixel_roc_auc_score(masks, maps), 3)
    0.857
    """
    found, above, at_or_above, n_normal = _operating_points(masks, maps, roi)
    # A pair of a defect pixel and a normal pixel counts as 1 if the defect pixel has the higher value, and as 1/2 if
    # both have the same value.
    return float(1.0 - found @ (above + at_or_above) / (2.0 * found.sum() * n_normal))


def pixel_average_precision_score(masks, maps, *, roi=None):
    """Compute the average precision over all pixels of all images.

    Parameters
    ----------
    masks, maps : array-like of shape (n_images, height, width), or lists of (height, width)
        True masks and anomaly maps, as in :func:`pixel_roc_auc_score`.
    roi : array of shape (height, width), Pillow image, path, or list of these, default=None
        Region of interest, as in :func:`pixel_roc_auc_score`.

    Returns
    -------
    score : float
        Average precision, between 0 and 1. Uninformative maps get about the fraction of defect pixels.

    Notes
    -----
    The value is the same as that of :func:`sklearn.metrics.average_precision_score` on the concatenated pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.metrics import pixel_average_precision_score
    >>> masks = [np.array([[0, 1], [0, 0]]), None]
    >>> maps = np.array([[[0.1, 0.8], [0.3, 0.2]], [[0.1, 0.2], [0.9, 0.1]]])
    >>> pixel_average_precision_score(masks, maps)
    0.5
    """
    found, _, at_or_above, _ = _operating_points(masks, maps, roi)
    true_positives = np.cumsum(found)
    return float(found @ (true_positives / (true_positives + at_or_above)) / true_positives[-1])


def per_region_overlap_score(masks, maps, max_fpr=0.3, *, roi=None):
    r"""Compute the area under the per-region overlap curve (AUPRO), up to a false-positive rate.

    Each connected region of a mask counts the same: a scratch of 20 pixels weighs as much as a stain of 2000 pixels.

    Parameters
    ----------
    masks, maps : array-like of shape (n_images, height, width), or lists of (height, width)
        True masks and anomaly maps, as in :func:`pixel_roc_auc_score`.
    max_fpr : float, default=0.3
        False-positive rate at which the curve ends, in (0, 1]. 0.3 is customary. 0.05 is closer to the rate that a
        production line tolerates.
    roi : array of shape (height, width), Pillow image, path, or list of these, default=None
        Region of interest, as in :func:`pixel_roc_auc_score`.

    Returns
    -------
    score : float
        Normalized area, between 0 and 1. Uninformative maps get `max_fpr / 2`.

    Notes
    -----
    For a threshold :math:`t`, the overlap is :math:`\frac{1}{K} \sum_k |R_k \cap \{m \ge t\}| / |R_k|` over the
    :math:`K` regions :math:`R_k` (8-connected) of all masks. The false-positive rate is taken over all pixels outside
    the masks, including the pixels of images without a defect. The score is the area under the curve of overlap against
    false-positive rate, from 0 to `max_fpr`, divided by `max_fpr`. The curve is exact: each distinct value is a
    threshold, ties are grouped, and the curve is interpolated linearly at `max_fpr`.

    References
    ----------
    P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger, "The MVTec Anomaly Detection Dataset", International
    Journal of Computer Vision 129 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd.metrics import per_region_overlap_score
    >>> mask = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]])
    >>> anomaly_map = np.array([[0.2, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1], [0.3, 0.1, 0.9, 0.8]])
    >>> round(per_region_overlap_score([mask], [anomaly_map], max_fpr=1.0), 3)
    0.944
    """
    if not isinstance(max_fpr, Real) or not 0.0 < max_fpr <= 1.0:
        raise ValueError(f"max_fpr: expected a number in (0, 1], got {max_fpr!r}. The customary value is 0.3.")
    found, above, at_or_above, n_normal = _operating_points(masks, maps, roi, region_weights=True)
    # The overlap is constant between two values of defect pixels. At a value that defect and normal pixels share, it
    # rises along a straight line. Two points per value therefore describe the whole curve: one point for the pixels
    # above the value, and one point for the pixels at or above the value.
    overlap = np.append(0.0, np.cumsum(found)) / found.sum()
    overlap = np.concatenate([[0.0], np.column_stack([overlap[:-1], overlap[1:]]).ravel(), [1.0]])
    fpr = np.concatenate([[0.0], np.column_stack([above, at_or_above]).ravel() / n_normal, [1.0]])
    inside = fpr < max_fpr
    end = np.interp(max_fpr, fpr, overlap)
    return float(auc(np.append(fpr[inside], max_fpr), np.append(overlap[inside], end)) / max_fpr)
