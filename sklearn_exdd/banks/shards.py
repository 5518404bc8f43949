"""Normal images whose features do not fit into memory, processed in shards on one or many machines."""

import copy
from concurrent.futures import BrokenExecutor, CancelledError
from warnings import warn

import numpy as np
from joblib import Parallel, delayed
from sklearn.metrics import pairwise_distances_argmin_min
from tqdm.auto import tqdm

from sklearn_exdd import coreset
from sklearn_exdd._training_set import TrainingSet
from sklearn_exdd.banks.patches import Patches, coreset_size
from sklearn_exdd.banks.pixel_maps import map_maxima

_N_SAMPLED = 20_000  # number of patches sampled to estimate quantiles
_N_CALIBRATING = 1000  # number of images whose top patches are stored for later corrections
_N_ATTEMPTS = 3  # number of attempts at a pass when workers are lost
# Fraction of the n rows of a greedy coreset that are selected first, from _CANDIDATES * n random patches. The other
# rows are then selected from the _COVERED_WORST * n patches that are farthest from the first rows.
_FIRST_SHARE = 0.3
_CANDIDATES, _COVERED_WORST = 2, 6


class Shards:
    """Normal training images, divided into shards.

    Each pass over the shards recomputes the features or reads them from a cache.

    A pass runs one task for each shard under ``joblib.Parallel``. The task gets the images of the shard (or their
    paths) and the extractor, and returns patches or numbers. The results do not depend on how the images are divided.
    The class has the methods of :class:`Patches` that ``fit`` calls.

    Parameters
    ----------
    normal : TrainingSet
        Normal images.
    extractor : BaseFeatureExtractor
    size : int
        Number of images in a shard.
    n_jobs : int or None
        Number of shards processed in parallel.
    seed : int
        Seed for choosing the images whose top patches are stored.
    verbose : int
    """

    def __init__(self, normal, extractor, *, size, n_jobs, seed, verbose):
        self._images = normal.samples.with_channels(normal.samples.n_channels)
        self._parts = []
        for start in range(0, len(normal), size):
            rows = np.arange(start, min(start + size, len(normal)))
            self._parts.append(TrainingSet(self._images.take(rows), normal.indices[rows], normal.groups[rows]))
        self._extractor = extractor
        self._n_jobs, self._seed, self._verbose = n_jobs, seed, verbose

    def fit_extractor(self):
        """Fit the extractor. It must not learn anything besides the whitening."""

        def run(function, *args):
            return self._run("features", _on_images, function, *args)

        self._extractor.fit_shards([part.samples for part in self._parts], run)

    def coreset(self, size, method, seed):
        """Select rows for a memory bank, as :meth:`Patches.coreset` does. The returned sample is random."""
        parts, keys, n_patches = self._draw(size, method, seed)
        order, n_rows = np.argsort(keys, kind="stable"), coreset_size(size, n_patches)
        sample = _take_across(parts, order[-_N_SAMPLED:])
        if method == "random" or n_rows == n_patches:
            return _take_across(parts, order[:n_rows]), sample, n_patches
        candidates = _take_across(parts, order[: _sample_size(_CANDIDATES, n_rows)])
        del parts
        return self._greedy(candidates, sample, n_rows, n_patches, seed), sample, n_patches

    def _greedy(self, candidates, sample, n_rows, n_patches, seed):
        """Return a greedy coreset."""

        def project(patches):
            return coreset.project(patches.features, random_state=seed)

        n_first = int(np.ceil(_FIRST_SHARE * n_rows))
        projected = project(candidates)
        first = coreset.greedy_k_center(projected, n_first)
        centers = projected[first]
        expected = _sample_size(_COVERED_WORST, n_rows) / n_patches
        limit = np.quantile(_squared_distances(project(sample), centers), max(0.0, 1 - expected))
        parts, distances = zip(*self._run("coreset", _rows_beyond, centers, limit, seed))
        worst = np.concatenate([project(part) for part in parts])
        last = coreset.farthest_first(worst, np.concatenate(distances), min(n_rows - n_first, len(worst)))
        # If all rows beyond the limit are selected and the coreset is still too small, add other candidates.
        others = np.setdiff1d(np.flatnonzero(_squared_distances(projected, centers) <= limit), first)
        others = others[: n_rows - n_first - len(last)]
        return Patches.concatenate([_take_across([candidates], np.append(first, others)), _take_across(parts, last)])

    def _draw(self, size, method, seed):
        """Draw enough random patches for the coreset and the sample.

        Return the patches, their random keys, and the number of all patches.
        """
        n_patches, parts, keys = self._expected_patches(), (), ()
        while True:
            n_rows = coreset_size(size, n_patches)
            wanted = _N_SAMPLED + (n_rows if method == "random" else _sample_size(_CANDIDATES, n_rows))
            if sum(map(len, parts)) >= min(wanted, n_patches):
                return parts, np.concatenate(keys), n_patches
            # A margin of ten standard deviations suffices, unless the other images have more patches than the eight
            # images of the estimate.
            rate = (wanted + 10 * np.sqrt(wanted)) / n_patches
            parts, keys, counts = zip(*self._run("sample", _sampled, rate, seed))
            n_patches = sum(counts)

    def _expected_patches(self):
        """Estimate the number of all patches from eight images."""
        some = np.unique(np.linspace(0, len(self._images) - 1, 8).astype(int))
        maps = self._extractor.iter_transform(self._images.take(some))
        return int(len(self._images) * np.mean([one.shape[0] * one.shape[1] for one in maps]))

    def shuffled_groups(self, seed):
        """Return the groups of the images in random order."""
        groups = np.unique(np.concatenate([part.groups for part in self._parts]))
        return np.random.RandomState(seed).permutation(groups)

    def moments_of_folds(self, fold_of_group, n_folds):
        """Return the moments of the features in each fold of groups; see :meth:`Patches.moments_of_folds`."""
        parts = self._run("whitening", _moments_of_folds, fold_of_group, n_folds)
        return [tuple(map(sum, zip(*own))) for own in zip(*parts)]

    def scored(self, left_out, patch_scores, samples, extractor, blur):
        """Score the images, as :meth:`Patches.scored` does.

        `patch_scores` is not used, because it covers only the sample. Top patches are returned only for 1000 random
        images.
        """
        numbers = np.concatenate([part.indices for part in self._parts])
        chosen = np.random.RandomState(self._seed).permutation(numbers)[:_N_CALIBRATING]
        found = self._run("scores", _scored, left_out, set(chosen.tolist()), blur)
        scores, top_patches, maxima = zip(*found)
        return np.concatenate(scores), Patches.concatenate(filter(None, top_patches)), np.concatenate(maxima)

    def _run(self, name, task, *args):
        """Run a task on each shard and return the list of results."""
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
                message = f"A worker was lost, together with its results ({error}). This pass is repeated."
                warn(message, RuntimeWarning, stacklevel=2)


