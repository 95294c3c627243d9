"""What an optimizer knows at a step beside the gradients, and what it does with an update.

Shapes: G coordinates of a chunk of parameters.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from l2o.optimizers.base import Observation


class Told(NamedTuple):
    """What the optimizer knows at a step beside the gradients."""

    loss: float | Tensor
    step: int
    horizon: float

    def seen(self, grad: Tensor, theta: Tensor) -> Observation:
        """The observation of gradients and parameters (1, G)."""
        return Observation(grad, theta, *(_one(value, theta) for value in self))


def _one(value: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(like.device, like.dtype).view(1)
    return torch.full((1,), value, dtype=like.dtype, device=like.device)


class Numbers(NamedTuple):
    """A group's numbers: what is done with an update."""

    lr: float | Tensor
    weight_decay: float
    chunk_size: int | None
    maximize: bool

    def apply(self, theta: Tensor, update: Tensor) -> None:
        """θ ← (1 − lr · weight_decay) θ + lr · update, in place."""
        if self.weight_decay != 0:
            theta.mul_(1 - self.lr * self.weight_decay)
        is_one = isinstance(self.lr, float | int) and self.lr == 1  # a tensor would have to be waited for
        theta.add_(update if is_one else self.lr * update)


def in_full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off for a rule's own arithmetic: what somebody chose for the model is not meant for the rule."""
    kind = device.type
    is_on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if is_on else nullcontext()
