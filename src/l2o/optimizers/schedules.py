"""Learning-rate schedules over an episode, and decoupled weight decay: one place for all rules that offer them.

Shapes: B tasks, P coordinates.
"""

import math

import torch
from torch import Tensor

from l2o.optimizers.base import Observation, UpdateRule

SCHEDULES = ("constant", "cosine")


class ScheduledRule(UpdateRule):
    """An update rule with a step size: g = −lr · s_t · (direction + weight_decay · θ).

    s_t rises linearly to 1 over the first `warmup` of the horizon (a fraction of it); after that it stays there
    (`schedule="constant"`), or falls along a half cosine to `final` at the horizon's last step (`"cosine"`). The weight
    decay is decoupled (Loshchilov & Hutter 2019). Where the horizon is unknown, that is infinite, s_t is 1.
    """

    def __init__(self, weight_decay: float = 0.0, warmup: float = 0.0, schedule: str = "constant", final: float = 0.0):
        super().__init__()
        name = type(self).__name__
        if schedule not in SCHEDULES:
            raise ValueError(f"{name}: schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
        if not 0 <= warmup < 1:
            raise ValueError(f"{name}: warmup is a fraction of the horizon, from 0 to less than 1, got {warmup}")
        if not (final >= 0 and weight_decay >= 0):
            raise ValueError(f"{name}: final and weight_decay must be at least 0, got {final} and {weight_decay}")
        self.weight_decay, self.warmup, self.schedule, self.final = weight_decay, warmup, schedule, final
        if warmup > 0 or schedule != "constant":
            self.needs = self.needs | {"horizon"}

    def descent(self, seen: Observation, direction: Tensor, lr: float | Tensor) -> Tensor:
        """Give g (B, P) for a direction (B, P) and a learning rate: a float, or (B, 1)."""
        if self.weight_decay:
            direction = direction + self.weight_decay * seen.theta
        return -self.rate_at(seen, lr) * direction

    def decayed(self, seen: Observation, update: Tensor, lr: float | Tensor) -> Tensor:
        """Give g (B, P) for an update that is multiplied by the rate already, but without the weight decay."""
        return update - self.rate_at(seen, lr) * self.weight_decay * seen.theta if self.weight_decay else update

    def rate_at(self, seen: Observation, lr: float | Tensor) -> float | Tensor:
        """Give the learning rate lr · s_t of this step."""
        return lr * self.scheduled(seen) if self.warmup > 0 or self.schedule != "constant" else lr

    def scheduled(self, seen: Observation) -> Tensor:
        """Give s_t (B, 1)."""
        known = seen.horizon.isfinite()
        horizon = torch.where(known, seen.horizon, 1.0)
        number = seen.step + 1  # of the step, from 1: the first one is already worth something
        rise = (self.warmup * horizon).clamp(min=1.0)
        factor = number / rise
        if self.schedule == "cosine":
            done = ((number - rise) / (horizon - rise).clamp(min=1.0)).clamp(0, 1)
            fall = self.final + (1 - self.final) * 0.5 * (1 + torch.cos(math.pi * done))
        else:
            fall = torch.ones_like(factor)
        factor = torch.where(number < rise, factor, fall)
        return torch.where(known, factor, 1.0)[:, None]
