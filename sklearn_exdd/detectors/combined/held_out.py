"""The normal images that a combination holds out: they standardise its detectors and give the threshold."""

from dataclasses import dataclass

import numpy as np

from sklearn_exdd._images import Images, are_known, training_digests


@dataclass
class HeldOut:
    """Normal samples that the detectors were not fitted on, and what the detectors say of them.

    Parameters
    ----------
    samples : list of str, path-like or ndarray, or ndarray of shape (n_samples, n_features)
        Images as fit received them (files by their paths), or feature rows.
    groups, indices : ndarray of shape (n_samples,), int
        As in a TrainingSet.
    scores : ndarray of shape (n_detectors, n_samples)
    is_unseen : ndarray of shape (n_samples,), bool
        False for a sample that a correction has shown to the detectors. Its scores are those from before.
    """

    samples: object
    groups: np.ndarray
    indices: np.ndarray
    scores: np.ndarray
    is_unseen: np.ndarray

    def __len__(self):
        return len(self.samples)

    @classmethod
    def from_training_set(cls, normal, scores):
        """Keep the samples of a training set. Arrays are copied: a view would keep all images of fit in memory."""
        samples = normal.samples
        if normal.has_images:
            paths = [samples.path(i) for i in range(len(samples))]
            samples = [np.array(item) if path is None else path for path, item in zip(paths, samples.raw())]
        return cls(samples, normal.groups, normal.indices, scores, np.ones(len(normal), dtype=bool))

    def take(self, rows):
        """Select samples by position."""
        samples = [self.samples[i] for i in rows] if isinstance(self.samples, list) else self.samples[rows]
        return HeldOut(samples, self.groups[rows], self.indices[rows], self.scores[:, rows], self.is_unseen[rows])


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


def moments(maps):
    """Mean and standard deviation of all pixels of some maps."""
    if maps is None:
        return np.nan, np.nan
    n_pixels = sum(pixel_map.size for pixel_map in maps)
    mean = sum(pixel_map.sum(dtype=np.float64) for pixel_map in maps) / n_pixels
    deviation = np.sqrt(sum(np.square(pixel_map - mean, dtype=np.float64).sum() for pixel_map in maps) / n_pixels)
    return mean, deviation if deviation > 0 else 1.0
