"""A scoreboard: what optimizers reach on the tasks of a suite at several horizons, beside baselines tuned for each.

Shapes: T steps of an episode, R learning rates, S seeds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from l2o.evaluation import scores
from l2o.evaluation.cells import Cell, Cost
from l2o.evaluation.scores import Array, Rise

REFERENCE = "Adam"
"""The baseline that final losses are shown relative to."""

Case = tuple[str, int]
"""A task by its name, and a horizon."""


class Outcome(NamedTuple):
    """Hold what one optimizer reached on one task at one horizon, at R learning rates.

    `steps` says for every rate after how many steps the mean over seeds was down to tuned Adam's final loss.
    """

    rates: tuple[float, ...]
    finals: Array  # (R, S)
    starts: Array  # (S,)
    steps: tuple[int | None, ...] = ()

    @property
    def best(self) -> int:
        """Give the number of the rate with the lowest mean final loss."""
        return int(self.finals.mean(1).argmin())

    def at(self, rate: float) -> int:
        """Give the number of a rate."""
        return next(i for i, known in enumerate(self.rates) if math.isclose(known, rate, rel_tol=1e-6))


def outcome(cells: Mapping[float, Sequence[Cell]], horizon: int, target: float | None = None) -> Outcome:
    """Sum up the cells of every rate, one for each seed, at a horizon that is no longer than they are.

    `target` is tuned Adam's final loss; None makes Adam's own outcome, with the best of its rates as the target.
    """
    curves = [np.stack([cell.losses[:horizon] for cell in runs], 1) for runs in cells.values()]  # each (T, S)
    finals = np.stack([scores.final_losses(curve) for curve in curves])
    starts = np.array([cell.start for cell in next(iter(cells.values()))])
    target = float(finals.mean(1).min()) if target is None else target
    return Outcome(tuple(cells), finals, starts, tuple(scores.steps_to(curve, target) for curve in curves))


class Task(NamedTuple):
    """Describe a task of a suite: its horizons, and whether it is related to what shipped rules are trained on.

    `content` is a hash of its configuration and data, by which results of it are found again on any machine. Where
    `published` names it, a published envelope of Adam exists for it.
    """

    name: str
    horizons: tuple[int, ...]
    related: bool
    description: str = ""
    published: str | None = None
    content: str | None = None


class Entry(NamedTuple):
    """Name a row of the scoreboard: an optimizer, at its best rate for each task (None) or at one rate for all."""

    label: str
    optimizer: str
    rate: float | None


@dataclass
class Scoreboard:
    """Hold the outcomes of all optimizers on all tasks, and what a step of theirs costs.

    `baselines` are tuned, so that each makes one row. Any other optimizer makes two: at a rate of 1, where nothing is
    tuned, and at its best rate of a few. `envelopes` has published curves of tuned Adam by the names of their tasks.

    `compare_with` names baselines that every entry is compared with task by task. `beyond` says what becomes of learned
    optimizers, at a rate of 1, that go on to `beyond_factor` times the horizon that they were told.
    """

    suite: str
    tasks: list[Task]
    baselines: list[str]
    outcomes: dict[tuple[Case, str], Outcome] = field(default_factory=dict)
    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    envelopes: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    compare_with: Sequence[str] = ()
    beyond: dict[tuple[Case, str], Rise] = field(default_factory=dict)
    beyond_factor: float = 1.0

    @property
    def optimizers(self) -> list[str]:
        """Name all optimizers, learned ones first, in the order in which they were given."""
        names = dict.fromkeys(name for _, name in self.outcomes)
        return [*(n for n in names if n not in self.baselines), *(n for n in self.baselines if n in names)]

    def entries(self) -> list[Entry]:
        """Return the rows of the scoreboard."""
        rows = []
        for name in self.optimizers:
            if name in self.baselines:
                rows.append(Entry(name, name, None))
                continue
            count = max(len(found.rates) for (_, optimizer), found in self.outcomes.items() if optimizer == name)
            rows.append(Entry(name, name, 1.0))
            if count > 1:
                rows.append(Entry(f"{name}, best of {count}", name, None))
        return rows

    def cases(self, related: bool | None = None) -> Iterator[tuple[Task, Case]]:
        """Yield every task at every horizon: of all tasks, or of one column's."""
        for task in self.tasks:
            if related is None or task.related == related:
                yield from ((task, (task.name, horizon)) for horizon in task.horizons)

    def finals(self, case: Case, entry: Entry) -> Array:
        """Return an entry's final losses (S,) of a case."""
        found = self.outcomes[case, entry.optimizer]
        return found.finals[self._row(found, entry)]

    def best_baseline(self, case: Case) -> str:
        """Name the baseline with the lowest mean final loss at its best rate."""
        return min(self.baselines, key=lambda name: self.outcomes[case, name].finals.mean(1).min())

    def relative(self, case: Case, entry: Entry, other: str) -> tuple[float, float | None]:
        """Return an entry's final loss divided by a tuned baseline's on the same seeds, and its standard error."""
        return scores.paired_ratio(self.finals(case, entry), self.finals(case, Entry(other, other, None)))

    def ratios(self, case: Case, entry: Entry, other: str) -> Array:
        """Return the same for every seed by itself, (S,)."""
        return scores.seed_ratios(self.finals(case, entry), self.finals(case, Entry(other, other, None)))

    def speed_up(self, case: Case, entry: Entry) -> float:
        """Return how many times fewer steps an entry needs to tuned Adam's final loss than Adam; 0 if it never does."""
        found, adam = self.outcomes[case, entry.optimizer], self.outcomes[case, REFERENCE]
        steps, steps_of_adam = found.steps[self._row(found, entry)], adam.steps[adam.best]
        return 0.0 if steps is None or steps_of_adam is None else steps_of_adam / steps

    def speed_up_in_time(self, case: Case, entry: Entry) -> float | None:
        """Return the same in seconds; None where the cost of a step has not been measured."""
        ours, adams = self.costs.get((case[0], entry.optimizer)), self.costs.get((case[0], REFERENCE))
        if ours is None or adams is None:
            return None
        return self.speed_up(case, entry) * adams.milliseconds / ours.milliseconds

    def published_speed_up(self, task: Task, case: Case, entry: Entry) -> float | None:
        """Return how many times more steps the published envelope of tuned Adam takes to an entry's final loss.

        None where there is no envelope of the task, and where the envelope never comes down so far.
        """
        curve = self.envelopes.get(task.published or "")
        steps = None if curve is None else scores.envelope_steps(*curve, float(self.finals(case, entry).mean()))
        return None if steps is None else steps / case[1]

    def diverged(self, case: Case, entry: Entry) -> Array:
        """Say of every seed (S,) whether the run diverged: 1 or 0."""
        return scores.diverged(self.finals(case, entry), self.outcomes[case, entry.optimizer].starts).astype(float)

    @staticmethod
    def _row(found: Outcome, entry: Entry) -> int:
        return found.best if entry.rate is None else found.at(entry.rate)
