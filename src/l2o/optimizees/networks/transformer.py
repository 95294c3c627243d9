"""Transformers (Vaswani et al. 2017): of characters and of images.

They are written out because `nn.MultiheadAttention` and torch's fused attention have no batching rule under
`torch.func.vmap`, by which many tasks go through one network at once.

Shapes: N sequences of a minibatch, T positions, D width of the network, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o.optimizees.networks.patches import Patches


class SelfAttention(nn.Module):
    """Mixes positions: softmax(q kᵀ / √(D/H)) v in each of H heads, then a linear map. (N, T, D) -> (N, T, D).

    Where it is `causal`, a position sees itself and those before it alone.
    """

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"the width of a transformer must be a multiple of its heads, got {width} and {heads}")
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)  # (N, H, T, D/H)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2))


class Block(nn.Module):
    """Adds attention and then a two-layer MLP of four times the width to x, each behind a layer norm."""

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads, causal)
        self.norm_2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class CharTransformer(nn.Module):
    """Predicts every next byte of texts: bytes (N, T) -> logits (N, T, letters)."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4, length: int = 32, letters: int = 256):
        super().__init__()
        self.letter, self.position = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > self.position.num_embeddings:
            raise ValueError(f"the transformer has {self.position.num_embeddings} positions, got {x.shape[-1]} letters")
        x = self.letter(x) + self.position.weight[: x.shape[-1]]
        return self.head(self.norm(self.blocks(x)))


class VisionTransformer(nn.Module):
    """Classifies images (N, side, side) or (N, side, side, C), cut into squares (Dosovitskiy et al. 2021), by the mean
    over all squares: logits (N, out_features)."""

    def __init__(
        self,
        side: int = 8,
        patch: int = 2,
        in_channels: int = 1,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        out_features: int = 10,
    ):
        super().__init__()
        self.patches = Patches(side, patch, in_channels)
        self.first = nn.Linear(self.patches.size, width)
        self.position = nn.Embedding(self.patches.count, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.patches(x)) + self.position.weight
        return self.head(self.norm(self.blocks(x)).mean(-2))
