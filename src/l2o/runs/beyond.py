"""What becomes of learned optimizers that go on after the horizon that they were told."""

from collections.abc import Callable, Sequence

import numpy as np

from l2o.evaluation.scoreboard import Scoreboard
from l2o.evaluation.scores import rise
from l2o.runs.cell_jobs import Answers, Job, job_of
from l2o.runs.suites import Suite


def add_beyond(board: Scoreboard, suite: Suite, factor: float, run: Callable[[Sequence[Job]], Answers]) -> None:
    """Run every learned optimizer to `factor` times the longest horizon of each task, and add how its loss ends.

    The optimizer is told that horizon and has a rate of 1. `run` gives the cells of some jobs.
    """
    learned = [name for name, one in suite.contestants.items() if not one.baseline]
    tasks = [task for task, _ in suite.tasks.values()]
    jobs = [job_of(suite, task, name, max(task.horizons), (1.0,), factor) for task in tasks for name in learned]
    answers = run(jobs)
    for job in jobs:
        cells = [answers[job.task, job.optimizer, job.horizon, seed, 1.0] for seed in job.seeds]
        case = job.task, job.horizon
        board.beyond[case, job.optimizer] = rise(np.stack([cell.losses for cell in cells], 1))
    board.beyond_factor = factor
