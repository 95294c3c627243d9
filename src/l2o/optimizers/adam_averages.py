"""Adam's two averages, corrected for their start at 0, and its step: what Adam, AdamW and other rules have in common.

Shapes: B tasks, P coordinates.
"""

import torch
from torch import Tensor

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.base import State

# A parameter counts its own steps: if its first gradient comes late, the bias is corrected from there on.
ADAM_AXES = {"mean": Axis.COORDINATES, "square": Axis.COORDINATES, "step": Axis.TENSORS}


def init_adam(theta: Tensor, layout: Layout) -> State:
    """Give Adam's averages at 0, and no steps counted."""
    zeros = torch.zeros_like(theta)
    return {"mean": zeros, "square": zeros, "step": theta.new_zeros(len(theta), len(layout.shapes))}


def adam_step(
    grad: Tensor, state: State, layout: Layout, beta1: float, beta2: float, eps: float, scale: float | Tensor = 1.0
) -> tuple[Tensor, State]:
    """Give scale · m̂ / (√v̂ + ε) (B, P), rounded as torch rounds it, and the state after this gradient."""
    step = state["step"] + 1
    mean = torch.lerp(state["mean"], grad, 1 - beta1)
    square = torch.addcmul(beta2 * state["square"], grad, grad, value=1 - beta2)
    rate, correct = (
        layout.spread(part) for part in (scale / bias_correction(beta1, step), bias_correction(beta2, step))
    )
    update = rate * mean / ((square / correct).sqrt() + eps)
    return update, {"mean": mean, "square": square, "step": step}


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """Give 1 − β^t for t = `step`, computed in float64: in float32 it cancels, and first steps would be off by 1e-5."""
    return (1 - beta ** step.double()).to(step.dtype)
