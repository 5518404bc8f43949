"""Levels of timm models, with their maps, strides and patch centres, for images of any size."""

from dataclasses import dataclass

from sklearn_exdd.features.folding import fold_watched
from sklearn_exdd.features.network import LoadedNetwork, first_center, make_probe

_PROBE_SIZE = 256
_STRIDES = (8, 16)  # strides of the default levels, as in PatchCore
# Options with which a model may accept images of any size. They are tried one after the other.
_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


@dataclass(frozen=True)
class TimmLevels:
    """Levels of a timm model.

    Parameters
    ----------
    build : callable
        Hashable callable. ``build(**options)`` returns the model, made with options of ``timm.create_model``. The
        attribute ``build.backbone`` is the name of the model.
    layers : tuple of int, or None
        Indices of the levels to use. For a transformer with a single stride, these are the indices of its blocks. None
        selects the levels at strides 8 and 16. For a transformer with a single stride, it selects the blocks at half
        and at three quarters of its depth.
    offsets : tuple of float, default=None
        Pixel at which the first patch of each level is centred. If `offsets` is None, it is measured.
    """

    build: object
    layers: tuple
    offsets: tuple = None

    def load(self, folded=True):
        """Build the model, truncate it after the last level in use, and determine the centres of the patches."""
        model = self._flexible_model().eval().requires_grad_(False)
        if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
            raise self._refused("it has no forward_intermediates")
        config = model.pretrained_cfg
        n_channels, *own_size = config["input_size"]
        strides = [level["reduction"] for level in model.feature_info]
        unit = max(strides)
        layers = self._indices(strides)
        offsets, size = self.offsets, None
        if offsets is None:
            probe_size = unit * max(4, -(-_PROBE_SIZE // unit))
            if not _takes(model, n_channels, (probe_size, probe_size + unit)):
                size = tuple(own_size)
                probe_size = size[0]
            offsets = self._centers(model, layers, strides, make_probe(n_channels, probe_size))
        network = _cut(model, self.build.backbone, layers, unit, size, norm=min(strides) == unit)
        if folded:
            network = fold_watched(network, make_probe(n_channels, size[0] if size else 2 * unit).detach())
        return LoadedNetwork(
            network,
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
            except TypeError:  # the model does not have this option
                if not options:
                    raise

    def _indices(self, strides):
        n_levels = len(strides)
        if self.layers is None:
            if len(set(strides)) == 1:
                return max(0, n_levels // 2 - 1), max(0, 3 * n_levels // 4 - 1)
            last = {stride: index for index, stride in enumerate(strides)}
            return tuple(last[stride] for stride in _STRIDES if stride in last) or (n_levels - 1,)
        layers = tuple(int(index) + n_levels * (index < 0) for index in self.layers)
        if not all(0 <= index < n_levels for index in layers):
            raise ValueError(
                f"layers: expected indices of levels from {-n_levels} to {n_levels - 1}, got {self.layers}. "
                f"The levels of {self.build.backbone} have the strides {strides}."
            )
        return layers

    def _centers(self, model, layers, strides, probe):
        """Estimate the pixel at which the first patch of each level is centred."""
        try:
            outputs = model.forward_intermediates(probe, intermediates_only=True, output_fmt="NCHW")
            shapes = [tuple(output.shape[2:]) for output in outputs]
        except Exception as error:
            raise self._refused(f"{type(error).__name__}: {error}") from error
        expected = [(probe.shape[2] // stride,) * 2 for stride in strides]
        if shapes != expected:
            raise self._refused(f"its outputs have the shapes {shapes} instead of {expected}")
        return tuple(first_center(probe, outputs[i]) for i in layers)

    def _refused(self, reason):
        return ValueError(
            f"backbone: expected a timm model whose levels are feature maps, got {self.build.backbone!r} ({reason}). "
            "Choose another model, or select its layers with ModuleFeatureExtractor."
        )


def _takes(model, n_channels, shape):
    """Return whether a model accepts images of the given height and width."""
    import torch

    try:
        with torch.no_grad():
            model.forward_intermediates(torch.zeros(1, n_channels, *shape), intermediates_only=True, output_fmt="NCHW")
    except Exception:  # the class of the error depends on the model
        return False
    return True


def _cut(model, name, layers, unit, size, norm):
    """Return a module that pads images to a multiple of `unit` and computes the chosen levels.

    The module does not compute anything beyond the last chosen level. If `size` is not None, it refuses images of any
    other size. An exported detector pads images itself, and uses only the method ``levels``.
    """
    from torch import nn
    from torch.nn import functional

    options = {"norm": norm, "output_fmt": "NCHW", "intermediates_only": True}
    chosen = sorted(set(layers))
    order = [chosen.index(layer) for layer in layers]
    indices = model.prune_intermediate_layers(chosen, prune_norm=not norm, prune_head=True)

    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.unit, self.size = model, unit, size

        def forward(self, images):
            height, width = images.shape[2:]
            if size is not None and (height, width) != size:
                raise ValueError(
                    f"images: expected {size[0]} x {size[1]} pixels, the only size that {name} accepts, got {height} x "
                    f"{width}. Set image_size={size}, or choose another backbone."
                )
            return self.levels(functional.pad(images, (0, -width % unit, 0, -height % unit), mode="replicate"))

        def levels(self, images):
            """Return the levels of images whose sides are multiples of `unit`."""
            outputs = self.model.forward_intermediates(images, indices=indices, **options)
            return [outputs[place] for place in order]

    return Levels().eval()
