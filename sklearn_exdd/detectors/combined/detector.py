"""Several detectors as one: the sum of their standardised scores and maps."""

import copy
from numbers import Real

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import check_random_state, get_tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition, available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._composition import clone_with_seed, explain, predict_map
from sklearn_exdd._images import Images
from sklearn_exdd._labels import labels_among
from sklearn_exdd._params import N_JOBS, finite_numbers, validate_parts
from sklearn_exdd._training_set import hold_out, split_by_class
from sklearn_exdd.augment.synthetic import AugmentedImages
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.detectors.combined.held_out import HeldOut, are_among, check_unchanged, moments, spread
from sklearn_exdd.detectors.combined.members import (
    check_frozen,
    corrected,
    fitted,
    has,
    has_maps,
    is_dropped,
    is_frozen,
    naming,
    renumbered,
    where_a_member_has,
)


class CombinedDefectDetector(BaseDefectDetector, _BaseComposition):
    """Combine detectors by the weighted mean of their standardised scores and maps.

    Each detector is fitted on the same images, but for a share of the normal ones. On these its scores get median 0 and
    interquartile range 1, its maps mean 0 and standard deviation 1.

    Parameters
    ----------
    detectors : list of (str, detector) tuples
        Names and detectors, as in a VotingClassifier: their parameters are reached as ``name__parameter``, and "drop"
        in the place of a detector leaves it out. A detector has ``fit(X, y, masks=, groups=)``, ``score_samples``,
        higher for defects, and perhaps ``predict_map``; it may be a Pipeline that ends in one. Its own threshold is
        not used. Each is cloned and fitted, a fitted one, too. A FrozenEstimator keeps what it has learned, from
        images other than those that the combination is fitted on.
    weights : array-like of shape (n_detectors,), default=None
        How much each counts, > 0; None is equal weights.
    validation_fraction : float, default=0.2
        Share of the normal images, by groups, that the detectors are not fitted on. Their scores are those of new
        images, so they standardise and give the threshold.
    max_false_alarm_rate : float, default=0.01
        Share of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. None takes a known name ("bad", "NG"), or else the greater one.
    image_channels : {"grey", "colour"}, default=None
        Colours of all images, in fit and afterwards: grey by the luma of ITU-R
        601, or three channels. None leaves them as they are: all grey or all in colour.
    n_jobs : int, default=None
        Detectors fitted at a time, each in a process of its own.
    random_state : int, RandomState instance or None, default=None
        Chooses the share, and seeds the detectors whose own random_state is None.

    Attributes
    ----------
    detectors_ : list of detectors
        Fitted; without those dropped.
    classes_ : ndarray of shape (2,)
        Labels, sorted.
    threshold_ : float
        Scores above it mean defect.
    calibration_scores_ : ndarray of shape (n_samples,)
        Scores of the normal samples of X that fit has not seen; NaN for all others.
        `threshold_` is their conformal quantile.
    false_alarm_rate_ : float
        The rate that `threshold_` promises: `max_false_alarm_rate`, or 1 / (n + 1) where n held-out images are too few
        for that.
    score_centers_, score_scales_ : ndarray of shape (n_detectors,)
        Medians and interquartile ranges of the scores of the held-out images.
    map_centers_, map_scales_ : ndarray of shape (n_detectors,)
        Means and standard deviations of their pixels; NaN for a detector without maps, which is left out of the maps.
    n_features_in_ : int
        Where X holds features.

    Notes
    -----
    Scores of training images are too low, those of a network more so than those of a memory bank; standardised by
    them, detectors would be weighed by how well they learn by heart. Holding out costs that share of the normals. The
    alternative, cross-fitting, costs as many more fits as it has folds, and its threshold belongs to the scores of
    other networks than the one in use.

    The scales are found on the images that also give the threshold. One extreme image hardly moves an interquartile
    range, but it does move a standard deviation, and then hides in the scale that it has made.

    Synthetic defects that a Pipeline step attached to a held-out image are left out, too.

    If a detector has `partial_fit`, the held-out images are kept for corrections: files by their paths, and copies of
    arrays, which a saved combination contains.

    Examples
    --------
    >>> from sklearn_exdd import ExDDDetector
    >>> from sklearn_exdd.detectors.combined import CombinedDefectDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(30, image_shape=(64, 64), random_state=0)
    >>> detector = CombinedDefectDetector(
    ...     [("sharp", ExDDDetector(blur=0)), ("maximum", ExDDDetector(n_top_patches=1))], random_state=0
    ... )
    >>> detector.fit(X, y, masks=masks).predict_map(X[:2]).shape
    (2, 64, 64)
    """

    _parameter_constraints = {
        "detectors": [list],
        "weights": ["array-like", None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "max_false_alarm_rate": [Interval(Real, 0, 1, closed="neither")],
        "pos_label": "no_validation",
        "image_channels": [StrOptions({"grey", "colour"}), None],
        "n_jobs": N_JOBS,
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        detectors,
        *,
        weights=None,
        validation_fraction=0.2,
        max_false_alarm_rate=0.01,
        pos_label=None,
        image_channels=None,
        n_jobs=None,
        random_state=None,
    ):
        self.detectors = detectors
        self.weights = weights
        self.validation_fraction = validation_fraction
        self.max_false_alarm_rate = max_false_alarm_rate
        self.pos_label = pos_label
        self.image_channels = image_channels
        self.n_jobs = n_jobs
        self.random_state = random_state

    def get_params(self, deep=True):
        """Parameters, those of the detectors among them."""
        return self._get_params("detectors", deep=deep)

    def set_params(self, **params):
        """Set parameters, those of the detectors among them."""
        self._set_params("detectors", **params)
        return self

    def _check_params(self):
        if not self.detectors or not all(
            isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in self.detectors
        ):
            raise ValueError(f"detectors: expected a list of (name, detector), got {self.detectors!r}.")
        self._validate_names([name for name, _ in self.detectors])
        weights = None if self.weights is None else finite_numbers(self.weights)
        is_valid = weights is not None and len(weights) == len(self.detectors) and (weights > 0).all()
        if self.weights is not None and not is_valid:
            raise ValueError(
                f"weights: expected {len(self.detectors)} numbers > 0, one for each detector, got {self.weights!r}."
            )
        members = [(name, detector) for name, detector in self.detectors if not is_dropped(detector)]
        if not members:
            raise ValueError("detectors: expected at least one that is not 'drop', got none.")
        for name, detector in members:
            if not (hasattr(detector, "fit") and hasattr(detector, "score_samples")):
                raise ValueError(f"detectors: expected {name!r} to have fit and score_samples, got {detector!r}.")
            with naming(name):
                validate_parts([detector])

    def _fit(self, normal, defect):
        random_state = check_random_state(self.random_state)
        self._weights, members = self._members(random_state)
        if normal.has_images:
            _check_all(normal)
            if defect is not None:
                _check_all(defect.with_channels(normal.samples.n_channels))
        normal.check_masks_empty()
        is_held_out = hold_out(normal.groups, self.validation_fraction, random_state)
        X, y, masks, groups = _training_data(normal, defect, np.flatnonzero(~is_held_out))
        params = {name: value for name, value in (("masks", masks), ("groups", groups)) if value is not None}
        held_out = normal.take(np.flatnonzero(is_held_out))
        check_frozen(members, held_out)
        self.detectors_ = Parallel(n_jobs=self.n_jobs)(
            delayed(fitted)(name, detector, X, y, params) for name, detector in members
        )
        self._names = [name for name, _ in members]
        # The number that the user gave to each image that the detectors were fitted on.
        self._numbers = np.append(normal.indices[~is_held_out], [] if defect is None else defect.indices).astype(int)
        self._n_images = 1 + int(max(part.indices.max() for part in (normal, defect) if part is not None))
        scores = self._scores_of_all(held_out.samples)
        if held_out.has_images:
            self.n_channels_ = normal.samples.n_channels
            of_maps = [moments(maps) for maps in self._maps_of_all(held_out.samples)]
            self.map_centers_, self.map_scales_ = np.array(of_maps).T
        self._standardize(HeldOut.from_training_set(held_out, scores))

    def _standardize(self, held_out):
        """Set the scales of the scores and the threshold, and keep what a correction needs to find them again."""
        scores = held_out.scores
        self.score_centers_, self.score_scales_ = np.median(scores, axis=1), spread(scores)
        sums = []
        for i, group in enumerate(held_out.groups):
            others = scores[:, held_out.groups != group]
            others = others if others.shape[1] else scores
            sums.append(self._weights @ ((scores[:, i] - np.median(others, axis=1)) / spread(others)))
        self._set_threshold(sums, held_out.indices)
        self._held_out = held_out if any(has(member, "partial_fit") for member in self.detectors_) else None

    def _members(self, random_state):
        """Weights and (name, clone with a seed) of the detectors that are not dropped."""
        weights = np.ones(len(self.detectors)) if self.weights is None else finite_numbers(self.weights)
        members, kept = [], []
        for (name, detector), weight in zip(self.detectors, weights):
            seed = int(random_state.randint(2**31 - 1))  # drawn for those dropped, too: the others keep theirs
            if not is_dropped(detector):
                members.append((name, clone_with_seed(detector, seed)))
                kept.append(weight)
        return np.array(kept) / sum(kept), members

    @available_if(where_a_member_has("partial_fit"))
    def partial_fit(self, X, y, masks=None, *, classes=None):
        """Correct the detectors that have `partial_fit`; the others keep what they have learned.

        Exists only if at least one detector has it, such as an ExDDDetector, alone or at the end of a Pipeline.

        Parameters
        ----------
        X : images or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Labels of X, values of `classes_`.
        masks : array or list, default=None
            Masks aligned with X, as in :meth:`fit`.
        classes : array-like, default=None
            Ignored: there are two classes, known since the first call.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a held-out image of `fit` is missing or has changed, or if the corrections call all of them defects.

        Notes
        -----
        A corrected detector scores on another scale: its first defect turns the distances of an ExDDDetector into
        ratios. So the held-out images of `fit` are scored again by the corrected detectors, and their medians,
        interquartile ranges, the moments of the maps and `threshold_` are found anew. The weights stay.

        Unlike those of an ExDDDetector, corrected images do not join the images that give `threshold_`: one false
        alarm would raise it to its own score. A similar image may thus still be an alarm, if a smaller one.

        A held-out image that is itself corrected to normal keeps the scores that it had before, because the detectors
        now know it; one that is corrected to a defect no longer counts.

        The detectors are corrected as copies. If one of them fails, the combination stays as it was.
        """
        if not hasattr(self, "detectors_"):
            return self.fit(X, y, masks=masks)
        updated = copy.copy(self)
        updated._correct(X, y, masks)
        return self._become(updated)

    def _correct(self, X, y, masks):
        samples = self._samples(X)
        if masks is not None and not isinstance(samples, Images):
            raise ValueError("masks: expected None for feature rows, which have no pixels.")
        is_defect = labels_among(y, len(samples), self.classes_) == self._label(1)
        normal, defect = split_by_class(samples, is_defect, np.arange(len(samples)), masks)
        if isinstance(samples, Images):
            for part in filter(None, (normal, defect)):
                _check_all(part)
        if normal is not None:
            normal.check_masks_empty()
        held_out, unseen = self._held_out_after(normal, defect)
        raw = samples.raw() if isinstance(samples, Images) else samples
        self.detectors_ = list(self.detectors_)
        of_maps = np.array([self.map_centers_, self.map_scales_]) if isinstance(samples, Images) else None
        for i, (name, detector) in enumerate(zip(self._names, self.detectors_)):
            if not has(detector, "partial_fit"):
                continue
            self.detectors_[i] = twin = corrected(name, detector, raw, is_defect.astype(int), masks)
            if len(unseen):
                held_out.scores[i, held_out.is_unseen] = twin.score_samples(unseen)
            if of_maps is not None and len(unseen) and has_maps(twin):
                of_maps[:, i] = moments(predict_map(twin, unseen))
        if of_maps is not None:
            self.map_centers_, self.map_scales_ = of_maps
        self._numbers = np.append(self._numbers, self._n_images + np.arange(len(samples)))
        self._n_images += len(samples)
        self._standardize(held_out)
        self._remember(normal, defect)

    def _held_out_after(self, normal, defect):
        """Return what is still held out after a correction, a copy, and the images in it that no detector has seen."""
        held_out = getattr(self, "_held_out", None)
        if held_out is None:
            raise ValueError(
                "partial_fit: expected the held-out images that fit keeps, got a combination without them. Fit it "
                "again: an earlier version has fitted it, or none of its detectors could be corrected then."
            )
        samples = held_out.samples
        if isinstance(samples, list):
            samples = self._images(samples, "held-out images")
            check_unchanged(samples, self.training_digests_)
        is_normal, is_defect = (
            np.zeros(len(samples), dtype=bool) if part is None else are_among(samples, part.samples)
            for part in (normal, defect)
        )
        if is_defect.all():
            raise ValueError(
                f"y: expected at least one of the {len(samples)} normal images held out for the threshold to stay "
                "normal, got corrections that call all of them defects. Fit again without them."
            )
        held_out = held_out.take(np.flatnonzero(~is_defect))
        held_out.is_unseen &= ~is_normal[~is_defect]
        rows = np.flatnonzero(~is_defect)[held_out.is_unseen]
        return held_out, samples.take(rows).raw() if isinstance(samples, Images) else samples[rows]

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
        raw = samples.raw() if isinstance(samples, Images) else samples
        standardized = one._standardized(samples)
        scores, shares = one._weights @ standardized, one._weights[:, None] * standardized
        reasons = {
            name: [
                reason if is_frozen(detector) else renumbered(reason, one._numbers) for reason in explain(detector, raw)
            ]
            for name, detector in zip(one._names, one.detectors_)
            if has(detector, "explain")
        }
        return [
            {
                "score": float(scores[i]),
                "shares": dict(zip(one._names, shares[:, i].tolist())),
                "detectors": {name: own[i] for name, own in reasons.items()},
            }
            for i in range(len(samples))
        ]

    def _scores_of_all(self, samples):
        samples = samples.raw() if isinstance(samples, Images) else samples
        return np.stack([detector.score_samples(samples) for detector in self.detectors_])

    def _maps_of_all(self, images):
        """For each detector its maps, or None."""
        return [predict_map(one, images.raw()) if has_maps(one) else None for one in self.detectors_]

    def _standardized(self, samples):
        return (self._scores_of_all(samples) - self.score_centers_[:, None]) / self.score_scales_[:, None]

    def _score(self, samples):
        one = self._snapshot()  # another thread may call partial_fit
        return one._weights @ one._standardized(samples)

    def _maps(self, images):
        return self._snapshot()._maps_added_up(images)

    def _maps_added_up(self, images):
        if np.isnan(self.map_scales_).all():
            raise ValueError("predict_map: expected a detector that has maps, got none. Use score_samples.")
        combined = [np.zeros(images.shape(i), dtype=np.float32) for i in range(len(images))]
        weights = np.where(np.isnan(self.map_scales_), 0, self._weights)
        factors = weights / weights.sum() / self.map_scales_
        for maps, center, factor in zip(self._maps_of_all(images), self.map_centers_, factors):
            for total, pixel_map in zip(combined, () if maps is None else maps):
                total += (factor * (pixel_map - center)).astype(np.float32)
        return combined

    def _sk_visual_block_(self):
        """In a notebook the detectors stand side by side."""
        from sklearn.ensemble import VotingClassifier  # its block, because where the class lives depends on the version

        return VotingClassifier(self.detectors)._sk_visual_block_()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        members = [item[1] for item in self.detectors if isinstance(item, tuple) and hasattr(item[-1], "fit")]
        tags.input_tags.two_d_array = all(get_tags(detector).input_tags.two_d_array for detector in members)
        return tags


def _check_all(training_set):
    """Read every image and mask once, so that messages have the user's number of it."""
    training_set.samples.check_all()
    for i in range(len(training_set) if training_set.masks is not None else 0):
        training_set.masks.get(i, training_set.samples.shape(i))


def _training_data(normal, defect, rows):
    """Return X, y, masks and groups of some normal samples and all defects."""
    groups = np.concatenate([normal.groups[rows], [] if defect is None else defect.groups]).astype(int)
    y = np.repeat([0, 1], [len(rows), 0 if defect is None else len(defect)])
    if not normal.has_images:
        return np.concatenate([normal.samples[rows], *([] if defect is None else [defect.samples])]), y, None, groups
    X, masks = normal.samples.take(rows).raw(), None
    if defect is not None:
        X = X + defect.samples.raw()
        if defect.masks is not None:
            masks = [None] * len(rows) + defect.masks.raw()
    synthetic = normal.synthetic and normal.synthetic.restrict_to(normal.indices[rows])
    return AugmentedImages(X, synthetic), y, masks, groups
