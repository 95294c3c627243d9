"""How good φ is now: the same fresh problems every time, shared by all ranks.

Shapes: B tasks, T steps of an episode.
"""

from typing import NamedTuple

import torch
from pytorch_lightning.strategies import Strategy
from torch import Generator, Tensor

from l2o import seeds
from l2o.evaluation.comparison import final_loss
from l2o.evaluation.evaluation import learning_curves
from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.seeds import Stream


class Validation(NamedTuple):
    """Means over the validation problems: final loss, loss at θ_0, loss over all steps."""

    final: float
    initial: float
    mean: float


def validate(
    rule: UpdateRule, optimizee: Optimizee, num_tasks: int, num_steps: int, seed: int, strategy: Strategy
) -> Validation:
    """Each rank unrolls its share of the B tasks; every rank gets the result, the same to the last bit."""
    device = strategy.root_device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    mine = share_of(num_tasks, strategy.global_rank, strategy.world_size)  # type: ignore[attr-defined]
    if mine.start < mine.stop:
        generator = seeds.generator(seed, Stream.VALIDATION, device=device)
        curves = learning_curves(rule, Share(optimizee, mine), num_tasks, num_steps, generator)
        each = final_loss(curves.losses), curves.initial, curves.losses.mean(0)  # each (B,)
        sums += torch.stack(each).double().sum(1)
    return Validation(*(strategy.reduce(sums, reduce_op="sum") / num_tasks).tolist())


class Share(Optimizee):
    """The tasks `mine` of every draw. All B are drawn, as by one process, so that the tasks do not depend on how many
    ranks share them; the work on them is shared."""

    def __init__(self, inner: Optimizee, mine: slice):
        self.inner, self.mine, self.layout = inner, mine, inner.layout

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        theta, self.all_tasks = self.inner.sample(num_tasks, generator)
        self.num_tasks = num_tasks
        return theta[self.mine], self._own(self.all_tasks)

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        return self._own(self.inner.sample_batch(self.all_tasks, self.num_tasks, generator))

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.inner.loss(theta, batch)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.inner.loss_and_grad(theta, batch)

    def _own(self, batch: Batch) -> Batch:
        return {key: value[self.mine] for key, value in batch.items()}


def share_of(num_tasks: int, rank: int, num_ranks: int) -> slice:
    """The tasks of one rank: consecutive, as equal as possible, perhaps none."""
    return slice(num_tasks * rank // num_ranks, num_tasks * (rank + 1) // num_ranks)
