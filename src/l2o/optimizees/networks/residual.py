"""A small residual network (He et al. 2016) with batch norm.

Shapes: N images of a minibatch, C channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from l2o.optimizees.networks.convolutional import ColoursFirst


def res_net(in_channels: int = 1, channels: Sequence[int] = (8, 16), out_features: int = 10) -> nn.Sequential:
    """Make a residual network from images (N, height, width, C) or (N, height, width) to logits (N, out_features).

    A 3×3 convolution is followed by one block for each of `channels`; each block but the first halves the side of its
    images. Then the mean over all positions goes through a linear layer. Batch norm has a scale and a shift and always
    uses the minibatch's own statistics.
    """
    if not channels or min(in_channels, *channels, out_features) < 1:
        raise ValueError(
            f"every layer needs at least one unit, got {in_channels} channels, {[*channels]}, {out_features}"
        )
    first = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
    sizes = [channels[0], *channels]
    blocks = [ResidualBlock(sizes[i], sizes[i + 1], stride=1 if i == 0 else 2) for i in range(len(channels))]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], out_features)
    return nn.Sequential(ColoursFirst(in_channels), first, norm(channels[0]), nn.ReLU(), *blocks, *head)


def norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm that keeps no running statistics, which would be no function of θ."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


class ResidualBlock(nn.Module):
    """Gives relu(norm(conv(relu(norm(conv(x))))) + x), where x is brought to the new size by a 1×1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv_1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm_1 = norm(out_channels)
        self.conv_2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm_2 = norm(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm_2(self.conv_2(self.norm_1(self.conv_1(x)).relu()))
        return (inner + self.shortcut(x)).relu()
