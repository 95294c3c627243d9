"""Runs that have ended, read from their folders: their settings and their curves.

Shapes: T steps of an episode, V validations.
"""

import csv
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

RUN = "a run's folder is outputs/train/NAME/DATE, outputs/evaluate/NAME/DATE, or that of a multirun"

UNREADABLE = (OSError, LookupError, TypeError, ValueError, AttributeError, OmegaConfBaseException,
              yaml.YAMLError, csv.Error)  # fmt: skip
"""What comes of files that are cut off, or of another kind."""


@dataclass(frozen=True)
class Curve:
    """Hold what a comparison found of one optimizer: the mean and the quantiles of its losses, each (T,)."""

    mean: Array
    low: Array
    high: Array
    baseline: bool
    lr: float | None
    horizon: int | None


@dataclass(frozen=True)
class Validations:
    """Hold the final losses of φ on validation problems (V,), after how many meta-updates, and inner steps in all."""

    losses: Array
    meta_steps: Array
    inner_steps: Array


@dataclass(frozen=True)
class Finished:
    """Hold a run: its folder, its configuration, its curves by optimizer, and its validations if it was trained."""

    folder: Path
    cfg: DictConfig
    curves: Mapping[str, Curve]
    validations: Validations | None

    @property
    def name(self) -> str:
        """Return the last two parts of the folder, by which figures name the run where nothing else does."""
        return "/".join(self.folder.parts[-2:])


def read_runs(given: Any) -> list[Finished]:
    """Read the runs in some folders, each of a run or of a multirun, in their order.

    A job of a multirun that has left no curves is left out, with a line that says so. Raises ValueError, in one line
    with the remedy, for a folder that is none, that is no run's, or whose run has no curves.
    """
    folders = [given] if isinstance(given, str) else list(given or [])
    if not folders:
        raise ValueError(f"runs={given} names no folder to draw: give runs=[FOLDER,FOLDER,…], where {RUN}")
    found: dict[Path, Finished] = {}
    for folder in folders:
        if not isinstance(folder, str) or not folder:
            raise ValueError(f"runs must be folders, got {folder!r}: {RUN}")
        for run in _read(Path(folder).expanduser()):
            found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def _read(folder: Path) -> list[Finished]:
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise ValueError(f"runs: '{folder}' {what} (looked for in {Path.cwd()}): {RUN}")
    if (folder / ".hydra/config.yaml").is_file():
        return [_run(folder)]
    jobs = sorted((job for job in folder.glob("*/.hydra") if job.is_dir()), key=lambda job: _number(job.parent.name))
    if not jobs:
        raise ValueError(f"runs: '{folder}' is the folder of no run, it has no .hydra/config.yaml: {RUN}")
    runs = []
    for job in jobs:
        try:
            runs.append(_run(job.parent))
        except ValueError as error:
            log.warning("left out: %s", str(error).removeprefix("runs: "))
    if not runs:
        raise ValueError(f"runs: no job of the multirun '{folder}' has left curves that can be drawn")
    return runs


def _run(folder: Path) -> Finished:
    """Read one run. Raises ValueError where it has no curves, or where they cannot be read."""
    try:
        cfg = OmegaConf.merge({"evaluation_optimizee": {}}, OmegaConf.load(folder / ".hydra/config.yaml"))
        if not isinstance(cfg, DictConfig) or cfg.get("optimizee") is None:
            raise ValueError("its .hydra/config.yaml is none of train.py or evaluate.py: it names no optimizee")
        curves = _curves(folder) if (folder / "curves.csv").is_file() else {}
        validations = _validations(folder / "logs/metrics.csv")
    except UNREADABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"runs: the files of '{folder}' cannot be read ({reason}): leave it out") from error
    if not curves and validations is None:
        raise ValueError(f"runs: '{folder}' {_why(folder)}")
    return Finished(folder, cfg, curves, validations)


def _why(folder: Path) -> str:
    """Say why a run has no curves, and what can be done about it."""
    for name, what in {"scoreboard.json": "a suite", "map.json": "a map"}.items():
        if (folder / name).is_file():
            return f"is a run on {what}, which has no curves over steps: its figure and {name} are in its folder"
    if (folder / "last.ckpt").is_file():
        return (
            "has no curves yet: wait for its first validation, or go on with the same command and "
            f"hydra.run.dir='{folder}' ckpt_path=auto, or leave it out"
        )
    return "has no curves yet (neither curves.csv nor validations in logs/metrics.csv): let it end, or leave it out"


def _curves(folder: Path) -> dict[str, Curve]:
    """Return the curves of a comparison by optimizer, and what summary.json says of it."""
    with open(folder / "curves.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["optimizers"]
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        found.setdefault(row["optimizer"], []).append((float(row["mean"]), float(row["p10"]), float(row["p90"])))
    return {name: _curve(np.array(values), said[name]) for name, values in found.items()}


def _curve(values: Array, said: Mapping[str, Any]) -> Curve:
    lr = said.get("lr")
    baseline = said.get("baseline", lr is not None)  # older runs do not say it, but only their baselines had a rate
    mean, low, high = values.T
    return Curve(mean, low, high, baseline, lr, said.get("horizon"))


def _validations(path: Path) -> Validations | None:
    """Return the validations in a run's log; None where there are none.

    A row of a validation has the number of the window before it alone. Meta-updates and inner steps are those of the
    rows of the training around it, between which they grow evenly.
    """
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shown = [row for row in rows if row.get("val/final_loss")]
    trained = [row for row in rows if row.get("meta_steps") and row.get("inner_steps")]
    if not shown:
        return None
    windows = _column(shown, "step") + 1
    if not trained:
        return Validations(_column(shown, "val/final_loss"), windows, np.full(len(windows), np.nan))
    known, inner = _column(trained, "meta_steps"), _column(trained, "inner_steps")
    before = known[0] - (float(trained[0]["step"]) + 1)  # the meta-updates of a run that this one goes on from
    return Validations(_column(shown, "val/final_loss"), windows + before, _between(windows + before, known, inner))


def _between(places: Array, known: Array, values: Array) -> Array:
    """Return values at some places, on a line through the known ones and the origin, and on its ends prolonged."""
    known, values = np.concatenate([[0.0], known]), np.concatenate([[0.0], values])
    slope = values[-1] / known[-1] if known[-1] else 0.0
    return np.where(places > known[-1], values[-1] + slope * (places - known[-1]), np.interp(places, known, values))


def _column(rows: Iterable[Mapping[str, str]], name: str) -> Array:
    return np.array([float(row[name]) for row in rows])


def _number(name: str) -> tuple[int, str]:
    """Return what jobs are ordered by: 10 comes after 9."""
    return (int(name) if name.isdigit() else 0, name)
