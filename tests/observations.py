"""What an update rule is told, for tests that know some of it alone."""

import math

import torch
from torch import Tensor

from l2o.optimizees import Layout
from l2o.optimizers import Observation
from l2o.optimizers.base import Recording, State


def seen(
    grad: Tensor, theta: Tensor | None = None, loss: float | Tensor = math.nan, step: int = 0, horizon: float = math.inf
) -> Observation:
    """An observation of gradients (B, P), at θ = 0 unless told."""
    each = grad.new_zeros(len(grad))
    return Observation(
        grad, torch.zeros_like(grad) if theta is None else theta, each + loss, each + step, each + horizon
    )


def recording(grads: Tensor, state: State, layout: Layout, theta: Tensor | None = None) -> Recording:
    """A recorded window of gradients (K, B, P) that began in a given state, in the middle of an episode."""
    start = torch.zeros_like(grads[0]) if theta is None else theta
    return Recording(grads, grads.new_zeros(grads.shape[:2]), start, state, 7, math.inf, layout)
