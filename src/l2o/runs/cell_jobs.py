"""The cells that a scoreboard needs: those that are kept are read, the others are run, in several processes if asked.

A process writes each cell as soon as it has it, so that a run may be killed at any time.
"""

import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import torch
from omegaconf import OmegaConf

from l2o.evaluation.cells import Cell, run_cells
from l2o.optimizers import UpdateRule
from l2o.runs import cell_store
from l2o.runs.command_line.own_code import import_own
from l2o.runs.suites import built

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Name one unroll: an optimizer at several rates, with a file for each, on one task, horizon and seed."""

    task: str
    config: str  # of the optimizee, as text
    optimizer: str
    rule: UpdateRule
    rates: tuple[float, ...]
    paths: tuple[Path | None, ...]
    horizon: int
    seed: int
    device: str

    def run(self) -> list[Cell]:
        """Run the cells and keep them."""
        optimizee = built(self.config, self.device)
        cells = run_cells(self.rule.to(self.device), optimizee, self.rates, self.horizon, self.seed, self.device)
        for path, cell in zip(self.paths, cells, strict=True):
            cell_store.write(path, cell)
        return cells


Answers = dict[tuple[str, str, int, int, float], Cell]
"""Cells by task, optimizer, horizon, seed and rate."""


def run_jobs(jobs: Iterable[Job], workers: int, imports: Sequence[str] = (), folder: str = ".") -> Answers:
    """Return the cells of all jobs: those that are kept, and the others run anew, in `workers` processes.

    A process of its own imports the user's modules `imports`, found in `folder`, and works with one thread.
    """
    answers: Answers = {}
    waiting = [rest for job in jobs if (rest := _without_kept(job, answers)) is not None]
    if answers:
        log.info("%d runs are known from before, %d are left", len(answers), sum(len(job.rates) for job in waiting))
    for number, (job, cells) in enumerate(_done(waiting, workers, imports, folder), 1):
        answers.update(zip(_names(job), cells, strict=True))
        log.info(
            "%s: %s, %d steps, seed %d (%d of %d)", job.task, job.optimizer, job.horizon, job.seed, number, len(waiting)
        )
    return answers


def _without_kept(job: Job, answers: Answers) -> Job | None:
    """Put the cells of a job that are kept into `answers`, and return what is left of it; None where nothing is."""
    left = []
    for name, rate, path in zip(_names(job), job.rates, job.paths, strict=True):
        cell = cell_store.read(path, job.horizon)
        if cell is None:
            left.append((rate, path))
        else:
            answers[name] = cell
    if not left:
        return None
    rates, paths = zip(*left, strict=True)
    return Job(job.task, job.config, job.optimizer, job.rule, rates, paths, job.horizon, job.seed, job.device)


def _names(job: Job) -> list[tuple[str, str, int, int, float]]:
    return [(job.task, job.optimizer, job.horizon, job.seed, rate) for rate in job.rates]


def _done(jobs: Sequence[Job], workers: int, imports: Sequence[str], folder: str) -> Iterator[tuple[Job, list[Cell]]]:
    """Yield every job with its cells, as they come."""
    if workers == 1 or len(jobs) < 2:
        yield from ((job, job.run()) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # forked processes and threads of torch do not go together
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _begin, (tuple(imports), folder)) as pool:
        running = {pool.submit(Job.run, job): job for job in jobs}
        try:
            for future in as_completed(running):
                yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(imports: Sequence[str], folder: str) -> None:
    """Make a new process ready: one thread, the user's own modules, and an end when the main process ends."""
    torch.set_num_threads(1)
    import_own(OmegaConf.create({"imports": list(imports)}), folder)
    parent = multiprocessing.parent_process()
    assert parent is not None
    Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