def _sample_size(times, n_rows):
    return max(_N_SAMPLED, times * n_rows)


def _take_across(parts, rows):
    """Select rows of several Patches. Row numbers continue from one part to the next."""
    stops = np.cumsum([len(part) for part in parts])
    rows = np.split(np.sort(rows), np.searchsorted(np.sort(rows), stops[:-1]))
    starts = np.append(0, stops[:-1])
    return Patches.concatenate(part.take(own - start) for part, own, start in zip(parts, rows, starts))


# Tasks


def _on_images(extractor, part, function, *args):
    return function(extractor, part.samples, *args)


def _patches_of(extractor, part):
    return Patches.from_maps(extractor.iter_transform(part.samples), part, extractor)


def _sampled(extractor, part, rate, seed):
    """Return the patches whose random keys are below a rate, their keys, and the number of all patches."""
    chosen, keys, n_patches = [], [], 0
    for number, patches in zip(part.indices, _patches_of(extractor, part)):
        own = np.random.default_rng([seed, number]).random(len(patches))
        rows = np.flatnonzero(own < rate)
        chosen.append(patches.take(rows))
        keys.append(own[rows])
        n_patches += len(patches)
    return Patches.concatenate(chosen), np.concatenate(keys), n_patches


def _rows_beyond(extractor, part, centers, limit, seed):
    """Return the patches that are farther from the centres than a limit, and their distances.

    Distances are squared and measured after projection.
    """
    chosen, distances = [], []
    for patches in _patches_of(extractor, part):
        own = _squared_distances(coreset.project(patches.features, random_state=seed), centers)
        rows = np.flatnonzero(own > limit)
        chosen.append(patches.take(rows))
        distances.append(own[rows])
    return Patches.concatenate(chosen), np.concatenate(distances)


def _moments_of_folds(extractor, part, fold_of_group, n_folds):
    moments = None
    for patches in _patches_of(extractor, part):
        own = patches.moments_of_folds(fold_of_group, n_folds)
        moments = own if moments is None else [tuple(map(sum, zip(*both))) for both in zip(moments, own)]
    return moments


def _scored(extractor, part, left_out, chosen, blur):
    """Return the image scores, the top patches of the chosen images, and the maxima of the pixel maps.

    The top patches are None if no image of the shard is chosen.
    """
    scores, top_patches, maxima = [], [], []
    for i, patches in enumerate(_patches_of(extractor, part)):
        patch_scores = left_out.patch_scores(patches)
        own_score, own_top = left_out.score_images(patches, patch_scores)
        scores += own_score
        one = part.samples.take([i])
        maxima += map_maxima(patches, patch_scores, one, [part.samples.shape(i)], extractor, blur)
        if part.indices[i] in chosen:
            top_patches.append(own_top)
    return scores, Patches.concatenate(top_patches) if top_patches else None, maxima


def _squared_distances(X, centers):
    return pairwise_distances_argmin_min(X, centers, metric="sqeuclidean")[1]
