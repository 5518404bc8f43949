"""Dual memory bank, which scores patches and images by their distances to normal and defect patches."""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

from sklearn_exdd import scoring
from sklearn_exdd._cache import cached, fingerprint, load, store
from sklearn_exdd.banks.memory_bank import MemoryBank
from sklearn_exdd.banks.patches import LazyFeatures
from sklearn_exdd.banks.top_patches import MIN_ROWS, top_scores
from sklearn_exdd.features.patch_grid import patches_of, rows_of

# Number of nearest rows of the defect bank over which distances are averaged if n_neighbors="auto". A defect bank is
# small and also contains background, so the distance to a single row says little.
DEFECT_NEIGHBORS = 9
_N_QUERIES = 2**13  # number of patches that are searched together and cached as one entry
# Number of neighbours in a cache entry. Searches for fewer neighbours use the same entry. If more neighbours are
# needed, the number is rounded up to a power of two.
_N_CACHED = 16
# With epsilon="scale", epsilon is this factor times the median distance of normal patches to the defect bank.
_EPSILON_SHARE = 0.5


@dataclass(eq=False)
class DualBank:
    """Two MemoryBanks, and the rule that scores patches and images with them.

    Parameters
    ----------
    normal : MemoryBank
        Bank of normal patches.
    defect : MemoryBank, default=None
        Bank of defect patches. None if no defects are known.
    epsilon : float, default=None
        Constant of the ratio score. None if `defect` is None.
    border_profile : ndarray of shape (border_rings + 1,), default=None
        Factors of the rings near the border, computed by :meth:`scaled`. They are needed for relative scores and for
        image scores.
    n_neighbors, image_score, n_top_patches, n_support, border_rings, memory
        See :class:`ExDDDetector`.
    """

    normal: MemoryBank
    defect: MemoryBank = None
    epsilon: float = None
    border_profile: np.ndarray = None
    n_neighbors: object = "auto"
    image_score: str = "top_mean"
    n_top_patches: int = 10
    n_support: int = 3
    border_rings: int = 4
    memory: object = None

    def n_neighbors_in(self, bank):
        """Return the number of rows of a bank to compare with each patch."""
        if self.n_neighbors != "auto":
            return self.n_neighbors
        return 1 if bank is self.normal else min(DEFECT_NEIGHBORS, len(bank))

    def distances(self, bank, features, exclude=None):
        """Return the mean distance of each patch to its nearest rows in a bank, and the single nearest row.

        Parameters
        ----------
        bank : MemoryBank
        features : ndarray of shape (n_patches, n_features) or LazyFeatures
        exclude : ndarray of shape (n_patches,), default=None
            Group whose rows are ignored, for each patch. If fewer than `n_neighbors` rows remain, no rows are ignored.

        Returns
        -------
        distances, indices : ndarray of shape (n_patches,)
        """
        n_neighbors, n_left = self.n_neighbors_in(bank), len(bank)
        if exclude is not None:
            left = bank.n_left_without(exclude)
            exclude = np.where(left >= n_neighbors, exclude, -1)
            n_left = int(left.min(where=exclude >= 0, initial=n_left))
        if self.memory is None:
            distances, indices = bank.kneighbors(features, n_neighbors, exclude=exclude)
            return distances.mean(axis=1), indices[:, 0]
        # Find enough neighbours for all candidates of a parameter search, whose banks may share real or synthetic rows.
        n_searched = min(max(_N_CACHED, 1 << (n_neighbors - 1).bit_length()), n_left)
        key = features.key if isinstance(features, LazyFeatures) else fingerprint(features)
        distances, nearest = self._cached_neighbors(bank, features, key, n_searched, exclude)
        return distances[:, :n_neighbors].mean(axis=1), nearest.astype(np.intp)

    def _cached_neighbors(self, bank, features, features_key, n_searched, exclude):
        """Return the distances of patches to their nearest rows, and the nearest row. Use the cache if possible."""

        def search():
            parts, groups = bank.parts, [] if exclude is None else np.unique(exclude)
            if len(parts) < 2 or any(
                min(len(part), part.n_left_without(groups).min(initial=len(part))) < n_searched for _, part in parts
            ):
                distances, indices = bank.kneighbors(np.asarray(features), n_searched, exclude=exclude)
                return distances, indices[:, 0].astype(np.int32)
            found = [self._cached_neighbors(part, features, features_key, n_searched, exclude) for _, part in parts]
            nearest = np.stack([rows[own] for (rows, _), (_, own) in zip(parts, found)], axis=1)
            first = np.stack([distances[:, 0] for distances, _ in found], axis=1)
            nearest = np.where(first == first.min(axis=1, keepdims=True), nearest, len(bank)).min(axis=1)
            distances = np.sort(np.concatenate([distances for distances, _ in found], axis=1), axis=1)
            return np.ascontiguousarray(distances[:, :n_searched]), nearest.astype(np.int32)

        key = fingerprint(bank.key, features_key, n_searched, exclude)
        return cached(self.memory, "neighbours", key, search)

    def distances_of(self, patches, bank, verbose=0):
        """Return the distances and the nearest rows of many patches, and show the progress.

        The rows of a patch's own group are ignored.
        """
        found = []
        with tqdm(total=len(patches), desc="neighbours", unit="patch", disable=not verbose) as progress:
            for start in range(0, len(patches), _N_QUERIES):
                rows = slice(start, start + _N_QUERIES)
                found.append(self.distances(bank, patches.features[rows], patches.groups[rows]))
                progress.update(len(found[-1][0]))
        return tuple(map(np.concatenate, zip(*found)))

    def scaled(self, patches, normal_distances, *, epsilon="scale", verbose=0):
        """Compute `epsilon` and `border_profile` from normal patches. A value that is not None is left unchanged.

        Parameters
        ----------
        patches : Patches
            Normal patches.
        normal_distances : tuple of ndarray
            Distances and nearest rows in the normal bank, as returned by :meth:`distances_of`.
        epsilon : float or "scale", default="scale"
            See :class:`ExDDDetector`.
        verbose : int, default=0

        Returns
        -------
        banks : DualBank
            Copy of this object with both values.
        patch_scores : PatchScores
            Scores of the patches, each computed without the rows of its own group.
        """
        banks, defect_distances = self, None
        if self.defect is not None:
            defect_distances = self.distances_of(patches, self.defect, verbose)
            if self.epsilon is None:
                banks = replace(self, epsilon=epsilon_of(defect_distances[0], epsilon))
        scores = banks.scores_at(normal_distances, defect_distances)
        if banks.border_profile is None:
            profile = scoring.border_profile(scores.scores, patches.rings, self.border_rings)
            banks = replace(banks, border_profile=profile)
        return banks, scores

    def patch_scores(self, features, exclude=None):
        """Compute the scores of patches from their features."""
        normal = self.distances(self.normal, features, exclude)
        return self.scores_at(normal, self.defect and self.distances(self.defect, features, exclude))

    def scores_at(self, normal, defect):
        """Compute the scores of patches from their distances. `defect` is None if there is only a normal bank."""
        if defect is None:
            return PatchScores(normal[0], *normal, None, None)
        return PatchScores(scoring.ratio_score(normal[0], defect[0], self.epsilon), *normal, *defect)

    def score_maps(self, batches):
        """Score the patches of images.

        Parameters
        ----------
        batches : iterable of (features, grids)
            Batches of images, as yielded by :func:`patch_batches` and :func:`cached_batches`: the features of the
            patches of several images, and the PatchGrids of these images.

        Yields
        ------
        patch_scores : PatchScores
            Scores of the patches of one image.
        features : ndarray of shape (n_patches, n_features) or LazyFeatures
        grid : PatchGrid
        """
        for features, grids in batches:
            scores = self.patch_scores(features)
            stops = np.cumsum([grid.n_patches for grid in grids]).tolist()
            for start, stop, grid in zip([0, *stops[:-1]], stops, grids):
                yield scores.take(slice(start, stop)), features[start:stop], grid

    def relative_scores(self, patch_scores, rings):
        """Return the patch scores from which image scores are computed.

        For the image score "top_mean", these are the scores divided by the border profile. For other image scores,
        these are the distances to the normal bank.
        """
        if self.image_score != "top_mean":
            return patch_scores.normal_distances
        return patch_scores.scores / self.border_profile[np.minimum(rings, self.border_rings)]

    def score_image(self, patch_scores, rings, features, exclude=None):
        """Compute the score of one image from the scores of its patches."""
        if self.image_score == "top_mean":
            return scoring.top_mean(self.relative_scores(patch_scores, rings), self.n_top_patches)
        worst = int(np.argmax(patch_scores.normal_distances))
        weight = self._weight(self.normal, features[worst], patch_scores.nearest_normal[worst], exclude)
        score = (1 - weight) * patch_scores.normal_distances[worst]
        if self.defect is None:
            return score
        if self.image_score == "exdd_code":
            worst = int(np.argmax(patch_scores.defect_distances))
        weight = self._weight(self.defect, features[worst], patch_scores.nearest_defect[worst], exclude)
        return scoring.ratio_score(score, weight * patch_scores.defect_distances[worst], self.epsilon)

    def score_images(self, batches):
        """Return the scores of images.

        Parameters
        ----------
        batches : iterable of (features, grids)
            As in :meth:`score_maps`.

        Returns
        -------
        scores : list of float
        """
        bounds_pay = self.image_score == "top_mean" and self.normal.is_exact and len(self.normal) >= MIN_ROWS
        if bounds_pay and self.memory is None and self.n_neighbors_in(self.normal) <= MIN_ROWS // 32:
            return [score for batch in batches for score in top_scores(self, *batch)]
        scored = self.score_maps(batches)
        return [self.score_image(patch_scores, grid.rings, features) for patch_scores, features, grid in scored]

    def explain(self, score, patch_scores, rings, grid, centers):
        """Explain the score of one image.

        Parameters
        ----------
        score : float
            Score of the image, as returned by :meth:`score_image`.
        patch_scores : PatchScores
            Scores of the patches of the image.
        rings : ndarray of shape (n_patches,)
        grid : PatchGrid
        centers : tuple of ndarray
            Row and column centres of the patches of the grid, in pixels.

        Returns
        -------
        explanation : dict
            Explanation, as returned by :meth:`ExDDDetector.explain` but without a prompt.
        """
        worst = int(np.argmax(self.relative_scores(patch_scores, rings)))
        row, column = grid.place(worst)
        normal = self.normal.place(patch_scores.nearest_normal[worst])
        defect, distances = {"image": None, "patch": None, "synthetic": None}, patch_scores.defect_distances
        if self.defect is not None:
            defect = self.defect.place(patch_scores.nearest_defect[worst])
        return {
            "score": float(score),
            "patch": (float(np.float32(centers[0][row])), float(np.float32(centers[1][column]))),
            "normal_image": normal["image"],
            "normal_patch": normal["patch"],
            "normal_distance": float(patch_scores.normal_distances[worst]),
            "defect_image": defect["image"],
            "defect_patch": defect["patch"],
            "defect_distance": None if distances is None else float(distances[worst]),
            "synthetic": defect["synthetic"],
        }

    def score_without_own_group(self, patches, patch_scores):
        """Score normal samples, each without the bank rows of its own group.

        Parameters
        ----------
        patches : Patches
        patch_scores : PatchScores
            Scores of these patches, each computed without the rows of its own group.

        Returns
        -------
        scores : list of float
            Score of each sample.
        top_patches : Patches
            Patches that determine the scores now, or may determine them after a correction.
        """
        scores, top = [], []
        for rows in patches.slices:
            own = patches.rings[rows], patches.features[rows], patches.groups[rows.start]
            score, best = self.score_left_out(patch_scores.take(rows), *own)
            scores.append(score)
            top.append(rows.start + best)
        return scores, patches.take(np.concatenate(top))

    def score_left_out(self, patch_scores, rings, features, group):
        """Score one normal image without the bank rows of its group.

        Parameters
        ----------
        patch_scores : PatchScores
            Scores of the patches of the image, each computed without the rows of the group.
        rings, features
            Rings and features of the patches of the image.
        group : int
            Group of the image.

        Returns
        -------
        score : float
        top : ndarray of int, ascending
            Patches that determine the score now, or may determine it after a correction.
        """
        relative, n_top = self.relative_scores(patch_scores, rings), max(10, 2 * self.n_top_patches)
        top = np.sort(np.argsort(-relative, kind="stable")[:n_top])
        return self.score_image(patch_scores, rings, features, group), top

    def _weight(self, bank, feature, nearest, exclude):
        """Return the neighbourhood weight of a patch, given its nearest row."""
        exclude = -1 if exclude is None else exclude
        n_support = min(self.n_support, int(bank.n_left_without(exclude)))
        if n_support == 0:
            exclude, n_support = -1, min(self.n_support, len(bank))
        _, (support,) = bank.kneighbors(bank.features[[nearest]], n_support, exclude=exclude)
        distances = np.linalg.norm(bank.features[support[support != nearest]] - feature, axis=1)
        distance = np.linalg.norm(bank.features[nearest] - feature)
        return scoring.neighborhood_weight(distance, distances, bank.n_features)

    def __sizeof__(self):
        # Dask uses this size. It sends a large object to each worker once, but a small object with every task.
        banks = [bank for bank in (self.normal, self.defect) if bank is not None]
        return object.__sizeof__(self) + sum(bank.features.nbytes for bank in banks)


