"""A scoreboard summed up: one row of numbers for every entry, over the tasks of a column."""

from typing import NamedTuple

import numpy as np

from l2o.evaluation.scoreboard import REFERENCE, Entry, Scoreboard
from l2o.evaluation.scores import Interval, interquartile_mean, interval

COLUMNS = {"related to training": True, "never seen": False}
"""The two halves of a scoreboard: whether a task is related to what shipped optimizers are trained on."""


class Standing(NamedTuple):
    """Hold an entry's numbers over some tasks and horizons.

    Losses are relative: 1 is tuned Adam's (or the best tuned baseline's) final loss, less is better, inf is a run that
    diverged. `worst` is the largest mean of a case, in `worst_case`. `speed_up` is in steps to tuned Adam's final loss,
    `speed_up_in_time` in seconds; a run that never gets there counts as 0.
    """

    to_adam: Interval
    to_best: Interval
    worst: float
    worst_case: str
    diverged: float
    speed_up: float
    speed_up_in_time: float | None


def standing(board: Scoreboard, entry: Entry, related: bool | None = None) -> Standing | None:
    """Sum up an entry over the cases of a column, or of all; None where there are none."""
    cases = [case for _, case in board.cases(related)]
    if not cases:
        return None
    relative = {case: board.relative(case, entry, REFERENCE)[0] for case in cases}
    worst = max(cases, key=relative.__getitem__)
    in_time = [board.speed_up_in_time(case, entry) for case in cases]
    known = [value for value in in_time if value is not None]
    return Standing(
        to_adam=interval([board.ratios(case, entry, REFERENCE) for case in cases]),
        to_best=interval([board.ratios(case, entry, board.best_baseline(case)) for case in cases]),
        worst=relative[worst],
        worst_case=f"{worst[0]}, {worst[1]} steps",
        diverged=float(np.mean([board.diverged(case, entry) for case in cases])),
        speed_up=interquartile_mean([board.speed_up(case, entry) for case in cases]),
        speed_up_in_time=interquartile_mean(known) if len(known) == len(cases) else None,
    )


class MeanCost(NamedTuple):
    """Hold the mean, over some tasks, of what a step costs: milliseconds, and bytes of the optimizer's state."""

    milliseconds: float
    state_bytes: float


def mean_cost(board: Scoreboard, entry: Entry, related: bool | None = None) -> MeanCost | None:
    """Average an entry's cost over the tasks of a column, or over all tasks.

    Returns None where the column has no tasks, or where the cost has not been measured on each of them.
    """
    tasks = [task for task in board.tasks if related is None or task.related == related]
    costs = [board.costs.get((task.name, entry.optimizer)) for task in tasks]
    known = [cost for cost in costs if cost is not None]
    if not known or len(known) < len(costs):
        return None
    return MeanCost(
        float(np.mean([cost.milliseconds for cost in known])), float(np.mean([cost.state_bytes for cost in known]))
    )
