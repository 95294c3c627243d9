"""The plain eager reference: the paper's LSTM and its meta-gradient in a few lines of PyTorch, without avoidable waste.

Two `LSTMCell` and a `Linear` on the flat vector of coordinates, autograd through the window by a first-order surrogate
loss, one evaluation of the optimizee per inner step. The optimizee is the package's own, batched over tasks.

Shapes: B tasks, P coordinates of one optimizee, N = B·P, H hidden units, K steps of a window.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""θ (B, P) -> f (B,), ∇f (B, P)."""
Cells = list[tuple[Tensor, Tensor]]


class Eager(nn.Module):
    """The rule: with `p`, log-and-sign preprocessing; without, the gradient itself."""

    def __init__(self, p: float | None, hidden_size: int = 20, output_scale: float = 1.0):
        super().__init__()
        self.p, self.output_scale = p, output_scale
        self.first = nn.LSTMCell(1 if p is None else 2, hidden_size)
        self.second = nn.LSTMCell(hidden_size, hidden_size)
        self.head = nn.Linear(hidden_size, 1)

    def start(self, theta: Tensor) -> Cells:
        zeros = theta.new_zeros(theta.numel(), self.first.hidden_size)
        return [(zeros, zeros), (zeros, zeros)]

    def features(self, grad: Tensor) -> Tensor:
        grad = grad.reshape(-1, 1)
        if self.p is None:
            return grad
        size, floor = grad.abs(), math.exp(-self.p)
        large = torch.cat([size.clamp(min=floor).log() / self.p, grad.sign()], 1)
        small = torch.cat([-torch.ones_like(grad), grad / floor], 1)
        return torch.where(size >= floor, large, small)

    def forward(self, grad: Tensor, cells: Cells) -> tuple[Tensor, Cells]:
        first = self.first(self.features(grad), cells[0])
        second = self.second(first[0], cells[1])
        return self.output_scale * self.head(second[0]).view_as(grad), [first, second]


def window(
    rule: Eager, evaluate: Evaluate, theta: Tensor, grad: Tensor, cells: Cells, num_steps: int
) -> tuple[Tensor, Tensor, Tensor, Cells]:
    """Meta-gradient of one window into φ's .grad; losses (K, B), then θ, ∇f(θ) and the cells' states, detached.

    The surrogate Σ_t ⟨∇f(θ_t), θ_t⟩ has the gradient of Σ_t f(θ_t) where ∂∇_t/∂φ = 0.
    """
    surrogate, losses = torch.zeros(()), []
    for _ in range(num_steps):
        update, cells = rule(grad, cells)
        theta = theta + update
        loss, grad = evaluate(theta.detach())
        surrogate = surrogate + (grad * theta).sum()
        losses.append(loss)
    rule.zero_grad()
    (surrogate / len(theta)).backward()
    return torch.stack(losses), theta.detach(), grad, [(h.detach(), c.detach()) for h, c in cells]
