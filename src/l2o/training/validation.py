"""How good φ is now, on problems that are the same every time and that the ranks share.

Shapes: B tasks, T steps of an episode.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from pytorch_lightning.strategies import Strategy
from torch import Tensor

from l2o import seeds
from l2o.evaluation.comparison import final_loss
from l2o.evaluation.curves import loss_curves
from l2o.optimizees.base import Optimizee
from l2o.optimizees.views import Subset
from l2o.optimizers.base import UpdateRule
from l2o.seeds import Stream
from l2o.training.families import ALONE, number_of


class Problems(NamedTuple):
    """Hold what φ is validated on under one name: the optimizees among which tasks are shared out, and T."""

    optimizees: Sequence[Optimizee]
    num_steps: int


LEAST = 1e-12
"""A smaller part of the loss at θ_0 counts as this in a geometric mean, because rounding has the rest."""


class Validation(NamedTuple):
    """Hold means over the validation problems: of the final loss, the loss at θ_0, and the loss over all steps."""

    final: float
    initial: float
    mean: float


class Found(NamedTuple):
    """Hold the result by which φ is chosen, and that of every name."""

    overall: Validation
    by_name: dict[str, Validation]


def validate(
    rule: UpdateRule,
    problems: Mapping[str, Problems],
    num_tasks: int,
    seed: int,
    strategy: Strategy,
    geometric: bool = False,
) -> Found:
    """Unroll this rank's share of B tasks for every name. Every rank gets the result of all, the same to the last bit.

    Where there is one problem without a name, `overall` is its own result. Else `overall` is the mean over the names of
    normalised losses, ℓ/ℓ_0 of each task, so that no problem outweighs the others by the scale of its loss. With
    `geometric` it is the geometric mean, so that none outweighs them by how far its loss falls, either.
    """
    device = strategy.root_device
    sums = torch.zeros(len(problems), 7, dtype=torch.float64, device=device)
    for row, (name, (optimizees, num_steps)) in enumerate(problems.items()):
        for number, (optimizee, count, mine) in enumerate(_shares(optimizees, num_tasks, strategy)):
            key = (seed, Stream.VALIDATION, *((number_of(name), number) if name != ALONE else ()))
            sums[row] += _sums(rule, optimizee, count, mine, num_steps, seeds.generator(*key, device=device))
    rows = (strategy.reduce(sums, reduce_op="sum") / num_tasks).tolist()
    by_name = {name: Validation(*row[:3]) for name, row in zip(problems, rows, strict=True)}
    if list(problems) == [ALONE]:
        return Found(by_name[ALONE], {})
    final, mean = (sum(row[column] for row in rows) / len(rows) for column in ((5, 6) if geometric else (3, 4)))
    if geometric:
        final, mean = torch.tensor([final, mean], dtype=torch.float64).exp().tolist()  # infinite where it overflows
    return Found(Validation(final, 1.0, mean), by_name)


def share_of(num_tasks: int, rank: int, num_ranks: int) -> slice:
    """Return the tasks of one rank. They are consecutive, ranks get equal shares as far as possible, perhaps none."""
    return slice(num_tasks * rank // num_ranks, num_tasks * (rank + 1) // num_ranks)


def _shares(
    optimizees: Sequence[Optimizee], num_tasks: int, strategy: Strategy
) -> Iterator[tuple[Optimizee, int, slice]]:
    """Share a name's tasks out among its optimizees. Yield each optimizee that gets some, how many, and which of them
    are this rank's."""
    ranks = strategy.global_rank, strategy.world_size  # type: ignore[attr-defined]
    own = share_of(num_tasks, *ranks)
    for number, optimizee in enumerate(optimizees):
        tasks = share_of(num_tasks, number, len(optimizees))
        count = tasks.stop - tasks.start
        first, last = (min(max(edge - tasks.start, 0), count) for edge in (own.start, own.stop))
        if count:
            yield optimizee, count, slice(first, last)


def _sums(
    rule: UpdateRule, optimizee: Optimizee, count: int, mine: slice, num_steps: int, generator: torch.Generator
) -> Tensor:
    """Return sums over this rank's tasks: of the final, initial and mean loss, of final and mean over initial, and of
    the logarithms of these two ratios."""
    if mine.start >= mine.stop:
        return torch.zeros(7, dtype=torch.float64, device=generator.device)
    # All tasks are drawn, as by one process, so that they do not depend on how many ranks share them.
    initial, losses = loss_curves(rule, Subset(optimizee, mine), count, num_steps, generator)
    final, mean = final_loss(losses), losses.mean(0)  # each (B,)
    ratios = torch.stack([final / initial, mean / initial]).double()
    logs = torch.where(ratios < 0, torch.nan, ratios.clamp(min=LEAST).log())  # a negative loss has none
    return torch.cat([torch.stack([final, initial, mean]), ratios, logs]).sum(1)
