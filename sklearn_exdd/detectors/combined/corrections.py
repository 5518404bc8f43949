"""Corrections of a fitted combination. Its detectors learn, then its scales and thresholds are recomputed."""

import copy
from warnings import warn

import numpy as np
from sklearn.utils.metaestimators import available_if

from sklearn_exdd._images import Images
from sklearn_exdd._labels import as_kinds, labels_among
from sklearn_exdd._training_set import split_by_class
from sklearn_exdd.detectors.combined.held_out import are_among, check_unchanged
from sklearn_exdd.detectors.combined.members import corrected, has, learns_kinds, where_a_member_has


class Corrections:
    """Mixin of :class:`CombinedDefectDetector` that learns from corrected samples."""

    __metadata_request__partial_fit = {"kinds": True}

    @available_if(where_a_member_has("partial_fit"))
    def partial_fit(self, X, y, masks=None, *, classes=None, kinds=None):
        """Correct the detectors that have `partial_fit`. The other detectors do not change.

        The method exists only if at least one detector has `partial_fit`. An ExDDDetector has it, also at the end of a
        Pipeline.

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
            Kinds of the defects, one entry per sample of X, as in :meth:`fit`. New kinds are allowed. Only detectors
            whose `partial_fit` has the parameter `kinds` learn them.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If an image that `fit` held out is missing or has changed, if the corrections label all held-out images as
            defects, or if `kinds` is given and no detector accepts it.

        Warns
        -----
        UserWarning
            If fewer than two held-out images are still unknown to the detectors. The scales are then computed from
            images that the detectors know.

        Notes
        -----
        A correction may change the scale of the scores. For example, the first defect turns the distances of an
        ExDDDetector into ratios. All detectors therefore score the held-out images again. The medians and interquartile
        ranges of the scores, the means and standard deviations of the maps, and both thresholds are then recomputed.
        The weights do not change.

        In contrast to an ExDDDetector, `threshold_` is not computed from corrected images, because a single false alarm
        would raise the threshold to the score of this image. An image similar to a corrected one may therefore still be
        a false alarm, although its score is lower than before the correction.

        A correction may contain a held-out image:

        * If its label is normal, the detectors know the image from then on. The image keeps its standardised score and
          map maximum, and the scales are computed from the other held-out images.
        * If its label is defect, the image is removed from the held-out images.

        If fewer than two held-out images are still unknown to the detectors, the scales are also computed from known
        images, and a warning is given. If `fit` held out only one image, this happens as soon as the detectors know
        that image.

        Copies of the detectors learn the corrections. If a copy raises an error, the combination does not change.
        """
        if not hasattr(self, "detectors_"):
            return self.fit(X, y, masks=masks, kinds=kinds)
        updated = copy.copy(self)
        updated._correct(X, y, masks, kinds)
        return self._become(updated)

    def _correct(self, X, y, masks, kinds):
        samples = self._samples(X)
        if masks is not None and not isinstance(samples, Images):
            raise ValueError("masks: expected None for feature rows, which have no pixels.")
        is_defect = labels_among(y, len(samples), self.classes_) == self._label(1)
        if kinds is not None:
            kinds = as_kinds(kinds, is_defect)
            if not any(map(learns_kinds, self.detectors_)):
                raise ValueError(
                    "kinds: expected a detector whose partial_fit accepts kinds, such as ExDDDetector, among "
                    f"{self._names}, got none. Leave kinds out."
                )
        normal, defect = split_by_class(samples, is_defect, np.arange(len(samples)), masks)
        for part in filter(None, (normal, defect)):
            if part.has_images:
                part.check_all()
        if normal is not None:
            normal.check_masks_empty()
        held_out, rows, reference = self._held_out_after(normal, defect)
        raw = samples.raw() if isinstance(samples, Images) else samples
        self.detectors_ = [
            corrected(name, detector, raw, is_defect.astype(int), masks=masks, kinds=kinds)
            if has(detector, "partial_fit")
            else detector
            for name, detector in zip(self._names, self.detectors_)
        ]
        self._numbers = np.append(self._numbers, self._n_images + np.arange(len(samples)))
        self._n_images += len(samples)
        self._calibrate_on(held_out, rows, reference)
        self._remember(normal, defect)

    def _held_out_after(self, normal, defect):
        """Return the remaining held-out samples, the rows that set the scales, and the samples in these rows."""
        held_out = getattr(self, "_held_out", None)
        if held_out is None:
            raise ValueError(
                "partial_fit: expected a combination that stores its held-out images, got one without them. It was "
                "fitted by an earlier version, or before any of its detectors had partial_fit. Fit it again."
            )
        samples = held_out.samples
        if isinstance(samples, list):
            samples = self._in_region(self._images(samples, "held-out images"))
            check_unchanged(samples, self.training_digests_)
        is_normal, is_defect = (
            np.zeros(len(samples), dtype=bool) if part is None else are_among(samples, part.samples)
            for part in (normal, defect)
        )
        if is_defect.all():
            raise ValueError(
                f"y: expected at least one of the {len(samples)} normal images held out for the threshold to stay "
                "normal, got corrections that label all of them as defects. Fit again without these images."
            )
        rows = np.flatnonzero(~is_defect)
        held_out = held_out.take(rows)
        held_out.is_unseen &= ~is_normal[rows]
        n_unseen, n_needed = held_out.is_unseen.sum(), min(2, len(samples))
        giving_scales = np.flatnonzero(held_out.is_unseen)
        if n_unseen < n_needed:
            giving_scales = np.arange(len(held_out))
            warn(
                f"partial_fit: of the {len(samples)} normal images held out for scales and thresholds, only {n_unseen} "
                "remain unknown to the detectors. The scales are now computed from known images, so the false-alarm "
                "rate may be higher than false_alarm_rate_. Fit again with the corrected labels.",
                UserWarning,
                stacklevel=4,
            )
        rows = rows[giving_scales]
        return held_out, giving_scales, samples.take(rows) if isinstance(samples, Images) else samples[rows]
