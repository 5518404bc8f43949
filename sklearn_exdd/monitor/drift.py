"""Drift monitor. It compares scores and simple statistics of a stream of images with the values of normal images."""

from numbers import Real
from warnings import warn

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import Bunch, _safe_indexing, check_random_state, column_or_1d
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._composition import follow_to_detector
from sklearn_exdd._images import Images, holds_images
from sklearn_exdd._params import CheckedParams
from sklearn_exdd.monitor.image_statistics import PIXEL_STATISTICS, image_statistics
from sklearn_exdd.monitor.martingales import bet, no_bets, paying_change, smoothed_p_value

_STATISTICS = ("score", *PIXEL_STATISTICS)
_FEW = 20  # minimum number of reference values; with fewer values, drift is detected late or never
_MAX_POOL = 2**17  # maximum number of stored values per statistic, with which new values are compared
_MAX_HISTORY = 2**12  # maximum number of points per curve in a DriftDisplay


class DriftMonitor(CheckedParams, BaseEstimator):
    """Monitor that watches a stream of images for drift. The probability of a false alarm is bounded.

    The false alarm rate that a detector promises holds only for images that resemble the images passed to its `fit`.
    The monitor raises an alarm if a stream of images loses this resemblance. It compares the score, brightness,
    contrast, sharpness and size of each new image with the values of normal images and of all earlier images of the
    stream. If the stream is exchangeable with the normal images, the probability that it ever raises an alarm is at
    most `alpha`.

    Parameters
    ----------
    detector : object
        Fitted detector, or a fitted Pipeline or search that contains a detector. The detector is not cloned.
    alpha : float, default=0.01
        Upper bound on the probability that a stream without drift ever raises an alarm, in (0, 1). The bound is split
        evenly among the statistics.
    statistics : "all" or list of str, default="all"
        Statistics to watch. "score" is the score of the detector. "brightness", "contrast", "sharpness", "height" and
        "width" describe the raw images, before any step of a Pipeline.
    reference_scores : {"calibration", "unseen"}, default="calibration"
        Reference with which the scores of the stream are compared:

        * "calibration": the attribute `calibration_scores_` of the detector. It holds scores of normal training images,
          computed as if the detector had not seen these images.
        * "unseen": scores of the images passed to the `fit` of the monitor. The detector must not have seen these
          images. Take them from the production line. If defects are not rare there, include the same fraction of
          defects.
    random_state : int, RandomState instance or None, default=None
        Seed of the random numbers that break ties between equal values. Pass an int to get the same alarms in a
        repeated run.

    Attributes
    ----------
    statistics_ : list of str
        Names of the watched statistics.
    reference_ : dict of str to ndarray of shape (n_reference,)
        Sorted reference values of each statistic.
    log10_threshold_ : float
        Alarm threshold of each martingale, ``log10(n_statistics / alpha)``.
    log10_martingales_ : dict of str to float
        Decimal logarithm of the martingale of each statistic after the latest image. At the start, all are 0.
    n_seen_ : int
        Number of images in the stream so far.
    alarms_ : dict of str to int
        Number of images after which a statistic first raised an alarm, for each statistic that raised an alarm.
    changes_ : dict of str to {"higher", "lower", "more spread", "less spread"}
        Direction of change of each statistic that raised an alarm.
    history_ : ndarray of shape (n_points, 1 + n_statistics)
        Course of the martingales. A row holds the number of images so far, followed by the values of
        `log10_martingales_` at that point. For a long stream, only every second, fourth, ... image has a row.

    See Also
    --------
    DriftDisplay : Draws the martingales.

    Notes
    -----
    Every statistic has its own conformal test martingale (see [1]_ and [2]_). The p-value of an image is the
    randomised rank of its value among the reference values *and* all earlier values of the stream. The p-values of an
    exchangeable stream are therefore independent and uniform, even if there are few reference values.

    A martingale bets that the p-values have one of several beta densities. These densities are high at one end, at both
    ends, or in the middle. The martingale also bets on the time of the change. By Ville's inequality, the probability
    that a martingale ever reaches ``n_statistics / alpha`` is at most ``alpha / n_statistics``. The sum of these
    probabilities over all statistics is at most `alpha`, even if the statistics depend on each other. The average of
    the martingales would not have this property. Each one is a martingale only with respect to its own past, and not
    with respect to the past of the others.

    An alarm does not clear itself. Repair the cause and call :meth:`reset`, or refit the detector and the monitor.
    After each reset, the bound `alpha` applies anew.

    The bound holds exactly for pixel statistics, and for scores with the reference "unseen". For scores with the
    reference "calibration", it holds approximately. The memory bank leaves out an image to compute its calibration
    score, so calibration scores have nearly, but not exactly, the distribution of new scores.

    The bound does not hold for images that are not exchangeable even without drift, such as several images of each part
    in turn. In this case, pass only one image per part.

    Memory use is bounded. When more than 2^17 values of a statistic are stored, a random half of them is
    dropped. The p-values stay independent and uniform.

    References
    ----------
    .. [1] V. Vovk, I. Nouretdinov and A. Gammerman, "Testing exchangeability on-line", ICML 2003.
    .. [2] D. Volkhonskiy, E. Burnaev, I. Nouretdinov, A. Gammerman and V. Vovk, "Inductive conformal martingales for
       change-point detection", COPA 2017.

    Examples
    --------
    >>> from sklearn_exdd import DriftMonitor, ExDDDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, _, _ = make_surface_defects(110, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> detector = ExDDDetector("gabor", random_state=0).fit(X[:60])
    >>> monitor = DriftMonitor(detector, random_state=0).fit(X[:60])
    >>> monitor.update(X[60:90]).alarm
    False
    >>> dimmed = (0.4 * X[90:]).astype("uint8")
    >>> result = monitor.update(dimmed)
    >>> result.alarm, result.which, result.changes
    (True, ['brightness'], {'brightness': 'lower'})
    """

    _parameter_constraints = {
        "detector": [HasMethods("fit")],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "statistics": [StrOptions({"all"}), list, tuple],
        "reference_scores": [StrOptions({"calibration", "unseen"})],
        "random_state": ["random_state"],
    }

    def __init__(self, detector, *, alpha=0.01, statistics="all", reference_scores="calibration", random_state=None):
        self.detector = detector
        self.alpha = alpha
        self.statistics = statistics
        self.reference_scores = reference_scores
        self.random_state = random_state

    def _check_params(self):
        if self.statistics == "all":
            return
        unknown = [name for name in self.statistics if name not in list(_STATISTICS)]
        if unknown or not self.statistics or len(set(self.statistics)) < len(self.statistics):
            raise ValueError(
                f"statistics: expected 'all' or some of {list(_STATISTICS)}, each once, got {self.statistics!r}."
            )

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Learn the reference values and begin a new stream.

        Parameters
        ----------
        X : images
            Normal images, from which the reference of the pixel statistics is computed. These images may be the
            training images of the detector, because pixels do not depend on training. If `reference_scores` is
            "unseen", the detector must not have seen them.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Raises
        ------
        NotFittedError
            If the detector is not fitted.
        ValueError
            If the detector has no calibration scores, if an image is not valid, or if `reference_scores` is "unseen"
            and an image is a training image.

        Warns
        -----
        UserWarning
            If there are fewer than 20 reference values. The bound `alpha` still holds, but drift is detected late or
            never.
        """
        names = list(_STATISTICS) if self.statistics == "all" else list(self.statistics)
        detector = self._fitted_detector()
        reference = _statistics_of(X, detector, names)
        if "score" in names:
            reference["score"] = self._reference_scores(X, detector)
        few = [f"{name} ({len(reference[name])})" for name in names if len(reference[name]) < _FEW]
        if few:
            warn(
                f"DriftMonitor: expected at least {_FEW} reference values, got fewer for {', '.join(few)}. The bound "
                "on false alarms holds, but drift will be detected late or never. Fit on more normal images.",
                UserWarning,
                stacklevel=3,
            )
        self.statistics_ = names
        self.reference_ = {name: np.sort(reference[name]).astype(np.float64) for name in names}
        self.log10_threshold_ = float(np.log10(len(names) / self.alpha))
        self._detector_state = _state_of(detector)
        self._seed, self._n_streams = int(check_random_state(self.random_state).randint(2**31 - 1)), 0
        return self.reset()

    def reset(self):
        """Forget the stream and its alarms, and begin a new stream with the same reference values.

        Returns
        -------
        self : object

        Notes
        -----
        The bound `alpha` holds for each stream. The probability that at least one of two streams raises a false alarm
        is at most twice `alpha`.
        """
        check_is_fitted(self, "reference_")
        self.n_seen_, self._n_streams = 0, self._n_streams + 1
        self._pools = [self.reference_[name] for name in self.statistics_]
        self._log_capitals = no_bets(len(self.statistics_))
        self.log10_martingales_ = dict.fromkeys(self.statistics_, 0.0)
        self.alarms_, self.changes_ = {}, {}
        self.history_ = np.zeros((1, 1 + len(self.statistics_)))
        return self

    def update(self, X, *, scores=None):
        """Add images to the stream and report whether the stream has drifted.

        The result is the same whether images are added one at a time or all at once.

        Parameters
        ----------
        X : images
            New images, in the order in which they were taken. Their sizes may differ from the sizes in `fit`. Height
            and width are watched like the other statistics.
        scores : array-like of shape (n_images,), default=None
            Result of the detector's `score_samples` for X, if it has already been computed. If None, it is computed
            here. In the first update of a stream, the score of the first image is computed in any case and compared.

        Returns
        -------
        result : Bunch
            Result with these attributes:

            * ``alarm``: whether the stream has raised an alarm, now or earlier.
            * ``which``: list of the statistics that raised an alarm, the earliest first.
            * ``changes``: dict of the change of each statistic in ``which``. A change is "higher", "lower", "more
              spread" or "less spread".
            * ``log10_martingales``: dict of the current value of `log10_martingales_`.
            * ``n_seen``: number of images in the stream.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ValueError
            If X is empty, if an image is not valid (the message names the image), if `scores` are not the result of
            `score_samples`, or if the detector has been fitted or corrected since the monitor was fitted. An error
            leaves the monitor unchanged.
        """
        check_is_fitted(self, "reference_")
        detector = self._fitted_detector()
        if not all(map(_is_equal, _state_of(detector), self._detector_state)):
            raise ValueError(
                "detector: expected the detector as it was when the monitor was fitted. Since then, the detector has "
                "been fitted or corrected, so its scores have changed. Fit the monitor again."
            )
        columns = _statistics_of(X, detector, self.statistics_)
        if "score" in self.statistics_:
            columns["score"] = self._score(X) if scores is None else self._known_scores(X, scores)
        self._advance(np.stack([columns[name] for name in self.statistics_], axis=1))
        return Bunch(
            alarm=bool(self.alarms_),
            which=list(self.alarms_),
            changes=dict(self.changes_),
            log10_martingales=dict(self.log10_martingales_),
            n_seen=self.n_seen_,
        )

    def _advance(self, values):
        """Add values to the stream, with one row per image."""
        pools, log_capitals, n_seen = list(self._pools), self._log_capitals, self.n_seen_
        alarms, changes, points = dict(self.alarms_), dict(self.changes_), []
        for row in values:
            # The number of images seeds the random numbers, so they depend neither on the batch size nor on a restart.
            random = np.random.Generator(np.random.Philox(counter=[0, n_seen, 0, 0], key=[self._seed, self._n_streams]))
            p_values = np.array([smoothed_p_value(*one) for one in zip(pools, row, random.random(len(row)))])
            pools = [_joined(pool, value, random) for pool, value in zip(pools, row)]
            log_capitals, log10_martingales = bet(log_capitals, p_values, n_seen)
            n_seen += 1
            points.append([n_seen, *log10_martingales])
            for name, reached, capitals in zip(self.statistics_, log10_martingales, log_capitals):
                if reached >= self.log10_threshold_ and name not in alarms:
                    alarms[name], changes[name] = n_seen, paying_change(capitals)
        step = 2 ** max(0, int(np.ceil(np.log2(n_seen / _MAX_HISTORY))))
        history = np.concatenate([self.history_, points])
        self.history_ = history[history[:, 0] % step == 0]
        self._pools, self._log_capitals, self.n_seen_ = pools, log_capitals, n_seen
        self.alarms_, self.changes_ = alarms, changes
        self.log10_martingales_ = dict(zip(self.statistics_, log10_martingales.tolist()))

    def _fitted_detector(self):
        detector, _ = follow_to_detector(self.detector, method="score_samples")
        check_is_fitted(detector)
        return detector

    def _reference_scores(self, X, detector):
        if self.reference_scores == "calibration":
            calibration = getattr(detector, "calibration_scores_", None)
            if calibration is None or not np.isfinite(calibration).any():
                raise ValueError(
                    f"detector: expected finite calibration_scores_, got none from {type(detector).__name__}. Set "
                    "reference_scores='unseen' and fit the monitor on normal images that the detector has not seen."
                )
            return calibration[np.isfinite(calibration)]
        if hasattr(detector, "training_digests_") and holds_images(X):
            is_known = detector.is_training_image(follow_to_detector(self.detector, X)[1])
            if is_known.any():
                raise ValueError(
                    f"X: expected images that the detector has not seen, got {is_known.sum()} of its training images, "
                    f"including X[{int(np.argmax(is_known))}]. The scores of training images are too low. Leave them "
                    "out, or set reference_scores='calibration'."
                )
        return self._score(X)

    def _score(self, X):
        detector, X = follow_to_detector(self.detector, X, method="score_samples")
        return _checked_scores(detector.score_samples(X), len(X))

    def _known_scores(self, X, scores):
        scores = _checked_scores(scores, len(X))
        if self.n_seen_ == 0:
            own = self._score(_safe_indexing(X, [0]))[0]
            if not np.isclose(scores[0], own, rtol=0.02, atol=1e-5):  # batches in bfloat16 differ by about .1 %
                raise ValueError(
                    f"scores[0]: expected the result of score_samples for X[0], {own:.6g}, got {scores[0]:.6g}. Do not "
                    "pass results of decision_function, p_values or another detector."
                )
        return scores


def _statistics_of(X, detector, names):
    """Return a dict with an array of shape (n_images,) for each name in `names` that is a pixel statistic."""
    wanted = [name for name in names if name in PIXEL_STATISTICS]
    if not wanted:
        return {}
    if hasattr(detector, "n_features_in_") and not holds_images(X):
        raise ValueError(
            f"statistics: expected ['score'] for feature rows, which have no pixels, got {names!r}. Set "
            "statistics=['score']."
        )
    channels, bits = getattr(detector, "image_channels", None), getattr(detector, "bits_", None)
    images = Images(X, "X", channels=channels, bits=bits)
    if hasattr(detector, "roi_"):
        images = detector._in_region(images)
    rows = [image_statistics(images[i]) for i in range(len(images))]
    return {name: np.array([row[name] for row in rows]) for name in wanted}


def _checked_scores(scores, n_images):
    scores = column_or_1d(scores, dtype=np.float64)
    if len(scores) != n_images:
        raise ValueError(f"scores: expected {n_images} scores, one for each image of X, got {len(scores)}.")
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"scores[{index}]: expected a finite number, got {scores[index]}.")
    return scores


def _joined(pool, value, random):
    """Return a sorted pool with one more value. If the pool becomes too large, return a random half of it.

    The choice of the half is independent of all p-values so far, and no bet depends on it. The remaining values are
    therefore exchangeable with future values, and future p-values stay independent and uniform.
    """
    pool = np.insert(pool, np.searchsorted(pool, value), value)
    return np.sort(random.choice(pool, len(pool) // 2, replace=False)) if len(pool) > _MAX_POOL else pool


def _is_equal(one, other):
    return np.array_equal(one, other, equal_nan=True)


def _state_of(detector):
    """Return the attributes that change when a detector is fitted or corrected."""
    return [np.array(getattr(detector, name, np.nan)) for name in ("calibration_scores_", "training_digests_")]
