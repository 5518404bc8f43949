"""Base class of extractors with torch networks, which loads a network and joins the outputs of its layers."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from threading import Lock

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from sklearn_exdd._params import finite_numbers, validate
from sklearn_exdd._torch import check_device, resolve_device, resolve_precision
from sklearn_exdd.features.base import BaseFeatureExtractor

_LOADING = Lock()  # torch.fx modifies torch itself while it traces


class NetworkFeatureExtractor(BaseFeatureExtractor):
    """Base class of the extractors that compute features with a torch network.

    A subclass implements ``_source()``. This method returns a hashable source, whose method ``load(folded)`` builds a
    :class:`LoadedNetwork`. A process loads the network only once for all extractors with equal sources. Pickles of an
    extractor do not contain the network.

    Parameters
    ----------
    pool_size : int, default=3
        Size of the windows over which outputs are averaged, with stride 1. It must be odd.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision in which the network computes. "auto" selects bfloat16 if the processor has bfloat16 instructions, and
        float32 otherwise. With such instructions, bfloat16 is about twice as fast. A fitted extractor keeps the
        precision that was selected; see `precision_`. Features are always float32.
    device : str, default=None
        Device of the network, such as "cpu" or "cuda:0". None selects CUDA if it is available, and the CPU otherwise.
    image_size, tile_size, whiten, batch_size, memory, n_jobs, verbose
        See :class:`BaseFeatureExtractor`.
    """

    margin = 160
    _n_pixels = 2**18

    _parameter_constraints = {
        **BaseFeatureExtractor._parameter_constraints,
        "pool_size": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "device": [str, None],
    }

    def __init__(
        self,
        *,
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
            image_size=image_size,
            tile_size=tile_size,
            whiten=whiten,
            batch_size=batch_size,
            memory=memory,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.pool_size = pool_size
        self.precision = precision
        self.device = device

    @property
    def stride(self):
        return self._loaded().stride

    @property
    def offset(self):
        return self._loaded().offset

    @property
    def _tile_unit(self):
        return math.lcm(super()._tile_unit, *self._loaded().strides)

    def _check_params(self):
        super()._check_params()
        if self.pool_size % 2 == 0:
            raise ValueError(f"pool_size: expected an odd integer, got {self.pool_size!r}.")
        check_device(self.device)

    def _before_fit(self):
        vars(self).pop("precision_", None)
        self.precision_ = self._resolved_precision()

    @abstractmethod
    def _source(self):
        """Return a hashable object that loads the network. It is also the key of the network in a cache."""

    def network(self, folded=True):
        """Return the network, truncated after the last layer in use. Each process builds it only once.

        Parameters
        ----------
        folded : bool, default=True
            Whether batch normalisations are folded into the convolutions. They can then no longer be trained.

        Returns
        -------
        network : torch.nn.Module
            Network that maps a batch to the outputs of the layers. Extractors share it, so copy it before you change
            it.
        stride : int or None
            Stride of the finest layer, as in :class:`BaseFeatureExtractor`.
        offset : float
            Offset of the finest layer, as in :class:`BaseFeatureExtractor`.
        """
        validate(self)
        loaded = self._loaded(folded)
        return loaded.module, loaded.stride, loaded.offset

    def _loaded(self, folded=True):
        device = str(resolve_device(self.device))
        with _LOADING:
            return _load(self._source(), self._resolved_precision(), device, folded)

    def _resolved_precision(self):
        if self.precision == "auto" and hasattr(self, "precision_"):
            return self.precision_
        return "bfloat16" if resolve_precision(self.precision, resolve_device(self.device)) else "float32"

    def _cache_key(self):
        return *super()._cache_key(), self._resolved_precision(), self._source()

    def _normalisation(self, loaded):
        """Return the mean and standard deviation used to normalise the network's input channels."""
        return loaded.mean, loaded.std

    def _views(self, images):
        """Return a list of arrays that are passed through the network. The features of these arrays are then joined.

        Each array has either one channel or the number of channels that the network expects.
        """
        return [images]

    def _extract(self, images):
        import torch

        loaded, device = self._loaded(), resolve_device(self.device)
        dtype = getattr(torch, self._resolved_precision())
        with torch.inference_mode():
            mean, std = (
                torch.tensor(values, device=device, dtype=torch.float32).view(1, -1, 1, 1)
                for values in self._normalisation(loaded)
            )
            features = []
            for view in self._views(images):
                if view.shape[3] not in (1, loaded.n_channels):
                    raise ValueError(
                        f"images: expected 1 or {loaded.n_channels} channels for this {loaded.kind}, "
                        f"got {view.shape[3]}."
                    )
                batch = torch.from_numpy(np.ascontiguousarray(view)).to(device).permute(0, 3, 1, 2)
                batch = ((batch.expand(-1, loaded.n_channels, -1, -1) - mean) / std).to(dtype)
                outputs = loaded.module(batch.contiguous(memory_format=torch.channels_last))
                outputs = outputs.values() if isinstance(outputs, dict) else outputs
                pooled = [_pooled(output.float(), self.pool_size) for output in outputs]
                features.append(loaded.join(pooled, images.shape[1:3]))
            return torch.cat(features, dim=1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


@dataclass(frozen=True)
class LoadedNetwork:
    """Network that is ready for use, together with the positions of its outputs in the image.

    Parameters
    ----------
    module : torch.nn.Module
        Network that maps a batch of shape (n, n_channels, height, width) to a list or dict of outputs of shape (n,
        n_maps, height', width').
    strides : tuple of int, or None
        Number of pixels between neighbouring positions of each output. None if the outputs do not fit a grid.
    offsets : tuple of float
        Pixel at which the first position of each output is centred.
    n_channels : int
        Number of input channels.
    mean, std : tuple of float
        Mean and standard deviation used to normalise the input.
    kind : str
        Word for the network in error messages.
    aligned : bool
        Whether outputs are interpolated at the positions of the finest output before they are joined. If False, they
        are enlarged to the size of the finest output, as in PatchCore. Each output is then assumed to cover the image
        from edge to edge.
    """

    module: object
    strides: tuple
    offsets: tuple
    n_channels: int = 3
    mean: tuple = (0.0,)
    std: tuple = (1.0,)
    kind: str = "module"
    aligned: bool = False

    @property
    def stride(self):
        """Stride of the finest output."""
        return None if self.strides is None else min(self.strides)

    @property
    def offset(self):
        """Pixel at which the first position of the finest output is centred."""
        return 0.0 if self.strides is None else self.offsets[self.strides.index(self.stride)]

    def join(self, outputs, shape):
        """Bring all outputs to the grid of the finest output, and concatenate them.

        Parameters
        ----------
        outputs : list of torch.Tensor of shape (n, n_maps, height', width')
        shape : tuple of int (height, width)
            Height and width of the images, which all have the same shape.

        Returns
        -------
        joined : torch.Tensor of shape (n, n_features, height'', width'')
        """
        import torch

        if self.aligned:
            placed = [self._placed(*output, shape) for output in zip(outputs, self.strides, self.offsets)]
        else:
            finest = max((output.shape[2:] for output in outputs), key=lambda size: size[0] * size[1])
            placed = [output if output.shape[2:] == finest else _enlarged(output, finest) for output in outputs]
        return torch.cat(placed, dim=1)

    def _placed(self, output, stride, offset, shape):
        # Position i of the finest output is position scale * i + shift of this output.
        scale, shift = self.stride / stride, (self.offset - offset) / stride
        for axis in (2, 3):
            output = _interpolated(output, axis, -(-shape[axis - 2] // self.stride), scale, shift)
        return output


def _pooled(output, size):
    from torch.nn import functional

    return output if size == 1 else functional.avg_pool2d(output, size, stride=1, padding=size // 2)


def _interpolated(output, axis, size, scale, shift):
    """Interpolate linearly along an axis at positions ``scale * i + shift``. Beyond the ends, values are constant."""
    import torch

    if scale == 1 and shift == 0:
        return output.narrow(axis, 0, size)
    places = (torch.arange(size, dtype=torch.float64) * scale + shift).clamp(0, output.shape[axis] - 1)
    before = places.floor().long()
    weights = (places - before).to(output.dtype).to(output.device).view((-1, 1) if axis == 2 else (-1,))
    after = (before + 1).clamp(max=output.shape[axis] - 1)
    ends = (output.index_select(axis, index.to(output.device)) for index in (before, after))
    return torch.lerp(*ends, weights)


def _enlarged(output, shape):
    """Enlarge an output to the given shape.

    Integer factors are used if possible, because positions then do not depend on the image size.
    """
    from torch.nn import functional

    scale = [round(size / own) for size, own in zip(shape, output.shape[2:])]
    if any(factor * own < size for factor, own, size in zip(scale, output.shape[2:], shape)):
        return functional.interpolate(output, size=shape, mode="bilinear")
    return functional.interpolate(output, scale_factor=scale, mode="bilinear")[:, :, : shape[0], : shape[1]]


def check_normalisation(name, values, n_channels=None):
    """Check that the mean or standard deviation of the input has the right number of valid values.

    Values must be finite numbers, and > 0 for "std". There must be one for each input channel, or one for all channels.
    """
    numbers = finite_numbers(values)
    is_right = numbers is not None and len(numbers) > 0 and (n_channels is None or len(numbers) in (1, n_channels))
    if not is_right or (name == "std" and not (numbers > 0).all()):
        count = "" if n_channels is None else f"{n_channels} "
        raise ValueError(
            f"{name}: expected {count}numbers{' > 0' if name == 'std' else ''}, one for each input channel, or one for "
            f"all channels, got {values!r}."
        )


def make_probe(n_channels, size):
    """Return noise of shape (1, n_channels, size, size). Its gradients show which pixels an output depends on."""
    import torch

    noise = torch.randn(1, n_channels, size, size, generator=torch.Generator().manual_seed(0))
    return noise.requires_grad_()


def first_center(probe, output):
    """Estimate the pixel at which the first position of an output is centred.

    Parameters
    ----------
    probe : torch.Tensor of shape (1, n_channels, size, size)
        Probe from :func:`make_probe`.
    output : torch.Tensor of shape (1, n_maps, size', size')
        Output of the network for the probe. `size` must be a multiple of `size'`.

    Returns
    -------
    offset : float
        One of three values, the one nearest to the measured offset:

        * 0, for networks that pad both sides of an image equally
        * ``(stride - 1) / 2``, for networks that cut the image into cells
        * ``stride - 1``, for TensorFlow networks, which pad images only at the bottom and on the right
    """
    import torch

    stride, n_patches = probe.shape[2] // output.shape[2], output.shape[2]
    middle = output[0, :, n_patches // 2, n_patches // 2]
    generator, influence = torch.Generator().manual_seed(0), 0
    for _ in range(4):
        noise = torch.empty_like(middle).normal_(generator=generator)
        (gradient,) = torch.autograd.grad((middle * noise).sum(), probe, retain_graph=True)
        influence = influence + gradient.square().sum(dim=(0, 1))
    if not influence.sum() > 0:
        return 0.0
    pixels = torch.arange(len(influence), dtype=influence.dtype)
    row, column = ((influence.sum(dim=axis) * pixels).sum() / influence.sum() for axis in (1, 0))
    center = float(row + column) / 2 - stride * (n_patches // 2)
    return min((0.0, (stride - 1) / 2, stride - 1.0), key=lambda offset: abs(offset - center))


@lru_cache(maxsize=4)
def _load(source, precision, device, folded=True):
    import torch

    # Loading needs gradients, even if the caller has disabled them. It must not use up the caller's random numbers.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        loaded = source.load(folded)
    # Convolutions are fastest in channels-last format, both on CPUs and on tensor cores.
    loaded.module.to(device=device, dtype=getattr(torch, precision), memory_format=torch.channels_last)
    return loaded
