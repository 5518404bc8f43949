"""Feature maps from timm models (extra ``timm``)."""

from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from os import PathLike
from pathlib import Path

from sklearn.utils._param_validation import Interval

from sklearn_exdd._torch import seeded
from sklearn_exdd.features.network import NetworkFeatureExtractor, check_normalisation
from sklearn_exdd.features.timm_levels import TimmLevels
from sklearn_exdd.features.weights import damaged, file_sha256, load_state, read_state_dict

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # names of weights files on the hub
_TIMEOUT = 5  # seconds within which the hub must answer


class TimmFeatureExtractor(NetworkFeatureExtractor):
    """Feature maps from a convolutional network or a transformer of timm, selected by its name.

    Parameters
    ----------
    backbone : str, default="wide_resnet50_2"
        Name of a model in ``timm.list_models()``. The levels of the model must be feature maps, as they are in ResNet,
        EfficientNet, ConvNeXt, Swin, ViT, DINOv2, DINOv3 and most other models. If the model accepts only one image
        size, set `image_size` to this size.
    layers : tuple of int, default=None
        Indices of the levels to use, as in timm's ``out_indices``. For a transformer with a single stride, these are
        the indices of its blocks. Negative indices count from the end. None selects the levels at strides 8 and 16. For
        a transformer with a single stride, it selects the blocks at half and at three quarters of its depth.
    weights : {"pretrained"}, path or None, default="pretrained"
        Weights of the model, given in one of three forms:

        * "pretrained" for the weights that timm downloads
        * the path of a local state dict, saved by torch or as safetensors
        * None for random weights, drawn with the seed `random_state`
    weights_sha256 : str, default=None
        Expected SHA-256 of a local weights file, in hexadecimal digits.
    random_state : int, default=0
        Seed of the random weights if `weights` is None.
    mean, std : tuple of float, default=None
        Mean and standard deviation used to normalise each channel of the input. None uses the values in the
        configuration of the model.
    pool_size, precision, device
        See :class:`ModuleFeatureExtractor`.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.

    Attributes
    ----------
    precision_ : {"float32", "bfloat16"}
        Precision that was selected when the extractor was fitted.

    Raises
    ------
    ImportError
        If timm is not installed.
    OSError
        If the weights must be downloaded, but the hub does not answer within 5 seconds or the download fails.
    ValueError
        If timm does not have the model, if the model has no feature maps, or if the weights file is damaged or belongs
        to another model.

    Notes
    -----
    The maps of coarser levels are interpolated at the patch centres of the finest level. Images are padded to a
    multiple of the coarsest stride by repeating their last pixels. Position embeddings of transformers are interpolated
    to the size of the image. In a transformer with a single stride, the final normalisation layer is applied to the
    output of each block. Images with a side longer than `tile_size` are processed in tiles. A patch of a transformer
    then attends only to the patches of its tile, and position embeddings describe the position within the tile.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd import TimmFeatureExtractor
    >>> extractor = TimmFeatureExtractor("resnet18", weights=None)
    >>> extractor.transform(np.zeros((1, 64, 96), dtype=np.uint8))[0].shape
    (8, 12, 384)
    """

    _packages = ("timm",)

    _parameter_constraints = {
        **NetworkFeatureExtractor._parameter_constraints,
        "backbone": [str],
        "layers": [tuple, list, None],
        "weights": [str, PathLike, None],
        "weights_sha256": [str, None],
        "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
        "mean": ["array-like", None],
        "std": ["array-like", None],
    }

    def __init__(
        self,
        backbone="wide_resnet50_2",
        *,
        layers=None,
        weights="pretrained",
        weights_sha256=None,
        random_state=0,
        mean=None,
        std=None,
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
        self.layers = layers
        self.weights = weights
        self.weights_sha256 = weights_sha256
        self.random_state = random_state
        self.mean = mean
        self.std = std

    @property
    def min_size(self):
        return max(self._loaded().strides)

    def _check_params(self):
        super()._check_params()
        if self.layers is not None:
            are_right = [isinstance(index, Integral) and not isinstance(index, bool) for index in self.layers]
            if not are_right or not all(are_right):
                raise ValueError(
                    "layers: expected one or more indices of levels (or blocks, for a transformer with a single "
                    f"stride), such as (1, 2), got {self.layers!r}."
                )
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                check_normalisation(name, getattr(self, name))

    def _source(self):
        layers = None if self.layers is None else tuple(self.layers)
        sha256 = file_sha256(self.weights)
        model = TimmModel(self.backbone, self.weights, self.weights_sha256, self.random_state, sha256)
        return TimmLevels(model, layers)

    def _normalisation(self, loaded):
        values = []
        for name, own in (("mean", loaded.mean), ("std", loaded.std)):
            given = getattr(self, name)
            if given is not None:
                check_normalisation(name, given, loaded.n_channels)
            values.append(own if given is None else given)
        return values


@dataclass(frozen=True)
class TimmModel:
    """Builder of the model. Builders of the same model compare equal, and a process keeps only one copy of it."""

    backbone: str
    weights: object
    weights_sha256: str
    random_state: int
    weights_hash: str

    def __call__(self, **options):
        """Build the model with options of ``timm.create_model``."""
        try:
            import timm
        except ImportError as error:
            raise ImportError("TimmFeatureExtractor needs timm: pip install timm.") from error
        name = self.backbone
        # Names with a colon, such as hf-hub:timm/resnet18, refer to models outside timm's list.
        if ":" not in name and not timm.is_model(name):
            close = get_close_matches(name, timm.list_models(), n=3)
            near = f" Similar names: {', '.join(close)}." if close else ""
            raise ValueError(f"backbone: expected a name of timm.list_models(), got {name!r}.{near}")
        with seeded(self.random_state):  # draws initial weights, even if they are replaced later
            if self.weights == "pretrained":
                return self._pretrained(timm, options)
            module = self._untrained(timm, options)
        if self.weights is None:
            return module
        return load_state(
            module, read_state_dict(self.weights, self.weights_sha256, ["pretrained"]), self.weights, name
        )

    def _untrained(self, timm, options):
        try:
            return timm.create_model(self.backbone, pretrained=False, **options)
        except RuntimeError as error:
            raise ValueError(
                f"backbone: expected a name of timm.list_models(), got {self.backbone!r}: {error}"
            ) from error

    def _pretrained(self, timm, options):
        self._look_for_hub(timm)
        try:
            return timm.create_model(self.backbone, pretrained=True, **options)
        except Exception as error:  # an interrupted download can raise almost any error
            self._untrained(timm, options)  # fails, too, if the weights are not the cause
            file = self._downloaded(timm)
            if file is not None:
                raise damaged(file, self.backbone, error) from error
            raise self._not_downloaded(error) from error

    def _not_downloaded(self, error):
        return OSError(
            f"weights: the pretrained weights of timm's {self.backbone} could not be downloaded ({error}). Give a "
            "local file as weights=path. The weights of feature_extractor='efficientnet_lite0' come from pip, and "
            "'gabor' needs no weights."
        )

    def _look_for_hub(self, timm):
        """Check once whether the hub can be reached, because timm would keep trying for a minute."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        config = self._config(timm)
        if config is None or not config.hf_hub_id or self._downloaded(timm) is not None:
            return
        url = hf_hub_url(config.hf_hub_id, config.hf_hub_filename or _HUB_FILES[0])
        try:
            get_hf_file_metadata(url, timeout=_TIMEOUT)
        except HfHubHTTPError:
            return  # the hub answered
        except Exception as error:  # the class of the error depends on the HTTP library
            raise self._not_downloaded(error) from error

    def _downloaded(self, timm):
        """Return the path of the weights file in a download cache, or None if it has not been downloaded."""
        import torch
        from huggingface_hub import try_to_load_from_cache

        config = self._config(timm)
        if config is None:
            return None
        names = [config.hf_hub_filename] if config.hf_hub_filename else _HUB_FILES
        found = [try_to_load_from_cache(config.hf_hub_id, name) for name in names if config.hf_hub_id]
        if config.url:
            found.append(str(Path(torch.hub.get_dir(), "checkpoints", config.url.rpartition("/")[2])))
        return next((path for path in found if isinstance(path, str) and Path(path).is_file()), None)

    def _config(self, timm):
        """Return the configuration of the pretrained weights, or None if the model has no pretrained weights."""
        try:
            return timm.models.get_pretrained_cfg(self.backbone)
        except RuntimeError:  # the name has an unknown tag
            return None
