"""Finished cells of scoreboards, kept on disk, so that a run that was stopped goes on where it was.

A cell is found again only where everything that it depends on is the same: the task with its data, the rule with its
φ, the rate, the horizon, the seed, the code, and what decides about rounding. Deleting the folder is always safe.
"""

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2o.evaluation.cells import Cell
from l2o.evaluation.scoreboard import Task
from l2o.files import cache_folder, replacing
from l2o.optimizers import UpdateRule
from l2o.runs.contents import code_contents, hash_of, rounding, rule_contents

log = logging.getLogger(__name__)

CODE_OF_CELLS = (
    *("data", "optimizees", "optimizers", "seeds.py", "unroll.py"),
    *("evaluation/cells.py", "evaluation/curves.py"),
)
"""The parts of this package that decide what a cell holds."""


def key_of(task: Task, rule: UpdateRule, device: str) -> dict[str, Any] | None:
    """Return what all cells of a rule on a task have in common; None where it cannot be told: code of a user's own."""
    contents = rule_contents(rule)
    if contents is None or task.content is None:
        return None
    return {
        "task": task.content,
        **contents,
        "code": code_contents(CODE_OF_CELLS),
        "rounding": rounding(torch.device(device)),
    }


def place(key: dict[str, Any] | None, rate: float, horizon: int, seed: int, steps: int | None = None) -> Path | None:
    """Return the file of one cell; None where `key` is None, which keeps nothing.

    `steps` is the length of the run where that is not the horizon that its rule was told.
    """
    if key is None:
        return None
    beyond = {} if steps in (None, horizon) else {"steps": steps}
    digest = hash_of({**key, "rate": rate, "horizon": horizon, "seed": seed, **beyond})
    return cache_folder() / "cells" / digest[:2] / f"{digest}.npz"


def read(path: Path | None, steps: int) -> Cell | None:
    """Return a cell of so many steps that was kept; None where there is none, or a damaged one."""
    if path is None or not path.is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            cell = Cell(kept["losses"], float(kept["start"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return cell if cell.losses.shape == (steps,) and cell.losses.dtype == np.float32 else None


def write(path: Path | None, cell: Cell) -> None:
    """Keep a cell, whole or not at all. A disk that takes nothing costs a line in the log, not the run."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, losses=cell.losses, start=cell.start)
    except OSError as error:
        log.warning("'%s' could not be written (%s): it will be run again", path, error.strerror)
