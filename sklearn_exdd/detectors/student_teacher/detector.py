"""Student-teacher: a student rebuilds the features of what is normal, a head compares them with the teacher's."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd import scoring
from sklearn_exdd._cache import MEMORY
from sklearn_exdd._images import highest_inside
from sklearn_exdd._params import check_layers, validate_parts
from sklearn_exdd._torch import arrays_of, check_device, load_weights
from sklearn_exdd._training_set import in_one_form
from sklearn_exdd.augment import default_augmenter
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.detectors.student_teacher.map_statistics import scale_of, shrunk_mean
from sklearn_exdd.detectors.student_teacher.training import Training
from sklearn_exdd.features import BaseFeatureExtractor
from sklearn_exdd.features.efficientnet_lite import EFFICIENTNET_LITE, EfficientNetLiteFeatureExtractor

_POSITION_IMAGES = 300  # normal images that it is the mean of, at most


class StudentTeacherDetector(BaseDefectDetector):
    """Detect and locate defects where a student and its teacher see different things.

    A frozen teacher describes the surface at several scales. The student, an encoder and a decoder, sees images with
    synthetic defects and learns to give the teacher's features of the same images without them; a small network reads
    the defects off the products of both. Works without a download: the teacher is then learned in fit, too.

    Parameters
    ----------
    teacher : str or BaseFeatureExtractor, default="learned"
        "learned": a small encoder, trained in fit to segment the defects and then frozen. Or the name of a torchvision
        model, such as "resnet18". Or a feature extractor, or "efficientnet_lite0" (`_lite1`, `_lite2`) for a pretrained
        one, which is fitted on the normal images that are trained on: its maps are the one level.
    layers : tuple of str, default=("layer1", "layer2", "layer3")
        Of a torchvision model, each with maps of twice the stride of the one before.
    weights : str, path or None, default="IMAGENET1K_V1"
        Of a torchvision model: a name, which torchvision downloads once; path of a local state dict; None for random
        ones.
    channels : tuple of int, default=(24, 48, 96)
        Of a learned teacher: one number for each level, at strides 4, 8, 16 and so on.
    symmetric : bool, default=False
        True gives the student the teacher's architecture, without a decoder: for comparison. Not for an extractor.
    augmenter : object, default=None
        Makes the synthetic defects: it has ``fit(X, y, masks=)`` and ``sample(n_samples, random_state=)``. None takes
        those that a Pipeline step has attached to the images, or else a mixture of CutPaste's patches and scars,
        cracks and holes.
    n_synthetic : int, default=300
        Synthetic defect images. Each is shown many times: cropped, turned, scaled, and moved to other images.
    cosine_weight : float, default=1.0
        Weight of ``1 - cos`` between the features, a sum over the levels of means over the places; 0 switches it off.
    segmentation_weight : float, default=1.0
        Weight of the loss of the segmentation: focal and L1. 0 switches it off, and the map is the cosine distance.
    focal_gamma : float, default=4.0
        How much the focal loss leaves out what is easy.
    training : {"joint", "two_stage"}, default="joint"
        "two_stage" trains the student by the cosine loss first and then, with the student frozen, the segmentation.
    map_source : {"auto", "segmentation", "cosine", "both"}, default="auto"
        Source of maps and scores: the logits of the segmentation; ``1 - cos``, summed over the levels; or the
        sum of both, each standardised by normal images kept out of the training. "auto" is "segmentation" where it is
        trained.
    top_share : float, default=0.005
        In (0, 1]. The image score is the mean of the highest share of the map.
    position_map : bool, default=False
        Whether, for the image score, the mean map of the normal training images is subtracted: where false alarms
        prefer some places, such as the borders, and defects do not.
    crop_size : int, default=160
        Side, in pixels, of the crops that are trained on.
    max_steps : int, default=1000
        Training steps; three in ten are for a learned teacher.
    max_seconds : float, default=None
        Ends the training earlier; then the weights depend on the machine.
    train_batch_size : int, default=16
        Crops in a step.
    learning_rate : float, default=3e-3
    validation_fraction : float, default=0.2
        Share of the normal images, in whole groups, that is kept out of the training, together with the defect images
        of the same groups. The threshold comes from them: a network knows the images that it was trained on.
    tile_size : int, default=1024
        Larger images are predicted in overlapping tiles of this size.
    max_false_alarm_rate : float, default=0.01
        Share of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect. None takes a known name ("bad", "NG"), or else the greater one.
    image_channels : {"grey", "colour"}, default=None
        Colours of all images, in fit and afterwards: grey by the luma of ITU-R
        601, or three channels. None leaves them as they are: all grey or all in colour.
    memory : str, path-like or joblib.Memory, default=None
        Folder for trained weights and for what an `augmenter` without a `memory` of its own paints and learns. With an
        int as `random_state`, a search over parameters that do not change the weights trains once for each fold, and
        an interrupted training resumes.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the training; "auto" is bfloat16 where the processor computes with it. Predictions are float32.
    device : str, default=None
        "cpu", "cuda"; None takes CUDA where there is some.
    random_state : int, RandomState instance or None, default=None
        Seed of the weights, the crops, the images kept out and the augmenter.
    verbose : int, default=0
        Above 0 a progress bar is shown.

    Attributes
    ----------
    teacher_ : BaseFeatureExtractor or None
        Fitted, where `teacher` is an extractor.
    teacher_weights_, student_weights_, head_weights_ : dict of str to ndarray
        `head_weights_` is None where no segmentation is trained; `teacher_weights_` is empty for an extractor.
    levels_ : list of (int, int)
        Channels and stride of each level.
    losses_ : dict of str to ndarray
        Of every step of "teacher", "student" and "head", as far as these are trained by themselves.
    position_map_ : ndarray of shape (24, 24), float32, or None
        What is subtracted, on a grid of cells; shrunk towards 0 (Stein) by what chance explains in so few images.
    map_scale_ : ndarray of shape (2, 2)
        Mean and standard deviation of the logits and of the cosine distances of normal images kept out of the training.
    classes_ : ndarray of shape (2,)
        Labels, sorted.
    threshold_ : float
        Scores above it mean defect.
    calibration_scores_ : ndarray of shape (n_samples,)
        Scores of the normal samples of X that fit has not seen; NaN for all others.
        `threshold_` is their conformal quantile.
    false_alarm_rate_ : float
        The rate that `threshold_` promises: `max_false_alarm_rate`, or 1 / (n + 1) where n normal images are kept out.
    pixel_threshold_ : float
        Pixels above it are marked in defective images: the conformal quantile of the maxima of those images' maps.

    Notes
    -----
    With t and s the teacher's and the student's vector at a place, the student minimises
    ``1 - cos(t(clean), s(corrupted))``, summed over the levels; of a real defect only the surroundings count. The
    segmentation sees ``t / |t| * s / |s|``, both of the corrupted image, as in prediction. A defect image without a
    mask counts by the mean of its highest logits only.

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
            raise ValueError("cosine_weight, segmentation_weight: expected at least one above 0, got 0 for both.")
        if self.segmentation_weight == 0 and self.map_source in ("segmentation", "both"):
            raise ValueError(
                "map_source: expected 'auto' or 'cosine' with segmentation_weight=0, which trains no segmentation, "
                f"got {self.map_source!r}."
            )
        if self.training == "two_stage" and self.cosine_weight == 0:
            raise ValueError("cosine_weight: expected a weight above 0 for training='two_stage', got 0.")
        extractor = self._extractor()
        if extractor is not None:
            self._check_extractor(extractor)

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
                defect.mask(i)  # an empty one is an error, whether the image is trained on or not
            apart = np.flatnonzero(~np.isin(defect.groups, normal.groups[held_out]))
            real = defect.take(apart) if len(apart) else defect  # all are better than none
        self._learn(learning, real)
        self._calibrate(learning.samples, normal.take(held_out))

    def _check(self, normal):
        if not normal.has_images:
            raise ValueError("X: expected images, which a student-teacher is trained on, got feature rows.")
        if len(np.unique(normal.groups)) < 2:
            raise ValueError(
                "X: expected normal images of at least 2 groups, some to train on and some for the threshold, got 1 "
                f"(n_samples = {len(normal)})."
            )

    def _extractor(self):
        """Return the feature extractor that is the teacher, or None if it is a network of another kind."""
        if isinstance(self.teacher, str) and self.teacher in EFFICIENTNET_LITE:
            return EfficientNetLiteFeatureExtractor(self.teacher, device=self.device)
        return self.teacher if isinstance(self.teacher, BaseFeatureExtractor) else None

    def _check_extractor(self, extractor):
        validate_parts([extractor])
        if self.symmetric:
            raise ValueError(
                "symmetric: expected False with a feature extractor as the teacher, whose architecture no student can "
                "have, got True."
            )
        if extractor.image_size is not None:
            raise ValueError(
                "teacher: expected an extractor with image_size=None, as it sees crops of the images, got "
                f"{extractor.image_size!r}."
            )
        if self.crop_size < extractor.min_size:
            raise ValueError(
                f"crop_size: expected at least {extractor.min_size} for {type(extractor).__name__} as the teacher, got "
                f"{self.crop_size}."
            )

    def _held_out(self, groups):
        """Choose the normal images that training does not see, by whole groups."""
        order = np.random.RandomState(self._seeds["held_out"]).permutation(np.unique(groups))
        counts = np.cumsum([np.sum(groups == group) for group in order])
        n_groups = 1 + np.searchsorted(counts, self.validation_fraction * len(groups) - 1e-9)
        return np.flatnonzero(np.isin(groups, order[: min(n_groups, len(order) - 1)]))

    def _learn(self, normal, real):
        """Train the parts that the cache does not hold."""
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
        import torch

        if getattr(self, "_network", None) is None:
            network = self._training().build()
            for name in ("teacher", "student", "head"):
                weights = getattr(self, f"{name}_weights_")
                if weights is not None:
                    load_weights(getattr(network, name), weights)
            self._network = network.to(memory_format=torch.channels_last).eval()
        return self._network

    def _check_sizes(self, images):
        unit = max(self.levels_[-1][1], getattr(self.teacher_, "min_size", 1))
        for i in range(len(images)):
            if min(images.shape(i)) < unit:
                height, width = images.shape(i)
                raise ValueError(
                    f"{images.where(i)}: expected at least {unit} x {unit} pixels, which the networks need, got "
                    f"{height} x {width}. Enlarge the images, or use fewer levels."
                )

    def _raw_maps(self, images):
        """Yield the logits (or None) and cosine distances of each image, at the stride of the finest level."""
        from sklearn_exdd.detectors.student_teacher.crops import logarithms
        from sklearn_exdd.detectors.student_teacher.networks import predict

        self._check_sizes(images)
        network = self._fitted_network()
        for i in range(len(images)):
            yield predict(network, *logarithms(images[i]), self.tile_size)

    def _combine(self, raw, scale=None):
        """Return the map that `map_source` asks for."""
        logits, distances = raw
        if self.map_source == "both":
            (mean, deviation), (other_mean, other_deviation) = self.map_scale_ if scale is None else scale
            return ((logits - mean) / deviation + (distances - other_mean) / other_deviation).astype(np.float32)
        return distances if self.map_source == "cosine" or self.head_weights_ is None else logits

    def _image_score(self, pixel_map, inside):
        return float(scoring.top_share_mean(pixel_map, self.top_share, self.position_map_, inside))

    def _calibrate(self, normals, held_out):
        """Find the scales of maps and the threshold from normal images that training did not see."""
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
        """Return the position map, from some of the normal images."""
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
        """Return the cells of a map that touch a region of interest; None if every pixel counts."""
        return None if region is None else scoring.mask_coverage(region, *self._centers(map_shape)) > 0

    def _centers(self, map_shape):
        stride = self.levels_[0][1]
        return [stride * np.arange(size) + (stride - 1) / 2 for size in map_shape]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
