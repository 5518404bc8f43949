"""Learned feature extractor: a small network that ``fit`` trains to mark synthetic defects."""

from numbers import Integral, Real

import joblib
import numpy as np
from scipy import ndimage
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sklearn_exdd._cache import fingerprint, load, store
from sklearn_exdd._code import fingerprint_of_code
from sklearn_exdd._images import Images
from sklearn_exdd._params import check_interval, validate, validate_parts
from sklearn_exdd._torch import check_device, resize, resolve_device, resolve_precision
from sklearn_exdd._training_set import by_brightness, find_defects, split_by_class, with_marks
from sklearn_exdd.features.base import BaseFeatureExtractor
from sklearn_exdd.features.efficientnet_lite import EFFICIENTNET_LITE, EfficientNetLiteFeatureExtractor
from sklearn_exdd.features.encoder import FrozenEncoder
from sklearn_exdd.features.network import NetworkFeatureExtractor
from sklearn_exdd.features.segmentation_network import segmentation_network, train_segmentation_network
from sklearn_exdd.features.training_crops import training_crops

_LOG_OFFSET = 0.03
_HEAD_STRIDE = 4
_UNIT = 16  # largest stride of the network
_POOL_SIZE = 2400  # number of crops in the pool from which training batches are drawn
_POSITION_GRID = 16
# Parameters left out of the cache key of training: they do not matter, or the key has them in another form.
_NOT_IN_TRAINING = {
    *("augmenter", "random_state", "precision", "device", "pos_label", "tile_size", "whiten"),
    *("batch_size", "memory", "n_jobs", "verbose"),
}


