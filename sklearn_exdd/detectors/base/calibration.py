"""Calibrated decisions: scores, p-values, and a threshold that is computed from the scores of normal images."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd import scoring
from sklearn_exdd._images import highest_inside


class CalibratedDecisions:
    """Mixin that turns the scores of a detector into decisions.

    The detector defines ``_score(samples)``, and its ``_fit`` calls ``_set_threshold``.
    """

    def score_samples(self, X):
        """Compute scores. A higher score means more defective.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,), dtype float64
        """
        check_is_fitted(self)
        # Scores need the dtype of the threshold. In float32, rounding could move a score across the threshold.
        return np.asarray(self._score(self._samples(X)), dtype=np.float64)

    def decision_function(self, X):
        """Compute scores relative to the threshold. A positive value means defect.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        decisions : ndarray of shape (n_samples,)
            ``score_samples(X) - threshold_``.
        """
        detector = self._snapshot()  # keeps scores and threshold consistent if another thread calls partial_fit
        return detector.score_samples(X) - detector.threshold_

    def predict(self, X):
        """Predict class labels.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Values of `classes_`.
        """
        is_defect = self.decision_function(X) > 0
        return np.where(is_defect, self._label(1), self._label(0)).astype(self.classes_.dtype)

    def p_values(self, X):
        """Compute conformal p-values, which are small for samples that are unlikely to be normal.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
            Samples that were not used in `fit`. The scores of samples used in `fit` are too low.

        Returns
        -------
        p_values : ndarray of shape (n_samples,), dtype float64
            P-values in (0, 1]. A small value means that the sample is unlikely to be normal. If `fit` received no
            groups, the p-values are ``(1 + #{calibration_scores_ >= score}) / (n + 1)``, where n is the number of
            calibration scores. See :func:`scoring.conformal_p_values`.

        Raises
        ------
        ValueError
            If the detector has no `calibration_scores_`.

        Notes
        -----
        Take a normal image that is exchangeable with the normal images passed to `fit`. The probability that its
        p-value is at most alpha is at most alpha. If `fit` received ``groups=``, this holds for one image of a new
        group.

        `predict` calls a sample a defect if and only if its p-value is at most `false_alarm_rate_`. This rate equals
        `max_false_alarm_rate` unless there were too few normal images to guarantee it.

        If you change `threshold_` after `fit`, or if a TunedThresholdClassifierCV changes it, decisions change but
        p-values do not. The new threshold guarantees the rate ``(1 + #{calibration_scores_ > threshold}) / (n + 1)`` of
        false alarms. Samples called defects have p-values of at most this rate.

        Examples
        --------
        >>> from sklearn_exdd import ExDDDetector
        >>> from sklearn_exdd.datasets import make_surface_defects
        >>> X, y, _ = make_surface_defects(40, image_shape=(64, 64), random_state=0)
        >>> detector = ExDDDetector("gabor", max_false_alarm_rate=0.1, random_state=0).fit(X[:30], y[:30])
        >>> p_values = detector.p_values(X[30:])
        >>> bool(((p_values <= 0.1) == (detector.predict(X[30:]) == 1)).all())
        True
        """
        detector = self._snapshot()
        return detector._p_values_at(detector.score_samples(X))

    def _p_values_at(self, scores):
        """Compute p-values from scores."""
        calibration = getattr(self, "calibration_scores_", None)
        if calibration is None:
            raise ValueError(
                f"p_values: expected a detector with calibration_scores_, got a {type(self).__name__} without them. "
                "If it was fitted by an earlier version, fit it again. In the _fit of a custom detector, call "
                "_set_threshold."
            )
        indices = np.flatnonzero(~np.isnan(calibration))
        return scoring.conformal_p_values(scores, calibration[indices], self._groups_at(indices))

    def _set_threshold(self, scores, indices, map_maxima=None):
        """Set `threshold_`, `false_alarm_rate_`, `calibration_scores_` and, with `map_maxima`, `pixel_threshold_`.

        Parameters
        ----------
        scores : array-like of shape (n_calibrating,)
            Scores of normal samples. Each score is computed as if `fit` had not seen the sample.
        indices : ndarray of shape (n_calibrating,), dtype int
            Positions of these samples in the X passed to `fit`.
        map_maxima : array-like of shape (n_calibrating,), default=None
            Highest map value of each of these samples, computed in the same way. None if the detector has no maps.
        """
        rate, groups = self.max_false_alarm_rate, self._groups_at(indices)
        self.threshold_, self.false_alarm_rate_ = scoring.conformal_threshold(scores, rate, groups)
        if map_maxima is not None:
            self.pixel_threshold_, _ = scoring.conformal_threshold(map_maxima, rate, groups)
        self.calibration_scores_ = np.full(max(getattr(self, "_n_samples", 0), 1 + indices.max()), np.nan)
        self.calibration_scores_[indices] = scores

    def _calibrate(self, held_out):
        """Set the thresholds in one pass over a TrainingSet of normal samples that were not used for training."""
        if not held_out.has_images:
            return self._set_threshold(self._score(held_out.samples), held_out.indices)
        inspected = enumerate(self._inspected(held_out.samples))
        found = [(score, highest_inside(found, held_out.samples.region(i))) for i, (score, found, *_) in inspected]
        scores, maxima = np.array(found).T
        self._set_threshold(scores, held_out.indices, maxima)

    def _groups_at(self, indices):
        """Return the groups of samples at positions in X of `fit`. Each sample added later forms its own group."""
        known = getattr(self, "_groups", np.empty(0, dtype=int))  # absent from detectors saved by older versions
        groups = len(known) + indices
        is_known = indices < len(known)
        groups[is_known] = known[indices[is_known]]
        return groups
