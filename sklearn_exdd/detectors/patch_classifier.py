"""Patch classifier: detector that uses a scikit-learn classifier instead of two memory banks."""

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

_MIN_PROBABILITY = 1e-6  # predicted probabilities are clipped to [_MIN_PROBABILITY, 1 - _MIN_PROBABILITY]


class PatchClassifierDetector(BaseDefectDetector):
    """Detect and locate defects with a classifier that is trained on normal patches and defect patches.

    Parameters
    ----------
    feature_extractor : str or object, default="auto"
        Feature extractor; see :class:`ExDDDetector`. Ignored if X holds features.
    classifier : object, default=None
        Classifier of patches that has the method ``predict_proba``. It is cloned before it is fitted. If None, a
        HistGradientBoostingClassifier is used.
    augmenter : object, default=None
        Augmenter that makes synthetic defects; see :class:`BaseDefectAugmenter`.
    n_synthetic : int, default=100
        Number of synthetic defect images that the `augmenter` makes.
    max_normal_patches, max_defect_patches : int or None, default=50 and 30
        Maximum number of training patches from each normal image and from each defect image. The patches are drawn at
        random, in defect images only from the patches that show the defect. If None, all patches are used.
    n_top_patches : int, default=10
        Number of patch scores to average. The image score is the mean of the `n_top_patches` highest patch scores.
    blur : float, default=4.0
        Standard deviation, in pixels, of the Gaussian that smooths the maps.
    validation_fraction : float, default=0.2
        Fraction of the normal images to hold out of training. The threshold is computed from the held-out images.
        Groups are not split.
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
        Seed for the choice of held-out images and of patches, for the augmenter, and for a classifier whose own
        `random_state` is None.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    classifier_ : object
        Fitted classifier of patches, with the labels 0 (normal) and 1 (defect).
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
    n_features_in_ : int
        Number of features. Only set if X holds features.

    See Also
    --------
    ExDDDetector : Uses memory banks, needs no defects, explains its scores and accepts corrections.

    Notes
    -----
    The score of a patch is the log odds that the patch shows a defect. Scores lie between -13.8 and 13.8, because
    probabilities are clipped to [1e-6, 1 - 1e-6].

    Real defect images should have masks. If an image has no mask, its patches that are unusually far from normal
    patches are assumed to show the defect. The limit is the distance that 99 % of the normal patches do not exceed.

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
        """Return a memory bank of patches of normal samples, with the groups of the samples."""
        if not normal.has_images:
            return MemoryBank(normal.samples, {"group": normal.groups})
        patches = rows_of(self.feature_extractor_, normal.samples)
        parts = [_some(rows, self.max_normal_patches, random_state) for rows in patches]
        return MemoryBank(np.concatenate(parts), {"group": np.repeat(normal.groups, [len(part) for part in parts])})

    def _defect_patches(self, defect, normals, random_state):
        """Return the features of the patches that show defects."""
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
    """Draw `n_rows` rows at random. Return all rows if there are fewer or if `n_rows` is None."""
    if n_rows is None or len(rows) <= n_rows:
        return rows
    return rows[np.sort(random_state.choice(len(rows), n_rows, replace=False))]
