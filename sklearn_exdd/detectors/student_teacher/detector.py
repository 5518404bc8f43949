"""Student-teacher: a student predicts normal features, and a head compares them with the teacher's features."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd import scoring
from sklearn_exdd._cache import MEMORY
from sklearn_exdd._images import highest_inside
from sklearn_exdd._params import check_layers
from sklearn_exdd._torch import arrays_of, check_device, load_weights
from sklearn_exdd._training_set import in_one_form
from sklearn_exdd.augment import default_augmenter
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.detectors.student_teacher.map_statistics import scale_of, shrunk_mean
from sklearn_exdd.detectors.student_teacher.training import Training, check_extractor
from sklearn_exdd.features import BaseFeatureExtractor
from sklearn_exdd.features.efficientnet_lite import EFFICIENTNET_LITE, EfficientNetLiteFeatureExtractor

_POSITION_IMAGES = 300  # maximum number of normal images from which the position map is computed


class StudentTeacherDetector(BaseDefectDetector):
    """Detect and locate defects by differences between the features of a student and a teacher.

    The detector has three networks. The teacher computes features of the surface at several scales. It is frozen while
    the student learns. The student consists of an encoder and a decoder. It receives images with synthetic defects and
    learns to predict the teacher's features of the same images without defects. The head receives the products of the
    features of teacher and student, and segments the defects. By default, `fit` also trains the teacher, so nothing is
    downloaded.

    Parameters
    ----------
    teacher : str or BaseFeatureExtractor, default="learned"
        Teacher network. "learned" is a small encoder that `fit` first trains to segment the defects. A pretrained
        teacher is given by name: a torchvision model such as "resnet18", or "efficientnet_lite0" (`_lite1`, `_lite2`).
        A feature extractor is fitted on the normal training images and has a single level.
    layers : tuple of str, default=("layer1", "layer2", "layer3")
        Layers of a torchvision model. The maps of a layer have twice the stride of the previous layer.
    weights : str, path or None, default="IMAGENET1K_V1"
        Weights of a torchvision model: the name of weights that torchvision downloads once, the path of a local state
        dict, or None for random weights.
    channels : tuple of int, default=(24, 48, 96)
        Number of channels of each level of a learned teacher. The levels have strides of 4, 8, 16 and so on.
    symmetric : bool, default=False
        Whether the student has the architecture of the teacher instead of an encoder and a decoder. Meant for
        comparisons. Must be False if the teacher is a feature extractor.
    augmenter : object, default=None
        Augmenter that makes synthetic defects; see :class:`BaseDefectAugmenter`. If None, the detector uses the
        synthetic defects from an earlier Pipeline step. Without such a step, it uses a mixture of CutPaste patches,
        CutPaste scars, cracks and holes.
    n_synthetic : int, default=300
        Number of synthetic defect images. Each is used many times: cropped, rotated, scaled, and pasted into other
        images.
    cosine_weight : float, default=1.0
        Weight of the cosine loss. This is ``1 - cos`` between the features of teacher and student, averaged over
        positions and summed over levels. 0 switches it off.
    segmentation_weight : float, default=1.0
        Weight of the segmentation loss (focal and L1). With 0, the head is left out, and the map is the cosine
        distance. Two-stage training minimises this loss alone, so there all weights > 0 are equivalent.
    focal_gamma : float, default=4.0
        Exponent of the focal loss. Higher values reduce the influence of easy pixels.
    training : {"joint", "two_stage"}, default="joint"
        Order of training. "joint" trains student and head together. "two_stage" trains the student first, then the
        head.
    map_source : {"auto", "segmentation", "cosine", "both"}, default="auto"
        Source of maps and scores. "segmentation" uses the logits of the head. "cosine" uses ``1 - cos``, summed over
        levels. "both" standardises these two on the held-out normal images and adds them. "auto" is "segmentation" if
        there is a head, and "cosine" otherwise.
    top_share : float, default=0.005
        Fraction of the map values to average, in (0, 1]. The image score is the mean of the highest map values.
    position_map : bool, default=False
        Whether to subtract the mean map of normal training images before the image score is computed. This helps if
        false alarms are more frequent at certain positions, such as the borders, but defects are not.
    crop_size : int, default=160
        Side length of the training crops, in pixels.
    max_steps : int, default=1000
        Number of training steps. A learned teacher gets 30 % of them.
    max_seconds : float, default=None
        Time limit for training, in seconds. If training reaches it, the weights depend on the speed of the machine.
    train_batch_size : int, default=16
        Number of crops in a training step.
    learning_rate : float, default=3e-3
        Learning rate at the start of training. It decreases along a cosine.
    validation_fraction : float, default=0.2
        Fraction of the normal images to hold out of training. The threshold is computed from the held-out images.
        Groups are not split. Defect images of the held-out groups are not used for training either.
    tile_size : int, default=1024
        Side length of tiles, in pixels. Larger images are divided into overlapping tiles for predictions.
    max_false_alarm_rate : float, default=0.01
        Fraction of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG" means
        defect, "good" or "OK" means normal. If no name is recognised, the label that sorts last means defect.
    image_channels : {"grey", "colour"}, default=None
        Channels to which all images are converted, in `fit` and in predictions: one grey channel (ITU-R 601 luma) or
        three colour channels. If None, images are not converted and must be either all grey or all in colour.
    memory : str, path-like or joblib.Memory, default=None
        Cache for trained weights. If the `memory` of the `augmenter` is None, the augmenter uses the cache for its
        images and trained weights, too. If `random_state` is an int, a search over parameters that do not affect the
        weights trains once per fold, and an interrupted training run resumes.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Numeric precision in training. "auto" selects bfloat16 if the processor has bfloat16 instructions, and float32
        otherwise. Predictions use float32.
    device : str, default=None
        Device that torch runs on, "cpu" or "cuda". None selects CUDA if it is available.
    random_state : int, RandomState instance or None, default=None
        Seed for the weights, the crops, the choice of held-out images and the augmenter.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
    teacher_ : BaseFeatureExtractor or None
        Fitted feature extractor. None if `teacher` is not a feature extractor.
    teacher_weights_, student_weights_, head_weights_ : dict of str to ndarray
        Weights of the networks. `teacher_weights_` is empty for a feature extractor. `head_weights_` is None without a
        head.
    levels_ : list of (int, int)
        Number of channels and stride of each level.
    losses_ : dict of str to ndarray
        Loss of each training step of "teacher", "student" and "head". In joint training, "student" includes the head.
    position_map_ : ndarray of shape (24, 24), dtype float32, or None
        Mean map of normal images. It is shrunk towards zero (Stein) according to the variance expected from chance.
    map_scale_ : ndarray of shape (2, 2)
        Mean and standard deviation of the logits (first row) and cosine distances (second row) of held-out normal
        images.
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

    Notes
    -----
    Let t and s be the feature vectors of the teacher and the student at one position. In training, the student
    minimises ``1 - cos(t(clean), s(corrupted))``, summed over the levels. A real defect has no clean image, so only its
    surroundings are used. The input of the head is ``t / |t| * s / |s|``, where both vectors belong to the image with
    the defect, as in predictions. A defect image without a mask affects only the loss term for the mean of the highest
    logits.

    References
    ----------
    .. [1] X. Zhang et al., "DeSTSeg: segmentation guided denoising student-teacher for anomaly detection", CVPR 2023.
    .. [2] "DDPM generation and asymmetric student-teacher", arXiv 2604.19240, 2026: cosine loss and pixel-wise
       segmentation, jointly.

    Examples
    --------
    >>> from sklearn_exdd import StudentTeacherDetector
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(16, image_shape=(64, 64), random_state=0)
    >>> detector = StudentTeacherDetector(channels=(8, 16), n_synthetic=4, max_steps=4, random_state=0)
    >>> detector.fit(X, y, masks=masks).decision_function(X).shape
    (16,)
    >>> detector.predict_map(X).shape
    (16, 64, 64)
    """

    _parameter_constraints = {
        "teacher": [str, BaseFeatureExtractor],
        "layers": [tuple, list],
        "weights": [str, Path, None],
        "channels": [tuple, list],
        "symmetric": ["boolean"],
        "augmenter": [HasMethods(["fit", "sample"]), None],
        "n_synthetic": [Interval(Integral, 0, None, closed="left")],
        "cosine_weight": [Interval(Real, 0, None, closed="left")],
        "segmentation_weight": [Interval(Real, 0, None, closed="left")],
        "focal_gamma": [Interval(Real, 0, None, closed="left")],
        "training": [StrOptions({"joint", "two_stage"})],
        "map_source": [StrOptions({"auto", "segmentation", "cosine", "both"})],
        "top_share": [Interval(Real, 0, 1, closed="right")],
        "position_map": ["boolean"],
        "crop_size": [Interval(Integral, 16, None, closed="left")],
        "max_steps": [Interval(Integral, 1, None, closed="left")],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "train_batch_size": [Interval(Integral, 2, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "tile_size": [Interval(Integral, 256, None, closed="left")],
        "max_false_alarm_rate": [Interval(Real, 0, 1, closed="neither")],
        "pos_label": "no_validation",
        "image_channels": [StrOptions({"grey", "colour"}), None],
        "memory": MEMORY,
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "device": [str, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        teacher="learned",
        *,
        layers=("layer1", "layer2", "layer3"),
        weights="IMAGENET1K_V1",
        channels=(24, 48, 96),
        symmetric=False,
        augmenter=None,
        n_synthetic=300,
        cosine_weight=1.0,
        segmentation_weight=1.0,
        focal_gamma=4.0,
        training="joint",
        map_source="auto",
        top_share=0.005,
        position_map=False,
        crop_size=160,
        max_steps=1000,
        max_seconds=None,
        train_batch_size=16,
        learning_rate=3e-3,
        validation_fraction=0.2,
        tile_size=1024,
        max_false_alarm_rate=0.01,
        pos_label=None,
        image_channels=None,
        memory=None,
        precision="auto",
        device=None,
        random_state=None,
        verbose=0,
    ):
        self.teacher = teacher
        self.layers = layers
        self.weights = weights
        self.channels = channels
        self.symmetric = symmetric
        self.augmenter = augmenter
        self.n_synthetic = n_synthetic
        self.cosine_weight = cosine_weight
        self.segmentation_weight = segmentation_weight
        self.focal_gamma = focal_gamma
        self.training = training
        self.map_source = map_source
        self.top_share = top_share
        self.position_map = position_map
        self.crop_size = crop_size
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.tile_size = tile_size
        self.max_false_alarm_rate = max_false_alarm_rate
        self.pos_label = pos_label
        self.image_channels = image_channels
        self.memory = memory
        self.precision = precision
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_network"}

    def _check_params(self):
        super()._check_params()
        check_layers(self.layers)
        check_device(self.device)
        if len(self.channels) == 0 or any(not isinstance(n, Integral) or n < 1 for n in self.channels):
            raise ValueError(f"channels: expected at least one integer > 0, got {self.channels!r}.")
        if self.cosine_weight == 0 and self.segmentation_weight == 0:
            raise ValueError("cosine_weight, segmentation_weight: expected at least one > 0, got 0 for both.")
        if self.segmentation_weight == 0 and self.map_source in ("segmentation", "both"):
            raise ValueError(
                "map_source: expected 'auto' or 'cosine' with segmentation_weight=0, because the head is left out, "
                f"got {self.map_source!r}."
            )
        if self.training == "two_stage" and self.cosine_weight == 0:
            raise ValueError("cosine_weight: expected a weight > 0 for training='two_stage', got 0.")
        extractor = self._extractor()
        if extractor is not None:
            check_extractor(extractor, self.crop_size, self.symmetric)

    def _fit(self, normal, defect):
        self._check(normal)
        self._network = None
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=4)
        self._seeds = dict(zip(("held_out", "synthetic", "teacher", "student"), map(int, seeds)))
        normal.check_masks_empty()
        normal, defect = in_one_form(normal, defect)
        self.n_channels_ = normal.samples.n_channels
        held_out = self._held_out(normal.groups)
        learning = normal.take(np.setdiff1d(np.arange(len(normal)), held_out))
        real = None
        if defect is not None:
            for i in range(len(defect)):
                defect.mask(i)  # raises an error for an empty mask, even if the image is not used in training
            apart = np.flatnonzero(~np.isin(defect.groups, normal.groups[held_out]))
            real = defect.take(apart) if len(apart) else defect  # defects of held-out groups are better than none
        self._learn(learning, real)
        self._calibrate(learning.samples, normal.take(held_out))

    def _check(self, normal):
        if not normal.has_images:
            raise ValueError("X: expected images to train a student and a teacher on, got feature rows.")
        if len(np.unique(normal.groups)) < 2:
            raise ValueError(
                "X: expected normal images of at least 2 groups, one to train on and one for the threshold, got 1 "
                f"(n_samples = {len(normal)})."
            )

    def _extractor(self):
        """Return the teacher if it is a feature extractor, or None if it is another network."""
        if isinstance(self.teacher, str) and self.teacher in EFFICIENTNET_LITE:
            return EfficientNetLiteFeatureExtractor(self.teacher, device=self.device)
        return self.teacher if isinstance(self.teacher, BaseFeatureExtractor) else None

    def _held_out(self, groups):
        """Choose the normal images to hold out of training, in whole groups."""
        order = np.random.RandomState(self._seeds["held_out"]).permutation(np.unique(groups))
        counts = np.cumsum([np.sum(groups == group) for group in order])
        n_groups = 1 + np.searchsorted(counts, self.validation_fraction * len(groups) - 1e-9)
        return np.flatnonzero(np.isin(groups, order[: min(n_groups, len(order) - 1)]))

    def _learn(self, normal, real):
        """Train the networks, or load them from the cache."""
        extractor = self._extractor()
        self.teacher_ = None if extractor is None else clone(extractor).fit(normal.samples)
        training = self._training()
        network = training.build(pretrained=True)
        self.levels_ = network.levels
        self._check_sizes(normal.samples)

        def synthesize():
            return self._synthesize(normal, real, self._seeds["synthetic"], default=default_augmenter())

        self.losses_ = training.run(network, normal, real, synthesize)
        for name in ("teacher", "student", "head"):
            module = getattr(network, name)
            setattr(self, f"{name}_weights_", None if module is None else arrays_of(module))

    def _training(self):
        return Training(self.get_params(deep=False), self._seeds, self.n_channels_, self.teacher_)

    # Prediction

    def _fitted_network(self):
        if getattr(self, "_network", None) is None:
            network = self._training().build()
            for name in ("teacher", "student", "head"):
                weights = getattr(self, f"{name}_weights_")
                if weights is not None:
                    load_weights(getattr(network, name), weights)
            self._network = network.eval()
        return self._network

    def _check_sizes(self, images):
        unit = max(self.levels_[-1][1], getattr(self.teacher_, "min_size", 1))
        for i in range(len(images)):
            if min(images.shape(i)) < unit:
                height, width = images.shape(i)
                raise ValueError(
                    f"{images.where(i)}: expected at least {unit} x {unit} pixels, as the networks need, got "
                    f"{height} x {width}. Enlarge the images, or use fewer levels."
                )

    def _raw_maps(self, images):
        """Yield the logits and cosine distances of each image, at the stride of the finest level."""
        from sklearn_exdd.detectors.student_teacher.crops import logarithms
        from sklearn_exdd.detectors.student_teacher.networks import predict

        self._check_sizes(images)
        network = self._fitted_network()
        for i in range(len(images)):
            yield predict(network, *logarithms(images[i]), self.tile_size)

    def _combine(self, raw, scale=None):
        """Combine logits and cosine distances to the map that `map_source` specifies."""
        logits, distances = raw
        if self.map_source == "both":
            (mean, deviation), (other_mean, other_deviation) = self.map_scale_ if scale is None else scale
            return ((logits - mean) / deviation + (distances - other_mean) / other_deviation).astype(np.float32)
        return distances if self.map_source == "cosine" or self.head_weights_ is None else logits

    def _image_score(self, pixel_map, inside):
        return float(scoring.top_share_mean(pixel_map, self.top_share, self.position_map_, inside))

    def _calibrate(self, normals, held_out):
        """Compute map scales, position map and thresholds. `normals` were used for training, `held_out` was not."""
        images = held_out.samples
        raw = list(self._raw_maps(images))
        inside = [self._inside(images.region(i), maps[1].shape) for i, maps in enumerate(raw)]
        counted = [[own if one is None else own[one] for own in maps] for maps, one in zip(raw, inside)]
        self.map_scale_ = scale_of(counted)
        self.position_map_ = self._mean_map(normals) if self.position_map else None
        scores, maxima = [], []
        for i, (group, maps) in enumerate(zip(held_out.groups, raw)):
            others = [other for other, own in zip(counted, held_out.groups) if own != group]
            scale = scale_of(others) if others and self.map_source == "both" else self.map_scale_
            combined = self._combine(maps, scale)
            scores.append(self._image_score(combined, inside[i]))
            maxima.append(highest_inside(self._pixel_map(combined, images.shape(i)), images.region(i)))
        self._set_threshold(scores, held_out.indices, maxima)

    def _mean_map(self, normals):
        """Compute the position map from at most _POSITION_IMAGES normal images, chosen at random."""
        chosen = np.random.RandomState(self._seeds["held_out"]).permutation(len(normals))[:_POSITION_IMAGES]
        return shrunk_mean([self._combine(raw) for raw in self._raw_maps(normals.take(chosen))])

    def _score(self, samples):
        return np.array([score for score, *_ in self._inspected(samples)])

    def _maps(self, images):
        return [pixel_map for _, pixel_map, _ in self._inspected(images)]

    def _inspected(self, images):
        for i, raw in enumerate(self._raw_maps(images)):
            combined = self._combine(raw)
            inside = self._inside(images.region(i), combined.shape)
            yield self._image_score(combined, inside), self._pixel_map(combined, images.shape(i)), None

    def _pixel_map(self, combined, image_shape):
        return scoring.upsample(combined, *self._centers(combined.shape), image_shape)

    def _inside(self, region, map_shape):
        """Return the cells of a map that overlap a region of interest, or None without a region."""
        return None if region is None else scoring.mask_coverage(region, *self._centers(map_shape)) > 0

    def _centers(self, map_shape):
        return [(np.arange(size) + 0.5) * self.levels_[0][1] - 0.5 for size in map_shape]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
