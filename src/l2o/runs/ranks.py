"""Several processes: how they are started, and how they end as one."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from torch import OutOfMemoryError
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from l2o.runs.preemption import INTERRUPTED, STATUS, listen, restore
from l2o.training.safeguards import Diverged

EXPECTED: dict[str, type[Exception]]
EXPECTED = {e.__name__: e for e in (ValueError, OSError, PermissionError, FileNotFoundError, MemoryError)}
EXPECTED |= {"l2o.training.safeguards.Diverged": Diverged, "torch.OutOfMemoryError": OutOfMemoryError}
"""Errors of a rank that its last line tells; they come from it as text."""


def refuse_relaunch(trainer: pl.Trainer) -> None:
    """Under --multirun no rank may be started by running the command line again: it would run the whole sweep again
    (facebookresearch/hydra#2070). Raises ValueError."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher) or launcher.cluster_environment.creates_processes_externally:
        return
    if trainer.world_size > 1 and HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            "--multirun cannot start several ranks by running the command again, which would run the whole sweep on "
            "each: add trainer.strategy.start_method=spawn (trainer=ddp_spawn), or trainer.devices=1"
        )


@contextmanager
def as_one(trainer: pl.Trainer) -> Iterator[None]:
    """Where the ranks are spawned, let this process only wait for them: it hands their signals on and ends as they end.

    A terminal sends Ctrl-C to the ranks by itself, somebody else to this process alone. So that no rank takes one
    Ctrl-C for two, it is handed on as SIGTERM, and the ranks save; a second one ends them at once.
    """
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _MultiProcessingLauncher):
        yield
        return
    heard: list[int] = []

    def hand_on(number: int, _: Any) -> None:
        if number == signal.SIGINT in heard:
            launcher.kill(signal.SIGKILL)
            os._exit(INTERRUPTED)
        heard.append(number)
        launcher.kill(signal.SIGTERM if number == signal.SIGINT else signal.Signals(number))

    before = listen(hand_on)
    try:
        yield
    except ProcessExitedException as error:
        if signal.SIGINT in heard:
            sys.exit(INTERRUPTED)
        if error.exit_code in (STATUS, INTERRUPTED):
            sys.exit(error.exit_code)
        raise ChildProcessError(f"a rank was lost ({error}): ckpt_path goes on from the last checkpoint") from error
    except ProcessRaisedException as error:
        name, _, message = str(error).strip().splitlines()[-1].partition(": ")
        raise EXPECTED.get(name, RuntimeError)(message if name in EXPECTED else str(error)) from error
    finally:
        restore(before)
