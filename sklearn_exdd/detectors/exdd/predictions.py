"""Predictions of a fitted ExDDDetector: scores, maps and explanations of new samples."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._images import Images
from sklearn_exdd.banks.dual_bank import cached_batches, patch_batches
from sklearn_exdd.banks.pixel_maps import pixel_map
from sklearn_exdd.features.patch_grid import PatchGrid


class Predictions:
    """Mixin of :class:`ExDDDetector` that scores, locates and explains defects."""

    def _score(self, samples):
        banks = self._banks()
        if not isinstance(samples, Images):
            scores, rows = banks.patch_scores(samples), np.arange(len(samples))[:, None]
            return np.array([banks.score_image(scores.take(row), 0 * row, samples[row]) for row in rows])
        return np.array(banks.score_images(self._batches(samples)))

    def _batches(self, images):
        if self.memory is not None:
            return cached_batches(self.feature_extractor_, images, self.memory)
        return patch_batches(self.feature_extractor_, images)

    def _maps(self, images):
        scored = self._banks().score_maps(self._batches(images))
        return [self._pixel_map(scores, grid, images.shape(i)) for i, (scores, _, grid) in enumerate(scored)]

    def _pixel_map(self, patch_scores, grid, image_shape):
        return pixel_map(patch_scores.scores, grid, image_shape, self.feature_extractor_, self.blur)

    def _inspected(self, images):
        banks = self._banks()
        vote = self._vote(banks)
        for i, (scores, features, grid) in enumerate(banks.score_maps(self._batches(images))):
            image_shape, rings = images.shape(i), grid.rings
            centers = self.feature_extractor_.patch_centers(grid.shape, image_shape)
            score = banks.score_image(scores, rings, features)
            yield (
                score,
                self._pixel_map(scores, grid, image_shape),
                self._explanation(banks.explain(score, scores, rings, grid, centers)),
                vote(scores, rings, features),
            )

    def explain(self, X):
        """Explain each score by the patch with the highest score and its nearest neighbours in the banks.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        explanations : list of dict
            One dict per sample, with the keys

            * "score": score of the sample, as from `score_samples`;
            * "patch": (row, column) of the patch with the highest score, in pixels;
            * "normal_image": index in X of the training image that contains the nearest normal patch;
            * "normal_patch": (row, column) of the nearest normal patch;
            * "normal_distance": distance to the nearest normal patch;
            * "defect_image": index of the image that contains the nearest defect patch, or None without a defect bank.
              If "synthetic" is True, the index refers to `synthetic_`. Otherwise, it refers to X_defect if `fit`
              received X_defect, and to X if not;
            * "defect_patch", "defect_distance": position of the nearest defect patch and distance to it, or None
              without a defect bank;
            * "synthetic": whether the nearest defect patch comes from a synthetic defect;
            * "prompt": prompt of the synthetic defect, or None.
        """
        check_is_fitted(self)
        detector = self._snapshot()
        samples = detector._samples(X)
        if isinstance(samples, Images):
            return [explanation for _, _, explanation, _ in detector._inspected(samples)]
        banks, explanations = detector._banks(), []
        scores, ring, grid = banks.patch_scores(samples), np.zeros(1, dtype=np.intp), PatchGrid((1, 1))
        for i in range(len(samples)):
            own = scores.take(slice(i, i + 1))
            score = banks.score_image(own, ring, samples[i : i + 1])
            explanations.append(
                detector._explanation(banks.explain(score, own, ring, grid, (np.zeros(1), np.zeros(1))))
            )
        return explanations

    def _explanation(self, explanation):
        """Add the prompt of the nearest synthetic defect to an explanation."""
        provenance = self._provenance(explanation["defect_image"]) if explanation["synthetic"] else {}
        return {**explanation, "prompt": provenance.get("prompt")}
