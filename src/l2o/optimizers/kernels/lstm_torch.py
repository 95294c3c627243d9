"""The coordinatewise LSTM's step and window gradient in plain torch: the reference, differentiable, for any device.

Legend: N coordinates (all tasks'), F features of a coordinate, H hidden units, L layers, K steps.

The functions and their conventions are those of `lstm_cpp`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def step(
    weights: list[Tensor], features: Tensor, hidden: list[Tensor], cell: list[Tensor], in_place: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Do one step, as `lstm_cpp.step` does; autograd records it. Without a layer it is the head alone.

    `in_place` is accepted, as a permission that is not used.
    """
    new_hidden, new_cell = [], []
    for layer, (h, c) in enumerate(zip(hidden, cell, strict=True)):
        features, c = torch.lstm_cell(features, (h, c), *weights[4 * layer : 4 * layer + 4])
        new_hidden.append(features)
        new_cell.append(c)
    return F.linear(features, *weights[-2:])[:, 0], new_hidden, new_cell


def window_gradient(
    weights: list[Tensor], features: Tensor, hidden: list[Tensor], cell: list[Tensor], cotangent: Tensor
) -> list[Tensor]:
    """Give Σ_t ⟨cotangent_t, ∂out_t/∂w⟩ for every weight, as `lstm_cpp.window_gradient` does, by autograd."""
    with torch.enable_grad():
        leaves = [weight.detach().requires_grad_() for weight in weights]
        objective = features.new_zeros(())
        for x, w in zip(features, cotangent, strict=True):
            out, hidden, cell = step(leaves, x, hidden, cell)
            objective = objective + (out * w).sum()
        if not objective.requires_grad:  # no step at all
            return [torch.zeros_like(weight) for weight in weights]
        return list(torch.autograd.grad(objective, leaves, materialize_grads=True, allow_unused=True))
