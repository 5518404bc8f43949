"""Reasons of a combination: the share of each member in a score, and the explanations that members give."""

from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._composition import explain
from sklearn_exdd._images import Images
from sklearn_exdd.detectors.combined.members import has, is_frozen, renumbered, where_a_member_has


class Reasons:
    """The part of :class:`CombinedDefectDetector` that explains."""

    @available_if(where_a_member_has("explain"))
    def explain(self, X):
        """Explain each score by the share of every detector, and by the reasons of those that have `explain`.

        Exists only if at least one detector has it, such as an ExDDDetector, alone or at the end of a Pipeline.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        explanations : list of dict
            One per sample, with the keys

            * "score": float, as `score_samples` gives it;
            * "shares": dict of str to float, the weighted standardised score of each detector by its name. They add
              up to the score; > 0 is more like a defect than the median held-out image;
            * "detectors": dict of str to dict, the explanation of each detector that has `explain`, see
              :meth:`ExDDDetector.explain`. Scores and distances in it are the detector's own. Numbers of training
              images count those that the combination was fitted on and, after them, the corrections in their order;
              those of a FrozenEstimator count the images of its own fit.
        """
        check_is_fitted(self)
        one, samples = self._snapshot(), self._samples(X)
        if not hasattr(one, "_numbers"):
            raise ValueError(
                "explain: expected a combination that knows the numbers of its training images, got one that an "
                "earlier version has fitted. Fit it again."
            )
        if isinstance(samples, Images):
            return [one._reason(scores, own) for scores, _, own, _ in one._inspected_by_all(samples)]
        none = [None] * len(samples)
        own = [explain(detector, samples) if has(detector, "explain") else none for detector in one.detectors_]
        return [one._reason(*both) for both in zip(one._scores_of_all(samples).T, zip(*own))]

    def _reason(self, scores, explanations):
        """Return the explanation of one sample from its scores and explanations by the members, or None if none has."""
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
