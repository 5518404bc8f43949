"""Detector that combines other detectors: the weighted mean of their standardised scores and maps."""

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
    """Combine detectors. The result is the weighted mean of their standardised scores and maps.

    `fit` holds out some of the normal images and fits all detectors on the other images. It then standardises the
    detectors: on the held-out images, the scores of each detector get a median of 0 and an interquartile range of 1,
    and the maps of each detector get a mean of 0 and a standard deviation of 1.

    Parameters
    ----------
    detectors : list of (str, detector) tuples
        Names and detectors, as in a VotingClassifier. Parameters are set as ``name__parameter``. The string "drop" in
        place of a detector excludes this detector.

        A detector needs the methods ``fit(X, y, masks=, groups=)`` and ``score_samples``, where a higher score means
        defect. It may have the method ``predict_map``. It may also be a Pipeline that ends in a detector. The threshold
        of a detector is not used.

        Each detector is cloned, and the clone is fitted, even if the detector is already fitted. A FrozenEstimator is
        not fitted again. It must have been fitted on images that are not passed to the combination.
    weights : array-like of shape (n_detectors,), default=None
        Weights of the detectors, > 0. If None, all detectors have the same weight.
    validation_fraction : float, default=0.2
        Fraction of the normal images to hold out of training. The threshold and the scales of scores and maps are
        computed from the held-out images. Groups are not split.
    max_false_alarm_rate : float, default=0.01
        Fraction of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG" means
        defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    image_channels : {"grey", "colour"}, default=None
        Channels to which all images are converted, in `fit` and in predictions: one grey channel (ITU-R 601 luma) or
        three colour channels. If None, images are not converted and must be either all grey or all in colour.
    n_jobs : int, default=None
        Number of processes that fit detectors in parallel.
    random_state : int, RandomState instance or None, default=None
        Seed for the choice of held-out images and for detectors whose own `random_state` is None.

    Attributes
    ----------
    detectors_ : list of detectors
        Fitted detectors. Detectors replaced by "drop" are left out.
    roi_ : ndarray of shape (height, width), dtype bool, or None
        Region of interest for all images, or None if each image has its own. Only set if `fit` received regions.
    classes_ : ndarray of shape (2,)
        The two labels, sorted.
    threshold_ : float
        Threshold on the scores. Samples with a higher score are called defects.
    calibration_scores_ : ndarray of shape (n_samples,)
        Scores of the normal samples of X that were held out of training. The entries of all other samples are NaN.
        `threshold_` is the conformal quantile of these scores.
    false_alarm_rate_ : float
        False-alarm rate that `threshold_` guarantees. This is `max_false_alarm_rate` if the number n of held-out normal
        images is large enough for that rate, and 1 / (n + 1) otherwise.
    pixel_threshold_ : float
        Threshold on the maps. If an image is called defective, :meth:`predict_mask` marks the pixels whose map value
        exceeds this threshold. The held-out normal images determine the threshold: it is the conformal quantile of the
        maxima of their maps. Only set if at least one detector has maps.
    score_centers_, score_scales_ : ndarray of shape (n_detectors,)
        Median and interquartile range of each detector's scores of the held-out images.
    map_centers_, map_scales_ : ndarray of shape (n_detectors,)
        Mean and standard deviation of each detector's map values in the held-out images. NaN for a detector without
        maps.
    kinds_ : ndarray of shape (n_kinds,), dtype str
        Kinds that the detectors can predict, sorted. Only set if at least one detector predicts kinds.
        :meth:`predict_kind` uses the weighted mean of the detectors' votes.
    n_features_in_ : int
        Number of features. Only set if X holds features.

    Notes
    -----
    The scores of training images are too low. The effect is stronger for a network than for a memory bank. If scores of
    training images were used for standardisation, the influence of a detector would depend on how well it memorises
    images. The price of holding out images is that fewer normal images are used for training. The alternative,
    cross-fitting, needs one more fit per fold. Its threshold would be computed from the scores of the networks of the
    folds, not from the scores of the network that makes the predictions.

    The scales and the threshold are computed from the same images. The scales of scores are interquartile ranges,
    because a single extreme image hardly changes an interquartile range. It would increase a standard deviation and
    thus lower its own standardised score.

    If an earlier Pipeline step made synthetic defects on a held-out image, these defects are not used for training
    either.

    If a detector has `partial_fit`, the combination stores the held-out images for later corrections. Files are stored
    as paths, and arrays as copies. A saved combination contains these copies.

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
            raise ValueError("detectors: expected at least one detector other than 'drop', got none.")
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
                "kinds: expected a detector whose fit accepts kinds, such as ExDDDetector, among "
                f"{[name for name, _ in members]}, got none. Add such a detector, or leave kinds out."
            )
        held_out = normal.take(np.flatnonzero(is_held_out))
        check_frozen(members, held_out)
        self.detectors_ = Parallel(n_jobs=self.n_jobs)(
            delayed(fitted)(name, detector, X, y, params) for name, detector in members
        )
        self._names = [name for name, _ in members]
        # Positions in the user's X or X_defect of the images that the detectors were fitted on.
        self._numbers = np.append(normal.indices[~is_held_out], [] if defect is None else defect.indices).astype(int)
        self._n_images = 1 + int(max(part.indices.max() for part in (normal, defect) if part is not None))
        if held_out.has_images:
            self.n_channels_ = normal.samples.n_channels
        has_any_map = held_out.has_images and any(map(has_maps, self.detectors_))
        kept = HeldOut.from_training_set(held_out, has_any_map)
        self._calibrate_on(kept, np.arange(len(held_out)), held_out.samples)

    def _calibrate_on(self, held_out, rows, samples):
        """Set the scales, the thresholds and the kinds. Store the held-out samples if a correction may need them.

        Parameters
        ----------
        held_out : HeldOut
            Held-out samples. The method sets the scores and maxima of all samples that no detector has seen.
        rows : ndarray of shape (n_samples,), dtype int
            Positions of the samples from which the scales are computed.
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
            seed = int(random_state.randint(2**31 - 1))  # drawn for dropped ones, too, to keep the other seeds
            if not is_dropped(detector):
                members.append((name, clone_with_seed(detector, seed)))
                kept.append(weight)
        return np.array(kept) / sum(kept), members

    def _scores_of_all(self, samples):
        samples = samples.raw() if isinstance(samples, Images) else samples
        return np.stack([detector.score_samples(samples) for detector in self.detectors_])

    def _score(self, samples):
        one = self._snapshot()  # keeps scores and scales consistent if another thread calls partial_fit
        return one._standardized(one._scores_of_all(samples))

    def _standardized(self, scores):
        """Sum the shares of the detectors in a fixed order, so that rounding does not depend on the other images."""
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
        """Return the weighted mean of the votes, the kind with most votes first. Skip detectors without votes."""
        asked = [(weight, own) for weight, own in zip(self._weights, votes) if own]
        shares = {}
        for weight, own in asked:
            for kind, share in own.items():
                shares[kind] = shares.get(kind, 0.0) + share * weight / sum(weight for weight, _ in asked)
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def _combined(self, maps, centers, scales):
        """Return the weighted mean of the standardised maps of an image. The map of a detector may be None."""
        weights = np.where(np.isnan(scales), 0, self._weights)
        factors, total = weights / weights.sum() / scales, np.float32(0)
        for pixel_map, center, factor in zip(maps, centers, factors):
            if pixel_map is not None:
                total = total + (factor * (pixel_map - center)).astype(np.float32)
        return total

    def _sk_visual_block_(self):
        """Show the detectors side by side in a notebook."""
        from sklearn.ensemble import VotingClassifier  # reused, because the module of the block class varies by version

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
