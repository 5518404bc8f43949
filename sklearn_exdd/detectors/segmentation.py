"""The segmentation head of a learned extractor, as a detector."""

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
    """Detect and locate defects by small networks that mark their pixels.

    A network is that of a :class:`LearnedFeatureExtractor`: fit trains it on crops of the normal images with
    synthetic defects painted on them and, where there are some, of real defects with masks. Nothing is downloaded.

    Parameters
    ----------
    feature_extractor : "learned" or LearnedFeatureExtractor, default="learned"
        What is trained, with all its parameters.
    n_networks : int, default=2
        Networks that are trained, from other seeds and on other synthetic defects; maps are means of their logits [1]_.
        Two networks of the same images may differ by several hundredths of AUROC; the mean of some scatters less.
    real_defects : {"half", "all"}, default="half"
        Which networks are shown the real defects, where there are some: every second one, from the first on, or all. A
        network that has seen a few real defects finds more of their kinds, and fewer of others; the mean of both sorts
        of networks finds more than either. "all" is for many defects, of all kinds.
    augmenter : object, default=None
        Makes the synthetic defects, see :class:`BaseDefectAugmenter`. None takes those that a Pipeline step has
        attached to the images, or else the extractor's own.
    n_synthetic : int, default=300
        Synthetic defect images that crops are cut from, where there is an `augmenter`.
    top_share : float, default=0.003
        In (0, 1]. The image score is the mean of so many of the highest logits, as a share of the pixels.
    image_weight : float, default=1.0
        By so much, times what the image's score lacks to the threshold, the map of an image is lowered: a pixel stands
        out less in an image that as a whole looks normal. 0 lowers none.
    validation_fraction : float, default=0.2
        Share of the normal images, by groups, that the network is not trained on; the threshold comes from them. 0
        trains on all and takes the threshold from the same images, which promises too much: for a member of a
        :class:`CombinedDefectDetector`, which finds a threshold of its own.
    max_false_alarm_rate : float, default=0.01
        Share of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. None takes a known name ("bad", "NG"), or else the greater one.
    image_channels : {"grey", "colour"}, default=None
        Colours of all images, in fit and afterwards: grey by the luma of ITU-R
        601, or three channels. None leaves them as they are: all grey or all in colour.
    memory : str, path-like or joblib.Memory, default=None
        Folder for trained weights, maps, and what an `augmenter` without a `memory` of its own paints and learns. An
        ExDDDetector on "learned" features with the same memory and the same images shares the training.
    batch_size : int, default=16
        Images predicted together.
    device : str, default=None
        "cpu", "cuda"; None takes CUDA where there is some.
    n_jobs : int, default=None
        Batches predicted at a time.
    random_state : int, RandomState instance or None, default=None
        Chooses the images that are held out, and seeds a `feature_extractor` whose own random_state is None.
    verbose : int, default=0
        Above 0 progress bars are shown.

    Attributes
    ----------
    feature_extractors_ : list of LearnedFeatureExtractor
        One a network.
    classes_ : ndarray of shape (2,)
        Labels, sorted.
    threshold_ : float
        Scores above it mean defect.
    calibration_scores_ : ndarray of shape (n_samples,)
        Scores of the normal samples of X that fit has not seen; NaN for all others.
        `threshold_` is their conformal quantile.
    false_alarm_rate_ : float
        The rate that `threshold_` promises: `max_false_alarm_rate`, or 1 / (n + 1) where n normal images are too few
        for that.
    pixel_threshold_ : float
        Pixels above it are marked in defective images, see :meth:`predict_mask`: the conformal quantile of the maxima
        of the maps of the same normal images.

    See Also
    --------
    ExDDDetector : Memory banks of the same network's inner maps.
    StudentTeacherDetector : Compares two networks.

    Notes
    -----
    For the image score the mean logits of the normal images at each place are subtracted (`position_map_` of each
    extractor): what every image has there, at its border for instance, is no evidence. Maps are logits less
    their mean over normal images, so that the threshold is on the same scale; `image_weight` puts all images on one.
    Real defects without a mask take no part in the training.

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
            raise ValueError("X: expected images, which a network is trained on, got feature rows.")
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
        # Lowering the map of an image lowers its highest pixel by as much.
        maxima = [peak + self._shift(score, position_map) for peak, score in zip(highest.astype(np.float32), scores)]
        self._set_threshold(scores, calibrating.indices, maxima)

    def _trained(self, extractor, normal, defect, without):
        X, labels, masks = joined(normal, None if without else defect)
        try:
            return extractor.fit(X, labels, masks=masks)
        except ValueError as error:
            if without and defect is not None:
                error.add_note("This is a network that is shown no real defects; real_defects='all' shows them to all.")
            raise

    def _extractor(self, learning, seed):
        """Return the extractor to train, with the augmenter or the synthetic defects of this detector."""
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
        """Return what is added to the map of an image with a score: less the farther it lies below the threshold."""
        return np.float32(self.image_weight * min(score - self.threshold_, 0) - position_map.mean())

    def _logits(self, images):
        """Yield the mean logits of each image, and its region of interest or None."""
        each = [extractor.iter_defect_logits(images) for extractor in self.feature_extractors_]
        for i, maps in enumerate(zip(*each)):
            yield np.mean(maps, axis=0), images.region(i)

    def _position_map(self):
        return np.mean([extractor.position_map_ for extractor in self.feature_extractors_], axis=0)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
