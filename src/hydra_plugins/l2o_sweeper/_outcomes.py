"""What a trial came to, kept in a file of its own: known even where the sweep died before its launcher returned."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig

HUGE = 1e9
"""Stands for a loss that is larger still, or not finite, or that an error kept from being known."""


@dataclass(frozen=True)
class Outcome:
    """A trial's loss, finite in any case, and why it is no good if it is not."""

    loss: float
    diverged: str | None = None


@dataclass(frozen=True)
class Recorded:
    """A task function that leaves its outcome in `folder`, under the job's number, and never raises because a trial
    went wrong. It is what launchers carry to other processes. An interruption is no outcome and passes through: Ctrl-C,
    or an exit with a number, as after a signal."""

    task: TaskFunction
    folder: Path

    def __call__(self, cfg: DictConfig) -> float:
        number = HydraConfig.get().job.num
        outcome = self._outcome(cfg)
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{number}.part"
        part.write_text(json.dumps(asdict(outcome)))
        part.replace(self.folder / f"{number}.json")
        return outcome.loss

    def _outcome(self, cfg: DictConfig) -> Outcome:
        try:
            loss = float(self.task(cfg))
        except SystemExit as error:
            if not isinstance(error.code, str):
                raise
            return Outcome(HUGE, error.code.removeprefix("error: "))
        except Exception as error:
            if os.environ.get("L2O_TRACEBACK") == "1":
                raise
            return Outcome(HUGE, " ".join(f"{type(error).__name__}: {error}".split()))
        return Outcome(loss) if abs(loss) < HUGE else Outcome(HUGE, f"a loss of {loss:g}")


def read_outcome(folder: Path, number: int) -> Outcome | None:
    """The outcome of a trial, None if it has not ended."""
    path = folder / f"{number}.json"
    return Outcome(**json.loads(path.read_text())) if path.exists() else None
