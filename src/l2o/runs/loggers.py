"""Where curves, tables and figures go."""

import csv
import logging
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import urlopen

import wandb
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from l2o.evaluation.comparison import Comparison
from l2o.evaluation.scoreboard import Scoreboard
from l2o.evaluation.scoreboard_tables import HEADINGS, rows
from l2o.evaluation.standings import COLUMNS

log = logging.getLogger(__name__)

AXES = {"train/*": "meta_steps", "val/*": "episodes", "curves/*": "step"}
"""The x axis of every group of curves in W&B."""


def wandb_logger(save_dir: str, timeout: float = 10.0, **settings: Any) -> WandbLogger:
    """A W&B logger that never asks and never blocks: online where a key is set and the server answers within `timeout`
    seconds, else offline (`wandb sync` sends the run later)."""
    if getattr(rank_zero_only, "rank", 0) != 0:  # Lightning gives the other ranks a logger that does nothing
        return WandbLogger(save_dir=save_dir, **settings)
    if wandb.run is not None:  # of an earlier job in this process, as in a sweep
        wandb.finish()
    run = wandb.init(dir=save_dir, mode=_mode(timeout), settings=wandb.Settings(silent=True), **settings)
    for metrics, axis in AXES.items():
        run.define_metric(axis, hidden=True)
        run.define_metric(metrics, step_metric=axis)
    return WandbLogger(save_dir=save_dir, experiment=run)


@rank_zero_only
def continue_csv(loggers: Iterable[Logger], windows: int) -> None:
    """Keep the rows of the windows that a resumed run has behind it, where it goes on in the folder of the run before:
    Lightning's CSVLogger would begin with an empty file."""
    for logger in loggers:
        if isinstance(logger, CSVLogger) and (folder := Path(logger.log_dir)).is_dir():
            rows = _rows(folder / "metrics.csv", windows)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Lightning says that it deletes the log, which is written again here
                writer = logger.experiment
            writer.metrics = rows
            if rows:
                writer.save()


def _rows(path: Path, windows: int) -> list[dict[str, str]]:
    """Return the rows of a log that belong to a run's first windows."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"] or windows) < windows]
    return [{key: value for key, value in row.items() if value} for row in rows]


def log_comparison(loggers: Iterable[Logger], comparison: Comparison, figures: Mapping[str, Path]) -> None:
    """Put the final curves, table and figures into every W&B run, the figures into TensorBoard."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for name, path in figures.items():
                logger.log_image(name, [str(path)])
            summary = comparison.summary()["optimizers"]  # None, not nan, for what is not finite
            columns = ["final_loss", "standard_error", "steps_to_best_baseline", "lr"]
            rows = [[name, *(row[column] for column in columns)] for name, row in summary.items()]
            logger.log_table("table", columns=["optimizer", *columns], data=rows)
            means = {name: entry.band()["mean"].tolist() for name, entry in comparison.entries.items()}
            for step, losses in enumerate(zip(*means.values(), strict=True), 1):
                shown = {f"curves/{n}": v for n, v in zip(means, losses, strict=True) if math.isfinite(v)}
                logger.experiment.log({"step": step} | shown)
        elif isinstance(logger, TensorBoardLogger):
            for name, path in figures.items():
                _add_image(logger, name, path)


def log_figure(loggers: Iterable[Logger], name: str, path: Path) -> None:
    """Put a figure into every W&B run and into TensorBoard."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)])
        elif isinstance(logger, TensorBoardLogger):
            _add_image(logger, name, path)


def log_scoreboard(loggers: Iterable[Logger], board: Scoreboard, figure: Path) -> None:
    """Put a scoreboard's tables into every W&B run, and its figure there and into TensorBoard."""
    loggers = list(loggers)
    log_figure(loggers, "profile", figure)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            for title, related in COLUMNS.items():
                if lines := rows(board, related):
                    logger.log_table(title.replace(" ", "_"), columns=["optimizer", *HEADINGS], data=lines)


def _add_image(logger: TensorBoardLogger, name: str, path: Path) -> None:
    from matplotlib.image import imread

    logger.experiment.add_image(name, imread(path), dataformats="HWC")


def _mode(timeout: float) -> Literal["online", "offline", "disabled", "shared"]:
    """W&B's mode: what WANDB_MODE says; else online with a key and a server that answers, else offline."""
    mode = os.environ.get("WANDB_MODE")
    if mode in ("online", "offline", "disabled", "shared"):
        return mode
    if not wandb.login(prompt=False, verify=False):  # looks for a key, without asking for one
        return "offline"
    refusal = _refusal(wandb.setup().settings.base_url, timeout)
    if refusal:
        log.warning("W&B does not answer (%s): this run is kept offline, send it later with `wandb sync`", refusal)
    return "offline" if refusal else "online"


def _refusal(url: str, timeout: float) -> str | None:
    """Why nothing answers HTTP at `url` within `timeout` seconds, looking up the name included; None where it does."""
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            urlopen(url, timeout=timeout).close()
        except HTTPError as error:  # an answer, if not a friendly one
            error.close()
        except (OSError, HTTPException) as error:
            outcome.append(str(getattr(error, "reason", error)))
            return
        outcome.append(None)

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return outcome[0] if outcome else f"nothing within {timeout:g} s"
