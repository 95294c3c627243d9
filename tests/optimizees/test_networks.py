"""The paper's networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from l2o.optimizees import conv_net, mlp

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
    with pytest.raises(ValueError, match=r"one of sigmoid, relu, tanh, .*, got 'step'"):
        mlp(4, [3], 2, "step")


@pytest.mark.parametrize("sizes", [(0, [3], 2), (4, [0], 2), (4, [3], 0), (4, [3, -1], 2)], ids=str)
def test_empty_layers_are_refused(sizes):
    with pytest.raises(ValueError, match="at least one unit"):
        mlp(*sizes)


# ------------------------------------------------------------------------------------------------------ the ConvNet


def test_conv_net_has_the_paper_s_layers():
    shapes = {name: tuple(parameter.shape) for name, parameter in conv_net().named_parameters()}
    convolutions = {"conv_1": (16, 3, 5, 5), "conv_2": (16, 16, 5, 5), "conv_3": (16, 16, 5, 5)}
    linear = {"linear_1": (32, 4 * 4 * 16), "linear_2": (10, 32)}
    expected = {f"{name}.weight": shape for name, shape in (convolutions | linear).items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in (convolutions | linear).items()}
    expected |= {"norm_1.shift": (16,), "norm_2.shift": (16,), "norm_3.shift": (16,), "norm_4.shift": (32,)}
    assert shapes == expected


@pytest.mark.parametrize(
    ("size", "channels", "hidden", "reduce"),
    [(8, (4, 3, 2), (5,), 1), (12, (3,), (), 1), (6, (), (4, 3), 1), (16, (4, 2), (3,), 2)],
    ids=str,
)
def test_conv_net_equals_its_definition(float64, size, channels, hidden, reduce):
    """Means of squares, then convolution → batch norm → ReLU → max-pool, in the paper's order and on colours first."""
    network = conv_net(size, 3, channels, hidden, out_features=2, reduce=reduce)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    part = dict(network.named_parameters())
    x = torch.rand(7, size, size, 3)

    def normalised(x, number):
        axes = [0, 2, 3][: x.ndim - 1]
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        shift = part[f"norm_{number}.shift"].view(1, -1, *[1] * (x.ndim - 2))
        return (x - mean) / (variance + 1e-3).sqrt() + shift

    squares = x.view(7, size // reduce, reduce, size // reduce, reduce, 3)
    expected = squares.mean((2, 4)).permute(0, 3, 1, 2).contiguous()
    for i in range(1, len(channels) + 1):
        expected = F.conv2d(expected, part[f"conv_{i}.weight"], part[f"conv_{i}.bias"], stride=1, padding=2)
        expected = F.max_pool2d(normalised(expected, i).relu(), 2)
    expected = expected.flatten(1)
    for i in range(1, len(hidden) + 1):
        expected = expected @ part[f"linear_{i}.weight"].T + part[f"linear_{i}.bias"]
        expected = normalised(expected, len(channels) + i).relu()
    last = f"linear_{len(hidden) + 1}"
    expected = expected @ part[f"{last}.weight"].T + part[f"{last}.bias"]
    assert_close(network(x), expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(expected)
    grads, true = (torch.autograd.grad((out * weights).sum(), [*part.values()]) for out in (network(x), expected))
    assert_close(grads, true, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "arguments", [{"image_size": 7}, {"channels": [0]}, {"hidden": [0]}, {"in_channels": 0}, {"reduce": 0}], ids=str
)
def test_a_conv_net_without_units_is_refused(arguments):
    with pytest.raises(ValueError, match="at least one unit"):
        conv_net(**arguments)
