"""Normal images that a combination holds out of training, to standardise its detectors and to set thresholds."""

from dataclasses import dataclass

import numpy as np

from sklearn_exdd._images import ImageInRegion, Images, are_known, training_digests


@dataclass
class HeldOut:
    """Normal samples on which the detectors were not fitted, with their scores in the combination.

    Parameters
    ----------
    samples : list of str, path-like or ndarray, or ndarray of shape (n_samples, n_features)
        Images as passed to `fit`, or feature rows. An image from a file is stored as its path.
    groups, indices : ndarray of shape (n_samples,), dtype int
        Groups and indices of the samples, as in a TrainingSet.
    scores : ndarray of shape (n_samples,)
        Scores in the combination. Each score is standardised with the scores of the other groups.
    maxima : ndarray of shape (n_samples,) or None
        Highest map values in the combination, standardised in the same way. None without maps.
    is_unseen : ndarray of shape (n_samples,), dtype bool
        Whether the detectors have not seen the sample. A correction that contains the sample sets this to False. The
        score and the maximum from before the correction are then kept.
    """

    samples: object
    groups: np.ndarray
    indices: np.ndarray
    scores: np.ndarray
    maxima: object
    is_unseen: np.ndarray

    def __len__(self):
        return len(self.samples)

    @classmethod
    def from_training_set(cls, normal, has_maps):
        """Create held-out samples from a training set. The scores are still unknown (NaN).

        Images in memory are copied, because views would keep all images of `fit` in memory.
        """
        samples, unknown = normal.samples, np.full(len(normal), np.nan)
        if normal.has_images:
            paths = [samples.path(i) for i in range(len(samples))]
            regions = [samples.region(i) for i in range(len(samples))]
            samples = [_kept(*one) for one in zip(samples.raw(), paths, regions)]
        maxima = unknown.copy() if has_maps else None
        return cls(samples, normal.groups, normal.indices, unknown, maxima, np.ones(len(normal), dtype=bool))

    def take(self, rows):
        """Return the samples at the given positions, with copies of the arrays."""
        samples = [self.samples[i] for i in rows] if isinstance(self.samples, list) else self.samples[rows]
        maxima = None if self.maxima is None else self.maxima[rows]
        return HeldOut(samples, self.groups[rows], self.indices[rows], self.scores[rows], maxima, self.is_unseen[rows])


def _kept(item, path, region):
    """Return the path of an image, or a copy of its pixels if it has no path. Keep its region of interest attached."""
    if isinstance(item, ImageInRegion):
        return ImageInRegion(_kept(item.image, path, None), region)
    return np.array(item) if path is None else path


def are_among(held_out, samples):
    """Tell which held-out samples are among `samples`. Compare images by bytes or pixels, and rows by values."""
    if not isinstance(held_out, Images):
        return (held_out[:, None] == samples[None]).all(axis=2).any(axis=1)
    in_memory = Images([samples[i] for i in range(len(samples))])
    return are_known(held_out, np.append(training_digests(samples), training_digests(in_memory)))


def check_unchanged(images, digests):
    """Refuse held-out files that are missing or have changed since `fit`."""
    advice = "Restore the files, or fit again."
    expected = f"expected the {len(images)} normal images that fit held out, to compute the threshold from"
    try:
        is_unchanged = are_known(images, digests)
    except (OSError, ValueError) as error:
        raise ValueError(f"partial_fit: {expected}, got an image that cannot be read: {error}. {advice}") from error
    if not is_unchanged.all():
        path = str(images.path(np.flatnonzero(~is_unchanged)[0]))
        raise ValueError(f"partial_fit: {expected}, got a file that has changed since fit: {path!r}. {advice}")


def spread(scores):
    """Return the interquartile range of each row, the standard deviation if that range is 0, or 1 if both are 0."""
    widths = np.subtract(*np.percentile(scores, [75, 25], axis=1))
    widths = np.where(widths > 0, widths, scores.std(axis=1))
    return np.where(widths > 0, widths, 1.0)


def moments(pixel_map, region):
    """Return the number, mean and sum of squared deviations of the map values in a region, or NaN without a map."""
    if pixel_map is None:
        return np.nan, np.nan, np.nan
    pixel_map = pixel_map if region is None else pixel_map[region]
    mean = pixel_map.mean(dtype=np.float64)
    return pixel_map.size, mean, np.square(pixel_map - mean, dtype=np.float64).sum()


def pooled(moments):
    """Return the mean and standard deviation of all map values of each detector. Replace a deviation of 0 with 1.

    `moments` has the shape (n_detectors, n_images, 3).
    """
    counts, means, squares = np.moveaxis(moments, 2, 0)
    centers = (counts * means).sum(axis=1) / counts.sum(axis=1)
    squares = squares + counts * (means - centers[:, None]) ** 2
    scales = np.sqrt(squares.sum(axis=1) / counts.sum(axis=1))
    return centers, np.where(scales == 0, 1.0, scales)
