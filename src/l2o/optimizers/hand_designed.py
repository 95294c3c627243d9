"""The baselines as update rules, each equal to its `torch.optim` namesake step by step.

Shapes: B tasks, P coordinates. Every learning rate is a float, or (B, 1): a whole grid of them in one unroll.
"""

import copy
from typing import Self

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import State, UpdateRule


class HandDesigned(UpdateRule):
    """An update rule without φ whose one knob is its learning rate; `lr=None` asks for it to be tuned."""

    coordinatewise = True

    def __init__(self, lr: float | Tensor | None):
        super().__init__()
        self.lr = lr

    def with_lr(self, lr: float | Tensor) -> Self:
        """The same rule at another learning rate: a float, or (B, 1) for one per task."""
        other = copy.copy(self)
        other.lr = lr
        return other

    @property
    def rate(self) -> float | Tensor:
        if self.lr is None:
            raise ValueError(f"{type(self).__name__} has no learning rate: give lr=…, or tune it first")
        return self.lr


class SGD(HandDesigned):
    """g = −lr ∇."""

    def __init__(self, lr: float | Tensor | None = None):
        super().__init__(lr)

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {}

    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        return -self.rate * grad, state


class Momentum(HandDesigned):
    """b ← μ b + ∇; g = −lr b, or with Nesterov's look-ahead −lr (∇ + μ b)."""

    def __init__(self, lr: float | Tensor | None = None, momentum: float = 0.9, nesterov: bool = False):
        super().__init__(lr)
        self.momentum, self.nesterov = momentum, nesterov

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {"buffer": torch.zeros_like(theta)}

    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        buffer = self.momentum * state["buffer"] + grad
        direction = grad + self.momentum * buffer if self.nesterov else buffer
        return -self.rate * direction, {"buffer": buffer}


class RMSprop(HandDesigned):
    """v ← α v + (1 − α) ∇²; g = −lr ∇ / (√v + ε)."""

    def __init__(self, lr: float | Tensor | None = None, alpha: float = 0.99, eps: float = 1e-8):
        super().__init__(lr)
        self.alpha, self.eps = alpha, eps

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {"square": torch.zeros_like(theta)}

    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        square = self.alpha * state["square"] + (1 - self.alpha) * grad.square()
        return -self.rate * grad / (square.sqrt() + self.eps), {"square": square}


class Adam(HandDesigned):
    """m ← β₁ m + (1 − β₁) ∇, v ← β₂ v + (1 − β₂) ∇²; g = −lr m̂ / (√v̂ + ε), hats: bias-corrected (Kingma & Ba 2015)."""

    def __init__(self, lr: float | Tensor | None = None, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8):
        super().__init__(lr)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        zeros = torch.zeros_like(theta)
        return {"mean": zeros, "square": zeros, "step": theta.new_zeros(len(theta), 1)}

    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        step = state["step"] + 1
        mean = torch.lerp(state["mean"], grad, 1 - self.beta1)
        square = self.beta2 * state["square"] + (1 - self.beta2) * grad.square()
        # 1 - β^t cancels: in float32 the first steps would be off by 1e-5.
        correct1, correct2 = ((1 - beta ** step.double()).to(step.dtype) for beta in (self.beta1, self.beta2))
        update = -self.rate * mean / correct1 / ((square / correct2).sqrt() + self.eps)
        return update, {"mean": mean, "square": square, "step": step}
