"""Hand-designed optimizers as update rules, each equal to its `torch.optim` namesake step by step.

Shapes: B tasks, P coordinates. Every learning rate is a float, or (B, 1): then one unroll serves a whole grid of them.
Each rule takes `warmup`, `schedule` and `final`, its learning rate's course over the episode (`ScheduledRule`).
"""

import copy
from typing import Self

import torch
from torch import Tensor

from l2o.checks import below_one, true_or_false
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.adam_averages import ADAM_AXES, adam_step, init_adam
from l2o.optimizers.base import Observation, Scope, State
from l2o.optimizers.schedules import ScheduledRule


class HandDesigned(ScheduledRule):
    """An update rule without φ whose one knob is its learning rate. `lr=None` asks for a rate to be tuned."""

    scope = Scope.COORDINATE

    def __init__(
        self,
        lr: float | Tensor | None,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(weight_decay, warmup, schedule, final)
        self.lr = lr

    def with_lr(self, lr: float | Tensor) -> Self:
        """Return the same rule at another learning rate: a float, or (B, 1) for a rate per task."""
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

    def __init__(
        self, lr: float | Tensor | None = None, warmup: float = 0.0, schedule: str = "constant", final: float = 0.0
    ):
        super().__init__(lr, 0.0, warmup, schedule, final)

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {}

    def state_axes(self) -> dict[str, Axis]:
        return {}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        return self.descent(seen, seen.grad, self.rate), state


class Momentum(HandDesigned):
    """b ← μ b + ∇; g = −lr b, or with Nesterov's look-ahead −lr (∇ + μ b)."""

    def __init__(
        self,
        lr: float | Tensor | None = None,
        momentum: float = 0.9,
        nesterov: bool = False,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(lr, 0.0, warmup, schedule, final)
        true_or_false(type(self).__name__, nesterov=nesterov)
        self.momentum, self.nesterov = momentum, nesterov

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {"buffer": torch.zeros_like(theta)}

    def state_axes(self) -> dict[str, Axis]:
        return {"buffer": Axis.COORDINATES}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        buffer = self.momentum * state["buffer"] + seen.grad
        direction = seen.grad + self.momentum * buffer if self.nesterov else buffer
        return self.descent(seen, direction, self.rate), {"buffer": buffer}


class RMSprop(HandDesigned):
    """v ← α v + (1 − α) ∇²; g = −lr ∇ / (√v + ε)."""

    def __init__(
        self,
        lr: float | Tensor | None = None,
        alpha: float = 0.99,
        eps: float = 1e-8,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(lr, 0.0, warmup, schedule, final)
        self.alpha, self.eps = alpha, eps

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {"square": torch.zeros_like(theta)}

    def state_axes(self) -> dict[str, Axis]:
        return {"square": Axis.COORDINATES}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        square = self.alpha * state["square"] + (1 - self.alpha) * seen.grad.square()
        update = -self.rate_at(seen, self.rate) * seen.grad / (square.sqrt() + self.eps)
        return update, {"square": square}


class Adam(HandDesigned):
    """m ← β₁ m + (1 − β₁) ∇, v ← β₂ v + (1 − β₂) ∇²; g = −lr m̂ / (√v̂ + ε), hats: without bias (Kingma & Ba 2015)."""

    def __init__(
        self,
        lr: float | Tensor | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(lr, 0.0, warmup, schedule, final)
        below_one(type(self).__name__, beta1=beta1, beta2=beta2)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return init_adam(theta, layout)

    def state_axes(self) -> dict[str, Axis]:
        return dict(ADAM_AXES)

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        lr = self.rate_at(seen, self.rate)
        return adam_step(seen.grad, state, layout, self.beta1, self.beta2, self.eps, -lr)


class AdamW(HandDesigned):
    """g = −lr (Adam's direction + weight_decay · θ) (Loshchilov & Hutter 2019)."""

    def __init__(
        self,
        lr: float | Tensor | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        warmup: float = 0.0,
        schedule: str = "constant",
        final: float = 0.0,
    ):
        super().__init__(lr, weight_decay, warmup, schedule, final)
        below_one(type(self).__name__, beta1=beta1, beta2=beta2)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return init_adam(theta, layout)

    def state_axes(self) -> dict[str, Axis]:
        return dict(ADAM_AXES)

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        lr = self.rate_at(seen, self.rate)
        update, state = adam_step(seen.grad, state, layout, self.beta1, self.beta2, self.eps, -lr)
        return update - lr * self.weight_decay * seen.theta, state
