"""The normal images that a combination holds out: they standardise its detectors and give the thresholds."""

from dataclasses import dataclass

import numpy as np

from sklearn_exdd._images import ImageInRegion, Images, are_known, training_digests


@dataclass
class HeldOut:
    """Normal samples that the detectors were not fitted on, and what the combination says of them.

    Parameters
    ----------
    samples : list of str, path-like or ndarray, or ndarray of shape (n_samples, n_features)
        Images as fit received them (files by their paths), or feature rows.
    groups, indices : ndarray of shape (n_samples,), int
        As in a TrainingSet.
    scores : ndarray of shape (n_samples,)
        Scores of the combination, standardised by the other groups.
    maxima : ndarray of shape (n_samples,) or None
        Highest pixels of its maps, standardised in the same way; None without maps.
    is_unseen : ndarray of shape (n_samples,), bool
        False for a sample that a correction has shown to the detectors. Its score and its maximum are those from
        before.
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
        """Keep the samples of a training set, none scored so far.

        Arrays are copied: a view would keep all images of fit in memory.
        """
        samples, unknown = normal.samples, np.full(len(normal), np.nan)
        if normal.has_images:
            paths = [samples.path(i) for i in range(len(samples))]
            samples = [_kept(*pair) for pair in zip(samples.raw(), paths)]
        maxima = unknown.copy() if has_maps else None
        return cls(samples, normal.groups, normal.indices, unknown, maxima, np.ones(len(normal), dtype=bool))

    def take(self, rows):
        """Select samples by position; the arrays are copies."""
        samples = [self.samples[i] for i in rows] if isinstance(self.samples, list) else self.samples[rows]
        maxima = None if self.maxima is None else self.maxima[rows]
        return HeldOut(samples, self.groups[rows], self.indices[rows], self.scores[rows], maxima, self.is_unseen[rows])


def _kept(item, path):
    """Return an image that came from a file as its path, another one as a copy; both in their region of interest."""
    if isinstance(item, ImageInRegion):
        return ImageInRegion(_kept(item.image, path), item.region)
    return np.array(item) if path is None else path


def are_among(held_out, samples):
    """Tell which held-out samples are among some others: images by their bytes or pixels, rows by their values."""
    if not isinstance(held_out, Images):
        return (held_out[:, None] == samples[None]).all(axis=2).any(axis=1)
    in_memory = Images([samples[i] for i in range(len(samples))])
    return are_known(held_out, np.append(training_digests(samples), training_digests(in_memory)))


def check_unchanged(images, digests):
    """Refuse held-out files that are missing or are not the ones that fit has read."""
    advice = "Put the files back as they were, or fit again."
    expected = f"expected the {len(images)} normal images that fit held out, which give the threshold again"
    try:
        is_unchanged = are_known(images, digests)
    except (OSError, ValueError) as error:
        raise ValueError(f"partial_fit: {expected}, got one that cannot be read: {error}. {advice}") from error
    if not is_unchanged.all():
        path = str(images.path(np.flatnonzero(~is_unchanged)[0]))
        raise ValueError(f"partial_fit: {expected}, got a file that has changed since: {path!r}. {advice}")


def spread(scores):
    """Interquartile range of each row; the standard deviation, or 1, where that is 0."""
    widths = np.subtract(*np.percentile(scores, [75, 25], axis=1))
    widths = np.where(widths > 0, widths, scores.std(axis=1))
    return np.where(widths > 0, widths, 1.0)


def moments(pixel_map, region):
    """Number of the pixels of a map in a region, their mean and sum of squared deviations; NaN without a map."""
    if pixel_map is None:
        return np.nan, np.nan, np.nan
    pixel_map = pixel_map if region is None else pixel_map[region]
    mean = pixel_map.mean(dtype=np.float64)
    return pixel_map.size, mean, np.square(pixel_map - mean, dtype=np.float64).sum()


def pooled(moments):
    """Mean and standard deviation, or 1 where that is 0, of all pixels of the maps of each detector.

    `moments` has the shape (n_detectors, n_images, 3).
    """
    counts, means, squares = np.moveaxis(moments, 2, 0)
    centers = (counts * means).sum(axis=1) / counts.sum(axis=1)
    squares = squares + counts * (means - centers[:, None]) ** 2
    scales = np.sqrt(squares.sum(axis=1) / counts.sum(axis=1))
    return centers, np.where(scales == 0, 1.0, scales)
