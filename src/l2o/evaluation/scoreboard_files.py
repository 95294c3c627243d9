"""A scoreboard as JSON: written by a run, read again for its page, and shipped for the baselines of a suite."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from l2o.evaluation.cells import Cost
from l2o.evaluation.scoreboard import Outcome, Scoreboard, Task
from l2o.evaluation.scores import Rise
from l2o.files import write_text

SHIPPED = Path(__file__).parent / "baselines"
"""Where the package keeps finished baselines, as SUITE.json."""

DIGITS = 6
"""Losses are written with so many significant digits."""


def save(board: Scoreboard, path: str | Path, also: Mapping[str, Any] | None = None) -> None:
    """Write a scoreboard, whole or not at all, with what `also` adds to it. What is not finite becomes null."""
    found: dict[str, Any] = {"suite": board.suite, "baselines": board.baselines, **(also or {}), "tasks": {}}
    if board.compare_with:
        found["compare_with"] = list(board.compare_with)
    if board.beyond:
        found["beyond_factor"] = board.beyond_factor
    for task in board.tasks:
        found["tasks"][task.name] = {
            "content": task.content,
            "related": task.related,
            "description": task.description,
            "published": task.published,
            "costs": {name: list(cost) for (of, name), cost in board.costs.items() if of == task.name},
            "horizons": {str(horizon): _outcomes(board, task, horizon) for horizon in task.horizons},
        }
        if board.beyond:
            found["tasks"][task.name]["beyond"] = {
                str(horizon): _rises(board, task, horizon) for horizon in task.horizons
            }
    if board.envelopes:
        used = [task.published for task in board.tasks if task.published in board.envelopes]
        found["envelopes"] = {name: [_numbers(part) for part in board.envelopes[name]] for name in used if name}
    write_text(path, _laid_out(found) + "\n")


def save_baselines(results: str | Path, path: str | Path) -> None:
    """Write the baselines of a scoreboard.json alone, for other machines: without what a step costs on this one."""
    board, also = load(results)
    board.outcomes = {key: found for key, found in board.outcomes.items() if key[1] in board.baselines}
    board.costs, board.envelopes, board.beyond, board.compare_with = {}, {}, {}, ()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    kept = ("provenance", "device", "seeds", "torch", "rules")  # older files do not know their provenance
    save(board, path, {key: also[key] for key in kept if key in also})


def load(path: str | Path) -> tuple[Scoreboard, dict[str, Any]]:
    """Return a scoreboard that was written, and everything in its file. Raises ValueError where it is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        tasks = [_task(name, node) for name, node in found["tasks"].items()]
        board = Scoreboard(found["suite"], tasks, found["baselines"], envelopes=found.get("envelopes", {}))
        board.compare_with, board.beyond_factor = found.get("compare_with", ()), found.get("beyond_factor", 1.0)
        for name, node in found["tasks"].items():
            board.costs |= {(name, optimizer): Cost(*cost) for optimizer, cost in node["costs"].items()}
            for horizon, rows in node["horizons"].items():
                read = {((name, int(horizon)), optimizer): _outcome(row) for optimizer, row in rows.items()}
                board.outcomes.update(read)
            for horizon, rises in node.get("beyond", {}).items():
                board.beyond |= {((name, int(horizon)), optimizer): _rise(row) for optimizer, row in rises.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"'{path}' is no scoreboard.json of evaluate.py suite=…: {error}") from error
    return board, found


def _task(name: str, node: Mapping[str, Any]) -> Task:
    horizons = tuple(int(horizon) for horizon in node["horizons"])
    return Task(name, horizons, node["related"], node["description"], node["published"], node["content"])


def _outcomes(board: Scoreboard, task: Task, horizon: int) -> dict[str, Any]:
    return {
        name: {
            "rates": _numbers(found.rates),
            "finals": [_numbers(row) for row in found.finals],
            "starts": _numbers(found.starts),
            "steps_to_adam": list(found.steps),
        }
        for (case, name), found in board.outcomes.items()
        if case == (task.name, horizon)
    }


def _rises(board: Scoreboard, task: Task, horizon: int) -> dict[str, list[float | None]]:
    return {name: _numbers(rise) for (case, name), rise in board.beyond.items() if case == (task.name, horizon)}


def _rise(row: Sequence[float | None]) -> Rise:
    mean, worst = (math.inf if value is None else value for value in row)
    return Rise(mean, worst)


def _outcome(row: Mapping[str, Any]) -> Outcome:
    finals = np.array([[math.inf if loss is None else loss for loss in losses] for losses in row["finals"]], float)
    starts = np.array([math.inf if loss is None else loss for loss in row["starts"]], float)
    if finals.shape != (len(row["rates"]), len(starts)):
        raise ValueError(f"{finals.shape} final losses of {len(row['rates'])} rates and {len(starts)} seeds")
    return Outcome(tuple(row["rates"]), finals, starts, tuple(row["steps_to_adam"]))


def _numbers(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values]


def _laid_out(value: Any, indent: int = 0) -> str:
    """Return JSON in which a list, and a mapping that holds numbers alone, takes one line."""
    if not isinstance(value, dict) or not any(isinstance(item, dict | list) for item in value.values()):
        return json.dumps(value, allow_nan=False)
    space = " " * (indent + 1)
    rows = [f"{space}{json.dumps(key)}: {_laid_out(item, indent + 1)}" for key, item in value.items()]
    return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
