"""Feature maps from the inner layers of a torch module."""

import copy
from dataclasses import dataclass
from numbers import Integral

from sklearn.utils._param_validation import Interval

from sklearn_exdd._params import check_layers
from sklearn_exdd.features.folding import fold_traced
from sklearn_exdd.features.network import (
    LoadedNetwork,
    NetworkFeatureExtractor,
    check_normalisation,
    first_center,
    make_probe,
)

_PROBE_SIZE = 128


class ModuleFeatureExtractor(NetworkFeatureExtractor):
    """Feature maps from inner layers of any torch module.

    Parameters
    ----------
    build : callable
        Function that takes no arguments and returns the ``torch.nn.Module``. The module itself is not accepted,
        because ``clone`` would copy it for every fold and every candidate of a search. The extractor can be pickled
        only if the function can be imported.
    layers : tuple of str, default=None
        Names of the layers to use. Their outputs must have the shape (n, channels, height', width'). Later layers are
        not computed. None selects the last output at stride 8 and the last output at stride 16.
    pool_size : int, default=3
        Size of the windows over which outputs are averaged, with stride 1. It must be odd.
    n_input_channels : int, default=3
        Number of channels that the module expects. The channel of a grey image is repeated.
    mean, std : tuple of float
        Mean and standard deviation used to normalise each channel of the input. The defaults are the values of
        ImageNet.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision in which the network computes. "auto" selects bfloat16 if the processor has bfloat16 instructions, and
        float32 otherwise. With such instructions, bfloat16 is about twice as fast. A fitted extractor keeps the
        precision that was selected; see `precision_`. Features are always float32.
    device : str, default=None
        Device of the network, such as "cpu" or "cuda:0". None selects CUDA if it is available, and the CPU otherwise.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.

    Attributes
    ----------
    precision_ : {"float32", "bfloat16"}
        Precision that was selected when the extractor was fitted.

    Notes
    -----
    The outputs of the layers are averaged over windows of `pool_size`, enlarged bilinearly to the grid of the finest
    output, and concatenated, as in PatchCore [1]_ and ExDD. Each process traces the module once, with ``torch.fx``
    (``torchvision.models.feature_extraction``). Pickles of the extractor do not contain the module.

    References
    ----------
    .. [1] K. Roth et al., "Towards total recall in industrial anomaly detection",
       CVPR 2022, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from torch import nn
    >>> from sklearn_exdd import ModuleFeatureExtractor
    >>> def build():
    ...     return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Linear(9, 9))
    >>> extractor = ModuleFeatureExtractor(build, layers=("1",))
    >>> extractor.transform(np.zeros((1, 32, 48), dtype=np.uint8))[0].shape
    (16, 24, 4)
    """

    _packages = ("torchvision",)

    _parameter_constraints = {
        **NetworkFeatureExtractor._parameter_constraints,
        "build": "no_validation",  # _builder refuses modules, which are callable, too
        "layers": [tuple, list, None],
        "n_input_channels": [Interval(Integral, 1, None, closed="left")],
        "mean": ["array-like"],
        "std": ["array-like"],
    }

    def __init__(
        self,
        build=None,
        *,
        layers=None,
        pool_size=3,
        n_input_channels=3,
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
        self.build = build
        self.layers = layers
        self.n_input_channels = n_input_channels
        self.mean = mean
        self.std = std

    def _check_params(self):
        super()._check_params()
        if self.layers is not None:
            check_layers(self.layers)
        for name in ("mean", "std"):
            check_normalisation(name, getattr(self, name), self.n_input_channels)
        self._builder()

    def _builder(self):
        """Return a hashable callable that returns the module."""
        if not callable(self.build) or hasattr(self.build, "parameters"):
            raise TypeError(
                f"build: expected a function that returns a torch module, got {type(self.build).__name__}. "
                "Wrap the module in a function, for example `lambda: module`."
            )
        return self.build

    def _source(self):
        layers = None if self.layers is None else tuple(self.layers)
        return TracedModule(self._builder(), layers, self.n_input_channels)

    def _normalisation(self, loaded):
        return self.mean, self.std


@dataclass(frozen=True)
class TracedModule:
    """Torch module that torch.fx truncates after the named layers."""

    build: object
    layers: tuple
    n_channels: int

    def load(self, folded=True):
        """Build the module, truncate it, and determine its stride and the centre of its first patch."""
        from torchvision.models.feature_extraction import create_feature_extractor

        module = copy.deepcopy(self.build()).eval().requires_grad_(False)
        layers = self.layers or _last_layers(module, self.n_channels)
        try:
            network = create_feature_extractor(module, return_nodes=list(layers))
        except ValueError as error:
            names = [name for name, _ in module.named_children()]
            raise ValueError(
                f"layers: expected names of layers of {type(module).__name__} (top level: {names}), got {layers}."
            ) from error
        probe = make_probe(self.n_channels, _PROBE_SIZE)
        outputs = network(probe)
        _check_outputs(network, probe, outputs)
        finest = max(outputs.values(), key=lambda output: output.shape[2])
        strides, offsets = None, ()
        if _PROBE_SIZE % finest.shape[2] == 0:
            strides, offsets = (_PROBE_SIZE // finest.shape[2],), (first_center(probe, finest),)
        if folded:
            fold_traced(network)
        return LoadedNetwork(network, strides, offsets, n_channels=self.n_channels)


def _check_outputs(network, probe, outputs):
    expected, narrow = "layers: expected outputs of shape (n, channels, height, width), got", None
    for name, output in outputs.items():
        if output.ndim != 4:
            raise ValueError(f"{expected} {tuple(output.shape)} from {name!r}.")
        if output.shape[1] == output.shape[2]:  # channels come last, or n_channels == n_rows
            narrow = network(probe[..., : _PROBE_SIZE // 2]) if narrow is None else narrow
            if narrow[name].shape[3] == output.shape[3]:
                raise ValueError(
                    f"{expected} (n, height, width, channels) from {name!r}, with the channels last. Permute the "
                    "axes in the module that `build` returns. TimmFeatureExtractor does this for timm models."
                )


def _last_layers(module, n_input_channels):
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    names = get_graph_node_names(module)[1]
    with torch.inference_mode():
        outputs = create_feature_extractor(module, return_nodes=names)(
            torch.zeros(1, n_input_channels, _PROBE_SIZE, _PROBE_SIZE)
        )
    chosen = []
    for stride in (8, 16):
        size = (_PROBE_SIZE // stride,) * 2
        fitting = [
            name for name, output in outputs.items() if getattr(output, "ndim", 0) == 4 and output.shape[2:] == size
        ]
        chosen += fitting[-1:]
    if not chosen:
        raise ValueError(f"layers: {type(module).__name__} has no outputs at strides 8 or 16; name the layers to use.")
    return tuple(chosen)
