"""The pair of memory banks: what patches and images score by their distances to both."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

from sklearn_exdd import scoring
from sklearn_exdd._recall import digest, keep, kept, recall
from sklearn_exdd.memory_bank import MemoryBank
from sklearn_exdd.patches import KnownFeatures

# n_neighbors="auto" averages the distances to so many rows of the defect bank. A defect
# bank is small and holds background too; a single row of it says little.
_DEFECT_NEIGHBORS = 9
_N_QUERIES = 2**13  # searched together, and kept as one entry of a cache
_N_CACHED = 16  # neighbours: all smaller numbers of them are answered by the same entry; or a larger power of two


@dataclass(eq=False)
class Banks:
    """A bank of normal patches and, where defects are known, one of these.

    Parameters
    ----------
    normal : MemoryBank
    defect : MemoryBank or None
    epsilon : float or None
        Without a defect bank there is none.
    border_profile : ndarray of shape (border_rings + 1,) or None
        None while it is not known; evidence and image scores need it.
    n_neighbors, image_score, n_top_patches, n_support, border_rings, memory
        See :class:`ExDDDetector`.
    """

    normal: MemoryBank
    defect: MemoryBank
    epsilon: float
    border_profile: np.ndarray
    n_neighbors: object
    image_score: str
    n_top_patches: int
    n_support: int
    border_rings: int
    memory: object

    def distances(self, bank, features, exclude=None):
        """Mean distance to the nearest rows of one of the banks, and the nearest row.

        Parameters
        ----------
        bank : MemoryBank
        features : ndarray of shape (n_patches, n_features) or KnownFeatures
        exclude : ndarray of shape (n_patches,), default=None
            For each patch the group whose rows are left out, unless too few would be left.

        Returns
        -------
        distances, indices : ndarray of shape (n_patches,)
        """
        n_neighbors = self.n_neighbors
        if n_neighbors == "auto":
            n_neighbors = 1 if bank is self.normal else min(_DEFECT_NEIGHBORS, len(bank))
        n_left = len(bank)
        if exclude is not None:
            left = bank.n_left_without(exclude)
            exclude = np.where(left >= n_neighbors, exclude, -1)
            n_left = int(left.min(where=exclude >= 0, initial=n_left))
        if self.memory is None:
            distances, indices = bank.kneighbors(features, n_neighbors, exclude=exclude)
            return distances.mean(axis=1), indices[:, 0]
        # Enough for all candidates of a search, whose banks may have real or synthetic rows in common.
        n_searched = min(max(_N_CACHED, 1 << (n_neighbors - 1).bit_length()), n_left)
        known = features.key if isinstance(features, KnownFeatures) else digest(features)
        distances, nearest = self._known_neighbors(bank, features, known, n_searched, exclude)
        return distances[:, :n_neighbors].mean(axis=1), nearest.astype(np.intp)

    def _known_neighbors(self, bank, features, known, n_searched, exclude):
        """Distances to the nearest rows and the nearest row, from the cache or for it."""

        def search():
            parts, groups = bank.parts, [] if exclude is None else np.unique(exclude)
            if len(parts) < 2 or any(
                min(len(part), part.n_left_without(groups).min(initial=len(part))) < n_searched for _, part in parts
            ):
                distances, indices = bank.kneighbors(np.asarray(features), n_searched, exclude=exclude)
                return distances, indices[:, 0].astype(np.int32)
            found = [self._known_neighbors(part, features, known, n_searched, exclude) for _, part in parts]
            nearest = np.stack([rows[own] for (rows, _), (_, own) in zip(parts, found)], axis=1)
            first = np.stack([distances[:, 0] for distances, _ in found], axis=1)
            nearest = np.where(first == first.min(axis=1, keepdims=True), nearest, len(bank)).min(axis=1)
            distances = np.sort(np.concatenate([distances for distances, _ in found], axis=1), axis=1)
            return np.ascontiguousarray(distances[:, :n_searched]), nearest.astype(np.int32)

        key = digest(bank.key, known, n_searched, exclude)
        return recall(self.memory, "neighbours", key, search)

    def distances_of(self, patches, bank, verbose=0):
        """The same for many patches, each without the rows of its own group, with a progress bar."""
        found = []
        with tqdm(total=len(patches), desc="neighbours", unit="patch", disable=not verbose) as progress:
            for start in range(0, len(patches), _N_QUERIES):
                rows = slice(start, start + _N_QUERIES)
                found.append(self.distances(bank, patches.features[rows], patches.groups[rows]))
                progress.update(len(found[-1][0]))
        return tuple(map(np.concatenate, zip(*found)))

    def patch_scores(self, features, exclude=None):
        """Scores of patches, with the distances behind them."""
        normal = self.distances(self.normal, features, exclude)
        return self.scores_at(normal, self.defect and self.distances(self.defect, features, exclude))

    def scores_at(self, normal, defect):
        """Scores of patches whose distances to the banks are known; `defect` is None without a defect bank."""
        if defect is None:
            return PatchScores(normal[0], *normal, None, None)
        return PatchScores(scoring.ratio_score(normal[0], defect[0], self.epsilon), *normal, *defect)

    def score_maps(self, groups):
        """Patch scores of images.

        Parameters
        ----------
        groups : iterable of (features, shapes)
            The patches of some images, one after the other, and the shapes of their feature maps; see
            :func:`grouped` and :func:`known_groups`.

        Yields
        ------
        patch_scores : PatchScores
            Of one image.
        features : ndarray of shape (n_patches, n_features) or KnownFeatures
        shape : tuple of int (height', width', n_features)
        """
        for features, shapes in groups:
            scores = self.patch_scores(features)
            stops = np.cumsum([shape[0] * shape[1] for shape in shapes]).tolist()
            for start, stop, shape in zip([0, *stops[:-1]], stops, shapes):
                yield scores.of(slice(start, stop)), features[start:stop], shape

    def evidence(self, patch_scores, rings):
        """What image scores are made of: patch scores, in units of what is normal so near the border."""
        if self.image_score != "top_mean":
            return patch_scores.normal_distances
        return patch_scores.scores / self.border_profile[np.minimum(rings, self.border_rings)]

    def score_image(self, patch_scores, rings, features, exclude=None):
        """Score of one image from those of its patches."""
        if self.image_score == "top_mean":
            return scoring.top_mean(self.evidence(patch_scores, rings), self.n_top_patches)
        worst = int(np.argmax(patch_scores.normal_distances))
        weight = self._weight(self.normal, features[worst], patch_scores.nearest_normal[worst], exclude)
        score = (1 - weight) * patch_scores.normal_distances[worst]
        if self.defect is None:
            return score
        if self.image_score == "released":
            worst = int(np.argmax(patch_scores.defect_distances))
        weight = self._weight(self.defect, features[worst], patch_scores.nearest_defect[worst], exclude)
        return scoring.ratio_score(score, weight * patch_scores.defect_distances[worst], self.epsilon)

    def explain(self, patches):
        """Why samples score as they do.

        Parameters
        ----------
        patches : Patches

        Returns
        -------
        explanations : list of dict
            As of :meth:`ExDDDetector.explain`, but for the prompts.
        """
        scores, explanations = self.patch_scores(patches.features), []
        for rows in patches.slices:
            own, rings = scores.of(rows), patches.rings[rows]
            worst = int(np.argmax(self.evidence(own, rings)))
            normal = self.normal.place(own.nearest_normal[worst])
            defect = {"image": None, "patch": None, "synthetic": None}
            if self.defect is not None:
                defect = self.defect.place(own.nearest_defect[worst])
            explanations.append(
                {
                    "score": float(self.score_image(own, rings, patches.features[rows])),
                    "patch": tuple(float(patches.provenance[axis][rows][worst]) for axis in ("row", "column")),
                    "normal_image": normal["image"],
                    "normal_patch": normal["patch"],
                    "normal_distance": float(own.normal_distances[worst]),
                    "defect_image": defect["image"],
                    "defect_patch": defect["patch"],
                    "defect_distance": None if own.defect_distances is None else float(own.defect_distances[worst]),
                    "synthetic": defect["synthetic"],
                }
            )
        return explanations

    def judge(self, patches, patch_scores):
        """Scores of normal samples, each without its own group, and the patches that decide them.

        Parameters
        ----------
        patches : Patches
        patch_scores : PatchScores
            Of these, each found without the rows of its own group.

        Returns
        -------
        scores : list of float
            One a sample.
        deciding : Patches
            Those that the scores are made of, or may be after a correction.
        """
        evidence, n_kept = self.evidence(patch_scores, patches.rings), max(10, 2 * self.n_top_patches)
        scores, deciding = [], []
        for rows in patches.slices:
            own = patches.rings[rows], patches.features[rows], patches.groups[rows.start]
            scores.append(self.score_image(patch_scores.of(rows), *own))
            deciding.append(rows.start + np.sort(np.argsort(-evidence[rows], kind="stable")[:n_kept]))
        return scores, patches.take(np.concatenate(deciding))

    def _weight(self, bank, feature, nearest, exclude):
        """Neighbourhood weight of a patch whose nearest row is given."""
        exclude = -1 if exclude is None else exclude
        n_support = min(self.n_support, int(bank.n_left_without(exclude)))
        if n_support == 0:
            exclude, n_support = -1, min(self.n_support, len(bank))
        _, (support,) = bank.kneighbors(bank.features[[nearest]], n_support, exclude=exclude)
        distances = np.linalg.norm(bank.features[support[support != nearest]] - feature, axis=1)
        distance = np.linalg.norm(bank.features[nearest] - feature)
        return scoring.neighborhood_weight(distance, distances, bank.n_features)

    def __sizeof__(self):
        # What ships objects to other machines goes by their size: large ones once, small ones with each task.
        banks = [bank for bank in (self.normal, self.defect) if bank is not None]
        return object.__sizeof__(self) + sum(bank.features.nbytes for bank in banks)


def grouped(maps):
    """Feature maps by so many as are searched together: their patches, and their shapes."""
    group, n_patches = [], 0
    for feature_map in maps:
        group.append(feature_map)
        n_patches += feature_map.shape[0] * feature_map.shape[1]
        if n_patches >= _N_QUERIES:
            yield _rows(group), [one.shape for one in group]
            group, n_patches = [], 0
    if group:
        yield _rows(group), [one.shape for one in group]


def known_groups(extractor, images, memory):
    """The same, a batch a group, without looking at images whose maps and neighbours are in a cache."""
    known = digest(extractor.key, images.n_channels)
    for batch in gen_batches(len(images), extractor.batch_size):
        some = images.take(range(batch.start, batch.stop))
        key = digest(known, some.raw())
        features = KnownFeatures(key, lambda some=some: _rows(list(extractor.iter_transform(some))))
        shapes = kept(memory, "shapes", key)
        if shapes is None:
            maps = list(extractor.iter_transform(some))
            features, shapes = KnownFeatures(key, partial(_rows, maps)), [one.shape for one in maps]
            keep(memory, "shapes", key, shapes)
        yield features, shapes


def _rows(maps):
    return np.concatenate([one.reshape(-1, one.shape[2]) for one in maps])


class PatchScores(NamedTuple):
    """Scores of patches, with the distances and the nearest rows behind them."""

    scores: np.ndarray
    normal_distances: np.ndarray
    nearest_normal: np.ndarray
    defect_distances: np.ndarray
    nearest_defect: np.ndarray

    def of(self, rows):
        """Those of some patches."""
        return PatchScores(*(None if values is None else values[rows] for values in self))
