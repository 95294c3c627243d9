"""How good φ is now, on problems that are the same every time and that the ranks share.

Shapes: B tasks, T steps of an episode.
"""

from typing import NamedTuple

import torch
from pytorch_lightning.strategies import Strategy

from l2o import seeds
from l2o.evaluation.comparison import final_loss
from l2o.evaluation.curves import loss_curves
from l2o.optimizees.base import Optimizee
from l2o.optimizees.views import Subset
from l2o.optimizers.base import UpdateRule
from l2o.seeds import Stream


class Validation(NamedTuple):
    """Hold means over the validation problems: of the final loss, the loss at θ_0, and the loss over all steps."""

    final: float
    initial: float
    mean: float


def validate(
    rule: UpdateRule, optimizee: Optimizee, num_tasks: int, num_steps: int, seed: int, strategy: Strategy
) -> Validation:
    """Unroll this rank's share of the B tasks. Every rank gets the result of all, the same to the last bit."""
    device = strategy.root_device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    mine = share_of(num_tasks, strategy.global_rank, strategy.world_size)  # type: ignore[attr-defined]
    if mine.start < mine.stop:
        generator = seeds.generator(seed, Stream.VALIDATION, device=device)
        # All B tasks are drawn, as by one process, so that they do not depend on how many ranks share them.
        initial, losses = loss_curves(rule, Subset(optimizee, mine), num_tasks, num_steps, generator)
        each = final_loss(losses), initial, losses.mean(0)  # each (B,)
        sums += torch.stack(each).double().sum(1)
    return Validation(*(strategy.reduce(sums, reduce_op="sum") / num_tasks).tolist())


def share_of(num_tasks: int, rank: int, num_ranks: int) -> slice:
    """Return the tasks of one rank. They are consecutive, ranks get equal shares as far as possible, perhaps none."""
    return slice(num_tasks * rank // num_ranks, num_tasks * (rank + 1) // num_ranks)
