"""Corrections of a fitted ExDDDetector: patches of false alarms and of misses are added to the banks."""

import copy
from dataclasses import replace

import numpy as np

from sklearn_exdd._labels import labels_among
from sklearn_exdd._training_set import split_by_class
from sklearn_exdd.banks.patches import Patches
from sklearn_exdd.banks.pixel_maps import map_maxima


class Corrections:
    """Mixin of :class:`ExDDDetector` that learns from corrected samples."""

    def partial_fit(self, X, y, masks=None, *, classes=None, kinds=None):
        """Correct the detector: add false alarms to the normal bank and missed defects to the defect bank.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True label of each sample of X, from `classes_`.
        masks : array or list, default=None
            Masks, one entry per sample of X, as in :meth:`fit`.
        classes : array-like, default=None
            Ignored, because the two classes are known from the first call.
        kinds : array-like of shape (n_samples,), default=None
            Kinds of the defects, one entry per sample of X, as in :meth:`fit`. New kinds are allowed. If None, the
            added defects get no kind.

        Returns
        -------
        self : object

        Notes
        -----
        A false alarm adds the patches whose score is above the threshold or that are unusually far from the normal
        bank. A missed defect adds its defect patches.

        Images of earlier calls are not needed. The detector stores the patches with the highest scores of each normal
        training image, and recomputes `threshold_` from these patches. `epsilon_` and the feature extractor do not
        change.
        """
        if not hasattr(self, "normal_bank_"):
            return self.fit(X, y, masks=masks, kinds=kinds)
        updated = copy.copy(self)
        updated._add(X, y, masks, kinds)
        return self._become(updated)

    def _add(self, X, y, masks, kinds):
        samples = self._samples(X)
        y = labels_among(y, len(samples), self.classes_)
        normal, defect = split_by_class(samples, y == self._label(1), np.arange(len(y)), masks, kinds)
        for training_set in filter(None, (normal, defect)):
            training_set.indices = training_set.indices + self._n_images
            training_set.groups = training_set.groups + self._n_groups
        self._n_images += len(y)
        self._n_groups += len(y)
        banks, calibration = self._banks(), self._calibration
        inflation = getattr(self, "_inflation", np.ones(len(calibration.slices)))  # absent from older files
        if normal is not None:
            patches = self._patches(normal)
            normal.check_masks_empty()
            scores = banks.patch_scores(patches.features)
            alarming = scores.normal_distances > self._normal_cutoff
            if self.image_score == "top_mean":
                alarming |= banks.relative_scores(scores, patches.rings) > self.threshold_
            if alarming.any():
                banks = replace(banks, normal=_extended(banks.normal, patches.take(np.flatnonzero(alarming))))
            calibration = Patches.concatenate([calibration, patches])
            inflation = np.append(inflation, np.ones(len(normal)))  # fit has not seen these images
        if defect is not None:
            added = self._defect_patches(defect, banks)
            bank = self._defect_bank(added) if banks.defect is None else _extended(banks.defect, added)
            banks = replace(banks, defect=bank)
        distances = banks.distances_of(calibration, banks.normal)
        banks, scores = banks.scaled(calibration, distances, epsilon=self.epsilon)
        image_scores, top_patches = banks.score_without_own_group(calibration, scores)
        image_scores, maxima = inflation * image_scores, None
        if getattr(self, "_heights", None) is not None:
            known = self._heights * image_scores[: len(self._heights)]
            maxima = np.append(known, [] if normal is None else self._new_maxima(normal, patches, scores))
        indices = calibration.provenance["image"][calibration.starts[:-1]]
        self._keep(banks, image_scores, indices, top_patches, inflation, maxima)
        self._name_rows(normal, defect)
        self._remember(normal, defect)

    def _new_maxima(self, normal, patches, scores):
        """Return the maximum of the map of each new normal image.

        The last rows of `scores` belong to the patches of these images.
        """
        shapes = [normal.samples.shape(i) for i in range(len(normal))]
        own = scores.take(slice(len(scores.scores) - len(patches), None))
        return map_maxima(patches, own, normal.samples, shapes, self.feature_extractor_, self.blur)


def _extended(bank, patches):
    """Return a copy of a memory bank to which patches are added."""
    return copy.copy(bank).add(patches.features, patches.provenance)
