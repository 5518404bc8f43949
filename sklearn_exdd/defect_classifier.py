"""DIAG: a network that tells normal images from synthetic, and real, defects."""

import copy
from dataclasses import replace
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path

import joblib
import numpy as np
from scipy.special import expit
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from sklearn_exdd import scoring
from sklearn_exdd._defects import canonical
from sklearn_exdd._images import Images
from sklearn_exdd._torch import resolve_device
from sklearn_exdd._training import seeded, train
from sklearn_exdd.base import BaseDefectDetector
from sklearn_exdd.features import BaseFeatureExtractor, TorchvisionFeatureExtractor
from sklearn_exdd.features.torchvision import fingerprint

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_N_SETTLING = 20  # batches at most that the statistics of batch normalisation are estimated from
_PROBE_SIZE, _MAX_STRIDE = 512, 64  # in pixels, to find the last maps of a backbone
# What a training depends on beside its images, its seed and the weights that it starts from.
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
    """Detect defects by a network that is trained on normal and on defect images, as in DIAG.

    The defects are synthetic ones, of an `augmenter` (zero-shot), or real ones, or both (full-shot). A torchvision
    backbone, global average pooling and one logit are trained with the binary cross-entropy. The mean over the image
    being linear, the class-activation map is what is averaged: the logit of each patch.

    Parameters
    ----------
    backbone : str, default="resnet50"
        A classification model of torchvision that works at any image size, without its own head.
    weights : str, path or None, default="IMAGENET1K_V1"
        What training starts from: the name of weights that torchvision downloads once, the path of a local state
        dict, or None for random weights.
    weights_sha256 : str, default=None
        Expected SHA-256 of a local file, in hexadecimal digits.
    layer : str, default=None
        Layer whose maps are pooled; None takes the last maps of the backbone. "layer3" of a ResNet is a smaller
        network with a map twice as fine.
    image_size : int, tuple (height, width) or None, default=224
        Images are resized to it: an int is the shorter side, a tuple squashes. None keeps each image's own size.
        Smaller images are padded by their mirror image to the largest of a training batch; predictions never are.
    augmenter : object, default=None
        Makes synthetic defects. It has ``fit(X, y, masks=)`` and ``sample(n_samples, random_state=)``, whose result
        unpacks into images and masks and may have `provenance`, for each image a dict with "source" (index of its
        normal training image). None where X has been through an augmenter in a Pipeline, or for real defects alone.
    n_synthetic : int, default=100
        Number of synthetic defect images, where there is an `augmenter`.
    class_balance : {"sampling", "weight"} or None, default="sampling"
        "sampling" draws normal and defect images equally often, "weight" weighs their losses so, None leaves the
        classes as they are. With the first two, probabilities are those of a world with as many defects as normals.
    validation_fraction : float, default=0.2
        Share of the images, by groups, that training does not see. They end the training, and their normal images
        give the threshold. A synthetic defect goes where its source goes.
    patience : int or None, default=5
        Training ends after so many epochs without a lower loss on the validation images, and the weights with the
        lowest are kept. None trains the whole budget and keeps the last weights.
    n_epochs : int, default=30
    max_steps : int, default=None
        Ends the training earlier; an epoch has as many steps as the training images have batches.
    max_seconds : float, default=None
        Ends the training earlier; then the weights depend on the machine.
    learning_rate : float, default=1e-4
        Of Adam, constant after a short rise.
    train_batch_size : int, default=32
        At least 2. Below 8 or so batch normalisation becomes unreliable.
    max_false_alarm_rate : float, default=0.01
        Share of normal images that may be called defective, in (0, 1).
    pos_label : object, default=None
        Label that means defect; None takes the greater one.
    cache_dir : str or path-like, default=None
        Where an interrupted training is kept, to be resumed by the next fit on the same images with the same
        parameters and an int as `random_state`.
    batch_size : int, default=16
        Images predicted together.
    device : str, default=None
        "cpu", "cuda"; None takes CUDA where there is some.
    n_jobs : int, default=None
        Batches predicted at a time.
    random_state : int, RandomState instance or None, default=None
        Seed of the split, the augmenter, the new weights and the batches.
    verbose : int, default=0
        Above 0 a progress bar is shown.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        Labels, sorted.
    threshold_ : float
        Scores above it mean defect.
    false_alarm_rate_ : float
        The rate that `threshold_` promises: `max_false_alarm_rate`, or 1 / (n + 1) where n normal validation images are
        too few for that.
    weights_ : dict of str to ndarray
        State dict of the trained network.
    losses_ : ndarray of shape (n_steps,)
        Training loss of each step.
    validation_losses_ : ndarray of shape (n_evaluations, 2)
        Number of steps done and loss on the validation images; empty for ``patience=None``.
    synthetic_ : object or None
        The synthetic defects.

    Notes
    -----
    Scores are logits. A network knows its training images by heart, so their scores say nothing about new ones:
    `threshold_` is the conformal quantile of the scores of the normal *validation* images. With ``patience=None`` its
    promise is exact; otherwise these images have also chosen the epoch, which favours them a little. Below
    ``1 / max_false_alarm_rate - 1`` of them (99 for a rate of .01, of about 500 normal images) less can be promised:
    see `false_alarm_rate_`. ``predict`` goes by the threshold, not by a probability of 0.5.

    Batch normalisation runs on the statistics of the batches, as in the usual fine-tuning. The running averages lag
    behind in a short training, so the statistics that predictions use are estimated anew, with fixed weights, on (up to
    20 batches of) the training images.

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
    >>> from sklearn_exdd.defect_classifier import DefectClassifier
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
        "image_size": [Interval(Integral, 1, None, closed="left"), tuple, None],
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
        "cache_dir": [str, Path, None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, None],
        "n_jobs": [Integral, None],
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
        cache_dir=None,
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
        self.cache_dir = cache_dir
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_module"}

    def predict_proba(self, X):
        """Probabilities of the classes.

        Parameters
        ----------
        X : images

        Returns
        -------
        probabilities : ndarray of shape (n_samples, 2)
            In the order of `classes_`. That of a defect is the sigmoid of the score.
        """
        defect = expit(self.score_samples(X).astype(np.float64))
        columns = [1 - defect, defect]
        return np.stack(columns if self._positive_index() == 1 else columns[::-1], axis=1)

    # Training

    def _fit(self, normal, defect):
        if not isinstance(normal.samples, Images):
            raise ValueError("X: expected images, got feature rows, from which this classifier cannot learn.")
        if isinstance(self.image_size, tuple) and len(self.image_size) != 2:
            raise ValueError(f"image_size: expected an int, (height, width) or None, got {self.image_size!r}.")
        normal.check_masks_empty()
        random_state = check_random_state(self.random_state)
        synthetic_seed, split_seed, seed = (int(number) for number in random_state.randint(2**31 - 1, size=3))
        self._module = None
        # One form for the augmenter: the same pixels train the same network.
        known, same = [part for part in (normal, defect) if part is not None], []
        for part in known:
            part.samples.n_channels = normal.samples.n_channels
            same.append(replace(part, samples=canonical(part.samples)))
        self.synthetic_ = self._synthesize(same[0], same[1] if defect is not None else None, synthetic_seed)
        if defect is None and self.synthetic_ is None:
            raise ValueError(
                "X: expected defects to learn from, got normal images alone. Set augmenter= and n_synthetic= to have "
                "some made, or give defect images."
            )
        parts, groups = [part.samples for part in known], [part.groups for part in known]
        if self.synthetic_ is not None:
            parts.append(Images(self.synthetic_.images, "synthetic images"))
            groups.append(self._synthetic_groups(normal, unknown=1 + max(int(own.max()) for own in groups)))
        is_validation = _split(groups, self.validation_fraction, np.random.RandomState(split_seed))
        self._train(parts, is_validation, seed)
        self.n_channels_ = normal.samples.n_channels
        held_out = normal.samples.take(np.flatnonzero(is_validation[0]))
        scores = self._score(held_out)
        self.threshold_, self.false_alarm_rate_ = scoring.conformal_threshold(scores, self.max_false_alarm_rate)

    def _train(self, parts, is_validation, seed):
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits
        from torch.optim.swa_utils import update_bn

        module = self._build(self.weights, seed)
        device = next(module.parameters()).device
        images = self._working_images(parts, module)
        labels = np.repeat([0, *[1] * (len(parts) - 1)], [len(part) for part in parts])
        is_validation = np.concatenate(is_validation)
        training, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
        held_out = Images([images[i] for i in validation])
        batches = _Batches(labels, training, self.train_batch_size, self.class_balance == "sampling", seed)
        checkpoint = self._checkpoint(images, labels, is_validation, seed)

        def batch_of(rows):
            return _stacked([images[i] for i in rows]).to(device) / 65535

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

        def settle(network):
            update_bn((batch_of(batches.rows(step)) for step in range(min(batches.n_per_epoch, _N_SETTLING))), network)

        def evaluate(network):
            settle(network)
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
            checkpoint=checkpoint,
            verbose=self.verbose,
            description=f"DefectClassifier on {self.backbone}",
        )
        with seeded(seed, device):
            settle(module)
        if checkpoint is not None and run.complete:
            checkpoint.unlink(missing_ok=True)
        self._module = module
        self.losses_, self.validation_losses_ = run.losses, run.evaluations
        self.weights_ = {name: value.cpu().numpy() for name, value in module.state_dict().items()}

    def _build(self, weights, seed=0):
        """The network on its device: images in [0, 1] in, the logits of the patches out."""
        import torch
        from torch import nn

        layer = self.layer or _last_maps(self.backbone)
        backbone = TorchvisionFeatureExtractor(
            self.backbone,
            layers=(layer,),
            weights=weights,
            weights_sha256=None if weights is None else self.weights_sha256,
            precision="float32",
            random_state=seed,
            device="cpu",
        )

        class PatchLogits(nn.Module):
            def __init__(self, trunk, n_maps, stride, offset):
                super().__init__()
                self.trunk, self.head = trunk, nn.Conv2d(n_maps, 1, 1)
                self.stride, self.offset = stride, offset
                for name, values in ("mean", _MEAN), ("std", _STD):
                    self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

            def forward(self, images):
                (maps,) = self.trunk((images - self.mean) / self.std).values()  # grey becomes three channels here
                return self.head(maps)

        # A copy: the process keeps the untrained one for whoever else asks for it.
        network, stride, offset = backbone._network(folded=False)
        trunk = copy.deepcopy(network)
        with torch.inference_mode():
            (maps,) = trunk(torch.zeros(1, 3, 2 * _MAX_STRIDE, 2 * _MAX_STRIDE)).values()
        with seeded(seed):
            module = PatchLogits(trunk.requires_grad_(True), maps.shape[1], stride, offset)
        return module.to(resolve_device(self.device)).eval()

    def _working_images(self, parts, module):
        """All images at the size of training, in 16 bits: half the memory of floats."""
        extractor, images = self._extractor(module), []
        for part in parts:
            part.n_channels = parts[0].n_channels
            images += [np.rint(extractor.working(part, i) * 65535).astype(np.uint16) for i in range(len(part))]
        return images

    def _checkpoint(self, *training):
        """Where this very training is kept, or None."""
        if self.cache_dir is None:
            return None
        params = [getattr(self, name) for name in _TRAINED_FROM]
        weights = fingerprint(self.weights) or str(self.weights)
        return Path(self.cache_dir) / f"{joblib.hash((training, params, weights))}.pt"

    # Prediction

    def _extractor(self, module):
        return _PatchLogitMaps(module, image_size=self.image_size, batch_size=self.batch_size, n_jobs=self.n_jobs)

    def _trained(self):
        import torch

        if getattr(self, "_module", None) is None:
            module = self._build(None)
            module.load_state_dict({name: torch.from_numpy(value) for name, value in self.weights_.items()})
            self._module = module
        return self._module

    def _score(self, samples, module=None):
        extractor = self._extractor(module or self._trained())
        return np.array([logits.mean(dtype=np.float64) for logits in extractor.iter_transform(samples)])

    def _maps(self, images):
        extractor, maps = self._extractor(self._trained()), []
        for i, logits in enumerate(extractor.iter_transform(images)):
            shape = images.shape(i)
            maps.append(scoring.upsample(logits[..., 0], *extractor.patch_centers(logits.shape, shape), shape))
        return maps

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


class _PatchLogitMaps(BaseFeatureExtractor):
    """A network's logits as feature maps: sizes, tiles and batches are those of feature extractors."""

    margin = 4 * _MAX_STRIDE

    def __init__(self, module, **params):
        super().__init__(**params)
        self.module = module

    @property
    def stride(self):
        return self.module.stride

    @property
    def offset(self):
        return self.module.offset

    def working(self, images, index):
        """An image as the network sees it."""
        image = images[index]
        self._check_size(image.shape, images.where(index))
        return self._resized(image)

    def _check_size(self, image_shape, where):
        smallest, (height, width) = self.stride or 1, self._working_shape(image_shape)
        if min(height, width) < smallest:
            raise ValueError(
                f"{where}: expected at least {smallest} pixels a side, the stride of the network, got {height} x "
                f"{width}. Set image_size to enlarge the images, or layer to an earlier one."
            )

    def _extract(self, images):
        import torch

        device = next(self.module.parameters()).device
        with torch.inference_mode():
            logits = self.module(_stacked(images).to(device))
        return logits.permute(0, 2, 3, 1).cpu().numpy()


