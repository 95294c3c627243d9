"""The paper's networks."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from l2o.optimizees import mlp

ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


@pytest.mark.parametrize(
    ("hidden", "size"),
    [((20,), 15_910), ((40,), 31_810), ((20, 20), 16_330), ((), 7_850)],
)
def test_the_paper_s_networks_have_their_size(hidden, size):
    assert sum(parameter.numel() for parameter in mlp(784, hidden, 10).parameters()) == size


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layers_and_activations_in_order(activation):
    network = mlp(6, [5, 4], 3, activation)
    linear = [module for module in network if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(6, 5), (5, 4), (4, 3)]
    x = torch.randn(7, 2, 3)
    expected = x.flatten(1)
    for layer in linear[:-1]:
        expected = ACTIVATIONS[activation](expected @ layer.weight.T + layer.bias)
    expected = expected @ linear[-1].weight.T + linear[-1].bias
    assert_close(network(x), expected, rtol=1e-6, atol=1e-6)


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="one of sigmoid, relu, tanh, got 'gelu'"):
        mlp(4, [3], 2, "gelu")


@pytest.mark.parametrize("sizes", [(0, [3], 2), (4, [0], 2), (4, [3], 0), (4, [3, -1], 2)], ids=str)
def test_empty_layers_are_refused(sizes):
    with pytest.raises(ValueError, match="at least one unit"):
        mlp(*sizes)
