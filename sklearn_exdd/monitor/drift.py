"""Drift monitor: compares scores and simple statistics of a stream of images with those of normal images."""

from numbers import Real
from warnings import warn

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import Bunch, check_random_state, column_or_1d
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._composition import follow_to_detector
from sklearn_exdd._images import Images, holds_images
from sklearn_exdd._params import CheckedParams
from sklearn_exdd.monitor.image_statistics import PIXEL_STATISTICS, image_statistics
from sklearn_exdd.monitor.martingales import bet, no_bets, paying_change, smoothed_p_value

_STATISTICS = ("score", *PIXEL_STATISTICS)
_FEW = 20  # smallest number of reference values; with fewer, drift is detected late or never
_MAX_POOL = 2**17  # values of each statistic kept for comparison with new ones
_MAX_HISTORY = 2**12  # points of the curves in a DriftDisplay


class DriftMonitor(CheckedParams, BaseEstimator):
    """Watch a stream of images for drift, with a bound on the probability of ever raising a false alarm.

    The promise of a detector's threshold holds only for images like those in `fit`. The monitor compares the score,
    brightness, contrast, sharpness and size of each new image with those of normal images and of all earlier images of
    the stream. If the stream is exchangeable with the normal images, the probability of an alarm, now or at any later
    time, is at most `alpha`.

    Parameters
    ----------
    detector : object
        Fitted detector, or a fitted Pipeline or search around one. It is not cloned.
    alpha : float, default=0.01
        Upper bound on the probability that a stream without drift ever raises an alarm, in (0, 1). It is split evenly
        among the statistics.
    statistics : "all" or list of str, default="all"
        Statistics to watch: "score" (of the detector), "brightness", "contrast", "sharpness", "height" and "width" of
        the raw images, before any step of a Pipeline.
    reference_scores : {"calibration", "unseen"}, default="calibration"
        Reference for the scores of the stream. "calibration" uses the `calibration_scores_` of the detector: scores of
        normal training images as if it had not seen them. "unseen" scores the images passed to the monitor's `fit`,
        which the detector must not have seen. Take these images from the line; if its share of defects is not
        negligible, include defects in the usual proportion.
    random_state : int, RandomState instance or None, default=None
        Random numbers that break ties among equal values. Pass an int to get the same alarms in a repeated run.

    Attributes
    ----------
    statistics_ : list of str
        Names of the watched statistics.
    reference_ : dict of str to ndarray of shape (n_reference,)
        Sorted reference values of each statistic.
    log10_threshold_ : float
        Alarm threshold of each martingale, ``log10(n_statistics / alpha)``.
    log10_martingales_ : dict of str to float
        Decimal logarithm of the martingale of each statistic after the latest image; 0 at the start.
    n_seen_ : int
        Number of images in the stream so far.
    alarms_ : dict of str to int
        Number of images after which each statistic first raised an alarm, if it did.
    changes_ : dict of str to {"higher", "lower", "more spread", "less spread"}
        Direction of change of each statistic that raised an alarm.
    history_ : ndarray of shape (n_points, 1 + n_statistics)
        Number of images so far, and `log10_martingales_` at that point. Long streams are thinned to every second,
        fourth, ... image.

    See Also
    --------
    DriftDisplay : Draws the martingales.

    Notes
    -----
    Every statistic has its own conformal test martingale (see [1]_ and [2]_). The p-value of an image is the
    randomised rank of its value among the reference values *and* all earlier values of the stream. The p-values of an
    exchangeable stream are therefore independent and uniform, however few reference values there are. The martingale
    bets on beta densities of the p-values (towards either end, towards both, and towards the middle) and on the time
    of the change. By Ville's inequality, the probability that a martingale ever reaches ``n_statistics / alpha`` is at
    most ``alpha / n_statistics``. Summed over the statistics, this is at most `alpha`, however they depend on each
    other. The average of the martingales would not have this property: each is a martingale given its own past, but not
    given the past of the others.

    An alarm does not clear itself. Repair the cause and call :meth:`reset`, or refit the detector and the monitor.
    After each reset, the bound `alpha` applies anew.

    Calibration scores, for which a memory bank leaves out the image, have approximately but not exactly the
    distribution of new scores. All other reference values, and the scores with "unseen", have it exactly. The promise
    does not hold for images that are not exchangeable even without drift, such as several images of each part in turn:
    pass one image per part.

    Memory does not grow with the stream: above 2^17 values, a random half of the stored values is dropped from time
    to time. This leaves the p-values independent and uniform.

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
            Normal images, for the pixel statistics. These can be the training images of the detector, as pixels do not
            depend on training. For ``reference_scores="unseen"``, they must be images that the detector has not seen.
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
            If the detector has no calibration scores, if an image is a training image although
            ``reference_scores="unseen"``, or if an image is not valid.

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
        """Forget the stream and its alarms, and begin a new stream with the same reference.

        Returns
        -------
        self : object

        Notes
        -----
        The bound `alpha` holds for each stream. For two streams, the probability of a false alarm is at most twice as
        high.
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
        """Add images to the stream and report whether it has drifted.

        The result is the same whether images are added one at a time or all at once.

        Parameters
        ----------
        X : images
            New images, in the order in which they were taken. Sizes may differ from those in `fit`: height and width
            are watched like the other statistics.
        scores : array-like of shape (n_images,), default=None
            Result of the detector's `score_samples` for X, if already known. By default, X is scored here.

        Returns
        -------
        result : Bunch
            ``alarm``: whether the stream has raised an alarm, now or earlier; ``which``: list of the statistics that
            did, in order of time; ``changes``: dict of how each of them had changed ("higher", "lower", "more spread"
            or "less spread"); ``log10_martingales``: dict of the current values; ``n_seen``: number of images in the
            stream.

        Raises
        ------
        NotFittedError
            If `fit` was not called.
        ValueError
            If X is empty, an image is not valid (the message names it), or the detector has been fitted or corrected
            since the monitor was fitted. The monitor is then left unchanged.
        """
        check_is_fitted(self, "reference_")
        detector = self._fitted_detector()
        if not all(map(_is_equal, _state_of(detector), self._detector_state)):
            raise ValueError(
                "detector: expected the detector as it was when the monitor was fitted, got one that was fitted or "
                "corrected since then, so its scores have changed. Fit the monitor again."
            )
        columns = _statistics_of(X, detector, self.statistics_)
        if "score" in self.statistics_:
            columns["score"] = self._score(X) if scores is None else _checked_scores(scores, len(X))
        self._advance(np.stack([columns[name] for name in self.statistics_], axis=1))
        return Bunch(
            alarm=bool(self.alarms_),
            which=list(self.alarms_),
            changes=dict(self.changes_),
            log10_martingales=dict(self.log10_martingales_),
            n_seen=self.n_seen_,
        )

    def _advance(self, values):
        """Add rows of values, one per image, to the stream."""
        pools, log_capitals, n_seen = list(self._pools), self._log_capitals, self.n_seen_
        alarms, changes, points = dict(self.alarms_), dict(self.changes_), []
        for row in values:
            # Seeded by the image count, so neither batch size nor a restart changes the random numbers.
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
                    f"including X[{int(np.argmax(is_known))}], whose scores are too low. Leave them out, or set "
                    "reference_scores='calibration'."
                )
        return self._score(X)

    def _score(self, X):
        detector, X = follow_to_detector(self.detector, X, method="score_samples")
        return _checked_scores(detector.score_samples(X), len(X))


def _statistics_of(X, detector, names):
    """Return an array of shape (n_images,) for each pixel statistic among some names."""
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
    """Return a sorted pool with one more value, or a random half of it if the pool has become too large.

    The choice of the half is independent of all p-values so far, and no bet depends on it. The values kept are
    therefore exchangeable with future ones, and future p-values remain independent and uniform.
    """
    pool = np.insert(pool, np.searchsorted(pool, value), value)
    return np.sort(random.choice(pool, len(pool) // 2, replace=False)) if len(pool) > _MAX_POOL else pool


def _is_equal(one, other):
    return np.array_equal(one, other, equal_nan=True)


def _state_of(detector):
    """Return the attributes that change when a detector is fitted or corrected."""
    return [np.array(getattr(detector, name, np.nan)) for name in ("calibration_scores_", "training_digests_")]
