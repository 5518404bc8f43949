"""Feature maps from the inner layers of a torch module."""

import copy
from collections import Counter
from functools import lru_cache
from numbers import Integral
from threading import Lock

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from sklearn_exdd._params import check_layers, finite_numbers, validate
from sklearn_exdd._torch import check_device, resolve_device, resolve_precision
from sklearn_exdd.features.base import BaseFeatureExtractor

_PROBE_SIZE = 128
_LOADING = Lock()  # torch.fx changes torch itself while it traces


class ModuleFeatureExtractor(BaseFeatureExtractor):
    """Feature maps from inner layers of any torch module.

    Parameters
    ----------
    build : callable
        Called without arguments, returns the ``torch.nn.Module``: a function, not the
        module itself, which ``clone`` would copy for every fold and candidate. It has to
        be importable for the extractor to be pickled.
    layers : tuple of str, default=None
        Names of the layers whose outputs are used, of shape (n, channels, height',
        width'). Nothing past the last of them is computed. None takes the last outputs
        at strides 8 and 16.
    pool_size : int, default=3
        Outputs are averaged over windows of this odd size, with stride 1.
    n_input_channels : int, default=3
        Channels that the module expects; grey images are repeated.
    mean, std : tuple of float
        Normalisation of the module's input, those of ImageNet by default.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        In which the module computes. Features are float32 in any case. "auto" is bfloat16
        where the hardware has instructions for it, about twice as fast; a fitted
        extractor stays with what it was fitted in, see `precision_`.
    device : str, default=None
        For example "cpu" or "cuda:0"; None takes CUDA where there is some.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.

    Attributes
    ----------
    precision_ : {"float32", "bfloat16"}
        What `precision` meant where the extractor was fitted.

    Notes
    -----
    The outputs are pooled, brought to the grid of the finest layer bilinearly, and
    joined, as in PatchCore and ExDD. The module is traced by ``torch.fx`` once in a
    process (``torchvision.models.feature_extraction``) and not part of a pickle.

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

    margin = 160
    _packages = ("torchvision",)
    _n_pixels = 2**18

    _parameter_constraints = {
        **BaseFeatureExtractor._parameter_constraints,
        "build": "no_validation",  # a module is callable, too: see _builder
        "layers": [tuple, list, None],
        "pool_size": [Interval(Integral, 1, None, closed="left")],
        "n_input_channels": [Interval(Integral, 1, None, closed="left")],
        "mean": ["array-like"],
        "std": ["array-like"],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "device": [str, None],
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
        self.pool_size = pool_size
        self.n_input_channels = n_input_channels
        self.mean = mean
        self.std = std
        self.precision = precision
        self.device = device

    @property
    def stride(self):
        return self._loaded()[1]

    @property
    def offset(self):
        return self._loaded()[2]

    def _check_params(self):
        super()._check_params()
        if self.layers is not None:
            check_layers(self.layers)
        if self.pool_size % 2 == 0:
            raise ValueError(f"pool_size: expected an odd integer, got {self.pool_size!r}.")
        for name, kind in (("mean", "numbers"), ("std", "numbers > 0")):
            values, n_channels = getattr(self, name), self.n_input_channels
            numbers = finite_numbers(values)
            if numbers is None or len(numbers) not in (1, n_channels) or (name == "std" and not (numbers > 0).all()):
                raise ValueError(
                    f"{name}: expected {n_channels} {kind}, one for each input channel, or 1 for all, got {values!r}."
                )
        check_device(self.device)
        self._builder()

    def _before_fit(self):
        vars(self).pop("precision_", None)
        self.precision_ = self._resolved_precision()

    def _builder(self):
        """A hashable callable that returns the module: what the process-wide cache goes by."""
        if not callable(self.build) or hasattr(self.build, "parameters"):
            raise TypeError(
                f"build: expected a function that returns a torch module, got {type(self.build).__name__}. "
                "Wrap a module in one, for example `lambda: module`."
            )
        return self.build

    def network(self, folded=True):
        """Build the module and cut it at its layers; a process builds the same one once.

        Parameters
        ----------
        folded : bool, default=True
            Whether batch normalisations are folded into the convolutions, which leaves none to train.

        Returns
        -------
        network : torch.nn.Module
            Maps a batch to a dict of the outputs of the layers. Shared: copy it before you change it.
        stride : int or None
        offset : float
            Of the finest layer, as in :class:`BaseFeatureExtractor`.
        """
        validate(self)
        return self._loaded(folded)

    def _loaded(self, folded=True):
        layers = None if self.layers is None else tuple(self.layers)
        device = str(resolve_device(self.device))
        with _LOADING:
            return _load(self._builder(), layers, self.n_input_channels, self._resolved_precision(), device, folded)

    def _resolved_precision(self):
        if self.precision == "auto" and hasattr(self, "precision_"):
            return self.precision_
        return "bfloat16" if resolve_precision(self.precision, resolve_device(self.device)) else "float32"

    def _cache_key(self):
        return *super()._cache_key(), self._resolved_precision(), self._builder()

    def _extract(self, images):
        import torch
        from torch.nn import functional

        network = self._loaded()[0]
        device = resolve_device(self.device)
        if images.shape[3] not in (1, self.n_input_channels):
            raise ValueError(
                f"images: expected 1 or {self.n_input_channels} channels for this module, got {images.shape[3]}."
            )
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
            batch = batch.expand(-1, self.n_input_channels, -1, -1)
            mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (self.mean, self.std))
            batch = ((batch - mean) / std).to(getattr(torch, self._resolved_precision()))
            batch = batch.contiguous(memory_format=torch.channels_last)
            outputs = [output.float() for output in network(batch).values()]
            pooled = [
                functional.avg_pool2d(output, self.pool_size, stride=1, padding=self.pool_size // 2)
                for output in outputs
            ]
            finest = max((output.shape[2:] for output in pooled), key=lambda shape: shape[0] * shape[1])
            joined = [output if output.shape[2:] == finest else _enlarged(output, finest) for output in pooled]
            return torch.cat(joined, dim=1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _enlarged(output, shape):
    """On a finer grid; where one is a multiple of the other, at the same places whatever the image's size."""
    from torch.nn import functional

    scale = [round(size / own) for size, own in zip(shape, output.shape[2:])]
    if any(factor * own < size for factor, own, size in zip(scale, output.shape[2:], shape)):
        return functional.interpolate(output, size=shape, mode="bilinear")
    return functional.interpolate(output, scale_factor=scale, mode="bilinear")[:, :, : shape[0], : shape[1]]


