"""The small network that a per-parameter rule applies to every coordinate.

Shapes: B tasks, P coordinates, I inputs, O outputs. Features come first, (I, B, P), so that each feature is one run of
memory and a layer is one product of matrices for all coordinates of all tasks.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """y = W_n relu(… relu(W_0 x + b_0) …) + b_n, for each coordinate by itself.

    `sizes` are the numbers of inputs, of units of each hidden layer, and of outputs. The weights `weight_0`, … are
    (O, I); they start truncated normal with σ = 1/√I, cut at ±2σ, and the biases at 0, as Haiku's linear layers do.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.num_layers = len(sizes) - 1
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            self.register_parameter(f"weight_{i}", nn.Parameter(truncated_normal(outputs, inputs)))
            self.register_parameter(f"bias_{i}", nn.Parameter(torch.zeros(outputs)))

    @property
    def weights(self) -> list[Tensor]:
        """Give W and b of every layer, one after another, as φ has them now: with a task axis, or without."""
        return [getattr(self, f"{kind}_{i}") for i in range(self.num_layers) for kind in ("weight", "bias")]

    def forward(self, x: Tensor) -> Tensor:
        """(I, B, P) -> (O, B, P)."""
        for i in range(self.num_layers):
            x = linear(x.relu() if i else x, getattr(self, f"weight_{i}"), getattr(self, f"bias_{i}"))
        return x


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b: (I, B, P) -> (O, B, P).

    The weight is (O, I) for all tasks or (B, O, I), one for each task; likewise the bias is (O,) or (B, O). The bias is
    added last, as the authors' code adds it: float32's rounding shows in published trajectories.
    """
    if weight.ndim == 3:
        product = torch.bmm(weight, x.movedim(1, 0)).movedim(0, 1)
    else:
        product = (weight @ x.flatten(1)).unflatten(1, x.shape[1:])
    return product + (bias[:, None, None] if bias.ndim == 1 else bias.mT[..., None])


def truncated_normal(outputs: int, inputs: int) -> Tensor:
    """Draw weights (O, I) from a normal distribution with σ = 1/√I that is cut at ±2σ."""
    sigma = 1 / math.sqrt(inputs)
    return nn.init.trunc_normal_(torch.empty(outputs, inputs), std=sigma, a=-2 * sigma, b=2 * sigma)
