"""Differences of capped losses, and what is made of them.

Shapes: N pairs, D numbers of φ that are trained, K steps. There are B = 2N tasks, all with + and then all with −.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l2o.unroll import Episode


def difference(values: Tensor) -> Tensor:
    """Give what the pairs' values at + are above those at −: (2N,) -> (N,)."""
    plus, minus = values.chunk(2)
    return plus - minus


def start_losses(episode: Episode) -> Tensor:
    """Give f(θ_0) (B,); nan for an episode that does not know it."""
    return torch.full_like(episode.loss, math.nan) if episode.start_loss is None else episode.start_loss


def capped(losses: Tensor, first: Tensor, cap: float | None) -> Tensor:
    """Give finite losses (K, B) for any, as `AntitheticPairs` says, for f(θ_0) (B,)."""
    finite = losses.isfinite()
    worst = losses.where(finite, -math.inf).amax()
    worst = worst.where(worst.isfinite(), 0.0)
    if cap is None:
        return losses.where(finite, worst)
    limit = (first + (cap - 1) * first.abs()).where(first.isfinite(), worst)
    return torch.minimum(losses.where(finite, math.inf), limit)


def sum_of_products(weights: Tensor, credits: Sequence[Tensor]) -> Tensor:
    """Give Σ_s w_s ξ_s for w (stretches, N) and ξ (N, D) of every stretch: (N, D)."""
    total = weights[0, :, None] * credits[0]
    for weight, credit in zip(weights[1:], credits[1:], strict=True):
        total = total + weight[:, None] * credit
    return total


def signal_to_noise(each: Tensor) -> Tensor:
    """Give ‖ḡ‖² / mean_i ‖g_i − ḡ‖² for estimates g_i (N, D): nan for a single one, or where all are 0."""
    if len(each) < 2:
        return each.new_full((), math.nan)
    mean = each.mean(0)
    return mean.square().sum() / (each - mean).square().sum(1).mean()
