"""Normal images whose features are too many to keep: passes over shards of them, here or on many machines."""

import copy
from concurrent.futures import BrokenExecutor, CancelledError
from numbers import Integral
from warnings import warn

import numpy as np
from joblib import Parallel, delayed
from sklearn.metrics import pairwise_distances_argmin_min
from tqdm.auto import tqdm

from sklearn_exdd import coreset
from sklearn_exdd.base import TrainingSet
from sklearn_exdd.patches import Patches

_N_SAMPLED = 20_000  # patches that stand for all where a quantile is asked for
_N_CALIBRATING = 1000  # images whose deciding patches are kept for later corrections
_N_ATTEMPTS = 3
# A greedy coreset: a first share of it is chosen among random patches, so many times its size, and the rest among those
# patches that the first ones cover worst, so many times its size.
_FIRST_SHARE = 0.3
_CANDIDATES, _COVERED_WORST = 2, 6


class Shards:
    """Normal training images in shards; each pass over them extracts the features anew, or reads them from a cache.

    A pass is a task a shard under ``joblib.Parallel``: it gets the shard's images (or
    paths), the extractor and what the pass is about, and hands in rows of patches or
    numbers. These do not depend on how the images are divided.

    Parameters
    ----------
    normal : TrainingSet
        Of images.
    extractor : BaseFeatureExtractor
    size : int
        Images a shard.
    n_jobs : int or None
        Shards at a time.
    seed : int
    verbose : int
    """

    def __init__(self, normal, extractor, *, size, n_jobs, seed, verbose):
        self._images = normal.samples
        self._images.shape(0)  # now it is known how many channels are expected of all
        self._parts = []
        for start in range(0, len(normal), size):
            rows = np.arange(start, min(start + size, len(normal)))
            self._parts.append(TrainingSet(self._images.take(rows), normal.indices[rows], normal.groups[rows]))
        self._extractor = extractor
        self._n_jobs, self._seed, self._verbose = n_jobs, seed, verbose

    def fit_extractor(self):
        """Fit an extractor that learns no more than to whiten."""

        def run(function, *args):
            return self._run("features", _on_images, function, *args)

        self._extractor.fit_shards([part.samples for part in self._parts], run)

    def coreset(self, size, method):
        """Rows for the memory bank, and a random sample.

        Parameters
        ----------
        size : int or float
            Of the coreset, as in :class:`ExDDDetector`.
        method : {"random", "greedy"}

        Returns
        -------
        rows, sample : Patches
        n_patches : int
            Of all images.
        """
        parts, keys, n_patches = self._drawn(size, method)
        order, n_rows = np.argsort(keys, kind="stable"), coreset_size(size, n_patches)
        sample = _taken(parts, order[-_N_SAMPLED:])
        if method == "random" or n_rows == n_patches:
            return _taken(parts, order[:n_rows]), sample, n_patches
        candidates = _taken(parts, order[: _several(_CANDIDATES, n_rows)])
        del parts
        return self._covering(candidates, sample, n_rows, n_patches), sample, n_patches

    def _covering(self, candidates, sample, n_rows, n_patches):
        """A greedy coreset."""
        n_first = int(np.ceil(_FIRST_SHARE * n_rows))
        projected = self._projected(candidates)
        first = coreset.greedy_k_center(projected, n_first)
        centers = projected[first]
        expected = _several(_COVERED_WORST, n_rows) / n_patches
        limit = np.quantile(_squared_distances(self._projected(sample), centers), max(0.0, 1 - expected))
        parts, distances = zip(*self._run("coreset", _beyond, centers, limit, self._seed))
        worst = np.concatenate([self._projected(part) for part in parts])
        last = coreset.farthest_first(worst, np.concatenate(distances), min(n_rows - n_first, len(worst)))
        # Where so few are farther than the limit that all of them are in, any others do.
        others = np.setdiff1d(np.flatnonzero(_squared_distances(projected, centers) <= limit), first)
        others = others[: n_rows - n_first - len(last)]
        return Patches.concatenate([_taken([candidates], np.append(first, others)), _taken(parts, last)])

    def _projected(self, patches):
        return coreset.project(patches.features, random_state=self._seed)

    def _drawn(self, size, method):
        """Random patches, enough for the coreset and the sample, with random keys; and the number of all patches."""
        n_patches, parts, keys = self._expected_patches(), (), ()
        while True:
            n_rows = coreset_size(size, n_patches)
            wanted = _N_SAMPLED + (n_rows if method == "random" else _several(_CANDIDATES, n_rows))
            if sum(map(len, parts)) >= min(wanted, n_patches):
                return parts, np.concatenate(keys), n_patches
            # Ten standard deviations more will do, unless other images have more patches than those looked at.
            rate = (wanted + 10 * np.sqrt(wanted)) / n_patches
            parts, keys, counts = zip(*self._run("sample", _sampled, rate, self._seed))
            n_patches = sum(counts)

    def _expected_patches(self):
        """Those of eight images stand for all."""
        some = np.unique(np.linspace(0, len(self._images) - 1, 8).astype(int))
        maps = self._extractor.iter_transform(self._images.take(some))
        return int(len(self._images) * np.mean([one.shape[0] * one.shape[1] for one in maps]))

    def scored(self, banks):
        """Image scores, and the patches that decide those of some images.

        Parameters
        ----------
        banks : Banks

        Returns
        -------
        scores : list of float
            Each without the rows of the image's own group.
        deciding : Patches
            Of at most 1000 images, at random.
        """
        numbers = np.concatenate([part.indices for part in self._parts])
        chosen = np.random.RandomState(self._seed).permutation(numbers)[:_N_CALIBRATING]
        scores, deciding = zip(*self._run("scores", _scored, banks, set(chosen.tolist())))
        return np.concatenate(scores), Patches.concatenate(filter(None, deciding))

    def _run(self, name, task, *args):
        """What a task makes of each shard."""
        extractor = copy.copy(self._extractor).set_params(n_jobs=1, verbose=0)

        def tasks():
            with tqdm(total=len(self._images), desc=name, unit="image", disable=not self._verbose) as progress:
                for part in self._parts:
                    yield delayed(task)(extractor, part, *args)
                    progress.update(len(part))

        for attempt in range(1, _N_ATTEMPTS + 1):
            try:
                return Parallel(n_jobs=self._n_jobs)(tasks())
            except (BrokenExecutor, CancelledError) as error:
                if attempt == _N_ATTEMPTS:
                    raise
                message = f"A worker was lost, and with it what it held ({error}): this pass is made again."
                warn(message, RuntimeWarning, stacklevel=2)


