"""Patch classifier: any scikit-learn classifier in place of two memory banks."""

from functools import cache
from numbers import Integral, Real

import numpy as np
from scipy.special import logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd import scoring
from sklearn_exdd._cache import MEMORY
from sklearn_exdd._composition import clone_with_seed
from sklearn_exdd._images import Images, Masks
from sklearn_exdd._params import N_JOBS
from sklearn_exdd._torch import check_device
from sklearn_exdd._training_set import TrainingSet, hold_out, in_one_form
from sklearn_exdd.banks.defect_patches import NORMAL_SHARE, defect_rows
from sklearn_exdd.banks.memory_bank import MemoryBank
from sklearn_exdd.banks.pixel_maps import pixel_map
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.features.patch_grid import patches_of, rows_of

_MIN_PROBABILITY = 1e-6


class PatchClassifierDetector(BaseDefectDetector):
    """Detect and locate defects with a classifier trained on normal and defect patches.

    Parameters
    ----------
    feature_extractor : str or object, default="auto"
        Feature extractor; see :class:`ExDDDetector`. Ignored if X holds features.
    classifier : object, default=None
        Classifier with ``predict_proba``, which is cloned. None uses a HistGradientBoostingClassifier.
    augmenter : object, default=None
        Augmenter that makes synthetic defects; see :class:`BaseDefectAugmenter`.
    n_synthetic : int, default=100
        Number of synthetic defect images to make, if there is an `augmenter`.
    max_normal_patches, max_defect_patches : int or None, default=50 and 30
        Number of patches, drawn at random, to train on from each normal image and each defect image. In defect images,
        only patches that show the defect are used. None sets no limit.
    n_top_patches : int, default=10
        Number of patch scores to average: the image score is the mean of the highest ones.
    blur : float, default=4.0
        Standard deviation, in pixels, of the Gaussian that smooths the maps.
    validation_fraction : float, default=0.2
        Share of the normal images, in whole groups, that is held out of training to set the threshold.
    max_false_alarm_rate : float, default=0.01
        Share of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. None selects a known name, such as "bad" or "NG", or otherwise the label that sorts
        last.
    image_channels : {"grey", "colour"}, default=None
        Channels that all images are converted to, in `fit` and in predictions: one grey channel (ITU-R 601 luma) or
        three colour channels. None leaves the images as they are; they must then be all grey or all in colour.
    memory : str, path-like or joblib.Memory, default=None
        Cache for feature maps, one entry per image, and for the images and the training of an `augmenter` without a
        `memory` of its own.
    batch_size : int, default=16
        Number of images processed together.
    device : str, default=None
        Device that torch runs on, "cpu" or "cuda". None selects CUDA if it is available.
    n_jobs : int, default=None
        Number of batches processed in parallel, by threads.
    random_state : int, RandomState instance or None, default=None
        Seed for the choice of held-out images and of patches, for the augmenter, and for a classifier whose own
        `random_state` is None.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    classifier_ : object
        Classifier, fitted on patches with the labels 0 (normal) and 1 (defect).
    feature_extractor_ : BaseFeatureExtractor
        Feature extractor, fitted on the normal images.
    synthetic_ : object or None
        Synthetic defects used in `fit`.
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
        :meth:`predict_mask`. It is the conformal quantile of the maxima of the maps of the held-out normal images.
    n_features_in_ : int
        Number of features, if X holds features.

    See Also
    --------
    ExDDDetector : Uses memory banks, explains its scores, accepts corrections and needs no defects.

    Notes
    -----
    The score of a patch is the log odds that it shows a defect, between -13.8 and 13.8 (probabilities are clipped to
    [1e-6, 1 - 1e-6]). Real defect images should have masks. Without a mask, patches that lie farther from the normal
    patches than 99 % of normal patches do are assumed to show the defect.

    Examples
    --------
    >>> from sklearn_exdd import PatchClassifierDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(30, image_shape=(64, 64), random_state=0)
    >>> detector = PatchClassifierDetector(random_state=0).fit(X, y, masks=masks)
    >>> detector.decision_function(X).shape
    (30,)
    >>> detector.predict_map(X[:2]).shape
    (2, 64, 64)
    """

    _parameter_constraints = {
        "feature_extractor": [str, HasMethods("transform")],
        "classifier": [HasMethods(["fit", "predict_proba"]), None],
        "augmenter": [HasMethods(["fit", "sample"]), None],
        "n_synthetic": [Interval(Integral, 0, None, closed="left")],
        "max_normal_patches": [Interval(Integral, 1, None, closed="left"), None],
        "max_defect_patches": [Interval(Integral, 1, None, closed="left"), None],
        "n_top_patches": [Interval(Integral, 1, None, closed="left")],
        "blur": [Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
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
        classifier=None,
        augmenter=None,
        n_synthetic=100,
        max_normal_patches=50,
        max_defect_patches=30,
        n_top_patches=10,
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
        self.classifier = classifier
        self.augmenter = augmenter
        self.n_synthetic = n_synthetic
        self.max_normal_patches = max_normal_patches
        self.max_defect_patches = max_defect_patches
        self.n_top_patches = n_top_patches
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
        normal.check_masks_empty()
        normal, defect = in_one_form(normal, defect)
        random_state = check_random_state(self.random_state)
        is_held_out = hold_out(normal.groups, self.validation_fraction, random_state)
        seeds = [int(seed) for seed in random_state.randint(2**31 - 1, size=2)]
        held_out, learning = normal.take(np.flatnonzero(is_held_out)), normal.take(np.flatnonzero(~is_held_out))
        if normal.has_images:
            self._fit_extractor(learning, defect)
        self.synthetic_ = self._synthesize(learning, defect, seeds[0])
        if defect is None and self.synthetic_ is None:
            raise ValueError(
                "X: expected defects for the classifier to learn from, got normal samples only. Pass defects, set "
                "augmenter=, or use ExDDDetector."
            )
        normals = self._normal_patches(learning, random_state)
        parts = [] if defect is None else [self._defect_patches(defect, normals, random_state)]
        if self.synthetic_ is not None:
            parts.append(self._defect_patches(self._synthetic_set(learning), normals, random_state))
        normals, defects = normals.features, np.concatenate(parts)
        classifier = HistGradientBoostingClassifier() if self.classifier is None else self.classifier
        classifier = clone_with_seed(classifier, seeds[1], keep_pos_label=True)
        y = np.repeat([0, 1], [len(normals), len(defects)])
        self.classifier_ = classifier.fit(np.concatenate([normals, defects]), y)
        self._calibrate(held_out)

    def _normal_patches(self, normal, random_state):
        """Return a bank of the patches of normal samples, with their groups."""
        if not normal.has_images:
            return MemoryBank(normal.samples, {"group": normal.groups})
        patches = rows_of(self.feature_extractor_, normal.samples)
        parts = [_some(rows, self.max_normal_patches, random_state) for rows in patches]
        return MemoryBank(np.concatenate(parts), {"group": np.repeat(normal.groups, [len(part) for part in parts])})

    def _defect_patches(self, defect, normals, random_state):
        """Return the patches that show defects."""
        if not defect.has_images:
            return defect.samples

        @cache
        def cutoff():
            distances, _ = normals.kneighbors(normals.features, 1, exclude=normals.provenance["group"])
            return np.quantile(distances, NORMAL_SHARE)

        defect = defect.with_channels(self.n_channels_)
        chosen = []
        for i, (patches, grid) in enumerate(patches_of(self.feature_extractor_, defect.samples)):
            rows = defect_rows(
                defect,
                i,
                grid,
                self.feature_extractor_,
                lambda patches=patches: normals.kneighbors(patches, 1)[0][:, 0],
                cutoff,
                max_patches=self.max_defect_patches,
                random_state=random_state,
            )
            chosen.append(patches[rows])
        return np.concatenate(chosen)

    def _synthetic_set(self, normal):
        images, (_, masks) = self._synthetic_images(normal), self.synthetic_
        numbers = np.arange(len(images))
        return TrainingSet(images, numbers, numbers, Masks(masks, len(images)))

    def _patch_scores(self, features):
        probabilities = self.classifier_.predict_proba(features)[:, 1]
        return logit(np.clip(probabilities, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY))

    def _score(self, samples):
        if not isinstance(samples, Images):
            return self._patch_scores(samples)
        patches = rows_of(self.feature_extractor_, samples)
        return np.array([scoring.top_mean(self._patch_scores(rows), self.n_top_patches) for rows in patches])

    def _maps(self, images):
        return [pixels for _, pixels, _ in self._inspected(images)]

    def _inspected(self, images):
        for i, (rows, grid) in enumerate(patches_of(self.feature_extractor_, images)):
            scores = self._patch_scores(rows)
            pixels = pixel_map(scores.astype(np.float32), grid, images.shape(i), self.feature_extractor_, self.blur)
            yield scoring.top_mean(scores, self.n_top_patches), pixels, None


def _some(rows, n_rows, random_state):
    """Draw `n_rows` rows at random, or return all if there are fewer."""
    if n_rows is None or len(rows) <= n_rows:
        return rows
    return rows[np.sort(random_state.choice(len(rows), n_rows, replace=False))]
