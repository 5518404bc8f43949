"""Linear probe: a linear classifier of images that uses the means and standard deviations of their features."""

from numbers import Integral, Real

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd._cache import MEMORY
from sklearn_exdd._params import N_JOBS
from sklearn_exdd._torch import check_device
from sklearn_exdd._training_set import hold_out, in_one_form
from sklearn_exdd.banks.pixel_maps import pixel_map
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.features.patch_grid import patches_of, rows_of


class LinearProbeDetector(BaseDefectDetector):
    r"""Detect defects by logistic regression on features pooled over each image.

    The detector describes an image by the means and standard deviations of its features over all patches. A linear
    classifier is trained on these values and on the labels of the images. Masks are not needed.

    Parameters
    ----------
    feature_extractor : str or object, default="auto"
        Feature extractor; see :class:`ExDDDetector`.
    C : float, default=0.01
        Inverse strength of the regularisation, > 0, as in scikit-learn's LogisticRegression.
    augmenter : object, default=None
        Augmenter that makes synthetic defects; see :class:`BaseDefectAugmenter`.
    n_synthetic : int, default=100
        Number of synthetic defect images that the `augmenter` makes.
    blur : float, default=4.0
        Standard deviation, in pixels, of the Gaussian that smooths the maps.
    validation_fraction : float, default=0.2
        Fraction of the normal images to hold out of training. The threshold is computed from the held-out images.
        Groups are not split. With 0, the threshold is computed from training images and is therefore too low. Use 0
        only for members of a :class:`CombinedDefectDetector`, which computes its own threshold.
    max_false_alarm_rate : float, default=0.01
        Fraction of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG" means
        defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    image_channels : {"grey", "colour"}, default=None
        Channels to which all images are converted, in `fit` and in predictions: one grey channel (ITU-R 601 luma) or
        three colour channels. If None, images are not converted and must be either all grey or all in colour.
    memory : str, path-like or joblib.Memory, default=None
        Cache for feature maps, with one entry per image. If the `memory` of the `augmenter` is None, the augmenter uses
        the cache for its images and trained weights, too.
    batch_size : int, default=16
        Number of images processed together.
    device : str, default=None
        Device that torch runs on, "cpu" or "cuda". None selects CUDA if it is available.
    n_jobs : int, default=None
        Number of threads that process batches in parallel.
    random_state : int, RandomState instance or None, default=None
        Seed for the choice of held-out images and for the augmenter.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    coef_ : ndarray of shape (2, n_features)
        Weights of the means (first row) and of the standard deviations (second row) of the features.
    intercept_ : float
        Constant term of the score.
    feature_extractor_ : BaseFeatureExtractor
        Feature extractor, fitted on the normal images.
    synthetic_ : object or None
        Synthetic defects used in `fit`.
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
        maxima of their maps.

    See Also
    --------
    ExDDDetector : Needs no defect images and also finds unknown kinds of defects.
    DefectClassifier : Trains the whole network and needs at least about a hundred defects.

    Notes
    -----
    The score is the log odds of a defect. Both classes have the same total weight in training. A variance is the mean
    of squared deviations. The score is therefore exactly the mean, over all patches, of

    .. math:: w_\mu \cdot f + w_\sigma \cdot (f - \mu)^2 / \sigma + b

    where :math:`\mu` and :math:`\sigma` are the mean and the standard deviation of the features :math:`f` over the
    image. The map shows this contribution of each patch, smoothed by `blur`.

    References
    ----------
    .. [1] G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017 workshop.

    Examples
    --------
    >>> from sklearn_exdd import LinearProbeDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, _ = make_surface_defects(30, image_shape=(64, 64), random_state=0)
    >>> detector = LinearProbeDetector(random_state=0).fit(X, y)
    >>> detector.decision_function(X).shape
    (30,)
    >>> detector.predict_map(X[:2]).shape
    (2, 64, 64)
    """

    _parameter_constraints = {
        "feature_extractor": [str, HasMethods("transform")],
        "C": [Interval(Real, 0, None, closed="neither")],
        "augmenter": [HasMethods(["fit", "sample"]), None],
        "n_synthetic": [Interval(Integral, 0, None, closed="left")],
        "blur": [Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "max_false_alarm_rate": [Interval(Real, 0, 1, closed="neither")],
        "pos_label": "no_validation",
        "image_channels": [StrOptions({"grey", "colour"}), None],
        "memory": MEMORY,
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, None],
        "n_jobs": N_JOBS,
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        feature_extractor="auto",
        *,
        C=0.01,
        augmenter=None,
        n_synthetic=100,
        blur=4.0,
        validation_fraction=0.2,
        max_false_alarm_rate=0.01,
        pos_label=None,
        image_channels=None,
        memory=None,
        batch_size=16,
        device=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.feature_extractor = feature_extractor
        self.C = C
        self.augmenter = augmenter
        self.n_synthetic = n_synthetic
        self.blur = blur
        self.validation_fraction = validation_fraction
        self.max_false_alarm_rate = max_false_alarm_rate
        self.pos_label = pos_label
        self.image_channels = image_channels
        self.memory = memory
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        super()._check_params()
        check_device(self.device)

    def _fit(self, normal, defect):
        if not normal.has_images:
            raise ValueError("X: expected images to pool features over, got feature rows. Use LogisticRegression.")
        normal.check_masks_empty()
        normal, defect = in_one_form(normal, defect)
        random_state = check_random_state(self.random_state)
        is_held_out = np.zeros(len(normal), dtype=bool)
        if self.validation_fraction > 0:
            is_held_out = hold_out(normal.groups, self.validation_fraction, random_state)
        learning = normal.take(np.flatnonzero(~is_held_out))
        self.synthetic_ = self._synthesize(learning, defect, int(random_state.randint(2**31 - 1)))
        if defect is None and self.synthetic_ is None:
            raise ValueError(
                "X: expected defects for the classifier to learn from, got normal images only. Pass defects, set "
                "augmenter=, or use ExDDDetector."
            )
        self._fit_extractor(learning, defect)
        defects = [] if defect is None else [defect.samples]
        if self.synthetic_ is not None:
            defects.append(self._synthetic_images(learning).with_channels(normal.samples.n_channels))
        pooled = [self._pooled(samples) for samples in (learning.samples, *defects)]
        y = np.repeat([0, 1], [len(learning), sum(map(len, pooled[1:]))])
        pooled = np.concatenate(pooled)
        scaler = StandardScaler().fit(pooled)
        regression = LogisticRegression(C=self.C, class_weight="balanced", max_iter=10_000)
        regression.fit(scaler.transform(pooled), y)
        coef = regression.coef_[0] / scaler.scale_
        self.coef_ = coef.reshape(2, -1)
        self.intercept_ = float(regression.intercept_[0] - coef @ scaler.mean_)
        self._calibrate(normal.take(np.flatnonzero(is_held_out)) if is_held_out.any() else normal)

    def _pooled(self, images):
        return np.array([np.concatenate(_moments(rows)) for rows in rows_of(self.feature_extractor_, images)])

    def _score(self, images):
        return np.array([self._decide(row) for row in self._pooled(images)])

    def _maps(self, images):
        return [pixels for _, pixels, _ in self._inspected(images)]

    def _inspected(self, images):
        for i, (patches, grid) in enumerate(patches_of(self.feature_extractor_, images)):
            mean, deviation = moments = _moments(patches)
            squares = (patches - mean) ** 2 / np.where(deviation > 0, deviation, 1)
            scores = (patches @ self.coef_[0] + squares @ self.coef_[1] + self.intercept_).astype(np.float32)
            pixels = pixel_map(scores, grid, images.shape(i), self.feature_extractor_, self.blur)
            yield self._decide(np.concatenate(moments)), pixels, None

    def _decide(self, pooled):
        return pooled @ self.coef_.ravel() + self.intercept_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


def _moments(patches):
    """Return the mean and the standard deviation of each feature over the patches of an image."""
    return patches.mean(axis=0, dtype=np.float64), patches.std(axis=0, dtype=np.float64)
