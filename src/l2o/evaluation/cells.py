"""The smallest piece of a scoreboard: one task, one optimizer, one learning rate, one seed.

Several rates of one optimizer on one task and seed are rows of one unroll: they meet the same θ_0 and minibatches.

Shapes: T steps of an episode, R learning rates.
"""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from l2o import seeds
from l2o.evaluation.curves import loss_curves
from l2o.optimizees.base import Optimizee
from l2o.optimizees.views import Repeated
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


def run_cells(
    rule: UpdateRule,
    optimizee: Optimizee,
    rates: Sequence[float],
    num_steps: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[Cell]:
    """Run a rule at R rates, each on the same task, start and minibatches of one seed, and return a cell for each.

    The rule is told that the episode has `num_steps` steps. Rule and optimizee must already be on `device`.
    """
    generator = seeds.generator(seed, Stream.SCOREBOARD, device=device)
    copies = Repeated(optimizee, len(rates))
    start, losses = loss_curves(at_rates(rule, rates, device), copies, len(rates), num_steps, generator)
    rows = losses.T.float().cpu().numpy()
    return [Cell(row, begin) for row, begin in zip(rows, start.tolist(), strict=True)]


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
