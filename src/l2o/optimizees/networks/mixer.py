"""The MLP-Mixer (Tolstikhin et al. 2021).

Shapes: N images of a minibatch, S squares of an image, D width of the network.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from l2o.optimizees.networks.patches import Patches


class MixerBlock(nn.Module):
    """Adds an MLP over the squares and then an MLP over the width to x, each behind a layer norm. (N, S, D)"""

    def __init__(self, squares: int, width: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens_up, self.tokens_down = nn.Linear(squares, 2 * squares), nn.Linear(2 * squares, squares)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens_down(F.gelu(self.tokens_up(self.norm_1(x).mT))).mT
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class Mixer(nn.Module):
    """Classifies images (N, side, side) or (N, side, side, C): logits (N, out_features)."""

    def __init__(
        self,
        side: int = 8,
        patch: int = 2,
        in_channels: int = 1,
        width: int = 32,
        layers: int = 2,
        out_features: int = 10,
    ):
        super().__init__()
        self.patches = Patches(side, patch, in_channels)
        self.first = nn.Linear(self.patches.size, width)
        self.blocks = nn.Sequential(*(MixerBlock(self.patches.count, width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.first(self.patches(x)))).mean(-2))