class LearnedFeatureExtractor(BaseFeatureExtractor):
    """Feature maps from a small segmentation network that ``fit`` trains to find defects on the user's own surfaces.

    The network has 0.4 million parameters, and no weights are downloaded. It is trained on crops of the normal images.
    Synthetic defects are painted on some of the crops. If ``fit`` receives real defects with masks, the network is
    trained on crops of these defects, too.

    Parameters
    ----------
    augmenter : object, default=None
        Source of the synthetic defects: an object with the methods ``fit(X, y, masks=)`` and ``sample(n_samples)``; see
        :class:`BaseDefectAugmenter`. None selects a mixture of CutPaste's patches and scars, cracks, and holes.
    encoder : str, NetworkFeatureExtractor or None, default=None
        Pretrained encoder. The network uses the maps of the encoder in addition to its own maps. The encoder is not
        trained further and sees only the brightness of the image. It is "efficientnet_lite0" (or `_lite1`, `_lite2`),
        or an extractor with layers at one or more of the strides 4, 8 and 16, such as
        ``TorchvisionFeatureExtractor("resnet18", layers=("layer1", "layer2", "layer3"))``.
    n_synthetic : int, default=300
        Number of images with synthetic defects from which crops are cut.
    crop_size : int, default=160
        Side of the crops, in pixels. It must be a multiple of 16.
    max_steps : int, default=1000
        Number of training steps. On one core with bfloat16 instructions, the default takes three to four minutes.
    max_seconds : float, default=None
        Time limit for training, in seconds. If the limit ends training early, the weights depend on the machine.
    learning_rate : float, default=4e-3
        Highest learning rate, reached after a short warm-up.
    train_batch_size : int, default=16
        Number of crops per training step.
    flip : bool, default=True
        Whether to mirror the crops at random along both axes in training, and to average the logits of an image over
        its four mirror images. Use False for surfaces that are lit from one side.
    contrast : tuple of (float, float), default=(0.4, 1.6)
        Range of the random factor by which the contrast of each crop is multiplied in training. Such crops teach the
        network to find faint defects in images of lower contrast. Both ends must be at least 0.01. (1, 1) leaves the
        contrast unchanged.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Numeric precision in training. "auto" selects bfloat16 if the processor has bfloat16 instructions, and float32
        otherwise. Features are always float32.
    device : str, default=None
        Device of the network, such as "cpu" or "cuda:0". None selects CUDA if it is available, and the CPU otherwise.
    pos_label : object, default=None
        Label of defect images in `y`. If `pos_label` is None, the defect label is recognised by its name: "bad" or "NG"
        means defect. If no name is recognised, the greater label means defect.
    random_state : int, RandomState instance or None, default=0
        Seed of the crops and the weights. If the seed of the augmenter is None, it is derived from this one.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`. `whiten` is True by default. `memory` also caches the trained weights.

    Attributes
    ----------
    weights_ : dict of str to ndarray
        Weights of the network.
    losses_ : ndarray of shape (n_steps,)
        Loss of each training step.
    position_map_ : ndarray of shape (16, 16), dtype float32
        Mean logit of the normal training images at each position. Logits tend to be higher near the borders.
    weights_key_ : str
        Hash of the weights.
    seconds_ : float
        Wall time of training, in seconds. If the weights were read from `memory`, it is the time of the earlier run.

    See Also
    --------
    GaborFeatureExtractor : Extractor that needs no training.

    Notes
    -----
    The input of the network is the brightness, ``log(image + 0.03)`` minus its median over the image. Two more planes
    hold the differences between the brightness and its local means, along columns and along rows. There is one patch
    every 8 pixels. Before whitening, a patch has 160 features: the mean and the deviation of the maps at stride 4, and
    the maps at stride 8 from both halves of the network.

    With real defects, 20 % of the crops show a real defect, 35 % show a real defect pasted elsewhere (see
    :class:`DefectPasteAugmenter`), 20 % show a synthetic defect, and 25 % show no defect. Without real defects, 75 % of
    the crops show a synthetic defect. The network may rate its training images as slightly more normal than new images.
    Thresholds for the logits must therefore be set on other images.

    Examples
    --------
    >>> from sklearn_exdd.features import LearnedFeatureExtractor
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(10, image_shape=(64, 96), random_state=0)
    >>> extractor = LearnedFeatureExtractor(max_steps=2, n_synthetic=4, crop_size=32).fit(X[y == 0])
    >>> extractor.transform(X)[0].shape[:2]
    (8, 12)
    >>> extractor.defect_logits(X).shape
    (10, 64, 96)
    """

    stride = 8
    offset = 3.5
    min_size = 32
    learns_from_defects = True
    fits_in_shards = False
    _n_pixels = 2**18

    _parameter_constraints = {
        **BaseFeatureExtractor._parameter_constraints,
        "augmenter": [HasMethods(["fit", "sample"]), None],
        "encoder": [StrOptions(set(EFFICIENTNET_LITE)), NetworkFeatureExtractor, None],
        "n_synthetic": [Interval(Integral, 1, None, closed="left")],
        "crop_size": [Interval(Integral, 2 * _UNIT, None, closed="left")],
        "max_steps": [Interval(Integral, 1, None, closed="left")],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "train_batch_size": [Interval(Integral, 2, None, closed="left")],
        "flip": ["boolean"],
        "contrast": [tuple, list],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "device": [str, None],
        "pos_label": "no_validation",
        "random_state": ["random_state"],
    }
    __metadata_request__fit = {"masks": True}

    def __init__(
        self,
        *,
        augmenter=None,
        encoder=None,
        n_synthetic=300,
        crop_size=160,
        max_steps=1000,
        max_seconds=None,
        learning_rate=4e-3,
        train_batch_size=16,
        flip=True,
        contrast=(0.4, 1.6),
        precision="auto",
        device=None,
        pos_label=None,
        random_state=0,
        image_size=None,
        tile_size=1024,
        whiten=True,
        batch_size=16,
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        super().__init__(
            image_size=image_size,
            tile_size=tile_size,
            whiten=whiten,
            batch_size=batch_size,
            memory=memory,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.augmenter = augmenter
        self.encoder = encoder
        self.n_synthetic = n_synthetic
        self.crop_size = crop_size
        self.max_steps = max_steps
        self.max_seconds = max_seconds
        self.learning_rate = learning_rate
        self.train_batch_size = train_batch_size
        self.flip = flip
        self.contrast = contrast
        self.precision = precision
        self.device = device
        self.pos_label = pos_label
        self.random_state = random_state

    @property
    def margin(self):
        return 160 if self.encoder is None else max(160, self._encoder_extractor().margin)

    def __getstate__(self):
        return {name: value for name, value in super().__getstate__().items() if name != "_network"}

    def fit(self, X, y=None, *, masks=None):
        """Train the network and learn the whitening.

        Parameters
        ----------
        X : images
        y : array-like of shape (n_samples,), default=None
            Labels: 0 for normal images and 1 (or `pos_label`) for defects. None means that all images are normal.
        masks : array or list, default=None
            Masks, one item for each image of X. Defect images whose mask is None are not used in training.

        Returns
        -------
        self : object
        """
        self._fit(X, y, masks)
        return self

    def fit_transform(self, X, y=None, *, masks=None):
        """Fit to images and return their feature maps.

        Parameters
        ----------
        X, y, masks
            See :meth:`fit`.

        Returns
        -------
        feature_maps : list of ndarray of shape (height', width', n_features), dtype float32
        """
        images, is_defect, normal_maps = self._fit(X, y, masks)
        defects = np.flatnonzero(is_defect)
        normal_maps = iter(normal_maps)
        defect_maps = iter(self.transform(images.take(defects)) if len(defects) else ())
        return [next(defect_maps if defect else normal_maps) for defect in is_defect]

    def defect_logits(self, X):
        """Compute the defect logit of each pixel with the segmentation head.

        Parameters
        ----------
        X : images

        Returns
        -------
        maps : ndarray of shape (n_samples, height, width), or list of such arrays
            float32 logits, one for each pixel. The result is a list if the sizes of the images differ.
        """
        validate(self)
        check_is_fitted(self)
        maps = list(self.iter_defect_logits(X if isinstance(X, Images) else Images(X, n_channels=self.n_channels_)))
        return np.stack(maps) if len({pixel_map.shape for pixel_map in maps}) == 1 else maps

    def iter_defect_logits(self, images):
        """Yield the maps of :meth:`defect_logits` one by one. The argument is an Images object."""
        for i, cells in enumerate(_Head(self).iter_transform(images)):
            shape, working = images.shape(i), self._working_shape(images.shape(i))
            pixels = resize(cells, tuple(_HEAD_STRIDE * size for size in cells.shape[:2]))[: working[0], : working[1]]
            yield (pixels if working == shape else resize(pixels, shape))[..., 0]

    def _check_params(self):
        super()._check_params()
        if self.crop_size % _UNIT:
            raise ValueError(f"crop_size: expected a multiple of {_UNIT}, got {self.crop_size}.")
        check_interval("contrast", self.contrast, 0.01)
        check_device(self.device)
        validate_parts([self.augmenter, self.encoder])

    def _fit(self, X, y, masks):
        """Fit. Return all images, whether each of them shows a defect, and the feature maps of the normal images."""
        validate(self)
        images = X if isinstance(X, Images) else Images(X)
        is_defect = find_defects(y, len(images), self.pos_label)
        if is_defect.all():
            raise ValueError("y: expected at least one normal image to learn from, got defects only.")
        for i in range(len(images)):
            self._check_size(images.shape(i), images.where(i))
        normal, defect = split_by_class(images, is_defect, np.arange(len(images)), masks)
        normal.check_masks_empty()
        marked = None if defect is None else with_marks(defect.with_channels(images.n_channels))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        # Sort the images, because their order in X must make no difference.
        ordered, ordered_marked = by_brightness(normal), marked and by_brightness(marked)
        key = None if self.memory is None else self._training_key(ordered, ordered_marked, seed)
        learned = load(self.memory, "segmentation network", key)
        if learned is None:
            learned, complete = self._train(ordered, ordered_marked, seed)
            if complete:
                store(self.memory, "segmentation network", key, learned)
        learned = dict(learned)
        self.n_channels_ = images.n_channels
        self.losses_, self.seconds_ = learned.pop("losses"), float(learned.pop("seconds"))
        self.weights_ = learned
        self.weights_key_ = joblib.hash([learned[name].tobytes() for name in sorted(learned)])
        self._network = None
        self.position_map_ = self._position_map(normal.samples)
        return images, is_defect, super().fit_transform(normal.samples)

    def _training_key(self, normal, marked, seed):
        pixels = [fingerprint(normal.samples[i]) for i in range(len(normal))]
        for i in range(0 if marked is None else len(marked)):
            pixels.append(fingerprint(marked.samples[i], marked.mask(i)))
        params = {name: value for name, value in self.get_params(deep=False).items() if name not in _NOT_IN_TRAINING}
        return fingerprint_of_code(
            type(self), params, self._encoder_key(), self.augmenter, self._bfloat16(), seed, pixels
        )

    def _encoder_extractor(self):
        """Return the extractor whose network is the encoder."""
        if isinstance(self.encoder, str):
            return EfficientNetLiteFeatureExtractor(
                self.encoder, strides=(4, 8, 16), precision="float32", device=self.device
            )
        return clone(self.encoder).set_params(device=self.device)

    def _encoder_key(self):
        return self.encoder and self._encoder_extractor()._cache_key()

    def _frozen_encoder(self):
        return self.encoder and FrozenEncoder(self._encoder_extractor())

    def _bfloat16(self):
        return resolve_precision(self.precision, resolve_device(self.device))

    def _train(self, normal, marked, seed):
        """Train the network. Return its weights, losses and seconds in a dict, and whether training was completed."""
        planes, targets = training_crops(
            normal,
            marked,
            self.augmenter,
            n_synthetic=self.n_synthetic,
            n_crops=min(_POOL_SIZE, self.max_steps * self.train_batch_size),
            size=self.crop_size,
            stride=_HEAD_STRIDE,
            planes_of=lambda image: self._prepare(self._resized(image)[None])[0],
            seed=seed,
            memory=self.memory,
        )
        weights, run = train_segmentation_network(
            planes,
            targets,
            batch_size=self.train_batch_size,
            flip=self.flip,
            contrast=self.contrast,
            bfloat16=self._bfloat16(),
            device=resolve_device(self.device),
            max_steps=self.max_steps,
            max_seconds=self.max_seconds,
            learning_rate=self.learning_rate,
            seed=seed,
            encoder=self._frozen_encoder(),
            verbose=self.verbose,
        )
        return {**weights, "losses": run.losses, "seconds": np.array(run.seconds)}, run.complete

    def _position_map(self, normal):
        total = 0
        for cells in _Head(self).iter_transform(normal):
            total = total + resize(cells, (_POSITION_GRID, _POSITION_GRID))[..., 0]
        mean = total / len(normal)
        if self.flip:  # the mean is not exactly symmetric if images end within a cell
            mean = (mean + mean[::-1] + mean[:, ::-1] + mean[::-1, ::-1]) / 4
        return ndimage.gaussian_filter(mean, 1, mode="nearest").astype(np.float32)

    def _cache_key(self):
        check_is_fitted(self)
        return type(self), self.image_size, self.tile_size, self.weights_key_, self._encoder_key()

    def _prepare(self, images):
        logs = np.log(images + _LOG_OFFSET)
        planes = np.log(images.mean(axis=3, keepdims=True) + _LOG_OFFSET)
        if images.shape[3] == 3:
            planes = np.concatenate([planes, logs[..., [0, 2]] - logs[..., [1]]], axis=3)
        return planes - np.median(planes, axis=(1, 2), keepdims=True)

    def _extract(self, images):
        import torch
        from torch.nn import functional

        height, width = (-(-size // self.stride) for size in images.shape[1:3])
        with torch.inference_mode():
            fine, middle, up_8, _ = self._fitted_network().levels(self._planes(images))
            mean = functional.avg_pool2d(fine, 2)
            spread = (fine - functional.interpolate(mean, scale_factor=2)).square_()
            deviation = functional.avg_pool2d(spread, 2).sqrt_()
            maps = torch.cat([mean, deviation, middle, up_8], dim=1)[:, :, :height, :width]
            return maps.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _planes(self, images):
        """Return the input of the network. Mirroring pads both sides to multiples of the largest stride."""
        import torch
        from torch.nn import functional

        height, width = images.shape[1:3]
        planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        planes = functional.pad(planes, (0, -width % _UNIT, 0, -height % _UNIT), mode="reflect")
        device = next(self._fitted_network().parameters()).device
        return planes.to(device).contiguous(memory_format=torch.channels_last)

    def _fitted_network(self):
        import torch

        check_is_fitted(self)
        if getattr(self, "_network", None) is None:
            weights = {name: torch.from_numpy(np.array(value)) for name, value in self.weights_.items()}
            n_planes, encoder = (1 if self.n_channels_ == 1 else 3), self._frozen_encoder()
            with torch.device("meta"):  # draws no random numbers
                network = segmentation_network(n_planes, encoder)
            network.load_state_dict(weights, assign=True)
            device = resolve_device(self.device)
            self._network = network.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
        return self._network


class _Head(BaseFeatureExtractor):
    """Segmentation head of a learned extractor. It is an extractor, too, so its logits use tiles and the cache."""

    stride = _HEAD_STRIDE
    offset = (_HEAD_STRIDE - 1) / 2
    min_size = LearnedFeatureExtractor.min_size
    _n_pixels = LearnedFeatureExtractor._n_pixels

    def __init__(self, extractor):
        shared = {name: getattr(extractor, name) for name in BaseFeatureExtractor().get_params(deep=False)}
        super().__init__(**{**shared, "whiten": False})
        self.extractor, self.device = extractor, extractor.device
        self.n_channels_ = extractor.n_channels_
        self._prepare, self.margin = extractor._prepare, extractor.margin

    def _cache_key(self):
        return "head", self.extractor.flip, self.extractor._cache_key()

    def _extract(self, images):
        import torch

        height, width = (-(-size // self.stride) for size in images.shape[1:3])
        network, planes = self.extractor._fitted_network(), self.extractor._planes(images)
        mirrors = ((), (2,), (3,), (2, 3)) if self.extractor.flip else ((),)
        with torch.inference_mode():
            logits = sum(network(planes.flip(axes)).flip(axes) for axes in mirrors) / len(mirrors)
            return logits[:, :, :height, :width].permute(0, 2, 3, 1).contiguous().cpu().numpy()
