"""Distances between synthetic and real defects, computed from the features of an extractor."""

import warnings

import numpy as np

from sklearn_exdd._images import Images, Masks
from sklearn_exdd.features import make_feature_extractor
from sklearn_exdd.scoring import mask_coverage

# Maximum number of patches per image. Patches of one image resemble each other, so more patches would not make a
# distance more certain.
_MAX_PATCHES = 16


def frechet_distance(real, synthetic, *, real_masks=None, synthetic_masks=None, feature_extractor="auto"):
    r"""Compute the Fréchet distance between real and synthetic images (FID with an extractor of this library).

    Parameters
    ----------
    real, synthetic : array of shape (n, height, width[, channels]), list of arrays or list of paths
        Images to compare, of any size. At least 2 images of each kind are required.
    real_masks, synthetic_masks : array of shape (n, height, width) or list of arrays or paths, default=None
        Masks that are True on the defect. With masks, only the patches on the defects are compared, because a defect
        covers only a few percent of an image. If both are None, whole images are compared.
    feature_extractor : str or object, default="auto"
        Feature extractor, as in :func:`~sklearn_exdd.features.make_feature_extractor`. It is cloned and fitted on the
        real images. "auto" uses EfficientNet-Lite0, pretrained on ImageNet. The FID of papers uses an Inception
        network. To compute it, use :func:`inception_distance`.

    Returns
    -------
    distance : float
        Fréchet distance, between 0 and 4, without a unit. Lower values mean that the images are more alike.

    Warns
    -----
    UserWarning
        If the number of patches of one kind does not exceed the number of features of the extractor.

    See Also
    --------
    kernel_distance : Unbiased distance with a standard error. Use it for fewer than a few hundred images.

    Notes
    -----
    For features with means :math:`\mu_r, \mu_s` and covariances :math:`C_r, C_s`, the distance is equation 6 of [1]_:

    .. math:: \|\mu_r - \mu_s\|^2 + \mathrm{tr}\left(C_r + C_s - 2 (C_r C_s)^{1/2}\right)

    The function uses at most 16 patches per image, evenly spread. With masks, it uses only patches whose area is at
    least half covered by the defect. If there are fewer than three such patches, it uses the three patches that the
    defect covers most, as in :class:`~sklearn_exdd.ExDDDetector`. Each image has the same weight, however many patches
    it has.

    Features are standardised by the mean and standard deviation of the real patches, and then scaled to unit length.
    Otherwise, a few strong defects would determine the distance. The real images thus set the scale, and the distance
    changes if real and synthetic images are swapped. It cannot be compared with distances for another extractor or for
    other real images. It cannot be compared with published distances either, because they use another network. As a
    yardstick, compute the distance between two halves of the real images, with all images of a part in the same half.

    The distance is biased: it falls as the number of images grows, and is > 0 between two halves of one set. Compare
    distances only if they were computed from equal numbers of images.

    References
    ----------
    .. [1] M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs trained by a two time-scale update
       rule converge to a local Nash equilibrium", NeurIPS 2017.

    Examples
    --------
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> from sklearn_exdd.metrics import frechet_distance
    >>> stains, other_stains, pits = (
    ...     make_surface_defects(25, defect_fraction=1, defects=kind, image_shape=(64, 64), random_state=seed)
    ...     for seed, kind in enumerate(["stain", "stain", "pit"])
    ... )
    >>> same, other = (
    ...     frechet_distance(stains[0], X, real_masks=stains[2], synthetic_masks=masks, feature_extractor="gabor")
    ...     for X, _, masks in (other_stains, pits)
    ... )
    >>> same < other
    True
    """
    samples = _samples(real, synthetic, real_masks, synthetic_masks, feature_extractor, min_images=2)
    moments = []
    for name, (patches, starts) in zip(("real", "synthetic"), samples):
        n_patches, n_features = patches.shape
        if n_patches <= n_features:
            warnings.warn(
                f"{name}: expected more patches than the {n_features} features, got {n_patches} patches of "
                f"{len(starts)} images. The Fréchet distance then reflects their number rather than their appearance: "
                "use more images, an extractor with fewer features, or kernel_distance.",
                UserWarning,
                stacklevel=2,
            )
        weights = _weights(patches, starts)
        moments.append((weights @ patches, np.cov(patches, rowvar=False, aweights=weights)))
    (real_mean, real_covariance), (synthetic_mean, synthetic_covariance) = moments
    # Trace of the square root of the product of both covariances. It is computed from a factor of each covariance, so
    # that rounding errors cannot make the square root complex.
    overlap = np.linalg.svd(_factor(real_covariance).T @ _factor(synthetic_covariance), compute_uv=False).sum()
    distance = np.sum((real_mean - synthetic_mean) ** 2)
    distance += np.trace(real_covariance) + np.trace(synthetic_covariance) - 2 * overlap
    return max(float(distance), 0.0)


