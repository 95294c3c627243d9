"""A run of evaluate.py on a suite: the optimizers that it scores, and the scoreboard that it leaves."""

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from l2o.evaluation import scoreboard_files
from l2o.evaluation.cells import Cell, measure, needs_each_horizon
from l2o.evaluation.scoreboard import REFERENCE, Outcome, Scoreboard, Task, outcome
from l2o.evaluation.scoreboard_page import page
from l2o.evaluation.scoreboard_tables import tables
from l2o.evaluation.scores import interquartile_mean
from l2o.figures.scoreboard import plot_profile
from l2o.files import write_text
from l2o.runs.beyond import add_beyond
from l2o.runs.cell_jobs import Answers, Job, job_of, run_jobs
from l2o.runs.command_line.kinds import fits
from l2o.runs.command_line.suite_settings import refuse_suite_settings
from l2o.runs.devices import chosen_device, usable
from l2o.runs.learned import open_learned, refuse_same_names
from l2o.runs.loggers import log_scoreboard
from l2o.runs.provenance import provenance
from l2o.runs.shipped_baselines import record, shipped_outcomes
from l2o.runs.suites import Suite, built, open_baselines, open_tasks, with_scales

log = logging.getLogger(__name__)


def open_suite(cfg: DictConfig) -> Suite:
    """Build the tasks and the optimizers. Raises ValueError where something is missing or makes no sense."""
    refuse_suite_settings(cfg)
    device = usable(chosen_device(cfg.device, cfg.suite.get("device", "cpu")))
    given = open_learned(cfg)
    baselines = open_baselines(cfg)
    refuse_same_names(given, baselines)
    if cfg.workers < 1 or cfg.scoreboard.seeds < 1:
        raise ValueError(f"workers and scoreboard.seeds must be at least 1, got {cfg.workers}, {cfg.scoreboard.seeds}")
    tasks = open_tasks(cfg, device)
    envelopes = read_envelopes(cfg.adam_envelopes) if cfg.adam_envelopes else {}
    if envelopes and not any(task.published in envelopes for task, _ in tasks.values()):
        raise ValueError("adam_envelopes has no effect: it has none of the suite's tasks (suite.tasks.NAME.published)")
    name = str(cfg.suite.get("name", "suite"))
    return Suite(cfg, name, tasks, with_scales(cfg, given) | baselines, envelopes, device)


