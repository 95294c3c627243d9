"""The paper's network for CIFAR, and what convolutional networks here share.

Shapes: N images of a minibatch, C channels.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.optimizees.networks.mlp import ACTIVATIONS


def conv_net(
    image_size: int = 32,
    in_channels: int = 3,
    channels: Sequence[int] = (16, 16, 16),
    hidden: Sequence[int] = (32,),
    out_features: int = 10,
    reduce: int = 1,
) -> nn.Sequential:
    """Make the paper's network for CIFAR, from images (N, size, size, C), colours last, to logits (N, out_features).

    For each of `channels`: 5×5 convolution, stride 1, same padding → batch norm → ReLU → 2×2 max-pool; for each of
    `hidden`: Linear → batch norm → ReLU; Linear. Parameters: conv_1.weight, conv_1.bias, norm_1.shift, … Where `reduce`
    is more than 1, which is not the paper's, images are averaged over squares of that side first: a cheap relative.
    """
    remaining = image_size // max(reduce, 1) // 2 ** len(channels)
    if min(remaining, reduce, in_channels, *channels, *hidden, out_features) < 1:
        raise ValueError(
            f"every layer needs at least one unit, got {in_channels} channels, {[*channels]}, {[*hidden]}, "
            f"{out_features} on images of size {image_size}, reduced {reduce} times"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(first=ColoursFirst(in_channels))
    if reduce > 1:
        layers["reduce"] = nn.AvgPool2d(reduce)
    for i, (fan_in, fan_out) in enumerate(pairwise([in_channels, *channels]), 1):
        layers[f"conv_{i}"] = nn.Conv2d(fan_in, fan_out, 5, padding=2)
        layers[f"norm_{i}"] = BatchNorm(fan_out)
        layers[f"pool_{i}"] = nn.MaxPool2d(2)  # commutes with ReLU, which has a quarter of the work behind it
        layers[f"relu_{i}"] = nn.ReLU()
    layers["flatten"] = nn.Flatten()
    sizes = [remaining**2 * [in_channels, *channels][-1], *hidden]
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), 1):
        layers[f"linear_{i}"] = nn.Linear(fan_in, fan_out)
        layers[f"norm_{len(channels) + i}"] = BatchNorm(fan_out)
        layers[f"relu_{len(channels) + i}"] = nn.ReLU()
    layers[f"linear_{len(sizes)}"] = nn.Linear(sizes[-1], out_features)
    return nn.Sequential(layers)


def plain_conv_net(
    side: int,
    channels: Sequence[int] = (8, 8),
    out_features: int = 10,
    activation: str = "relu",
    in_channels: int = 1,
) -> nn.Sequential:
    """Make a convolutional network without norms, from images of `side` × `side` pixels to logits (N, out_features).

    For each of `channels` there is a 3×3 convolution of stride 2 and an activation; a linear layer stands at the end.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if min(side, in_channels, *channels, out_features) < 1:
        raise ValueError(
            f"every layer needs at least one unit, got images of {side}×{side}×{in_channels}, {[*channels]}, "
            f"{out_features}"
        )
    layers: list[nn.Module] = [ColoursFirst(in_channels)]
    for fan_in, fan_out in pairwise([in_channels, *channels]):
        layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
        side = (side + 1) // 2
    features = [in_channels, *channels][-1] * side**2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, out_features))


class ColoursFirst(nn.Module):
    """Views images (N, height, width, C) as (N, C, height, width). In memory the colours stay last.

    Images without an axis of colours, (N, height, width), have one channel. Raises ValueError where the images do not
    have `channels` colours, C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        images = x[..., None] if x.ndim == 3 else x
        if images.ndim != 4 or images.shape[-1] != self.channels:
            raise ValueError(_about_colours(tuple(x.shape[1:]), self.channels))
        return images.movedim(-1, -3)


def _about_colours(shape: tuple[int, ...], channels: int) -> str:
    """Say what is wrong with images of a shape, for a network that takes `channels` colours."""
    if len(shape) == 3 and shape[0] == channels:
        wanted = (*shape[1:], channels)
        return f"colours come last: (N, {_listed(wanted)}); yours look like colours first: x.transpose(0, 2, 3, 1)"
    found = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else None
    if found is None:
        return f"images must be (N, height, width, {channels}), got (N, {_listed(shape)})"
    have = f"images (N, {_listed(shape)}) have {found} {'colour' if found == 1 else 'colours'}"
    return f"{have}, and the network takes {channels}: set in_channels={found}"


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


class BatchNorm(nn.Module):
    """Gives (x − mean) / √(variance + ε) + shift per channel (axis 1), always with the minibatch's own statistics.

    As in the authors' code, ε is 1e-3 and there is no scale, which would start at 1 while all else starts near 0.
    """

    def __init__(self, num_features: int, eps: float = 1e-3):
        super().__init__()
        self.eps = eps
        self.shift = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.ones_like(self.shift)  # given None, torch's has no second derivative
        return F.batch_norm(x, None, None, scale, self.shift, training=True, eps=self.eps)
