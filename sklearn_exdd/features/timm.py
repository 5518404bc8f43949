"""Feature maps from timm's backbones (extra ``timm``)."""

from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from os import PathLike
from pathlib import Path

from sklearn.utils._param_validation import Interval

from sklearn_exdd._torch import seeded
from sklearn_exdd.features.module import ModuleFeatureExtractor
from sklearn_exdd.features.weights import damaged, file_sha256, load_state, read_state_dict

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # names under which the hub keeps weights


class TimmFeatureExtractor(ModuleFeatureExtractor):
    """Feature maps from a timm model, by name.

    Parameters
    ----------
    backbone : str, default="wide_resnet50_2"
        Any name of ``timm.list_models()`` whose layers give maps and that ``torch.fx``
        can trace.
    layers : tuple of str, default=None
        Layers to use; None takes the last outputs at strides 8 and 16.
    weights : {"pretrained"}, path or None, default="pretrained"
        "pretrained" lets timm download its weights; or path of a local state dict, of torch
        or safetensors; or None for random weights, drawn from `random_state`.
    weights_sha256 : str, default=None
        Expected SHA-256 of a local file, in hexadecimal digits.
    random_state : int, default=0
        Seed of random weights.
    pool_size, mean, std, precision, device
        See :class:`ModuleFeatureExtractor`.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd import TimmFeatureExtractor
    >>> extractor = TimmFeatureExtractor("resnet18", weights=None)
    >>> extractor.transform(np.zeros((1, 64, 96), dtype=np.uint8))[0].shape
    (8, 12, 384)
    """

    _packages = ("timm", "torchvision")

    _parameter_constraints = {
        **ModuleFeatureExtractor._parameter_constraints,
        "backbone": [str],
        "weights": [str, PathLike, None],
        "weights_sha256": [str, None],
        "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
    }

    def __init__(
        self,
        backbone="wide_resnet50_2",
        *,
        layers=None,
        weights="pretrained",
        weights_sha256=None,
        random_state=0,
        pool_size=3,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
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
            layers=layers,
            pool_size=pool_size,
            mean=mean,
            std=std,
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
        self.weights = weights
        self.weights_sha256 = weights_sha256
        self.random_state = random_state

    def _builder(self):
        return _TimmModel(
            self.backbone, self.weights, self.weights_sha256, self.random_state, file_sha256(self.weights)
        )


@dataclass(frozen=True)
class _TimmModel:
    """Builds the model; equal where it would be the same one, so a process holds it once."""

    backbone: str
    weights: object
    weights_sha256: str
    random_state: int
    weights_hash: str

    def __call__(self):
        try:
            import timm
        except ImportError as error:
            raise ImportError("TimmFeatureExtractor needs timm: pip install 'sklearn_exdd[timm]'.") from error
        name = self.backbone
        # Names with a colon, such as hf-hub:timm/resnet18, lead to models outside timm's list.
        if ":" not in name and not timm.is_model(name):
            close = get_close_matches(name, timm.list_models(), n=3)
            near = f" Close to it are {', '.join(close)}." if close else ""
            raise ValueError(f"backbone: expected a name of timm.list_models(), got {name!r}.{near}")
        with seeded(self.random_state):  # a model draws its first weights even where others follow
            if self.weights == "pretrained":
                return self._pretrained(timm)
            module = self._untrained(timm)
        if self.weights is None:
            return module
        return load_state(
            module, read_state_dict(self.weights, self.weights_sha256, ["pretrained"]), self.weights, name
        )

    def _untrained(self, timm):
        try:
            return timm.create_model(self.backbone, pretrained=False)
        except RuntimeError as error:
            raise ValueError(
                f"backbone: expected a name of timm.list_models(), got {self.backbone!r}: {error}"
            ) from error

    def _pretrained(self, timm):
        try:
            return timm.create_model(self.backbone, pretrained=True)
        except Exception as error:  # an interrupted download fails in as many ways as there are places to cut a file
            self._untrained(timm)
            file = self._downloaded(timm)
            if file is not None:
                raise damaged(file, self.backbone, error) from error
            raise OSError(
                f"weights: the pretrained weights of timm's {self.backbone} could not be downloaded ({error}). Give a "
                "local file as weights=path; ExDDDetector(feature_extractor='gabor') needs none."
            ) from error

    def _downloaded(self, timm):
        """Return the file in a cache that the weights are read from, or None."""
        import torch
        from huggingface_hub import try_to_load_from_cache

        config = timm.models.get_pretrained_cfg(self.backbone)
        if config is None:
            return None
        names = [config.hf_hub_filename] if config.hf_hub_filename else _HUB_FILES
        found = [try_to_load_from_cache(config.hf_hub_id, name) for name in names if config.hf_hub_id]
        if config.url:
            found.append(str(Path(torch.hub.get_dir(), "checkpoints", config.url.rpartition("/")[2])))
        return next((path for path in found if isinstance(path, str) and Path(path).is_file()), None)