def epsilon_of(defect_distances, epsilon):
    """Return epsilon as a float. "scale" stands for a fraction of the median distance of normal patches to defects."""
    return max(_EPSILON_SHARE * float(np.median(defect_distances)), 1e-12) if epsilon == "scale" else float(epsilon)


def patch_batches(extractor, images):
    """Group the patches of images into batches of at least _N_QUERIES patches.

    Parameters
    ----------
    extractor : BaseFeatureExtractor
        Fitted extractor.
    images : Images

    Yields
    ------
    features : ndarray of shape (n_patches, n_features)
    grids : list of PatchGrid
        Grids of the images of the batch.
    """
    rows, grids, n_patches = [], [], 0
    for own_rows, grid in patches_of(extractor, images):
        rows.append(own_rows)
        grids.append(grid)
        n_patches += len(own_rows)
        if n_patches >= _N_QUERIES:
            yield _joined(rows), grids
            rows, grids, n_patches = [], [], 0
    if rows:
        yield _joined(rows), grids


def cached_batches(extractor, images, memory):
    """Group images into batches. Images whose maps and neighbours are cached are not read.

    Parameters
    ----------
    extractor : BaseFeatureExtractor
        Fitted extractor.
    images : Images
    memory : str or joblib.Memory

    Yields
    ------
    features : LazyFeatures
    grids : list of PatchGrid
        Grids of the images of the batch.
    """
    extractor_key = fingerprint(extractor.key, images.n_channels)
    for batch in gen_batches(len(images), extractor.batch_size):
        some = images.take(range(batch.start, batch.stop))
        key = fingerprint(extractor_key, some.raw())
        read = partial(_read_rows, extractor, some)
        grids = load(memory, "patch grids", key)
        if grids is None:
            rows, grids = zip(*patches_of(extractor, some))
            read, grids = partial(np.concatenate, rows), list(grids)
            store(memory, "patch grids", key, grids)
        yield LazyFeatures(key, read, memory), grids


def _joined(parts):
    """Concatenate arrays. A single array is not copied, because the array of a large image takes a lot of memory."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read_rows(extractor, images):
    return np.concatenate(list(rows_of(extractor, images)))


class PatchScores(NamedTuple):
    """Scores of patches, with their distances and nearest rows. Without a defect bank, the defect fields are None."""

    scores: np.ndarray
    normal_distances: np.ndarray
    nearest_normal: np.ndarray
    defect_distances: np.ndarray
    nearest_defect: np.ndarray

    def take(self, rows):
        """Select the scores of some patches."""
        return PatchScores(*(None if values is None else values[rows] for values in self))