def kernel_distance(real, synthetic, *, real_masks=None, synthetic_masks=None, feature_extractor="auto"):
    r"""Compute the kernel distance between real and synthetic images (KID with an extractor of this library).

    Parameters
    ----------
    real, synthetic : array of shape (n, height, width[, channels]), list of arrays or list of paths
        Images to compare, of any size. At least 3 images of each kind are required.
    real_masks, synthetic_masks : array of shape (n, height, width) or list of arrays or paths, default=None
        Masks that are True on the defect, as in :func:`frechet_distance`.
    feature_extractor : str or object, default="auto"
        Feature extractor, as in :func:`frechet_distance`.

    Returns
    -------
    distance : float
        Squared maximum mean discrepancy, at most 16, without a unit. Lower values mean that the images are more alike.
        The distance is unbiased: for images of the same kind, it varies around 0, even with few images, and can be
        slightly negative.
    standard_error : float
        Standard error of the distance. It estimates how much the distance would vary with other images of the same
        kinds. If several images show the same part, they are not independent, and the true error is larger.

    Notes
    -----
    Patches and their features are chosen as in :func:`frechet_distance`. The features of a patch are a unit vector
    :math:`u`. The similarity of two images :math:`i` and :math:`j` is the mean of the polynomial kernel of [1]_, of
    degree 3, over all pairs of their patches:

    .. math:: K_{ij} = \frac{1}{n_i n_j} \sum_{p \in i} \sum_{q \in j} (u_p \cdot u_q + 1)^3

    The distance is the unbiased estimate of lemma 6 in [2]_, a U-statistic, over all :math:`m` real images :math:`r`
    and all :math:`n` synthetic images :math:`s`:

    .. math:: \frac{1}{m (m - 1)} \sum_{r \ne r'} K_{rr'} + \frac{1}{n (n - 1)} \sum_{s \ne s'} K_{ss'}
              - \frac{2}{m n} \sum_{r, s} K_{rs}

    Patches of the same image are never compared with each other. Such patches are always alike, so comparing them would
    bias the distance and make it depend on the size of the defects. The method of [1]_ averages over random subsets.
    This function uses all pairs instead, and needs no random numbers. The standard error is a jackknife estimate over
    images.

    References
    ----------
    .. [1] M. Binkowski, D. J. Sutherland, M. Arbel, A. Gretton, "Demystifying MMD GANs", ICLR 2018, section 4.
    .. [2] A. Gretton, K. M. Borgwardt, M. J. Rasch, B. Schölkopf, A. Smola, "A kernel two-sample test", Journal of
       Machine Learning Research 13 (2012).

    Examples
    --------
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> from sklearn_exdd.metrics import kernel_distance
    >>> stains, other_stains, pits = (
    ...     make_surface_defects(25, defect_fraction=1, defects=kind, image_shape=(64, 64), random_state=seed)
    ...     for seed, kind in enumerate(["stain", "stain", "pit"])
    ... )
    >>> same, error = kernel_distance(stains[0], other_stains[0], real_masks=stains[2], synthetic_masks=other_stains[2])
    >>> other, _ = kernel_distance(stains[0], pits[0], real_masks=stains[2], synthetic_masks=pits[2])
    >>> abs(same) < 3 * error < other
    True
    """
    real, synthetic = _samples(real, synthetic, real_masks, synthetic_masks, feature_extractor, min_images=3)
    within, between = [_pair_kernel(kind, kind) for kind in (real, synthetic)], _pair_kernel(real, synthetic)
    distance, variance = -2 * between.mean(), 0.0
    for kernel, others in zip(within, (between, between.T)):
        n_images = len(kernel)
        np.fill_diagonal(kernel, 0)
        distance += kernel.sum() / (n_images * (n_images - 1))
        # Distance without one image, for each image in turn, up to a term that is the same for all images.
        left_out = (kernel.sum() - 2 * kernel.sum(axis=1)) / ((n_images - 1) * (n_images - 2))
        left_out -= 2 * (others.sum() - others.sum(axis=1)) / ((n_images - 1) * others.shape[1])
        variance += (n_images - 1) * np.var(left_out)
    return float(distance), float(np.sqrt(variance))


