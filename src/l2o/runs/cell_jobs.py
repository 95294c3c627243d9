"""The cells that a scoreboard needs: those that are kept are read, the others are run, in several processes if asked.

A process writes each cell as soon as it has it, so that a run may be killed at any time.
"""

import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import torch
from omegaconf import OmegaConf

from l2o.evaluation.cells import Cell, run_cells
from l2o.evaluation.scoreboard import Task
from l2o.optimizers import UpdateRule
from l2o.runs import cell_store
from l2o.runs.command_line.own_code import import_own
from l2o.runs.suites import Suite, built

log = logging.getLogger(__name__)


Answers = dict[tuple[str, str, int, int, float], Cell]
"""Cells by task, optimizer, horizon, seed and rate."""


@dataclass(frozen=True)
class Job:
    """Name one unroll: an optimizer at several rates and seeds on one task and horizon.

    `paths` has the file of every cell by seed and rate; None keeps nothing. `beyond` says how many times the horizon
    the unroll is long: a rule may be run further than it was told.
    """

    task: str
    config: str  # of the optimizee, as text
    optimizer: str
    rule: UpdateRule
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    paths: Mapping[tuple[int, float], Path | None]
    horizon: int
    device: str
    beyond: float = 1.0

    @property
    def steps(self) -> int:
        """Say how many steps the unroll has."""
        return round(self.beyond * self.horizon)

    @property
    def count(self) -> int:
        """Say how many cells the job has."""
        return len(self.rates) * len(self.seeds)

    def run(self) -> Answers:
        """Run the cells and keep them."""
        optimizee = built(self.config, self.device)
        rule = self.rule.to(self.device)
        found = run_cells(rule, optimizee, self.rates, self.steps, self.seeds, self.device, self.horizon)
        answers = {}
        for seed, cells in zip(self.seeds, found, strict=True):
            for rate, cell in zip(self.rates, cells, strict=True):
                cell_store.write(self.paths[seed, rate], cell)
                answers[self.task, self.optimizer, self.horizon, seed, rate] = cell
        return answers

    def kept(self) -> Answers:
        """Return the cells that are kept already."""
        read = {place: cell_store.read(path, self.steps) for place, path in self.paths.items()}
        names = {place: (self.task, self.optimizer, self.horizon, *place) for place in read}
        return {names[place]: cell for place, cell in read.items() if cell is not None}

    def left(self, kept: Answers) -> "list[Job]":
        """Return what is left to run: one job for all seeds that lack the same rates."""
        lacking: dict[tuple[float, ...], list[int]] = {}
        for seed in self.seeds:
            known = {rate for *_, of, rate in kept if of == seed}
            if rates := tuple(rate for rate in self.rates if rate not in known):
                lacking.setdefault(rates, []).append(seed)
        return [replace(self, rates=rates, seeds=tuple(seeds)) for rates, seeds in lacking.items()]


def job_of(
    suite: Suite,
    task: Task,
    name: str,
    horizon: int,
    rates: tuple[float, ...] | None = None,
    beyond: float = 1.0,
) -> Job:
    """Return the unroll of one optimizer of a suite on a task, at all of its rates unless others are given."""
    rule, own, _ = suite.contestants[name]
    rates, seeds = own if rates is None else rates, tuple(range(suite.cfg.scoreboard.seeds))
    key = cell_store.key_of(task, rule, suite.device) if suite.cfg.scoreboard.cache else None
    job = Job(task.name, suite.tasks[task.name][1], name, rule, rates, seeds, {}, horizon, suite.device, beyond)
    places = {(s, rate): cell_store.place(key, rate, horizon, s, job.steps) for s in seeds for rate in rates}
    return replace(job, paths=places)


def run_jobs(jobs: Iterable[Job], workers: int, imports: Sequence[str] = (), folder: str = ".") -> Answers:
    """Return the cells of all jobs: those that are kept, and the others run anew, in `workers` processes.

    A process of its own imports the user's modules `imports`, found in `folder`, and works with one thread.
    """
    answers: Answers = {}
    waiting: list[Job] = []
    for job in jobs:
        answers |= (kept := job.kept())
        waiting += job.left(kept)
    left = sum(job.count for job in waiting)
    if answers:
        log.info("%d runs are known from before, %d are left", len(answers), left)
    done = 0
    for job, found in _done(waiting, workers, imports, folder):
        answers |= found
        done += job.count
        log.info("%s: %s, %d steps (%d of %d runs)", job.task, job.optimizer, job.steps, done, left)
    return answers


def _done(jobs: Sequence[Job], workers: int, imports: Sequence[str], folder: str) -> Iterator[tuple[Job, Answers]]:
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
