"""Feature maps from timm's backbones (extra ``timm``)."""

from dataclasses import dataclass
from numbers import Integral
from os import PathLike

from sklearn.utils._param_validation import Interval

from sklearn_exdd._torch import seeded
from sklearn_exdd.features.module import ModuleFeatureExtractor
from sklearn_exdd.features.torchvision import file_sha256, read_state_dict


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
        "pretrained" lets timm download its weights; or path of a local state dict; or
        None for random weights, drawn from `random_state`.
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
        with seeded(self.random_state):  # a model draws its first weights even where others follow
            module = timm.create_model(self.backbone, pretrained=self.weights == "pretrained")
        if self.weights not in (None, "pretrained"):
            module.load_state_dict(read_state_dict(self.weights, self.weights_sha256, ["pretrained"]))
        return module