def _samples(real, synthetic, real_masks, synthetic_masks, feature_extractor, min_images):
    """Return the features of both kinds, scaled by the real patches, and the row at which each image starts."""
    if (real_masks is None) != (synthetic_masks is None):
        given, missing = ("synthetic", "real") if real_masks is None else ("real", "synthetic")
        raise ValueError(
            f"{missing}_masks: expected masks, as {given}_masks are given, got None. Pass both to compare defects, or "
            "neither to compare whole images."
        )
    kinds = []
    for name, X, masks in (("real", real, real_masks), ("synthetic", synthetic, synthetic_masks)):
        images = Images(X, name=name)
        if len(images) < min_images:
            raise ValueError(f"{name}: expected at least {min_images} images, got {len(images)}.")
        kinds.append((images, None if masks is None else Masks(masks, len(images), name=f"{name}_masks")))
    (real, _), (synthetic, its_masks) = kinds
    kinds[1] = synthetic.with_channels(real.n_channels), its_masks
    extractor = make_feature_extractor(feature_extractor)
    samples = []
    for (images, masks), extract in zip(kinds, (extractor.fit_transform, extractor.iter_transform)):
        patches = [_patches(feature_map, extractor, images, masks, i) for i, feature_map in enumerate(extract(images))]
        starts = np.cumsum([0] + [len(rows) for rows in patches[:-1]])
        samples.append((np.concatenate(patches, dtype=np.float64), starts))
    weights = _weights(*samples[0])
    mean = weights @ samples[0][0]
    deviation = np.sqrt(weights @ (samples[0][0] - mean) ** 2)
    # A feature that is constant on the real patches, except for rounding, would dominate all other features. It is set
    # to 0.
    deviation[deviation <= 1e-6 * (np.abs(mean) + 1e-6)] = np.inf
    return [(_unit_rows((patches - mean) / deviation), starts) for patches, starts in samples]


def _patches(feature_map, extractor, images, masks, index):
    """Return features of at most `_MAX_PATCHES` patches of one image. With masks, only patches on the defect count."""
    shown = np.arange(feature_map.shape[0] * feature_map.shape[1])
    if masks is not None:
        mask = masks.get(index, images.shape(index))
        if mask is None or not mask.any():
            came = "None" if mask is None else "an empty one"
            raise ValueError(
                f"{masks.where(index)}: expected a mask that marks the defect, got {came}. "
                "Leave this image out, or pass no masks to compare whole images."
            )
        coverage = mask_coverage(mask, *extractor.patch_centers(feature_map.shape, mask.shape)).ravel()
        # A thin defect may cover half of fewer than three patches. In this case, take the three patches that it covers
        # most.
        shown = np.flatnonzero((coverage >= min(0.5, np.sort(coverage)[-3:][0])) & (coverage > 0))
    if len(shown) > _MAX_PATCHES:
        shown = shown[np.linspace(0, len(shown) - 1, _MAX_PATCHES).round().astype(int)]
    return feature_map.reshape(-1, feature_map.shape[2])[shown]


def _weights(patches, starts):
    """Return the weight of each patch. All images have the same total weight, and all weights sum to 1."""
    counts = np.diff([*starts, len(patches)])
    return np.repeat(1 / (len(starts) * counts), counts)


def _unit_rows(patches):
    norms = np.linalg.norm(patches, axis=1, keepdims=True)
    return patches / np.where(norms > 0, norms, 1)


def _factor(covariance):
    """Return a matrix whose product with its own transpose is the covariance."""
    variances, directions = np.linalg.eigh(covariance)
    return directions * np.sqrt(variances.clip(0))


def _pair_kernel(some, others):
    """Return the mean kernel over the patches of every pair of images, with one image of each kind."""
    (patches, starts), (other_patches, other_starts) = some, others
    counts, other_counts = np.diff([*starts, len(patches)]), np.diff([*other_starts, len(other_patches)])
    # Images are processed one by one, because all pairs of patches at once would not fit in memory.
    sums = [
        np.add.reduceat(((rows @ other_patches.T + 1) ** 3).sum(axis=0), other_starts)
        for rows in np.split(patches, starts[1:])
    ]
    return np.stack(sums) / np.outer(counts, other_counts)