class _Batches:
    """Which images make up each batch, epoch after epoch.

    Parameters
    ----------
    labels : ndarray of shape (n,), of 0 and 1
    training : ndarray of int
        Images that are trained on.
    size : int
    balanced : bool
        Whether half of each batch is normal, the other half defects. Then an epoch does not show every image of the
        larger class, and those of the smaller one several times.
    seed : int
    """

    def __init__(self, labels, training, size, balanced, seed):
        self.classes = [training[labels[training] == label] for label in (0, 1)] if balanced else [training]
        self.size = min(size, len(training))
        self.n_per_epoch = -(-len(training) // self.size)
        self.seed = seed

    def rows(self, step):
        """The images of a step; the last batch of an epoch is full, too."""
        epoch, place = divmod(step, self.n_per_epoch)
        random_state = np.random.RandomState([self.seed, epoch, 1])
        order = np.empty(self.n_per_epoch * self.size, dtype=int)
        for i, rows in enumerate(self.classes):
            turns = order[i :: len(self.classes)]
            turns[:] = np.resize(random_state.permutation(rows), len(turns))
        return order[place * self.size : (place + 1) * self.size]


def _stacked(images):
    """A batch (n, channels, height, width); smaller images are continued by their mirror image."""
    import torch

    shape = np.max([image.shape for image in images], axis=0)
    padded = [np.pad(image, [(0, gap) for gap in shape - image.shape], mode="symmetric") for image in images]
    return torch.from_numpy(np.stack(padded).astype(np.float32)).permute(0, 3, 1, 2)


@lru_cache
def _last_maps(backbone):
    """Name of the last maps that a torchvision model makes, which its own head pools."""
    import torch
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    if backbone not in models.list_models(module=models):
        raise ValueError(
            f"backbone: expected a name of torchvision.models.list_models(module=torchvision.models), got {backbone!r}."
        )
    with seeded(0):
        module = models.get_model(backbone, weights=None).eval()
    names = get_graph_node_names(module)[1]
    try:
        outputs = create_feature_extractor(module, names).to("meta")(
            torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE, device="meta")
        )
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"backbone: expected a model that takes images of any size, such as 'resnet50', got {backbone!r}. ({error})"
        ) from error
    maps = [name for name, output in outputs.items() if getattr(output, "ndim", 0) == 4]
    # A head may pool to a few cells first (7 x 7 in VGG): those are not patches of the image.
    return next(name for name in reversed(maps) if min(outputs[name].shape[2:]) >= _PROBE_SIZE // _MAX_STRIDE)


def _split(groups, fraction, random_state):
    """Hold out a share of the groups of each kind, which is: of those with images in the same parts.

    Parameters
    ----------
    groups : list of ndarray
        Group of each image: of the normal ones, then of one or more parts with defects.
    fraction : float
    random_state : RandomState

    Returns
    -------
    is_validation : list of ndarray of bool
    """
    numbers = np.unique(np.concatenate(groups))
    parts_of = np.stack([np.isin(numbers, own) for own in groups], axis=1)
    held_out = []
    for kind in np.unique(parts_of, axis=0):
        of_kind = random_state.permutation(numbers[(parts_of == kind).all(axis=1)])
        n_held_out = max(1, round(fraction * len(of_kind)))
        held_out.append(of_kind[: min(n_held_out, len(of_kind) - 1)])
    is_validation = [np.isin(own, np.concatenate(held_out)) for own in groups]
    counts = {}
    for name, parts in ("normal", is_validation[:1]), ("defect", is_validation[1:]):
        counts[f"{name} images for validation"] = sum(int(part.sum()) for part in parts)
        counts[f"{name} images for training"] = sum(int((~part).sum()) for part in parts)
    if 0 in counts.values():
        raise ValueError(
            f"validation_fraction: expected {fraction:g} of {len(numbers)} groups to leave some of each, got "
            + ", ".join(f"{count} {name}" for name, count in counts.items())
            + ". Give more images or smaller groups, or raise n_synthetic."
        )
    return is_validation
