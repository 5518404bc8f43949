"""Explanations of a combination: the share of each member in a score, and the members' explanations."""

from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._composition import explain
from sklearn_exdd._images import Images
from sklearn_exdd.detectors.combined.members import has, is_frozen, renumbered, where_a_member_has


class Reasons:
    """Part of :class:`CombinedDefectDetector` that explains scores."""

    @available_if(where_a_member_has("explain"))
    def explain(self, X):
        """Explain each score by the shares of the detectors and by the explanations that they give.

        The method exists only if at least one detector has it, such as an ExDDDetector, alone or at the end of a
        Pipeline.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        explanations : list of dict
            One dict per sample, with the keys

            * "score": score of the sample, as from `score_samples`;
            * "shares": dict from the name of each detector to its weighted standardised score. The shares add up to the
              score; a share > 0 means more like a defect than the median held-out image;
            * "detectors": dict from the name of each detector with `explain` to its explanation; see
              :meth:`ExDDDetector.explain`. It contains the detector's own scores and distances. Training images are
              numbered as in the combination's `fit`, followed by the corrections in order; those of a
              FrozenEstimator are numbered as in its own `fit`.
        """
        check_is_fitted(self)
        one, samples = self._snapshot(), self._samples(X)
        if not hasattr(one, "_numbers"):
            raise ValueError(
                "explain: expected a combination that knows the numbers of its training images, got one fitted by an "
                "earlier version. Fit it again."
            )
        if isinstance(samples, Images):
            return [one._reason(scores, own) for scores, _, own, _ in one._inspected_by_all(samples)]
        none = [None] * len(samples)
        own = [explain(detector, samples) if has(detector, "explain") else none for detector in one.detectors_]
        return [one._reason(*both) for both in zip(one._scores_of_all(samples).T, zip(*own))]

    def _reason(self, scores, explanations):
        """Combine the members' scores and explanations of a sample; return None if no member explains it."""
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
