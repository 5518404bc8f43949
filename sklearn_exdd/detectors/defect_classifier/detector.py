"""DIAG: a network that distinguishes normal images from images with synthetic or real defects."""

from numbers import Integral, Real
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd import scoring
from sklearn_exdd._cache import MEMORY, folder_of
from sklearn_exdd._code import fingerprint_of_code
from sklearn_exdd._images import Images
from sklearn_exdd._params import N_JOBS, check_image_size
from sklearn_exdd._torch import arrays_of, check_device, load_weights, seeded
from sklearn_exdd._training import train
from sklearn_exdd._training_set import hold_out_of_each_kind, in_one_form
from sklearn_exdd._weights import read_weights, write_weights
from sklearn_exdd.detectors.base import BaseDefectDetector
from sklearn_exdd.detectors.defect_classifier.batches import Batches
from sklearn_exdd.detectors.defect_classifier.network import PatchLogitMaps, build_network, stack_images
from sklearn_exdd.features.weights import file_sha256

_WEIGHTS, _CHECKPOINT = "weights.safetensors", "training.pt"
_N_STATISTICS = 20  # maximum number of batches from which the statistics of batch normalisation are estimated
# Parameters that determine the trained weights, together with the images, the seed and the initial weights.
_TRAINED_FROM = (
    "backbone",
    "layer",
    "class_balance",
    "patience",
    "n_epochs",
    "max_steps",
    "max_seconds",
    "learning_rate",
    "train_batch_size",
)


