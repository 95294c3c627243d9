"""The learning rate of a baseline, chosen on problems of its own.

Shapes: B tasks, T steps of an episode, R learning rates of a grid.
"""

from typing import NamedTuple

from torch import Generator, Tensor

from l2o.evaluation.comparison import broken_as_inf, final_loss
from l2o.evaluation.curves import loss_curves
from l2o.optimizees.base import Optimizee
from l2o.optimizees.views import Repeated
from l2o.optimizers.hand_designed import HandDesigned


class Tuning(NamedTuple):
    """Hold a grid of learning rates (R,), the score of each (R,) and the best rate."""

    rates: Tensor
    scores: Tensor
    best: float


def tune(
    rule: HandDesigned,
    optimizee: Optimizee,
    rates: Tensor,
    num_tasks: int,
    num_steps: int,
    generator: Generator,
    select_by: str = "final",
) -> Tuning:
    """Find the learning rate with the lowest mean final loss (`select_by="final"`, the paper's) or mean loss ("sum").

    All rates are tried in one batched unroll, on the same `num_tasks` problems and the same minibatches. Raises
    ValueError for another `select_by`.
    """
    if select_by not in ("final", "sum"):
        raise ValueError(f"select_by must be final or sum, got {select_by!r}")
    per_task = rates.to(generator.device).repeat_interleave(num_tasks)[:, None]  # (R·B, 1)
    copies = Repeated(optimizee, len(rates))
    _, losses = loss_curves(rule.with_lr(per_task), copies, len(per_task), num_steps, generator)
    score = final_loss(losses) if select_by == "final" else broken_as_inf(losses.mean(0))
    scores = score.view(len(rates), num_tasks).mean(1).cpu()
    return Tuning(rates, scores, rates[scores.argmin()].item())
