"""Levels of timm's models: their outputs, with strides and centres, at any image size."""

from dataclasses import dataclass

from sklearn_exdd.features.network import LoadedNetwork, first_center, make_probe

_PROBE_SIZE = 256
_STRIDES = (8, 16)  # of the levels that are used by default, as in PatchCore
# Options with which a model takes images of other sizes than that of its training.
_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


@dataclass(frozen=True)
class TimmLevels:
    """Levels of a timm model.

    Parameters
    ----------
    build : callable
        Hashable; ``build(**options)`` returns the model, with options of ``timm.create_model``.
    layers : tuple of int, or None
        Indices of the levels, of a transformer without levels those of the blocks. None selects those at strides 8 and
        16, or, if all have one stride, those after half and after three quarters of the depth.
    offsets : tuple of float, default=None
        Pixel at which the first patch of each level is centred; None measures it.
    """

    build: object
    layers: tuple
    offsets: tuple = None

    def load(self, folded=True):
        """Build the model, select its levels, and find their strides and where their first patches are centred."""
        model = self._flexible_model().eval().requires_grad_(False)
        name = self.build.backbone
        if not hasattr(model, "forward_intermediates"):
            raise ValueError(
                f"backbone: expected a timm model with feature maps, got {name!r}. Choose another one, or cut it "
                "yourself with ModuleFeatureExtractor."
            )
        config = model.pretrained_cfg
        n_channels = config.get("input_size", (3,))[0]
        strides = [level["reduction"] for level in model.feature_info]
        layers = self._layers(strides, name)
        unit = max(strides)
        offsets = self.offsets or _centers(model, layers, n_channels, unit)
        return LoadedNetwork(
            _cut(model, layers, unit, norm=min(strides) == unit),
            tuple(strides[i] for i in layers),
            offsets,
            n_channels=n_channels,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            kind="model",
            aligned=True,
        )

    def _flexible_model(self):
        for options in _ANY_SIZE:
            try:
                return self.build(**options)
            except TypeError:
                if not options:
                    raise

    def _layers(self, strides, name):
        n_levels = len(strides)
        if self.layers is None:
            if len(set(strides)) == 1:
                return (n_levels // 2 - 1, 3 * n_levels // 4 - 1)
            last = {stride: index for index, stride in enumerate(strides)}
            return tuple(last[stride] for stride in _STRIDES if stride in last) or (n_levels - 1,)
        layers = tuple(index + n_levels if index < 0 else index for index in self.layers)
        if not all(0 <= index < n_levels for index in layers):
            raise ValueError(
                f"layers: expected indices of the {n_levels} levels of {name}, at the strides {strides}, got "
                f"{self.layers}."
            )
        return layers


def _centers(model, layers, n_channels, unit):
    """Estimate the pixel at which the first patch of each level is centred."""
    probe = make_probe(n_channels, unit * max(4, -(-_PROBE_SIZE // unit)))
    outputs = model.forward_intermediates(probe, intermediates_only=True, output_fmt="NCHW")
    return tuple(first_center(probe, outputs[i]) for i in layers)


def _cut(model, layers, unit, norm):
    """Return a module that pads images to a multiple of `unit` and computes the levels, and nothing behind them."""
    from torch import nn
    from torch.nn import functional

    options = {"norm": norm, "output_fmt": "NCHW", "intermediates_only": True}
    chosen = sorted(set(layers))
    order = [chosen.index(layer) for layer in layers]
    indices = model.prune_intermediate_layers(chosen, prune_norm=not norm, prune_head=True)

    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            height, width = images.shape[2:]
            images = functional.pad(images, (0, -width % unit, 0, -height % unit), mode="replicate")
            outputs = self.model.forward_intermediates(images, indices=indices, **options)
            return [outputs[place] for place in order]

    return Levels().eval()
