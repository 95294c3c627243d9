"""The smallest piece of a scoreboard: one task, one optimizer, one learning rate, one seed.

All rates and seeds of one optimizer on one task are rows of one unroll. The rates of a seed meet the same θ_0 and
minibatches, which depend on the seed alone.

Shapes: T steps of an episode, R learning rates, S seeds.
"""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from l2o import seeds
from l2o.evaluation.curves import loss_curves
from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.views import Repeated, View
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.hand_designed import HandDesigned
from l2o.optimizers.scaled import Scaled
from l2o.seeds import Stream
from l2o.unroll import start_episode, step

WARM_UP, TIMED = 3, 15
"""A step is timed so many times after a few that are not, and the median counts."""


class Cell(NamedTuple):
    """Hold the losses f(θ_1) … f(θ_T) (T,) of one run, and f(θ_0)."""

    losses: NDArray[np.float32]
    start: float


class Cost(NamedTuple):
    """Hold what a step costs: milliseconds of one inner step, and bytes of the optimizer's state."""

    milliseconds: float
    state_bytes: int


def at_rates(rule: UpdateRule, rates: Sequence[float], device: torch.device | str = "cpu") -> UpdateRule:
    """Return a rule whose row r of a batch has the r-th rate: a baseline's learning rate, the scale of any other's
    updates."""
    column = torch.tensor(list(rates), device=device)[:, None]  # (R, 1)
    return rule.with_lr(column) if isinstance(rule, HandDesigned) else Scaled(rule, column)


class OneOfEachSeed(View):
    """Draws the tasks of several seeds at once, each from a generator of its seed: R rows of every seed, all alike.

    The S·R rows lie seed by seed. What is drawn for a seed depends on that seed alone, not on the others that share the
    unroll, nor on the generator that is passed in. A view serves one episode at a time.
    """

    def __init__(self, inner: Optimizee, seeds_of_tasks: Sequence[int], copies: int):
        super().__init__(Repeated(inner, copies))
        self.seeds, self.copies = tuple(seeds_of_tasks), copies
        self._generators: list[Generator] = []

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        self._generators = [seeds.generator(seed, Stream.SCOREBOARD, device=generator.device) for seed in self.seeds]
        drawn = [self.inner.sample(self.copies, one) for one in self._generators]
        return torch.cat([theta for theta, _ in drawn]), _joined([task for _, task in drawn])

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        parts = [slice(number * self.copies, (number + 1) * self.copies) for number in range(len(self.seeds))]
        tasks = [{key: value[part] for key, value in task.items()} for part in parts]
        pairs = zip(tasks, self._generators, strict=True)
        return _joined([self.inner.sample_batch(one, self.copies, generator) for one, generator in pairs])


def _joined(batches: Sequence[Batch]) -> Batch:
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def run_cells(
    rule: UpdateRule,
    optimizee: Optimizee,
    rates: Sequence[float],
    num_steps: int,
    seeds_of_tasks: Sequence[int],
    device: torch.device | str = "cpu",
    horizon: int | None = None,
) -> list[list[Cell]]:
    """Run a rule at R rates on the tasks of S seeds, and return a list for each seed, with a cell for each rate.

    All rates meet the same task, start and minibatches of a seed. The rule is told that the episode has `horizon`
    steps, by default as many as it has. Rule and optimizee must already be on `device`.
    """
    rows = OneOfEachSeed(optimizee, seeds_of_tasks, len(rates))
    moving = at_rates(rule, [*rates] * len(seeds_of_tasks), device)
    count = len(rates) * len(seeds_of_tasks)
    start, losses = loss_curves(moving, rows, count, num_steps, Generator(device), horizon)
    curves, begins = losses.T.float().cpu().numpy(), start.tolist()
    cells = [Cell(curve, begin) for curve, begin in zip(curves, begins, strict=True)]
    return [cells[first : first + len(rates)] for first in range(0, count, len(rates))]


def needs_each_horizon(rule: UpdateRule) -> bool:
    """Whether a rule's steps depend on how many there will be, so that no longer run can serve a shorter horizon."""
    return "horizon" in rule.needs


def measure(rule: UpdateRule, optimizee: Optimizee, device: torch.device | str = "cpu") -> Cost:
    """Time single inner steps of one task, the optimizee's gradient included, and count the bytes of its state."""
    generator = seeds.generator(0, Stream.SCOREBOARD, device=device)
    episode = start_episode(at_rates(rule, [1e-4], device), optimizee, 1, generator, WARM_UP + TIMED)
    size = sum(value.numel() * value.element_size() for value in episode.state.values())
    moving, times = at_rates(rule, [1e-4], device), []
    with torch.no_grad():
        for _ in range(WARM_UP + TIMED):
            began = _now(device)
            _, episode = step(moving, optimizee, episode, generator)
            times.append(_now(device) - began)
    return Cost(1e3 * statistics.median(times[WARM_UP:]), size)


def _now(device: torch.device | str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
