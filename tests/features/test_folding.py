"""Folding of batch normalisations into convolutions."""

import copy

import pytest
import torch
from torch import nn

from sklearn_exdd.features.folding import fold_watched


class Network(nn.Module):
    """Network of convolutions. Depending on `twice`, one of them is called twice, or one output is used twice."""

    def __init__(self, twice):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1)
        self.first_norm, self.second_norm, self.alone = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(3)
        self.twice = twice

    def forward(self, x):
        x = self.first_norm(self.first(self.alone(x))).relu()
        y = self.second(x)
        y = self.second_norm(y) + (y if self.twice == "output" else 0)
        return [x, self.second(y) if self.twice == "call" else y]


def random_network(twice):
    generator = torch.Generator().manual_seed(0)
    network = Network(twice).eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + ("var" in name))
    return network


@pytest.mark.parametrize(
    ("twice", "left"),
    [(None, {"alone"}), ("call", {"alone", "second_norm"}), ("output", {"alone", "first_norm", "second_norm"})],
)
def test_only_what_changes_nothing_is_folded(twice, left):
    network, x = random_network(twice), torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(network.state_dict())
    folded = fold_watched(network, x)
    for one, other in zip(folded(x), network(x)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert {name for name, layer in folded.named_modules() if isinstance(layer, nn.BatchNorm2d)} == left
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_an_activation_within_a_normalisation_stays():
    timm_layers = pytest.importorskip("timm.layers")

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), timm_layers.BatchNormAct2d(4))

        def forward(self, x):
            return [self.layers(x)]

    network = Wrapped().eval().requires_grad_(False)
    network.layers[1].running_mean += 0.5
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    folded = fold_watched(network, x)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)
    assert folded(x)[0].min() == 0
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
