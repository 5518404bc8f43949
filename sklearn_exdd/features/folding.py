"""Folding of batch normalisations into the preceding convolutions. Importing this module does not load torch."""

import copy
from collections import Counter

# Largest relative error of an output that folding may cause. The errors due to rounding are below 1e-5.
_TOLERANCE = 1e-3


def fold_traced(network):
    """Fold, in place, the batch normalisations of a module that torch.fx has traced."""
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


def fold_watched(module, probe):
    """Fold the batch normalisations of a module that torch.fx cannot trace.

    Parameters
    ----------
    module : torch.nn.Module
        Module in evaluation mode. It returns a list of outputs.
    probe : torch.Tensor
        Input of the module. It is passed through the module to find the convolution before each normalisation.

    Returns
    -------
    folded : torch.nn.Module
        Folded copy of the module. The module itself is returned if folding would change its outputs, for example
        because it uses the output of a convolution twice.
    """
    import torch

    folded = copy.deepcopy(module)
    with torch.no_grad():
        expected = module(probe)
        for norm, conv in _neighbours(folded, probe):
            _fold(folded, norm, conv)
        outputs = folded(probe)
    errors = [(one - other).norm() / other.norm().clamp(min=1e-9) for one, other in zip(outputs, expected)]
    return folded if max(errors) < _TOLERANCE else module


def _neighbours(module, probe):
    """Return pairs (batch normalisation, preceding convolution) of layers that are called exactly once."""
    from torch import nn

    outputs, n_calls, pairs = {}, Counter(), []

    def watch(layer, inputs, output):
        n_calls[layer] += 1
        if isinstance(layer, nn.Conv2d):
            outputs[id(output)] = layer, output  # keeping the output alive prevents other tensors from reusing its id
        elif id(inputs[0]) in outputs:
            pairs.append((layer, outputs[id(inputs[0])][0]))

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    hooks = [layer.register_forward_hook(watch) for layer in layers]
    module(probe)
    for hook in hooks:
        hook.remove()
    return [
        (norm, conv) for norm, conv in pairs if n_calls[norm] == n_calls[conv] == 1 and norm.running_mean is not None
    ]


def _fold(module, norm, conv):
    """Merge a normalisation layer into a convolution. Only other parts of the layer remain, such as an activation."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
    conv.requires_grad_(False)
    parent, _, name = next(name for name, layer in module.named_modules() if layer is norm).rpartition(".")
    rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
    setattr(module.get_submodule(parent), name, nn.Sequential(*rest))
