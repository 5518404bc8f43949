"""Dual banks for calibration, which score a normal image as if `fit` had not seen it."""

from dataclasses import replace

import numpy as np

from sklearn_exdd import scoring
from sklearn_exdd._cache import fingerprint
from sklearn_exdd.banks.dual_bank import epsilon_of
from sklearn_exdd.banks.memory_bank import MemoryBank
from sklearn_exdd.banks.patches import LazyFeatures
from sklearn_exdd.features.whitening import whitenings_without

_N_FOLDS = 20  # maximum number of folds
_N_FOLDS_OF_INDEX = 4  # maximum number of folds if the bank has an index, which is compiled for each fold
_MAX_BYTES = 2**26  # maximum size of the whitenings of all folds together, in bytes


class LeftOutBanks:
    """Dual banks that score normal images as if `fit` had not seen them.

    The normal images are divided into folds. All images of a group are in the same fold. An image is scored without the
    bank rows of its own group. The whitening, `epsilon` and `border_profile` are computed from the images of all other
    folds.

    Parameters
    ----------
    banks : DualBank
        Banks of all images.
    fold_of_group : ndarray of shape (n_groups,), dtype int
        Fold of each group. -1 marks a group outside all folds. The images of such a group are scored with `banks`.
    whitenings : list of (ndarray, ndarray) or None
        Whitening of each fold, as returned by :func:`whitenings_without`. None if features are not whitened.
    scales : list of (float, ndarray), default=None
        `epsilon` and `border_profile` of each fold, found by :meth:`scaled`.
    """

    def __init__(self, banks, fold_of_group, whitenings, scales=None):
        self.banks, self.fold_of_group, self.whitenings, self.scales = banks, fold_of_group, whitenings, scales
        self._fold_banks = {}

    @classmethod
    def from_patches(cls, banks, patches, extractor, n_groups, seed):
        """Divide the images into folds, and compute the whitening of each fold.

        Parameters
        ----------
        banks : DualBank
        patches : Patches or Shards
            Patches of all normal images.
        extractor : BaseFeatureExtractor or None
            Extractor that was fitted on these images. None if the samples are feature rows.
        n_groups : int
            Number of groups, including groups that have no patches in `patches`.
        seed : int

        Returns
        -------
        left_out : LeftOutBanks
        """
        groups = patches.shuffled_groups(seed)
        # If an extractor learns from normal images, its features depend on these images with any whitening.
        is_whitened = extractor is not None and extractor.whiten and not extractor.learns_from_normals
        n_folds = min(len(groups), _N_FOLDS)
        if is_whitened:
            n_folds = min(n_folds, max(2, _MAX_BYTES // (4 * extractor.components_.shape[1] ** 2)))
            if not banks.normal.is_exact:
                n_folds = min(n_folds, _N_FOLDS_OF_INDEX)
        fold_of_group = np.full(n_groups, -1)
        fold_of_group[groups] = np.arange(len(groups)) % n_folds
        whitenings = None
        if is_whitened:
            moments = patches.moments_of_folds(fold_of_group, n_folds)
            whitenings = whitenings_without(extractor.mean_, extractor.components_, moments)
        return cls(banks, fold_of_group, whitenings)

    def __getstate__(self):
        return {**self.__dict__, "_fold_banks": {}}  # these banks are rebuilt when they are needed

    def __sizeof__(self):
        # Dask uses this size. It sends a large object to each worker once, but a small object with every task.
        maps = sum(matrix.nbytes + offset.nbytes for matrix, offset in self.whitenings or [])
        return object.__sizeof__(self) + self.banks.__sizeof__() + maps

    def with_defects(self, defect):
        """Return a copy with the same folds and with a bank of defect patches."""
        return LeftOutBanks(replace(self.banks, defect=defect), self.fold_of_group, self.whitenings)

    def distances_of(self, patches, kind, verbose=0):
        """Return the distance of each patch to a bank, and its nearest row, in the banks of its fold.

        Parameters
        ----------
        patches : Patches
        kind : {"normal", "defect"}
            Bank to search.
        verbose : int, default=0

        Returns
        -------
        distances, indices : ndarray of shape (n_patches,)
        """
        if self.whitenings is None:
            return self.banks.distances_of(patches, getattr(self.banks, kind), verbose)
        distances, indices = np.empty(len(patches)), np.empty(len(patches), dtype=np.intp)
        for fold, rows in self._rows_of_folds(patches.groups):
            banks = self._banks_of(fold)
            own = patches.select(rows, self._features(patches.features, rows, fold))
            found = banks.distances_of(own, getattr(banks, kind), verbose)
            distances[rows], indices[rows] = found
        return distances.astype(found[0].dtype), indices

    def scaled(self, patches, normal_distances, *, epsilon="scale", verbose=0):
        """Compute `epsilon` and `border_profile` from all images and, for each fold, from the images outside it.

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
        left_out : LeftOutBanks
            Copy of this object. `banks` has the values from all images, and `scales` has the values for each fold.
        patch_scores : PatchScores
            Scores of the patches.
        """
        folds = self.fold_of_group[patches.groups]
        n_folds = self.fold_of_group.max() + 1
        defect, epsilons = None, [None] * (n_folds + 1)
        if self.banks.defect is not None:
            defect = self.distances_of(patches, "defect", verbose)
            epsilons = [epsilon_of(defect[0][folds != fold], epsilon) for fold in range(n_folds)]
            epsilons.append(epsilon_of(defect[0], epsilon))
        scores = self._scores_at(patches, normal_distances, defect, epsilons)
        profiles = [self._profile(scores, patches, folds != fold) for fold in range(n_folds)]
        profile = self._profile(scores, patches, slice(None))
        banks = replace(self.banks, epsilon=epsilons[-1], border_profile=profile)
        scales = list(zip(epsilons, profiles))
        return LeftOutBanks(banks, self.fold_of_group, self.whitenings, scales), scores

    def _profile(self, scores, patches, rows):
        return scoring.border_profile(scores.scores[rows], patches.rings[rows], self.banks.border_rings)

    def patch_scores(self, patches):
        """Score patches, each with the banks of its fold."""
        defect = None if self.banks.defect is None else self.distances_of(patches, "defect")
        epsilons = [epsilon for epsilon, _ in self.scales] + [self.banks.epsilon]
        return self._scores_at(patches, self.distances_of(patches, "normal"), defect, epsilons)

    def _scores_at(self, patches, normal, defect, epsilons):
        """Score patches from their distances, each with the epsilon of its fold.

        The last epsilon is for patches outside all folds.
        """
        own = None
        if defect is not None:
            own = np.array(epsilons, dtype=defect[0].dtype)[self.fold_of_group[patches.groups]]
        return replace(self.banks, epsilon=own).scores_at(normal, defect)

    def score_images(self, patches, patch_scores):
        """Score normal images.

        Parameters
        ----------
        patches : Patches
        patch_scores : PatchScores
            Scores of these patches, as returned by :meth:`patch_scores`.

        Returns
        -------
        scores : list of float
        top_patches : Patches
            Patches that determine the scores now, or may determine them after a correction.
        """
        scores, top = [], []
        for rows in patches.slices:
            fold = self.fold_of_group[patches.groups[rows.start]]
            banks, own = self._banks_of(fold), patch_scores.take(rows)
            features = self._features(patches.features, rows, fold)
            score, best = banks.score_left_out(own, patches.rings[rows], features, patches.groups[rows.start])
            scores.append(score)
            top.append(rows.start + best)
        return scores, patches.take(np.concatenate(top))

    def inflation(self, patches):
        """Return the factor by which the score of each image rises if its fold is left out of the whitening.

        Parameters
        ----------
        patches : Patches
            Top patches of normal images.

        Returns
        -------
        factors : ndarray of shape (n_images,)
            Ratio of two scores, at least 1. The first score uses the whitening and `scales` of the image's fold. The
            second score leaves out only the bank rows of the image's group.
        """
        if self.whitenings is None:
            return np.ones(len(patches.slices))
        # Scores are not cached, because each candidate of a search has different top patches.
        banks = replace(self.banks, memory=None)
        left_out = LeftOutBanks(banks, self.fold_of_group, self.whitenings, self.scales)
        scores, _ = left_out.score_images(patches, left_out.patch_scores(patches))
        own_scores, _ = banks.score_without_own_group(patches, banks.patch_scores(patches.features, patches.groups))
        return np.maximum(np.divide(scores, np.maximum(own_scores, np.finfo(np.float32).tiny)), 1.0)

    def _rows_of_folds(self, groups):
        folds = self.fold_of_group[groups]
        return [(fold, np.flatnonzero(folds == fold)) for fold in np.unique(folds)]

    def _features(self, features, rows, fold):
        """Return the features of some rows with the whitening of a fold."""
        if self.whitenings is None or fold < 0:
            return features[rows]
        matrix, offset = self.whitenings[fold]
        if not isinstance(features, LazyFeatures):
            return features[rows] @ matrix + offset
        key = fingerprint(features.key, (rows.start, rows.stop) if isinstance(rows, slice) else rows, matrix, offset)
        return LazyFeatures(key, lambda: features.rows[rows] @ matrix + offset, features.memory)

    def _banks_of(self, fold):
        if fold < 0:
            return self.banks
        if fold not in self._fold_banks:
            banks = self.banks
            if self.whitenings is not None:
                parts = {kind: getattr(banks, kind) for kind in ("normal", "defect")}
                banks = replace(banks, **{kind: bank and self._whitened(bank, fold) for kind, bank in parts.items()})
            if self.scales is not None:
                epsilon, profile = self.scales[fold]
                banks = replace(banks, epsilon=epsilon, border_profile=profile)
            self._fold_banks[fold] = banks
        return self._fold_banks[fold]

    def _whitened(self, bank, fold):
        matrix, offset = self.whitenings[fold]
        features = bank.features @ matrix + offset
        return MemoryBank(features, bank.provenance, algorithm=bank.algorithm, random_state=bank.random_state)
