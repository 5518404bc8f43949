"""Detector whose maps come from the segmentation heads of learned feature extractors."""

from dataclasses import replace
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd import scoring
from sklearn_exdd._cache import MEMORY
from sklearn_exdd._composition import clone_with_seed
from sklearn_exdd._images import highest_inside
from sklearn_exdd._params import N_JOBS
from sklearn_exdd._torch import check_device
from sklearn_exdd._training_set import hold_out, in_one_form, joined
from sklearn_exdd.augment.synthetic import GivenDefects, check_one_augmenter, images_of
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.features import make_feature_extractor
from sklearn_exdd.features.learned import LearnedFeatureExtractor


class SegmentationDetector(BaseDefectDetector):
    """Detect and locate defects with small networks that segment images.

    Each network belongs to a :class:`LearnedFeatureExtractor`. `fit` trains the networks on crops of normal images with
    synthetic defects painted on. If there are real defects with masks, crops of real defects are also used for
    training. Nothing is downloaded.

    Parameters
    ----------
    feature_extractor : "learned" or LearnedFeatureExtractor, default="learned"
        Feature extractor to train. Its parameters set the architecture and the training of the networks.
    n_networks : int, default=2
        Number of networks to train. Each network has its own seed and its own synthetic defects. The map of an image is
        the mean of the logits of all networks [1]_. The AUROC of two networks that were trained on the same images may
        differ by several hundredths. The mean of several networks varies less.
    real_defects : {"half", "all"}, default="half"
        Networks that are trained on real defects, if there are any: every second network, starting with the first, or
        all networks. A network that is trained on a few real defects finds more defects of the same kinds and fewer
        defects of other kinds. The mean of networks with and without real defects finds more defects than either
        network alone. Choose "all" if you have many defects of all kinds.
    augmenter : object, default=None
        Augmenter that makes synthetic defects; see :class:`BaseDefectAugmenter`. If None, the detector uses the
        synthetic defects from an earlier Pipeline step. Without such a step, it uses the augmenter of the extractor.
    n_synthetic : int, default=300
        Number of synthetic defect images that the `augmenter` makes.
    top_share : float, default=0.003
        Fraction of the pixels to average, in (0, 1]. The image score is the mean of the logits of the pixels with the
        highest logits.
    image_weight : float, default=1.0
        If the score of an image is below the threshold, its map is lowered by `image_weight` times the difference. The
        pixels of an image that looks normal overall then stand out less. With 0, maps are not changed.
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
        Cache for trained weights and maps. If the `memory` of the `augmenter` is None, the augmenter uses the cache for
        its images and trained weights, too. An ExDDDetector with ``feature_extractor="learned"`` reuses the trained
        weights if it has the same memory and images.
    batch_size : int, default=16
        Number of images processed together.
    device : str, default=None
        Device that torch runs on, "cpu" or "cuda". None selects CUDA if it is available.
    n_jobs : int, default=None
        Number of threads that process batches in parallel.
    random_state : int, RandomState instance or None, default=None
        Seed for the choice of held-out images. It is also the seed for a `feature_extractor` whose own `random_state`
        is None.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    feature_extractors_ : list of LearnedFeatureExtractor
        Fitted extractors, one per network.
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
    ExDDDetector : Can use the inner maps of the same network as features for its memory banks.
    StudentTeacherDetector : Compares the features of two networks, a student and a teacher.

    Notes
    -----
    Logits that are high at the same position in every image, for instance at the border, are not evidence of a defect.
    Before the image score is computed, the mean logits of normal images at each position are therefore subtracted from
    the logits. These means are the `position_map_` of the extractors.

    A map contains the logits minus their mean over normal images. This mean is a single number. `image_weight` makes
    the maps of different images comparable.

    Real defects without a mask are not used for training.

    References
    ----------
    .. [1] B. Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles",
       NeurIPS 2017.

    Examples
    --------
    >>> from sklearn_exdd import LearnedFeatureExtractor, SegmentationDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(16, image_shape=(64, 64), random_state=0)
    >>> network = LearnedFeatureExtractor(max_steps=2, n_synthetic=4, crop_size=32)
    >>> detector = SegmentationDetector(network, random_state=0).fit(X, y, masks=masks)
    >>> detector.decision_function(X).shape
    (16,)
    >>> detector.predict_map(X).shape
    (16, 64, 64)
    """

    _parameter_constraints = {
        "feature_extractor": [StrOptions({"learned"}), LearnedFeatureExtractor],
        "n_networks": [Interval(Integral, 1, None, closed="left")],
        "real_defects": [StrOptions({"half", "all"})],
        "augmenter": [HasMethods(["fit", "sample"]), None],
        "n_synthetic": [Interval(Integral, 1, None, closed="left")],
        "top_share": [Interval(Real, 0, 1, closed="right")],
        "image_weight": [Interval(Real, 0, None, closed="left")],
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
        feature_extractor="learned",
        *,
        n_networks=2,
        real_defects="half",
        augmenter=None,
        n_synthetic=300,
        top_share=0.003,
        image_weight=1.0,
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
        self.n_networks = n_networks
        self.real_defects = real_defects
        self.augmenter = augmenter
        self.n_synthetic = n_synthetic
        self.top_share = top_share
        self.image_weight = image_weight
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
            raise ValueError("X: expected images to train a network on, got feature rows.")
        normal.check_masks_empty()
        random_state = check_random_state(self.random_state)
        is_held_out = np.zeros(len(normal), dtype=bool)
        if self.validation_fraction > 0:
            is_held_out = hold_out(normal.groups, self.validation_fraction, random_state)
        normal, defect = in_one_form(normal, defect)
        learning = normal.take(np.flatnonzero(~is_held_out))
        extractor = self._extractor(learning, int(random_state.randint(2**31 - 1)))
        seeds = check_random_state(extractor.random_state).randint(2**31 - 1, size=self.n_networks - 1)
        others = [clone(extractor).set_params(random_state=int(seed)) for seed in seeds]
        self.feature_extractors_ = [
            self._trained(one, learning, defect, number % 2 == 1 and self.real_defects == "half")
            for number, one in enumerate((extractor, *others))
        ]
        self.n_channels_ = extractor.n_channels_
        calibrating = normal.take(np.flatnonzero(is_held_out)) if is_held_out.any() else normal
        position_map = self._position_map()
        found = [
            (self._image_score(one, position_map, region), highest_inside(one, region))
            for one, region in self._logits(calibrating.samples)
        ]
        scores, highest = np.array(found).T
        self._set_threshold(scores, calibrating.indices)
        # Lowering a map by a constant lowers its maximum by the same constant.
        maxima = [peak + self._shift(score, position_map) for peak, score in zip(highest.astype(np.float32), scores)]
        self._set_threshold(scores, calibrating.indices, maxima)

    def _trained(self, extractor, normal, defect, without):
        X, labels, masks = joined(normal, None if without else defect)
        try:
            return extractor.fit(X, labels, masks=masks)
        except ValueError as error:
            if without and defect is not None:
                error.add_note("This network uses no real defects. Set real_defects='all' to train it with them.")
            raise

    def _extractor(self, learning, seed):
        """Return the extractor to train. It gets the synthetic defects or the augmenter that this detector received."""
        extractor = make_feature_extractor(
            self.feature_extractor,
            batch_size=self.batch_size,
            device=self.device,
            memory=self.memory,
            n_jobs=self.n_jobs,
            verbose=self.verbose,
        )
        check_one_augmenter(self.augmenter, learning.synthetic)
        augmenter, n_synthetic = self.augmenter, self.n_synthetic
        if learning.synthetic is not None:
            given = images_of(learning.synthetic, learning.samples).raw()
            augmenter, n_synthetic = GivenDefects(replace(learning.synthetic, images=given)), len(given)
        if augmenter is not None:
            extractor.set_params(augmenter=augmenter, n_synthetic=n_synthetic)
        return clone_with_seed(extractor, seed)

    def _score(self, samples):
        position_map = self._position_map()
        return np.array([self._image_score(logits, position_map, region) for logits, region in self._logits(samples)])

    def _maps(self, images):
        return [pixel_map for _, pixel_map, _ in self._inspected(images)]

    def _inspected(self, images):
        position_map = self._position_map()
        for logits, region in self._logits(images):
            score = self._image_score(logits, position_map, region)
            yield score, logits + self._shift(score, position_map), None

    def _image_score(self, logits, position_map, region):
        return scoring.top_share_mean(logits, self.top_share, position_map, region)

    def _shift(self, score, position_map):
        """Return the constant to add to the map of an image. A score below the threshold makes it smaller."""
        return np.float32(self.image_weight * min(score - self.threshold_, 0) - position_map.mean())

    def _logits(self, images):
        """Yield the mean logits and the region of interest of each image. The region may be None."""
        each = [extractor.iter_defect_logits(images) for extractor in self.feature_extractors_]
        for i, maps in enumerate(zip(*each)):
            yield np.mean(maps, axis=0), images.region(i)

    def _position_map(self):
        return np.mean([extractor.position_map_ for extractor in self.feature_extractors_], axis=0)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
