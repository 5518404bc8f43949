"""Corrections of a fitted combination: its members learn, then scales and thresholds are recomputed."""

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
    """Part of :class:`CombinedDefectDetector` that learns from corrected samples."""

    __metadata_request__partial_fit = {"kinds": True}

    @available_if(where_a_member_has("partial_fit"))
    def partial_fit(self, X, y, masks=None, *, classes=None, kinds=None):
        """Correct the detectors that have `partial_fit`; the others do not change.

        The method exists only if at least one detector has it, such as an ExDDDetector, alone or at the end of a
        Pipeline.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels of X, values of `classes_`.
        masks : array or list, default=None
            Masks aligned with X, as in :meth:`fit`.
        classes : array-like, default=None
            Ignored, because there are always two classes, known from the first call.
        kinds : array-like of shape (n_samples,), default=None
            Kinds of the defects, aligned with X, as in :meth:`fit`, for the detectors whose `partial_fit` accepts them.
            They may be new.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If an image that `fit` held out is missing or has changed, if the corrections call all held-out images
            defects, or if `kinds` are given and no detector accepts them.

        Warns
        -----
        UserWarning
            If fewer than two held-out images remain uncorrected, so that the scales are computed from images that the
            detectors know.

        Notes
        -----
        A correction may change the scale of the scores: for example, the first defect turns the distances of an
        ExDDDetector into ratios. All detectors therefore score the held-out images again, and the medians and
        interquartile ranges of the scores, the moments of the maps, `threshold_` and `pixel_threshold_` are recomputed.
        The weights do not change.

        Unlike in an ExDDDetector, `threshold_` is not computed from corrected images, because a single false alarm
        would raise the threshold to the score of that image. A similar image may thus still be a false alarm, although
        its score is lower than before.

        If a held-out image is itself corrected to normal, it keeps its previous standardised score and map maximum,
        because the detectors now know it, and the scales are computed from the other held-out images. A held-out image
        that is corrected to a defect is dropped. If fewer than two held-out images remain unknown to the detectors, the
        scales are also computed from known ones, and a warning is given. A combination that held out a single image
        does so only when that image becomes known.

        The corrections are made in copies of the detectors. If one of them fails, the combination does not change.
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
                    "kinds: expected a detector whose partial_fit takes kinds, such as ExDDDetector, among "
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
        """Return a copy of the remaining held-out samples, and the rows and samples to compute the scales from."""
        held_out = getattr(self, "_held_out", None)
        if held_out is None:
            raise ValueError(
                "partial_fit: expected the held-out images that fit keeps, got a combination without them. Fit it "
                "again: it was fitted by an earlier version, or its detectors had no partial_fit at that time."
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
                "normal, got corrections that call all of them defects. Fit again without these images."
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
                "remain unknown to the detectors. The scales are now computed from known ones, so the false-alarm rate "
                "may be higher than false_alarm_rate_. Fit again with these labels.",
                UserWarning,
                stacklevel=4,
            )
        rows = rows[giving_scales]
        return held_out, giving_scales, samples.take(rows) if isinstance(samples, Images) else samples[rows]
