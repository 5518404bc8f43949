"""Combination of detectors: the weighted mean of their standardised scores and maps."""

from numbers import Real

import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import check_random_state, get_tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition

from sklearn_exdd._composition import clone_with_seed, follow_to_detector
from sklearn_exdd._images import Images, highest_inside
from sklearn_exdd._params import N_JOBS, finite_numbers, validate_parts
from sklearn_exdd._training_set import hold_out
from sklearn_exdd.augment.synthetic import AugmentedImages
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.detectors.base.kinds import KindPredictions
from sklearn_exdd.detectors.combined.corrections import Corrections
from sklearn_exdd.detectors.combined.held_out import HeldOut, moments, pooled, spread
from sklearn_exdd.detectors.combined.members import (
    check_frozen,
    fitted,
    has,
    has_maps,
    inner_detector,
    inspected,
    is_dropped,
    naming,
    takes_kinds,
)
from sklearn_exdd.detectors.combined.reasons import Reasons


class CombinedDefectDetector(Corrections, Reasons, KindPredictions, BaseDefectDetector, _BaseComposition):
    """Combine detectors by the weighted mean of their standardised scores and maps.

    All detectors are fitted on the same images, except for a share of the normal images that is held out. On these, the
    scores of each detector are standardised to a median of 0 and an interquartile range of 1, and its maps to a mean of
    0 and a standard deviation of 1.

    Parameters
    ----------
    detectors : list of (str, detector) tuples
        Names and detectors, as in a VotingClassifier: parameters are set as ``name__parameter``, and "drop" in place of
        a detector excludes it. A detector has ``fit(X, y, masks=, groups=)`` and ``score_samples``, which is higher
        for defects. It may have ``predict_map``, and it may be a Pipeline that ends in a detector. Its own threshold is
        not used. Detectors are cloned and fitted, even if they are fitted already. A FrozenEstimator is used as it is;
        it must have been fitted on different images from the combination.
    weights : array-like of shape (n_detectors,), default=None
        Weights of the detectors, > 0. None weights them equally.
    validation_fraction : float, default=0.2
        Share of the normal images, in whole groups, that is held out of training to set the threshold and to
        standardise scores and maps.
    max_false_alarm_rate : float, default=0.01
        Share of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. None selects a known name, such as "bad" or "NG", or otherwise the label that sorts
        last.
    image_channels : {"grey", "colour"}, default=None
        Channels that all images are converted to, in `fit` and in predictions: one grey channel (ITU-R 601 luma) or
        three colour channels. None leaves the images as they are; they must then be all grey or all in colour.
    n_jobs : int, default=None
        Number of detectors fitted in parallel, each in its own process.
    random_state : int, RandomState instance or None, default=None
        Seed for the choice of held-out images and for detectors whose own `random_state` is None.

    Attributes
    ----------
    detectors_ : list of detectors
        Fitted detectors, without the dropped ones.
    roi_ : ndarray of shape (height, width), bool, or None
        Region of interest, if `fit` received one for all images; None if each image came with its own.
    classes_ : ndarray of shape (2,)
        Labels, sorted.
    threshold_ : float
        Threshold on the scores; samples with a higher score are called defects.
    calibration_scores_ : ndarray of shape (n_samples,)
        Scores of the normal samples of X that were held out of training; NaN for all other samples. `threshold_` is the
        conformal quantile of these scores.
    false_alarm_rate_ : float
        False-alarm rate that `threshold_` guarantees: `max_false_alarm_rate`, or 1 / (n + 1) if the n held-out normal
        images are too few for it.
    pixel_threshold_ : float
        Threshold on the maps; in images called defective, pixels with a higher value are marked; see
        :meth:`predict_mask`. It is the conformal quantile of the maxima of the maps of the held-out normal images. Only
        set if any detector has maps.
    score_centers_, score_scales_ : ndarray of shape (n_detectors,)
        Medians and interquartile ranges of the scores of the held-out images.
    map_centers_, map_scales_ : ndarray of shape (n_detectors,)
        Means and standard deviations of the pixels of the maps of the held-out images; NaN for a detector without maps.
    kinds_ : ndarray of shape (n_kinds,), dtype str
        Kinds that the detectors can predict, sorted. Only set if any of them predicts kinds. :meth:`predict_kind` uses
        the weighted mean of their votes.
    n_features_in_ : int
        Number of features, if X holds features.

    Notes
    -----
    Scores of training images are too low, more so for a network than for a memory bank. If they were used to
    standardise scores, detectors would be weighted by how well they memorise images. Holding out images reduces the
    number of normal training images. The alternative, cross-fitting, needs one more fit per fold, and its threshold
    refers to the scores of networks other than those in use.

    The scales are computed from the same images as the threshold. A single extreme image hardly changes an
    interquartile range, whereas it would increase a standard deviation and thus lower its own standardised score.

    Synthetic defects that an earlier Pipeline step made on a held-out image are left out, too.

    If a detector has `partial_fit`, the held-out images are kept for corrections: the paths of files, and copies of
    arrays. A saved combination contains these copies.

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
        """Return the parameters, including those of the detectors."""
        return self._get_params("detectors", deep=deep)

    def set_params(self, **params):
        """Set parameters, including those of the detectors."""
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
            normal.check_all()
            if defect is not None:
                defect.with_channels(normal.samples.n_channels).check_all()
        normal.check_masks_empty()
        is_held_out = hold_out(normal.groups, self.validation_fraction, random_state)
        X, y, *aligned = _training_data(normal, defect, np.flatnonzero(~is_held_out))
        params = {name: value for name, value in zip(("masks", "groups", "kinds"), aligned) if value is not None}
        if "kinds" in params and not any(takes_kinds(detector) for _, detector in members):
            raise ValueError(
                "kinds: expected a detector whose fit takes kinds, such as ExDDDetector, among "
                f"{[name for name, _ in members]}, got none. Add one, or leave kinds out."
            )
        held_out = normal.take(np.flatnonzero(is_held_out))
        check_frozen(members, held_out)
        self.detectors_ = Parallel(n_jobs=self.n_jobs)(
            delayed(fitted)(name, detector, X, y, params) for name, detector in members
        )
        self._names = [name for name, _ in members]
        # Index in the user's X (or X_defect) of each image that the detectors were fitted on.
        self._numbers = np.append(normal.indices[~is_held_out], [] if defect is None else defect.indices).astype(int)
        self._n_images = 1 + int(max(part.indices.max() for part in (normal, defect) if part is not None))
        if held_out.has_images:
            self.n_channels_ = normal.samples.n_channels
        has_any_map = held_out.has_images and any(map(has_maps, self.detectors_))
        kept = HeldOut.from_training_set(held_out, has_any_map)
        self._calibrate_on(kept, np.arange(len(held_out)), held_out.samples)

    def _calibrate_on(self, held_out, rows, samples):
        """Set the scales, the thresholds and the kinds, and keep the held-out samples if a correction may need them.

        Parameters
        ----------
        held_out : HeldOut
            Held-out samples. Scores and maxima are set for all samples that no detector has seen.
        rows : ndarray of shape (n_samples,), int
            Positions of the samples to compute the scales from.
        samples : Images or ndarray of shape (n_samples, n_features)
            The samples at these positions.
        """
        if isinstance(samples, Images):
            found = [list(zip(*inspected(detector, samples))) for detector in self.detectors_]
            scores, maps = np.array([own for own, *_ in found], dtype=np.float64), [own for _, own, *_ in found]
            regions = [samples.region(i) for i in range(len(samples))]
            of_maps = np.array([[moments(*pair) for pair in zip(own, regions)] for own in maps])
            self.map_centers_, self.map_scales_ = pooled(of_maps)
        else:
            scores = self._scores_of_all(samples)
        self.score_centers_, self.score_scales_ = np.median(scores, axis=1), spread(scores)
        groups = held_out.groups[rows]
        for i in np.flatnonzero(held_out.is_unseen[rows]):
            others = groups != groups[i]
            others = others if others.any() else ~others
            centers, scales = np.median(scores[:, others], axis=1), spread(scores[:, others])
            held_out.scores[rows[i]] = self._weights @ ((scores[:, i] - centers) / scales)
            if held_out.maxima is not None:
                combined = self._combined([own[i] for own in maps], *pooled(of_maps[:, others]))
                held_out.maxima[rows[i]] = highest_inside(combined, regions[i])
        self._set_threshold(held_out.scores, held_out.indices, held_out.maxima)
        known = [detector.kinds_ for detector in map(inner_detector, self.detectors_) if hasattr(detector, "kinds_")]
        if known:
            self.kinds_ = np.unique(np.concatenate(known))
        self._held_out = held_out if any(has(detector, "partial_fit") for detector in self.detectors_) else None

    def _members(self, random_state):
        """Return the weights and the (name, seeded clone) pairs of the detectors that are not dropped."""
        weights = np.ones(len(self.detectors)) if self.weights is None else finite_numbers(self.weights)
        members, kept = [], []
        for (name, detector), weight in zip(self.detectors, weights):
            seed = int(random_state.randint(2**31 - 1))  # also for dropped ones, so that the others keep their seeds
            if not is_dropped(detector):
                members.append((name, clone_with_seed(detector, seed)))
                kept.append(weight)
        return np.array(kept) / sum(kept), members

    def _scores_of_all(self, samples):
        samples = samples.raw() if isinstance(samples, Images) else samples
        return np.stack([detector.score_samples(samples) for detector in self.detectors_])

    def _score(self, samples):
        one = self._snapshot()  # another thread may call partial_fit
        return one._standardized(one._scores_of_all(samples))

    def _standardized(self, scores):
        """Return the sum of the shares, added in a fixed order, so that it does not depend on other images."""
        return sum(self._shares(scores))

    def _shares(self, scores):
        return [
            weight * ((own - center) / scale)
            for own, weight, center, scale in zip(scores, self._weights, self.score_centers_, self.score_scales_)
        ]

    def _maps(self, images):
        return [pixel_map for _, pixel_map, *_ in self._snapshot()._inspected(images)]

    def _inspected(self, images):
        if np.isnan(self.map_scales_).all():
            raise ValueError("predict_map: expected a detector with maps, got none. Use score_samples.")
        for scores, maps, explanations, votes in self._inspected_by_all(images):
            pixel_map = self._combined(maps, self.map_centers_, self.map_scales_)
            yield self._standardized(scores), pixel_map, self._reason(scores, explanations), self._joint_votes(votes)

    def _inspected_by_all(self, images):
        """Yield the scores, maps, explanations and votes of all detectors for each image."""
        for found in zip(*(inspected(detector, images) for detector in self.detectors_)):
            yield tuple(zip(*found))

    def _row_votes(self, samples):
        votes = []
        for detector in self.detectors_:
            own = [None] * len(samples)
            if hasattr(inner_detector(detector), "kinds_"):
                inner, X = follow_to_detector(detector, samples)
                own = [votes for _, votes in inner._row_votes(inner._samples(X))]
            votes.append(own)
        yield from zip(self._score(samples), map(self._joint_votes, zip(*votes)))

    def _joint_votes(self, votes):
        """Return the weighted mean of the votes of all detectors that vote, the largest first."""
        asked = [(weight, own) for weight, own in zip(self._weights, votes) if own]
        shares = {}
        for weight, own in asked:
            for kind, share in own.items():
                shares[kind] = shares.get(kind, 0.0) + share * weight / sum(weight for weight, _ in asked)
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def _combined(self, maps, centers, scales):
        """Return the weighted mean of the standardised maps of an image; a map may be None."""
        weights = np.where(np.isnan(scales), 0, self._weights)
        factors, total = weights / weights.sum() / scales, np.float32(0)
        for pixel_map, center, factor in zip(maps, centers, factors):
            if pixel_map is not None:
                total = total + (factor * (pixel_map - center)).astype(np.float32)
        return total

    def _sk_visual_block_(self):
        """Show the detectors side by side in a notebook."""
        from sklearn.ensemble import VotingClassifier  # the module of the block's own class depends on the version

        return VotingClassifier(self.detectors)._sk_visual_block_()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        members = [item[1] for item in self.detectors if isinstance(item, tuple) and hasattr(item[-1], "fit")]
        tags.input_tags.two_d_array = all(get_tags(detector).input_tags.two_d_array for detector in members)
        return tags


def _training_data(normal, defect, rows):
    """Return X, y, masks, groups and kinds of the normal samples in `rows` and of all defects."""
    groups = np.concatenate([normal.groups[rows], [] if defect is None else defect.groups]).astype(int)
    y = np.repeat([0, 1], [len(rows), 0 if defect is None else len(defect)])
    kinds, told = None, [part.kinds for part in (normal, defect) if part is not None and part.kinds is not None]
    if told:
        own = [] if defect is None else defect.kinds.tolist()
        kinds = np.array([""] * len(rows) + own, dtype=str)
    if not normal.has_images:
        samples = np.concatenate([normal.samples[rows], *([] if defect is None else [defect.samples])])
        return samples, y, None, groups, kinds
    X, masks = normal.samples.take(rows).raw(), None
    if defect is not None:
        X = X + defect.samples.raw()
        if defect.masks is not None:
            masks = [None] * len(rows) + defect.masks.raw()
    synthetic = normal.synthetic and normal.synthetic.restrict_to(normal.indices[rows])
    return AugmentedImages(X, synthetic), y, masks, groups, kinds
