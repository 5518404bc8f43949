"""Network of the defect classifier, and an extractor that returns maps of its logits."""

import copy
from functools import lru_cache

import numpy as np

from sklearn_exdd._torch import resolve_device, seeded
from sklearn_exdd.features import (
    BaseFeatureExtractor,
    EfficientNetLiteFeatureExtractor,
    TimmFeatureExtractor,
    TorchvisionFeatureExtractor,
)
from sklearn_exdd.features.efficientnet_lite import EFFICIENTNET_LITE

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of ImageNet
#: Value of `weights` that selects pretrained weights.
PRETRAINED = "IMAGENET1K_V1"
# Size of the test image and maximum stride of the maps, in pixels. `last_maps` uses both to analyse a backbone.
_PROBE_SIZE, _MAX_STRIDE = 512, 64


class PatchLogitMaps(BaseFeatureExtractor):
    """Extractor whose feature maps are the logits of a network.

    The base class resizes the images, divides them into tiles and groups them into batches.
    """

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

    def resized(self, images, index):
        """Return an image at the input size of the network."""
        image = images[index]
        self._check_size(image.shape, images.where(index))
        return self._resized(image)

    def _check_size(self, image_shape, where):
        smallest, (height, width) = self.stride or 1, self._working_shape(image_shape)
        if min(height, width) < smallest:
            raise ValueError(
                f"{where}: expected at least {smallest} pixels a side, the stride of the network, got {height} x "
                f"{width}. Set image_size to enlarge the images, or set layer to an earlier layer."
            )

    def _extract(self, images):
        import torch

        device = next(self.module.parameters()).device
        with torch.inference_mode():
            logits = self.module(stack_images(images).to(device))
        return logits.permute(0, 2, 3, 1).cpu().numpy()


def stack_images(images):
    """Stack images to a float32 batch (n, channels, height, width). Smaller images are padded by mirroring."""
    import torch

    shape = np.max([image.shape for image in images], axis=0)
    padded = [np.pad(image, [(0, gap) for gap in shape - image.shape], mode="symmetric") for image in images]
    return torch.from_numpy(np.stack(padded).astype(np.float32)).permute(0, 3, 1, 2)


@lru_cache
def last_maps(backbone):
    """Return the name of the node that computes the last feature maps of a torchvision model, before the head."""
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
    # Some heads begin with pooling to a few cells (7 x 7 in VGG). These cells are not patches of the image.
    return next(name for name in reversed(maps) if min(outputs[name].shape[2:]) >= _PROBE_SIZE // _MAX_STRIDE)


def _extractor_of(backbone, layer, weights, weights_sha256, seed):
    """Return a feature extractor whose network is the backbone."""
    if backbone not in EFFICIENTNET_LITE:
        return TorchvisionFeatureExtractor(
            backbone,
            layers=(layer or last_maps(backbone),),
            weights=weights,
            weights_sha256=None if weights is None else weights_sha256,
            precision="float32",
            random_state=seed,
            device="cpu",
        )
    if layer is not None:
        raise ValueError(f"layer: expected None for {backbone!r}, which always pools its last maps, got {layer!r}.")
    if weights is None:
        params = {"weights": None, "random_state": seed, "layers": (-1,)}
        return TimmFeatureExtractor(f"tf_{backbone}", **params, precision="float32", device="cpu")
    if weights_sha256 is not None:
        raise ValueError(
            f"weights_sha256: expected None for {backbone!r}, whose weights come from an installed package with a "
            f"known SHA-256, got {weights_sha256!r}."
        )
    if weights != PRETRAINED:
        raise ValueError(
            f"weights: expected {PRETRAINED!r} or None for {backbone!r}, whose weights come from an installed package "
            f"with a known SHA-256, got {weights!r}."
        )
    return EfficientNetLiteFeatureExtractor(backbone, strides=(32,), precision="float32", device="cpu")


def build_network(backbone, layer, weights, weights_sha256, device, seed):
    """Build a network that computes one logit per patch.

    Parameters
    ----------
    backbone, layer, weights, weights_sha256, device
        See :class:`DefectClassifier`.
    seed : int
        Seed for random weights and for the new head.

    Returns
    -------
    network : torch.nn.Module
        Network that maps images in [0, 1] to the logits of their patches. It is on its device and in evaluation mode,
        and has the attributes `stride` and `offset`.
    """
    import torch
    from torch import nn

    extractor = _extractor_of(backbone, layer, weights, weights_sha256, seed)
    is_lite = backbone in EFFICIENTNET_LITE

    class PatchLogits(nn.Module):
        def __init__(self, trunk, n_maps, stride, offset):
            super().__init__()
            self.trunk, self.head = trunk, nn.Conv2d(n_maps, 1, 1)
            self.stride, self.offset = stride, offset
            for name, values in ("mean", _MEAN), ("std", _STD):
                values = (0.5,) * 3 if is_lite else values
                self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

        def forward(self, images):
            return self.head(self.maps(images))

        def maps(self, images):
            outputs = self.trunk((images - self.mean) / self.std)  # broadcasting turns grey images into three channels
            (maps,) = outputs.values() if isinstance(outputs, dict) else outputs
            return maps

    network, stride, offset = extractor.network(folded=False)
    trunk = copy.deepcopy(network)  # other estimators in this process use the original
    with torch.inference_mode(), seeded(seed):
        maps = PatchLogits(trunk, 1, stride, offset).maps(torch.zeros(1, 3, 2 * _MAX_STRIDE, 2 * _MAX_STRIDE))
    with seeded(seed):
        module = PatchLogits(trunk.requires_grad_(True), maps.shape[1], stride, offset)
    return module.to(resolve_device(device)).eval()
