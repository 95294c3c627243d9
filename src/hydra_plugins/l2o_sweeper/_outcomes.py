"""What a trial came to, kept in a file of its own: known even where the sweep died before its launcher returned."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig
from torch import OutOfMemoryError

from l2o.files import write_text
from l2o.training.safeguards import Diverged

HUGE = 1e9
"""Stands for a loss that is larger still, or not finite, or that meta-training never came to."""

MACHINE = (OSError, MemoryError, OutOfMemoryError)
"""The machine's faults: a full disk, a lost rank, too little memory."""


@dataclass(frozen=True)
class Outcome:
    """A trial's loss, finite in any case, and why it is no good if it is not."""

    loss: float
    diverged: str | None = None


class Unfinished(RuntimeError):
    """A trial ended without an outcome: another time, or on another machine, it may well have one."""


@dataclass(frozen=True)
class Recorded:
    """A task function that leaves its outcome in `folder`, under the job's number. It is what launchers carry to other
    processes. Only a loss and a divergence, which would come again, are outcomes. Any other error raises Unfinished; an
    interruption passes through: Ctrl-C, or an exit with a number, as after a signal."""

    task: TaskFunction
    folder: Path

    def __call__(self, cfg: DictConfig) -> float:
        number = HydraConfig.get().job.num
        try:
            outcome = self._outcome(cfg)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / f"{number}.json", json.dumps(asdict(outcome), allow_nan=False))
        except (Exception, SystemExit) as error:
            if _is_interruption(error) or os.environ.get("L2O_TRACEBACK") == "1":
                raise
            raise Unfinished(in_words(error)) from error
        return outcome.loss

    def _outcome(self, cfg: DictConfig) -> Outcome:
        try:
            loss = float(self.task(cfg))
        except (Exception, SystemExit) as error:
            chain = list(_chain(error))
            if any(isinstance(e, MACHINE) for e in chain) or not any(isinstance(e, Diverged) for e in chain):
                raise
            return Outcome(HUGE, in_words(error))
        return Outcome(loss) if abs(loss) < HUGE else Outcome(HUGE, f"a loss of {loss:g}")


def _is_interruption(error: BaseException) -> bool:
    return isinstance(error, SystemExit) and not isinstance(error.code, str)


def in_words(error: BaseException) -> str:
    """In one line; programs end with one by themselves."""
    if isinstance(error, SystemExit):
        return str(error.code).removeprefix("error: ")
    return " ".join(f"{type(error).__name__}: {error}".split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from or in answer to."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def read_outcome(folder: Path, number: int) -> Outcome | None:
    """The outcome of a trial, None if it has not ended."""
    path = folder / f"{number}.json"
    return Outcome(**json.loads(path.read_text())) if path.exists() else None
