"""Features and logits of torch networks, computed in a graph.

The functions append nodes to a graph. They return the names of the values that these nodes compute.
"""

import copy
from functools import lru_cache

import numpy as np

from sklearn_exdd.export import images
from sklearn_exdd.export.tracing import traced, with_fixed_padding
from sklearn_exdd.features import efficientnet_lite, learned
from sklearn_exdd.features.segmentation_network import segmentation_network


def on_cpu(estimator):
    """Return a copy of an estimator that computes on the CPU. The copy does not have the cached network."""
    twin = copy.copy(estimator)
    twin.device = "cpu"
    vars(twin).pop("_network", None)
    return twin


def features(graph, extractor, planes):
    """Append the computation of the features of a NetworkFeatureExtractor.

    Parameters
    ----------
    graph : Graph
    extractor : NetworkFeatureExtractor
        Extractor that computes in float32.
    planes : str
        Images with values in [0, 1], resized to the size at which the extractor computes features.

    Returns
    -------
    maps : str
        Feature maps, a tensor of shape (batch, n_features, height', width').
    """
    extractor = on_cpu(extractor)
    loaded = extractor._loaded()
    network = network_of(loaded)
    shape, parts = images.shape_of(graph, planes), []
    for view in _views(graph, extractor, planes):
        outputs = network.outputs(graph, view, *extractor._normalisation(loaded))
        if extractor.pool_size > 1:
            outputs = [_pooled(graph, output, extractor.pool_size) for output in outputs]
        parts += _joined(graph, loaded, outputs, shape)
    return parts[0] if len(parts) == 1 else graph.Concat(*parts, axis=1)


def _views(graph, extractor, planes):
    """Return the inputs of the network. They are computed as in ``_prepare`` and ``_views`` of the extractor."""
    if getattr(extractor, "brightness", "linear") == "linear":
        return [planes]
    logs = images.logarithms(graph, planes, efficientnet_lite._LOG_OFFSET)
    logs = graph.Tanh(graph.Sub(logs, images.medians(graph, logs)))
    logs = graph.Div(graph.Add(logs, 1.0), 2.0)
    return [planes, logs] if extractor.brightness == "both" else [logs]


class Network:
    """Network that is converted to ONNX once and can be appended to a graph several times.

    Parameters
    ----------
    loaded : LoadedNetwork
        Network on the CPU, in float32.
    """

    def __init__(self, loaded):
        self.n_channels, self.unit, self.size = loaded.n_channels, 1, None
        module = function = loaded.module
        if loaded.aligned:  # a timm model; it pads images by itself
            module = with_fixed_padding(module)
            function, self.unit, self.size = module.levels, module.unit, module.size
        self.model = traced(
            lambda planes: _as_list(function(planes)),
            module,
            self.n_channels,
            unit=self.unit,
            size=self.size,
        )

    def outputs(self, graph, planes, mean, std):
        """Append the network to a graph and return its outputs.

        The planes have the shape (batch, 1, height, width) or (batch, n_channels, height, width).
        """
        mean, std = (np.array(values, dtype=np.float32).reshape(1, -1, 1, 1) for values in (mean, std))
        if self.n_channels > 1:
            # Repeat a single channel for every input channel of the network.
            planes = graph.Expand(planes, graph.vector(1, self.n_channels, 1, 1))
        planes = graph.Div(graph.Sub(planes, mean), std)
        if self.size is not None:
            is_right = graph.And(*(graph.Equal(*pair) for pair in zip(images.shape_of(graph, planes), self.size)))
            message = f"expected {self.size[0]} x {self.size[1]} pixels, got another size"
            planes = graph.require(planes, is_right, message)
        elif self.unit > 1:
            planes = images.repeated(graph, planes, self.unit)
        return graph.splice(self.model, [planes])


@lru_cache(maxsize=1)
def network_of(loaded):
    """Return the converted network. The last network is cached, because members of a combination may share it."""
    return Network(loaded)


def _as_list(outputs):
    return list(outputs.values() if isinstance(outputs, dict) else outputs)


