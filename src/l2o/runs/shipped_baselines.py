"""Baselines that the package has already tuned on the tasks of a suite, so that scoring a rule takes minutes."""

from typing import Any

import torch

from l2o.deploy.description import describe
from l2o.evaluation import scoreboard_files
from l2o.evaluation.scoreboard import REFERENCE, Outcome
from l2o.runs.suites import Contestant, Suite


def shipped_outcomes(suite: Suite) -> dict[tuple[str, str], dict[int, Outcome]]:
    """Return the outcomes of baselines, by task and name, that the package has of just these tasks and settings.

    They are found by the tasks' contents, not by processor or version: another machine rounds otherwise, which moves a
    final loss far less than another seed does.
    """
    path = scoreboard_files.SHIPPED / f"{suite.name}.json"
    if not suite.cfg.scoreboard.cache or not path.is_file():
        return {}
    board, also = scoreboard_files.load(path)
    same = {n for n, one in suite.contestants.items() if one.baseline and also["rules"].get(n) == _described(one)}
    if (also["device"], also["seeds"]) != (suite.device, suite.cfg.scoreboard.seeds) or REFERENCE not in same:
        return {}
    contents = {task.name: task.content for task in board.tasks}
    known = {}
    for task, _ in suite.tasks.values():
        if task.content is None or contents.get(task.name) != task.content:
            continue
        for name in same:
            rows = {h: board.outcomes.get(((task.name, h), name)) for h in task.horizons}
            if all(row is not None for row in rows.values()):
                known[task.name, name] = rows
    return known


def _described(one: Contestant) -> dict[str, Any]:
    return {"rule": describe(one.rule), "rates": [float(f"{rate:.6g}") for rate in one.rates]}


def record(suite: Suite) -> dict[str, Any]:
    """Return what a scoreboard's file says besides its numbers: how the baselines were tuned, and on what."""
    rules = {name: _described(one) for name, one in suite.contestants.items() if one.baseline}
    return {"device": suite.device, "seeds": suite.cfg.scoreboard.seeds, "torch": torch.__version__, "rules": rules}
