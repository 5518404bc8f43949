"""Feature maps from torchvision models."""

from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from os import PathLike
from pathlib import Path

from sklearn.utils._param_validation import Interval

from sklearn_exdd._torch import seeded
from sklearn_exdd.features.efficientnet_lite import EFFICIENTNET_LITE
from sklearn_exdd.features.module import ModuleFeatureExtractor
from sklearn_exdd.features.weights import damaged, file_sha256, load_state, read_state_dict

# Beginnings of the names of transformers. Transformers accept only one image size, or put the channels last.
_TRANSFORMERS = ("maxvit_", "swin_", "vit_")


class TorchvisionFeatureExtractor(ModuleFeatureExtractor):
    """Feature maps from a torchvision model that is selected by its name.

    Parameters
    ----------
    backbone : str, default="wide_resnet50_2"
        Name of a model in ``torchvision.models.list_models()``. The layers of the model must return feature maps.
        Transformers are refused; use :class:`TimmFeatureExtractor` for transformers.
    layers : tuple of str, default=None
        Names of the layers to use. None selects the last output at stride 8 and the last output at stride 16. For a
        ResNet, these are the outputs of ``layer2`` and ``layer3``, as in ExDD.
    weights : str, path or None, default="IMAGENET1K_V1"
        Weights of the model, given in one of three forms:

        * the name of pretrained weights, which torchvision downloads once into its own cache
        * the path of a local state dict, saved by torch or as safetensors
        * None for random weights, drawn with the seed `random_state`
    weights_sha256 : str, default=None
        Expected SHA-256 of a local weights file, in hexadecimal digits.
    random_state : int, default=0
        Seed of the random weights if `weights` is None.
    pool_size, precision, device
        See :class:`ModuleFeatureExtractor`.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.

    References
    ----------
    .. [1] ExDD (arXiv 2507.15335): resnet50 or wide_resnet50_2, layer2 and layer3, 1536 dimensions per patch.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_exdd import TorchvisionFeatureExtractor
    >>> extractor = TorchvisionFeatureExtractor("resnet18", weights=None)
    >>> extractor.transform(np.zeros((1, 64, 96), dtype=np.uint8))[0].shape
    (8, 12, 384)
    """

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
        weights="IMAGENET1K_V1",
        weights_sha256=None,
        random_state=0,
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
            layers=layers,
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
        self.weights = weights
        self.weights_sha256 = weights_sha256
        self.random_state = random_state

    def _check_params(self):
        super()._check_params()
        if self.backbone.startswith(_TRANSFORMERS):
            raise ValueError(
                f"backbone: expected a convolutional network of torchvision, got the transformer {self.backbone!r}. "
                "Use a transformer of timm, such as TimmFeatureExtractor('swin_tiny_patch4_window7_224')."
            )

    def _builder(self):
        return TorchvisionModel(
            self.backbone, self.weights, self.weights_sha256, self.random_state, file_sha256(self.weights)
        )


@dataclass(frozen=True)
class TorchvisionModel:
    """Builder of the model. Builders of the same model compare equal, and a process keeps only one copy of it."""

    backbone: str
    weights: object
    weights_sha256: str
    random_state: int
    weights_hash: str

    def __call__(self):
        from torchvision import models

        if self.backbone not in models.list_models():
            near = get_close_matches(self.backbone, [*models.list_models(), *EFFICIENTNET_LITE])
            raise ValueError(
                f"backbone: expected a name of torchvision.models.list_models(), got {self.backbone!r}."
                + (f" Similar names: {', '.join(near)}." if near else "")
            )
        with seeded(self.random_state):  # draws initial weights, even if they are replaced later
            return self._model(models)

    def _model(self, models):
        if self.weights is None:
            return models.get_model(self.backbone, weights=None)
        names = [entry.name for entry in models.get_model_weights(self.backbone)] + ["DEFAULT"]
        if str(self.weights) in names:
            return self._pretrained(models)
        state = read_state_dict(self.weights, self.weights_sha256, names)
        return load_state(models.get_model(self.backbone, weights=None), state, self.weights, self.backbone)

    def _pretrained(self, models):
        import torch

        try:
            return models.get_model(self.backbone, weights=str(self.weights))
        except Exception as error:  # an interrupted download can raise almost any error
            name = models.get_model_weights(self.backbone)[str(self.weights)].url.rpartition("/")[2]
            file = Path(torch.hub.get_dir(), "checkpoints", name)
            if file.is_file():
                raise damaged(file, self.backbone, error) from error
            raise OSError(
                f"weights: {self.backbone}'s {self.weights} could not be downloaded ({error}). Give a local file "
                "as weights=path. The weights of feature_extractor='efficientnet_lite0' come from pip, and 'gabor' "
                "needs no weights."
            ) from error


def load_backbone(name, weights, random_state):
    """Build a complete torchvision model, including its head.

    Parameters
    ----------
    name : str
        Name of the model.
    weights : str, path or None
        Weights, as in :class:`TorchvisionFeatureExtractor`.
    random_state : int
        Seed of random weights.

    Returns
    -------
    module : torch.nn.Module
    """
    return TorchvisionModel(name, weights, None, random_state, file_sha256(weights))()
