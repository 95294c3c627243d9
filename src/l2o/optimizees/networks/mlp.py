"""Fully connected networks.

Shapes: N images of a minibatch.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

ACTIVATIONS = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


def mlp(in_features: int, hidden: Sequence[int], out_features: int, activation: str = "sigmoid") -> nn.Sequential:
    """Make an MLP from images (N, …) to outputs (N, out_features), with a hidden layer for each size in `hidden`."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    sizes = [in_features, *hidden]
    if min(*sizes, out_features) < 1:
        raise ValueError(f"every layer needs at least one unit, got {sizes} -> {out_features}")
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], out_features))


def image_mlp(
    side: int, hidden: Sequence[int], out_features: int = 10, activation: str = "relu", in_channels: int = 1
) -> nn.Sequential:
    """Make an MLP from images of `side` × `side` pixels with `in_channels` colours to logits (N, out_features)."""
    return mlp(side**2 * in_channels, hidden, out_features, activation)


def image_autoencoder(
    side: int, hidden: Sequence[int], activation: str = "relu", in_channels: int = 1
) -> nn.Sequential:
    """Make an MLP from images of `side` × `side` pixels with `in_channels` colours to as many logits."""
    size = side**2 * in_channels
    return mlp(size, hidden, size, activation)