def read_envelopes(path: str | Path) -> dict[str, Any]:
    """Return published envelopes of tuned Adam by task, each two lists: steps, and losses. Raises ValueError."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"adam_envelopes='{path}' is no JSON: {error}") from error
    if not isinstance(found, dict) or not all(map(_is_envelope, found.values())):
        raise ValueError(
            f"adam_envelopes='{path}' must map names of tasks to [[steps, …], [losses, …]], in finite numbers and with "
            "rising steps"
        )
    return found


def _is_envelope(curve: Any) -> bool:
    """Whether a curve is as many finite losses as steps, which rise."""
    if not fits(curve, tuple[list[float], list[float]]) or not len(curve[0]) == len(curve[1]) > 0:
        return False
    return all(before < after for before, after in pairwise(curve[0]))


def score(suite: Suite) -> Scoreboard:
    """Run what is not known yet, and return the scoreboard."""
    tasks = [task for task, _ in suite.tasks.values()]
    baselines = [name for name, one in suite.contestants.items() if one.baseline]
    board = Scoreboard(suite.name, tasks, baselines, envelopes=suite.envelopes)
    board.compare_with = list(suite.setting("compare_with") or ())
    known = shipped_outcomes(suite)
    jobs = [
        job
        for task in tasks
        for job in jobs_of(suite, task, [n for n in suite.contestants if (task.name, n) not in known])
    ]
    answers = _answers(suite, jobs)
    for task in tasks:
        _add_outcomes(board, suite, task, known, answers)
        _warn_at_ends(board, task)
    if factor := suite.setting("beyond"):
        add_beyond(board, suite, float(factor), lambda jobs: _answers(suite, jobs))
    _measure(board, suite)
    return board


def _answers(suite: Suite, jobs: Sequence[Job]) -> Answers:
    runtime = HydraConfig.get().runtime.cwd if HydraConfig.initialized() else "."
    imports = suite.cfg.get("imports") or []
    return run_jobs(jobs, suite.cfg.workers, [imports] if isinstance(imports, str) else imports, runtime)


def jobs_of(suite: Suite, task: Task, names: Sequence[str]) -> list[Job]:
    """Return the unrolls of some optimizers on a task.

    There is one for each horizon where a rule's steps depend on it; else one to the longest horizon serves them all.
    """
    return [
        job_of(suite, task, name, horizon) for name in names for horizon in _runs(task, suite.contestants[name].rule)
    ]


def _runs(task: Task, rule: Any) -> Sequence[int]:
    return task.horizons if needs_each_horizon(rule) else (max(task.horizons),)


def _add_outcomes(
    board: Scoreboard,
    suite: Suite,
    task: Task,
    known: Mapping[tuple[str, str], Mapping[int, Outcome]],
    answers: Answers,
) -> None:
    """Put a task's outcomes into the scoreboard, Adam's first: its final losses are the targets of the others."""
    names = [REFERENCE, *(name for name in suite.contestants if name != REFERENCE)]
    for horizon in task.horizons:
        target = None
        for name in names:
            case = task.name, horizon
            if (task.name, name) in known:
                board.outcomes[case, name] = known[task.name, name][horizon]
            else:
                board.outcomes[case, name] = outcome(_cells(suite, task, name, horizon, answers), horizon, target)
            if name == REFERENCE:
                target = float(board.outcomes[case, name].finals.mean(1).min())


def _cells(suite: Suite, task: Task, name: str, horizon: int, answers: Answers) -> dict[float, list[Cell]]:
    """Return the cells of an optimizer that serve a horizon: for every rate, one for each seed."""
    rule, rates, _ = suite.contestants[name]
    run = horizon if needs_each_horizon(rule) else max(task.horizons)
    seeds = range(suite.cfg.scoreboard.seeds)
    return {rate: [answers[task.name, name, run, seed, rate] for seed in seeds] for rate in rates}


def _warn_at_ends(board: Scoreboard, task: Task) -> None:
    """Say where the best rate of a baseline is the first or the last of its grid, beyond which it may do better."""
    for name in board.baselines:
        ends = {}
        for horizon in task.horizons:
            found = board.outcomes[(task.name, horizon), name]
            if len(found.rates) > 1 and found.best in (0, len(found.rates) - 1):
                ends[horizon] = f"{found.rates[found.best]:.3g} at {horizon} steps"
        if ends:
            advice = "%s: the best learning rate of %s is an end of its grid (%s): move scoreboard.baselines.%s.centre"
            log.warning(advice, task.name, name, ", ".join(ends.values()), name)


def _measure(board: Scoreboard, suite: Suite) -> None:
    """Time a step of every optimizer on every task, one after the other, while nothing else of this run works."""
    for task, config in suite.tasks.values():
        for name, one in suite.contestants.items():
            cost = measure(one.rule.to(suite.device), built(config, suite.device), suite.device)
            board.costs[task.name, name] = cost


def relative_loss(board: Scoreboard) -> float:
    """Return the interquartile mean, over all runs, of final losses relative to tuned Adam's.

    They are those of the first learned optimizer, as it is; where there is none, of the best baseline.
    """
    learned = [entry for entry in board.entries() if entry.optimizer not in board.baselines]
    means = {
        entry: interquartile_mean(np.concatenate([board.ratios(case, entry, REFERENCE) for _, case in board.cases()]))
        for entry in (learned[:1] or board.entries())
    }
    return min(means.values())


def report(suite: Suite, board: Scoreboard) -> None:
    """Write scoreboard.json, its page and its figure into the output folder, and print the tables."""
    output = Path(suite.cfg.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    scoreboard_files.save(board, output / "scoreboard.json", {"provenance": provenance(), **record(suite)})
    figure = plot_profile(board, output / "profile.png")
    write_text(output / "scoreboard.md", page(board, figure.name, record(suite)))
    log_scoreboard(instantiate(suite.cfg.get("logger") or {}).values(), board, figure)
    for table in tables(board):
        Console().print(table)
    print(f"figure: {figure}", f"page: {output / 'scoreboard.md'}", sep="\n")