class DefectClassifier(BaseDefectDetector):
    """Detect defects with a network that is trained on normal and defect images, as in DIAG.

    Training needs defects: synthetic defects from an `augmenter` (zero-shot), real defects, or both (full-shot). The
    network is a torchvision backbone with global average pooling and one logit. It is trained with binary
    cross-entropy. Because the pooling is linear, the score of an image is the mean of the logits of all patches. These
    logits form the class-activation map.

    Parameters
    ----------
    backbone : str, default="resnet50"
        Name of a torchvision classification model that accepts images of any size, or "efficientnet_lite0" (`_lite1`,
        `_lite2`), whose pretrained weights are installed with pip. The head of the model is replaced.
    weights : str, path or None, default="IMAGENET1K_V1"
        Initial weights: the name of weights that torchvision downloads once, the path of a local state dict, or None
        for random weights. For EfficientNet-Lite, only the default and None are available.
    weights_sha256 : str, default=None
        Expected SHA-256 checksum of a local weights file, in hexadecimal digits.
    layer : str, default=None
        Layer whose maps are pooled. If None, the last maps of the backbone are pooled. With "layer3" of a ResNet, the
        network is smaller and its map has twice the resolution.
    image_size : int, tuple (height, width) or None, default=224
        Size to which images are resized. An int is the length of the shorter side. A tuple does not preserve the aspect
        ratio. If None, images are not resized. In training, the smaller images of a batch are padded by mirroring to
        the size of the largest image. In predictions, images are not padded.
    augmenter : object, default=None
        Augmenter that makes synthetic defects; see :class:`BaseDefectAugmenter`. If None, the detector uses the
        synthetic defects from an earlier Pipeline step. Without such a step, it uses real defects only.
    n_synthetic : int, default=100
        Number of synthetic defect images that the `augmenter` makes.
    class_balance : {"sampling", "weight"} or None, default="sampling"
        Method that balances the classes. "sampling" draws normal and defect images equally often. "weight" gives both
        classes the same weight in the loss. With None, the classes are not balanced. With either method, predicted
        probabilities assume that normal and defect images are equally frequent.
    validation_fraction : float, default=0.2
        Fraction of the images to hold out of training. The held-out images decide when training ends, and the threshold
        is computed from the held-out normal images. Groups are not split. A synthetic defect is held out together with
        its source image.
    patience : int or None, default=5
        Number of epochs to wait for a lower loss on the held-out images. Training then ends, and the weights with the
        lowest loss are used. If None, training runs for the full number of steps, and the last weights are used.
    n_epochs : int, default=30
        Maximum number of epochs.
    max_steps : int, default=None
        Maximum number of training steps. An epoch has one step for each batch of training images.
    max_seconds : float, default=None
        Time limit for training, in seconds. If training reaches it, the weights depend on the speed of the machine.
    learning_rate : float, default=1e-4
        Learning rate of Adam, constant after a short warm-up.
    train_batch_size : int, default=32
        Number of images in a training step, at least 2. With fewer than about 8, batch normalisation is unreliable.
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
    batch_size : int, default=16
        Number of images processed together in predictions.
    device : str, default=None
        Device that torch runs on, "cpu" or "cuda". None selects CUDA if it is available.
    n_jobs : int, default=None
        Number of threads that process batches in parallel, in predictions.
    random_state : int, RandomState instance or None, default=None
        Seed for the choice of held-out images, the augmenter, the weights of the new head and the batches.
    verbose : int, default=0
        If > 0, show a progress bar.

    Attributes
    ----------
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
    weights_ : dict of str to ndarray
        State dict of the trained network.
    losses_ : ndarray of shape (n_steps,)
        Training loss of each step.
    validation_losses_ : ndarray of shape (n_evaluations, 2)
        Number of completed steps (first column) and loss on the held-out images (second column). Empty if
        ``patience=None``.
    synthetic_ : object or None
        Synthetic defects used in `fit`.

    Notes
    -----
    Scores are logits. ``predict`` compares a score with the threshold; it does not compare a probability with 0.5.

    A network memorises its training images, so `threshold_` is the conformal quantile of the scores of the held-out
    normal images. With ``patience=None``, the guarantee on false alarms is exact. Otherwise, the held-out images also
    determine when training ends, so their scores are slightly too low.

    If ``1 / max_false_alarm_rate - 1`` or more normal images are held out, `max_false_alarm_rate` is guaranteed. With
    fewer images, the guaranteed rate is higher; see `false_alarm_rate_`. A rate of 0.01 needs 99 held-out images, and
    therefore about 500 normal images in total.

    During training, batch normalisation uses the statistics of each batch, as is common in fine-tuning. Running
    averages of these statistics would lag behind in a short training run. The statistics for predictions are therefore
    estimated after training, with fixed weights, from up to 20 batches of training images.

    References
    ----------
    .. [1] "Leveraging Latent Diffusion Models for Training-Free In-Distribution Data Augmentation for Surface Defect
       Detection" (DIAG), arXiv 2407.03961, CBMI 2024: resnet50, one logit, Adam at 1e-4, batches of 32, 30 to 50
       epochs.
    .. [2] B. Zhou et al., "Learning deep features for discriminative localization", CVPR 2016: the map.

    Examples
    --------
    >>> from sklearn_exdd import OffsetDefectAugmenter
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> from sklearn_exdd import DefectClassifier
    >>> X, _, _ = make_surface_defects(12, defect_fraction=0, image_shape=(64, 64), random_state=0)
    >>> classifier = DefectClassifier(
    ...     "resnet18", weights=None, image_size=64, augmenter=OffsetDefectAugmenter(), n_synthetic=8, max_steps=2,
    ...     random_state=0
    ... )
    >>> classifier.fit(X).predict_proba(X).shape
    (12, 2)
    >>> classifier.predict_map(X).shape
    (12, 64, 64)
    """

    _parameter_constraints = {
        "backbone": [str],
        "weights": [str, Path, None],
        "weights_sha256": [str, None],
        "layer": [str, None],
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, list, None],
        "augmenter": [HasMethods(["fit", "sample"]), None],
        "n_synthetic": [Interval(Integral, 0, None, closed="left")],
        "class_balance": [StrOptions({"sampling", "weight"}), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "n_epochs": [Interval(Integral, 1, None, closed="left")],
        "max_steps": [Interval(Integral, 1, None, closed="left"), None],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "train_batch_size": [Interval(Integral, 2, None, closed="left")],
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
        backbone="resnet50",
        *,
        weights="IMAGENET1K_V1",
        weights_sha256=None,
        layer=None,
        image_size=224,
        augmenter=None,
        n_synthetic=100,
        class_balance="sampling",
        validation_fraction=0.2,
        patience=5,
        n_epochs=30,
        max_steps=None,
        max_seconds=None,
        learning_rate=1e-4,
        train_batch_size=32,
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
        self.backbone = backbone
        self.weights = weights
        self.weights_sha256 = weights_sha256
        self.layer = layer
        self.image_size = image_size
        self.augmenter = augmenter
        self.n_synthetic = n_synthetic
        self.class_balance = class_balance
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.n_epochs = n_epochs
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.learning_rate = learning_rate
        self.train_batch_size = train_batch_size
        self.max_false_alarm_rate = max_false_alarm_rate
        self.pos_label = pos_label
        self.image_channels = image_channels
        self.memory = memory
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_module"}

    def predict_proba(self, X):
        """Predict the probabilities of the classes.

        Parameters
        ----------
        X : images

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2)
            Probabilities in the order of `classes_`. The probability of a defect is the sigmoid of the score.
        """
        defect = expit(self.score_samples(X).astype(np.float64))
        columns = [1 - defect, defect]
        return np.stack(columns if self._positive_index() == 1 else columns[::-1], axis=1)

    def _check_params(self):
        super()._check_params()
        check_image_size(self.image_size)
        check_device(self.device)

    # Training

    def _fit(self, normal, defect):
        if not normal.has_images:
            raise ValueError("X: expected images to train a network on, got feature rows.")
        normal.check_masks_empty()
        random_state = check_random_state(self.random_state)
        synthetic_seed, split_seed, seed = (int(number) for number in random_state.randint(2**31 - 1, size=3))
        self._module = None
        normal, defect = in_one_form(normal, defect)
        self.synthetic_ = self._synthesize(normal, defect, synthetic_seed)
        if defect is None and self.synthetic_ is None:
            raise ValueError(
                "X: expected defects to learn from, got normal images only. Set augmenter= and n_synthetic= to make "
                "synthetic ones, or pass defect images."
            )
        sets = [part for part in (normal, defect) if part is not None]
        parts, groups = [part.samples for part in sets], [part.groups for part in sets]
        if self.synthetic_ is not None:
            parts.append(self._synthetic_images(normal).with_channels(normal.samples.n_channels))
            groups.append(self._synthetic_groups(normal, unknown=1 + max(int(own.max()) for own in groups)))
        is_validation = hold_out_of_each_kind(groups, self.validation_fraction, np.random.RandomState(split_seed))
        self._train(parts, is_validation, seed)
        self.n_channels_ = normal.samples.n_channels
        held_out = normal.take(np.flatnonzero(is_validation[0]))
        self._calibrate(held_out)

    def _train(self, parts, is_validation, seed):
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits
        from torch.optim.swa_utils import update_bn

        module = self._build(self.weights, seed)
        device = next(module.parameters()).device
        images = self._resized_images(parts, module)
        labels = np.repeat([0, *[1] * (len(parts) - 1)], [len(part) for part in parts])
        is_validation = np.concatenate(is_validation)
        training, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
        held_out = Images([images[i] for i in validation])
        batches = Batches(labels, training, self.train_batch_size, self.class_balance == "sampling", seed)
        folder = self._training_folder(images, labels, is_validation, seed)
        learned = None if folder is None else read_weights(folder / _WEIGHTS)
        if learned is not None:
            self._take_over(module, learned)
            return

        def batch_of(rows):
            return stack_images([images[i] for i in rows]).to(device) / 65535

        def loss_of(logits, rows, weighted_by):
            weights = torch.ones(len(rows))
            if weighted_by is not None:
                counts = np.bincount(labels[weighted_by])
                weights = torch.from_numpy((len(weighted_by) / 2 / counts)[labels[rows]])
            targets = torch.from_numpy(labels[rows])
            return binary_cross_entropy_with_logits(logits, targets.to(logits), weight=weights.to(logits))

        def loss_of_step(step, random_state):
            rows = batches.rows(step)
            logits = module(batch_of(rows)).mean(dim=(1, 2, 3))
            return loss_of(logits, rows, training if self.class_balance == "weight" else None)

        def update_batch_norm(network):
            n_batches = min(batches.n_per_epoch, _N_STATISTICS)
            update_bn((batch_of(batches.rows(step)) for step in range(n_batches)), network)

        def evaluate(network):
            update_batch_norm(network)
            logits = torch.from_numpy(self._score(held_out, network))
            return loss_of(logits, validation, None if self.class_balance is None else validation)

        n_steps = self.n_epochs * batches.n_per_epoch
        run = train(
            module,
            loss_of_step,
            max_steps=n_steps if self.max_steps is None else min(n_steps, self.max_steps),
            max_seconds=self.max_seconds,
            seed=seed,
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            optimizer="Adam",
            schedule="constant",
            ema_decay=None,
            clip_norm=None,
            patience=None if self.patience is None else self.patience * batches.n_per_epoch,
            evaluate=None if self.patience is None else evaluate,
            evaluate_every=batches.n_per_epoch,
            checkpoint=None if folder is None else folder / _CHECKPOINT,
            verbose=self.verbose,
            description=f"DefectClassifier on {self.backbone}",
        )
        with seeded(seed, device):
            update_batch_norm(module)
        learned = {**arrays_of(module), "losses": run.losses, "validation_losses": run.evaluations}
        if folder is not None and run.complete and write_weights(folder / _WEIGHTS, learned):
            (folder / _CHECKPOINT).unlink(missing_ok=True)
        self._take_over(module, learned)

    def _take_over(self, module, learned):
        """Set the weights and losses. `learned` comes from this training run or from the cache."""
        self.losses_, self.validation_losses_ = learned.pop("losses"), learned.pop("validation_losses")
        load_weights(module, learned)
        self._module, self.weights_ = module, learned

    def _build(self, weights, seed=0):
        return build_network(self.backbone, self.layer, weights, self.weights_sha256, self.device, seed)

    def _resized_images(self, parts, module):
        """Return all images at the training size. Values have 16 bits, which needs half the memory of floats."""
        extractor = self._extractor(module)
        resized = (extractor.resized(part, i) for part in parts for i in range(len(part)))
        return [np.rint(image * 65535).astype(np.uint16) for image in resized]

    def _training_folder(self, *training):
        """Return the cache folder for this training run, or None without a cache."""
        folder = folder_of(self.memory)
        if folder is None:
            return None
        params = [getattr(self, name) for name in _TRAINED_FROM]
        weights = file_sha256(self.weights) or str(self.weights)
        key = fingerprint_of_code(type(self), training, params, weights, packages=("torchvision", "timm"))
        return folder / f"{type(self).__name__}-{key[:20]}"

    # Prediction

    def _extractor(self, module):
        return PatchLogitMaps(module, image_size=self.image_size, batch_size=self.batch_size, n_jobs=self.n_jobs)

    def _trained(self):
        if getattr(self, "_module", None) is None:
            module = self._build(None)
            load_weights(module, self.weights_)
            self._module = module
        return self._module

    def _score(self, samples, module=None):
        extractor = self._extractor(module or self._trained())
        return np.array([logits.mean(dtype=np.float64) for logits in extractor.iter_transform(samples)])

    def _maps(self, images):
        return [pixel_map for _, pixel_map, _ in self._inspected(images)]

    def _inspected(self, images):
        extractor = self._extractor(self._trained())
        for i, logits in enumerate(extractor.iter_transform(images)):
            shape = images.shape(i)
            pixel_map = scoring.upsample(logits[..., 0], *extractor.patch_centers(logits.shape, shape), shape)
            yield logits.mean(dtype=np.float64), pixel_map, None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
