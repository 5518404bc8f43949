"""Conversion of torch modules to ONNX models by torch's own exporter. Importing this module does not load torch."""

import warnings
from importlib.metadata import PackageNotFoundError, version

from sklearn_exdd.export.graph import OPSET

# Sizes of the example inputs that are passed to the exporter. They differ from each other and from all sizes that are
# fixed in a network. Otherwise, the exporter could take a variable size for a constant.
_BATCH, _HEIGHT, _WIDTH = 2, 128, 160

# As in the extra onnx. Below them, the exporter fails on batch normalization (torch 2.6), on the sizes of images
# (torch 2.7) or on the functions of its own models (onnxscript 0.6.0).
LOWEST = {"onnxscript": "0.6.1", "torch": "2.8"}


def traced(function, module, n_planes, *, unit=1, size=None, others=()):
    """Convert the computation of a module to an ONNX model for any number of images of any size.

    Parameters
    ----------
    function : callable
        Function to convert. It is called as ``function(planes, *others)`` and returns a list of tensors. It computes
        them with `module`.
    module : torch.nn.Module
        Module whose weights are exported. It must be in evaluation mode, on the CPU and in float32.
    n_planes : int
        Number of channels of the planes. The planes have the shape (batch, n_planes, height, width).
    unit : int, default=1
        Number of pixels. The height and the width of the planes must be multiples of it.
    size : tuple of int (height, width), default=None
        Only size of the planes that is allowed. If None, any size is allowed.
    others : sequence of (int, int), default=()
        Number of channels and stride of each additional input. The stride is in pixels of the planes. A stride of None
        means that the input has one number per image and channel.

    Returns
    -------
    model : onnx.ModelProto
    """
    import torch
    from torch import nn
    from torch.export import Dim

    _check_versions()

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
        # Ignore warnings of the exporter. It warns of axes that share a name, which is intended. It also warns of
        # deprecated functions that it calls itself.
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
    except Exception as error:  # the class of the exception depends on the network
        cause = error.__cause__ or error
        raise ValueError(
            "to_onnx: expected a network that torch.onnx.export can convert for images of any size, got an error "
            f"({type(cause).__name__}: {str(cause).strip().partition(chr(10))[0][:300]}). Choose another backbone, "
            "such as 'efficientnet_lite0' or 'resnet18'."
        ) from error


def _check_versions():
    from torch.torch_version import TorchVersion

    for package, lowest in LOWEST.items():
        try:
            found = TorchVersion(version(package))
        except PackageNotFoundError:
            found = None
        if found is None or found < lowest:
            raise ImportError(
                f"to_onnx: expected {package} {lowest} or later for a detector with a network, got {found or 'none'}. "
                "Run: pip install 'sklearn_exdd[onnx]'."
            )


def with_fixed_padding(module):
    """Return a copy of a module in which the padding of convolutions is constant.

    In timm, convolutions with TensorFlow's padding compute the amount of padding from the size of the input. If the
    height and the width are multiples of all strides, the amount is always the same.
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