@lru_cache(maxsize=4)
def _load(build, layers, n_input_channels, precision, device, folded=True):
    """Build and cut the network; find its stride and where its first patch is centred."""
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has switched off
        module = copy.deepcopy(build()).eval().requires_grad_(False)
        layers = layers or _last_layers(module, n_input_channels)
        try:
            network = create_feature_extractor(module, return_nodes=list(layers))
        except ValueError as error:
            names = [name for name, _ in module.named_children()]
            raise ValueError(
                f"layers: expected names of layers of {type(module).__name__} (at the top: {names}), got {layers}."
            ) from error
        probe = torch.zeros(1, n_input_channels, _PROBE_SIZE, _PROBE_SIZE, requires_grad=True)
        outputs = network(probe)
        for name, output in outputs.items():
            if output.ndim != 4:
                raise ValueError(
                    f"layers: expected outputs of shape (n, channels, height, width), got {tuple(output.shape)} "
                    f"from {name!r}."
                )
            if output.shape[2] != output.shape[3]:  # of a square probe
                raise ValueError(
                    f"layers: expected outputs of shape (n, channels, height, width), got {tuple(output.shape)} from "
                    f"{name!r} for a square image. If it puts the channels last, as Swin does, name a layer behind its "
                    "permutation, or wrap the module."
                )
        finest = max(outputs.values(), key=lambda output: output.shape[2])
        n_patches = finest.shape[2]
        stride, offset = None, 0.0
        if _PROBE_SIZE % n_patches == 0:
            stride = _PROBE_SIZE // n_patches
            offset = _first_center(probe, finest, stride)
        if folded:
            _fold_normalisations(network)
    # Channels last is what convolutions read fastest, on CPUs and on tensor cores.
    network = network.to(device=device, dtype=getattr(torch, precision), memory_format=torch.channels_last)
    return network, stride, offset


def _fold_normalisations(network):
    """Multiply batch normalisations into the weights of the convolutions before them."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    modules = dict(network.named_modules())
    n_calls = Counter(node.target for node in network.graph.nodes)
    for node in list(network.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) is not nn.BatchNorm2d:
            continue
        source = node.args[0]
        alone = len(source.users) == n_calls[source.target] == n_calls[node.target] == 1
        if alone and source.op == "call_module" and type(modules[source.target]) is nn.Conv2d:
            parent, _, name = source.target.rpartition(".")
            folded = fuse_conv_bn_eval(modules[source.target], modules[node.target])
            setattr(network.get_submodule(parent), name, folded)
            node.replace_all_uses_with(source)
            network.graph.erase_node(node)
    network.delete_all_unused_submodules()
    network.recompile()


def _first_center(probe, output, stride):
    """Patch i looks at stride * i in padded networks, at the middle of its cell in patchifying ones."""
    import torch

    middle = output.shape[2] // 2
    noise = torch.empty_like(output[0, :, middle, middle]).normal_(generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((output[0, :, middle, middle] * noise).sum(), probe)
    profile = gradient.abs().sum(dim=(0, 1, 3))
    if not profile.sum() > 0:
        return 0.0
    center = float((profile * torch.arange(len(profile))).sum() / profile.sum()) - stride * middle
    return min((0.0, (stride - 1) / 2), key=lambda offset: abs(offset - center))


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
