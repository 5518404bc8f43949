"""Explanations of the scores of a combination: the share of each member, and the explanation of each member."""

from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._composition import explain
from sklearn_exdd._images import Images
from sklearn_exdd.detectors.combined.members import has, is_frozen, renumbered, where_a_member_has


class Reasons:
    """Mixin of :class:`CombinedDefectDetector` that explains scores."""

    @available_if(where_a_member_has("explain"))
    def explain(self, X):
        """Explain each score by the shares of the detectors and by the detectors' own explanations.

        The method exists only if at least one detector has `explain`. An ExDDDetector has it, also at the end of a
        Pipeline.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        explanations : list of dict
            One dict per sample, with the keys

            * "score": score of the sample, as from `score_samples`;
            * "shares": dict from the names of the detectors to their weighted standardised scores. The shares add up to
              the score. A detector with a share > 0 finds the image more defective than the median held-out image;
            * "detectors": dict from the names of the detectors that have `explain` to their explanations; see
              :meth:`ExDDDetector.explain`. Scores and distances in an explanation are those of the detector, without
              standardisation. Training images have the indices that they had in `fit` of the combination. The indices
              of corrected images follow, in order. For a FrozenEstimator, indices refer to its own `fit`.
        """
        check_is_fitted(self)
        one, samples = self._snapshot(), self._samples(X)
        if not hasattr(one, "_numbers"):
            raise ValueError(
                "explain: expected a combination that stores the indices of its training images, got one fitted by an "
                "earlier version. Fit it again."
            )
        if isinstance(samples, Images):
            return [one._reason(scores, own) for scores, _, own, _ in one._inspected_by_all(samples)]
        none = [None] * len(samples)
        own = [explain(detector, samples) if has(detector, "explain") else none for detector in one.detectors_]
        return [one._reason(*both) for both in zip(one._scores_of_all(samples).T, zip(*own))]

    def _reason(self, scores, explanations):
        """Combine the members' scores and explanations of a sample. Return None if no member explains the sample."""
        if not hasattr(self, "_numbers") or all(own is None for own in explanations):
            return None
        shares = self._shares(scores)
        return {
            "score": float(sum(shares)),
            "shares": {name: float(share) for name, share in zip(self._names, shares)},
            "detectors": {
                name: own if is_frozen(detector) else renumbered(own, self._numbers)
                for name, detector, own in zip(self._names, self.detectors_, explanations)
                if own is not None
            },
        }