def coreset_size(size, n_patches):
    """Rows of a coreset: `size` if that is an int, or else this share of the patches; at most all."""
    return min(size if isinstance(size, Integral) else int(np.ceil(size * n_patches)), n_patches)


def _several(times, n_rows):
    return max(_N_SAMPLED, times * n_rows)


def _taken(parts, rows):
    """Some rows of several Patches that are counted through."""
    stops = np.cumsum([len(part) for part in parts])
    rows = np.split(np.sort(rows), np.searchsorted(np.sort(rows), stops[:-1]))
    starts = np.append(0, stops[:-1])
    return Patches.concatenate(part.take(own - start) for part, own, start in zip(parts, rows, starts))


# Tasks


def _on_images(extractor, part, function, *args):
    return function(extractor, part.samples, *args)


def _patches_of(extractor, part):
    return Patches.of_maps(extractor.iter_transform(part.samples), part, extractor)


def _sampled(extractor, part, rate, seed):
    """Patches whose random keys are below a rate, these keys, and the number of all patches."""
    chosen, keys, n_patches = [], [], 0
    for number, patches in zip(part.indices, _patches_of(extractor, part)):
        own = np.random.default_rng([seed, number]).random(len(patches))
        rows = np.flatnonzero(own < rate)
        chosen.append(patches.take(rows))
        keys.append(own[rows])
        n_patches += len(patches)
    return Patches.concatenate(chosen), np.concatenate(keys), n_patches


def _beyond(extractor, part, centers, limit, seed):
    """Patches farther from some centres than a limit, and their squared distances, after the projection."""
    chosen, distances = [], []
    for patches in _patches_of(extractor, part):
        own = _squared_distances(coreset.project(patches.features, random_state=seed), centers)
        rows = np.flatnonzero(own > limit)
        chosen.append(patches.take(rows))
        distances.append(own[rows])
    return Patches.concatenate(chosen), np.concatenate(distances)


def _scored(extractor, part, banks, chosen):
    """Image scores, and the deciding patches of the chosen images or None."""
    scores, deciding = [], []
    for number, patches in zip(part.indices, _patches_of(extractor, part)):
        own_score, own_deciding = banks.judge(patches, banks.patch_scores(patches.features, patches.groups))
        scores += own_score
        if number in chosen:
            deciding.append(own_deciding)
    return scores, Patches.concatenate(deciding) if deciding else None


def _squared_distances(X, centers):
    return pairwise_distances_argmin_min(X, centers, metric="sqeuclidean")[1]
