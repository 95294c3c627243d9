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
    if weights[-1].ndim == 2:
        return _step_of_tasks(weights, features, hidden, cell)
    new_hidden, new_cell = [], []
    for layer, (h, c) in enumerate(zip(hidden, cell, strict=True)):
        features, c = torch.lstm_cell(features, (h, c), *weights[4 * layer : 4 * layer + 4])
        new_hidden.append(features)
        new_cell.append(c)
    return F.linear(features, *weights[-2:])[:, 0], new_hidden, new_cell


def _step_of_tasks(
    weights: list[Tensor], features: Tensor, hidden: list[Tensor], cell: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Do one step with weights (B, …) of each task, whose N/B coordinates follow one after another."""
    sizes = len(weights[-1]), len(features) // len(weights[-1])
    by_task = lambda rows: rows.unflatten(0, sizes)  # noqa: E731  # (N, …) -> (B, N/B, …)
    x, new_hidden, new_cell = by_task(features), [], []
    for layer, (h, c) in enumerate(zip(hidden, cell, strict=True)):
        weight_ih, weight_hh, bias_ih, bias_hh = weights[4 * layer : 4 * layer + 4]
        gates = torch.baddbmm((bias_ih + bias_hh)[:, None], x, weight_ih.mT)
        i, f, g, o = torch.baddbmm(gates, by_task(h), weight_hh.mT).chunk(4, -1)
        c = f.sigmoid() * by_task(c) + i.sigmoid() * g.tanh()
        x = o.sigmoid() * c.tanh()
        new_hidden.append(x.flatten(0, 1))
        new_cell.append(c.flatten(0, 1))
    out = torch.baddbmm(weights[-1][:, None], x, weights[-2].mT)
    return out.flatten(), new_hidden, new_cell


def window_gradient(
    weights: list[Tensor],
    features: Tensor,
    hidden: list[Tensor],
    cell: list[Tensor],
    cotangent: Tensor,
    *,
    scale: float = 1.0,
) -> list[Tensor]:
    """Give scale · Σ_t ⟨cotangent_t, ∂out_t/∂w⟩ for every weight, as `lstm_cpp.window_gradient` does, by autograd."""
    with torch.enable_grad():
        leaves = [weight.detach().requires_grad_() for weight in weights]
        objective = features.new_zeros(())
        for x, w in zip(features, cotangent, strict=True):
            out, hidden, cell = step(leaves, x, hidden, cell)
            objective = objective + (out * w).sum()
        if not objective.requires_grad:  # no step at all
            return [torch.zeros_like(weight) for weight in weights]
        return list(torch.autograd.grad(scale * objective, leaves, materialize_grads=True, allow_unused=True))
