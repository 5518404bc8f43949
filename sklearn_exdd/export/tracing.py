"""Torch modules as ONNX models, by torch's own exporter. Importing this module loads no torch."""

import warnings
from importlib.util import find_spec

from sklearn_exdd.export.graph import OPSET

# Unlike each other and unlike any size that a network fixes, so that the exporter takes none of them for a constant.
_BATCH, _HEIGHT, _WIDTH = 2, 128, 160


def traced(function, module, n_planes, *, unit=1, size=None, others=()):
    """Trace what a module computes, for images of any number and size.

    Parameters
    ----------
    function : callable
        ``function(planes, *others)`` returns a list of tensors. It uses `module`, whose weights are exported.
    module : torch.nn.Module
        In evaluation mode, on the CPU, float32.
    n_planes : int
        Channels of the planes (batch, n_planes, height, width).
    unit : int, default=1
        The sides of the planes are multiples of it.
    size : tuple of int (height, width), default=None
        The only size of the planes; None is any.
    others : sequence of (int, int), default=()
        Further inputs: channels, and pixels of the planes to one position; channels with a stride of None are
        numbers, one a channel of each image.

    Returns
    -------
    model : onnx.ModelProto
    """
    import torch
    from torch import nn
    from torch.export import Dim

    if find_spec("onnxscript") is None:
        raise ImportError("to_onnx needs onnxscript for a detector with a network: pip install onnxscript.")

    class Traced(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, *inputs):
            return tuple(function(*inputs))

    height, width = size or (_HEIGHT, _WIDTH)
    batch, rows, columns = Dim("batch"), Dim("height"), Dim("width")
    planes = torch.rand(_BATCH, n_planes, height, width, generator=torch.Generator().manual_seed(0))
    examples, axes = [planes], [{0: batch} if size else {0: batch, 2: unit * rows, 3: unit * columns}]
    for n_channels, stride in others:
        if stride is None:
            examples.append(torch.zeros(_BATCH, n_channels, 1, 1))
            axes.append({0: batch})
        else:
            examples.append(torch.rand(_BATCH, n_channels, height // stride, width // stride))
            axes.append({0: batch, 2: unit // stride * rows, 3: unit // stride * columns})
    try:
        # The exporter warns of axes that share a name, which is meant, and of its own deprecations.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                Traced().eval(),
                tuple(examples),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(tuple(axes),),
                verbose=False,
            )
            return program.model_proto
    except Exception as error:  # of as many kinds as there are networks
        cause = error.__cause__ or error
        raise ValueError(
            "to_onnx: expected a network that torch.onnx.export converts for images of any size, got another one "
            f"({type(cause).__name__}: {str(cause).strip().partition(chr(10))[0][:300]}). Choose another backbone, "
            "such as 'efficientnet_lite0' or 'resnet18'."
        ) from error


def with_fixed_padding(module):
    """Return a copy whose convolutions with TensorFlow's padding pad by constants.

    Those of timm pad by what the size of their input asks for: where the sides are multiples of all strides, it is
    always the same.
    """
    import copy

    from torch import nn
    from torch.nn import functional

    class Fixed(nn.Module):
        def __init__(self, convolution):
            super().__init__()
            self.convolution, pads = convolution, []
            for kernel, stride, dilation in zip(
                convolution.kernel_size[::-1], convolution.stride[::-1], convolution.dilation[::-1]
            ):
                total = max(dilation * (kernel - 1) + 1 - stride, 0)
                pads += [total // 2, total - total // 2]
            self.pads = tuple(pads)

        def forward(self, x):
            own = self.convolution
            padded = functional.pad(x, self.pads)
            return functional.conv2d(padded, own.weight, own.bias, own.stride, 0, own.dilation, own.groups)

    padded = [name for name, part in module.named_modules() if type(part).__name__ == "Conv2dSame"]
    if not padded:
        return module
    module = copy.deepcopy(module)
    for place in padded:
        parent, _, name = place.rpartition(".")
        setattr(module.get_submodule(parent), name, Fixed(module.get_submodule(place)))
    return module