def _pooled(graph, output, size):
    options = {"kernel_shape": [size] * 2, "strides": [1, 1], "pads": [size // 2] * 4, "count_include_pad": 1}
    return graph.AveragePool(output, **options)


def _joined(graph, loaded, outputs, shape):
    """Interpolate all outputs to the finest grid among the outputs, as :meth:`LoadedNetwork.join` does."""
    if not loaded.aligned:
        return _enlarged_to_finest(graph, outputs)
    sizes = [graph.ceil_div(size, loaded.stride) for size in shape]
    joined = []
    for output, stride, offset in zip(outputs, loaded.strides, loaded.offsets, strict=True):
        scale, shift = loaded.stride / stride, (loaded.offset - offset) / stride
        if scale == 1 and shift == 0:
            joined.append(graph.Slice(output, [0, 0], graph.vector(*sizes), [2, 3]))
            continue
        matrices = []
        for axis, size in zip((2, 3), sizes):
            places = graph.Add(graph.Mul(graph.arange(size), np.float64(scale)), np.float64(shift))
            matrices.append(images.interpolation(graph, places, graph.size(output, axis)))
        joined.append(images.between(graph, matrices[0], output, matrices[1]))
    return joined


def _enlarged_to_finest(graph, outputs):
    if len(outputs) == 1:
        return outputs
    shapes = [images.shape_of(graph, output) for output in outputs]
    areas = graph.Concat(*(graph.Unsqueeze(graph.Mul(*shape), [0]) for shape in shapes), axis=0)
    # The areas are float64, because onnxruntime 1.19 has no ArgMax of int64. Of equal areas, the first is chosen.
    largest = graph.ArgMax(graph.double(areas), axis=0, keepdims=0)
    finest = [graph.Gather(graph.vector(*sides), largest) for sides in zip(*shapes)]
    joined = []
    for output, shape in zip(outputs, shapes):
        ratios = [graph.Div(graph.double(size), graph.double(own)) for size, own in zip(finest, shape)]
        factors = [graph.Round(ratio) for ratio in ratios]
        # Enlarge the map by whole factors. If the result would not reach the end of the finest grid, stretch the map to
        # the size of the grid instead.
        reach = [
            graph.GreaterOrEqual(graph.Mul(factor, graph.double(own)), graph.double(size))
            for factor, own, size in zip(factors, shape, finest)
        ]
        is_whole = graph.And(*reach)
        matrices = [
            images.enlargement(graph, size, graph.Where(is_whole, factor, ratio), own)
            for size, factor, ratio, own in zip(finest, factors, ratios, shape)
        ]
        joined.append(images.between(graph, matrices[0], output, matrices[1]))
    return joined


HEAD_STRIDE = learned._HEAD_STRIDE  # distance between neighbouring logits, in pixels


class LearnedNetwork:
    """Segmentation network of a fitted LearnedFeatureExtractor. It computes features or logits.

    Parameters
    ----------
    extractor : LearnedFeatureExtractor
        Fitted extractor. If it has an encoder, the encoder must compute in float32.
    """

    def __init__(self, extractor):
        import torch

        self.extractor = extractor = on_cpu(extractor)
        self.n_planes, self.encoder, given = 1 if extractor.n_channels_ == 1 else 3, None, None
        if extractor.encoder is not None:
            owner = extractor._encoder_extractor()
            loaded = owner._loaded()
            self.encoder, self._normalisation = network_of(loaded), owner._normalisation(loaded)
            given = _GivenMaps(extractor._frozen_encoder())
        self._given = given
        with torch.device("meta"):
            network = segmentation_network(self.n_planes, given)
        weights = {name: torch.from_numpy(np.array(value)) for name, value in extractor.weights_.items()}
        network.load_state_dict(weights, assign=True)
        self._network = network.eval().requires_grad_(False)

    def features(self, graph, planes):
        """Return the feature maps of images in [0, 1] as a tensor of shape (batch, n_features, height', width')."""
        from torch.nn import functional

        def compute(planes, *maps):
            fine, middle, up_8, _ = self._levels(planes, maps)
            mean = functional.avg_pool2d(fine, 2)
            spread = (fine - functional.interpolate(mean, scale_factor=2)).square()
            return [mean, functional.avg_pool2d(spread, 2).sqrt(), middle, up_8]

        planes, shape = self.planes(graph, planes)
        outputs = self._append(graph, self._traced(compute), planes)
        return self._cropped(graph, graph.Concat(*outputs, axis=1), shape, self.extractor.stride)

    def logits(self, graph, planes):
        """Return the logits as a tensor of shape (batch, 1, height / 4, width / 4).

        If the extractor has `flip=True`, the logits are the mean over mirrored images.
        """
        planes, shape = self.planes(graph, planes)
        model = self._traced(lambda planes, *maps: [self._levels(planes, maps)[-1]])
        terms = []
        for axes in ((), (2,), (3,), (2, 3)) if self.extractor.flip else ((),):
            (logits,) = self._append(graph, model, _flipped(graph, planes, axes))
            terms.append(_flipped(graph, logits, axes))
        mean = terms[0] if len(terms) == 1 else graph.Div(graph.Sum(*terms), np.float32(len(terms)))
        return self._cropped(graph, mean, shape, learned._HEAD_STRIDE)

    def planes(self, graph, planes):
        """Return the input of the network, and the height and width of the images."""
        planes = images.contrasts(graph, planes, self.extractor.n_channels_, learned._LOG_OFFSET)
        planes = graph.Sub(planes, images.medians(graph, planes))
        return images.mirrored(graph, planes, learned._UNIT)

    def _levels(self, planes, maps):
        if self._given is not None:
            self._given.maps = maps
        return self._network.levels(planes)

    def _traced(self, function):
        others = [] if self._given is None else [(n, stride) for stride, n in self._given.n_maps.items()]
        return traced(function, self._network, self.n_planes, unit=learned._UNIT, others=others)

    def _append(self, graph, model, planes):
        maps = []
        if self.encoder is not None:
            brightness = graph.Clip(graph.Slice(planes, [0], [1], [1]), np.float32(-1), np.float32(1))
            seen = graph.Div(graph.Add(brightness, 1.0), 2.0)
            shape = images.shape_of(graph, planes)
            outputs = self.encoder.outputs(graph, seen, *self._normalisation)
            for stride, output in zip(self._given.n_maps, outputs):
                maps.append(graph.Slice(output, [0, 0], graph.vector(*(graph.Div(s, stride) for s in shape)), [2, 3]))
        return graph.splice(model, [planes, *maps])

    @staticmethod
    def _cropped(graph, maps, shape, stride):
        sizes = graph.vector(*(graph.ceil_div(size, stride) for size in shape))
        return graph.Slice(maps, [0, 0], sizes, [2, 3])


class _GivenMaps:
    """Replacement for an encoder. Its maps are not computed, but are inputs of the converted network."""

    def __init__(self, encoder):
        self.n_maps, self.maps = encoder.n_maps, ()

    def __call__(self, planes):
        return dict(zip(self.n_maps, self.maps))


def _flipped(graph, planes, axes):
    if not axes:
        return planes
    end = np.iinfo(np.int64).min
    return graph.Slice(planes, [-1] * len(axes), [end] * len(axes), list(axes), [-1] * len(axes))
