"""What a run leaves on disk while it goes: `last.ckpt` to resume from, `best/` to use."""

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import WandbLogger

from l2o.runs.checkpoint_files import LAST, CheckpointFiles, remove_leftovers
from l2o.runs.exported import export_best, warn_unvalidated
from l2o.runs.preemption import STATUS, StopRequest, status_of, way_on
from l2o.training.learner import MetaLearner

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Writes checkpoints, and exports the best rule, with `card`, whenever it improves.

    `last.ckpt`, with `warm_start.ckpt` beside it, is written every `every_n_minutes` (or `every_n_windows`), after each
    validation and at the end.

    Answers SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C with a checkpoint at the window's end and the exit status of
    `preemption.status_of`; after the last window with that status alone, because the run that goes on has only to
    compare.

    Lightning's own `ModelCheckpoint` never saves by time under manual optimization. An epoch's last window is left to
    the save after validation, or at the epoch's end where none follows: a run resumed from in between would skip that
    validation.
    """

    def __init__(
        self,
        folder: str,
        every_n_minutes: float = 5.0,
        every_n_windows: int | None = None,
        card: Mapping[str, Any] | None = None,
    ):
        self.folder, self.every_n_windows, self.card = Path(folder), every_n_windows, card
        self.seconds = 60 * every_n_minutes
        self.saved_at, self.saved_window, self.exported = time.monotonic(), -1, float("inf")
        self.request = StopRequest()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        refuse_nothing_to_do(trainer)
        trainer.strategy.checkpoint_io = CheckpointFiles(warm_start=True)
        if trainer.is_global_zero:
            remove_leftovers(self.folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.request.listen()
        came_from = trainer.ckpt_path
        if came_from is not None and Path(came_from).resolve() == (self.folder / LAST).resolve():
            self.saved_window = _learner(pl_module).state.windows  # a run with nothing left to train leaves it as it is
        # Resumed after its end: Lightning would train one more epoch before it looks at this.
        trainer.should_stop |= any(
            stopping.wait_count >= stopping.patience
            for stopping in trainer.early_stopping_callbacks
            if isinstance(stopping, EarlyStopping)
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 >= trainer.num_training_batches:
            return
        last = 0 < trainer.max_steps <= trainer.global_step  # of the run: here its checkpoint can go on exactly
        if last:
            _learner(pl_module).finish()
        waits = _learner(pl_module).logs_now() and trainer.log_every_n_steps > 1  # type: ignore[attr-defined]
        due = self._due(batch_idx, waits) or last  # a window's row is written after it: a kill would lose it
        self._answer(trainer, pl_module, due, in_window=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._save(trainer, pl_module)
        self._export(trainer, pl_module)
        self._answer(trainer, pl_module, False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if 0 < (trainer.max_epochs or 0) <= trainer.current_epoch + 1:
            return  # training ends here, with a validation and a checkpoint
        if _learner(pl_module).state.validated_at != _learner(pl_module).state.windows:
            self._answer(trainer, pl_module, self._due(-1))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        learner = _learner(pl_module)
        learner.finish()
        if self.saved_window != learner.state.windows:
            self._save(trainer, pl_module)
        self._export(trainer, pl_module)
        _, stop = self._agreed(trainer, False)
        self.request.over = True  # nobody asks again: from here a signal ends the rank at once
        if stop or self.request.received:
            self._stop(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if _learner(pl_module).state.best is None and trainer.is_global_zero:
            self._write_best(pl_module)
            warn_unvalidated(_learner(pl_module), self.folder / "best")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        runs = [logger.version for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        checkpoint["wandb"] = runs[0] if runs else None

    def _answer(self, trainer: pl.Trainer, pl_module: pl.LightningModule, due: bool, in_window: bool = False) -> None:
        """Save and stop where any rank wants it. Lightning logs a window after this, and after a stop not at all."""
        due, stop = self._agreed(trainer, due)
        if stop and in_window:
            trainer._logger_connector.update_train_step_metrics()
        if (due or stop) and self.saved_window != _learner(pl_module).state.windows:
            self._save(trainer, pl_module)
        if stop:
            self._stop(trainer, pl_module)

    def _agreed(self, trainer: pl.Trainer, due: bool) -> tuple[bool, bool]:
        """Return whether to save now and whether to stop now: what any rank wants, all do."""
        wishes = due, self.request.received is not None
        if trainer.world_size == 1:
            return wishes
        flags = torch.tensor(wishes, dtype=torch.float32, device=trainer.strategy.root_device)
        due, stop = trainer.strategy.reduce(flags, reduce_op="max").bool().tolist()
        return due, stop

    def _due(self, batch_idx: int, waits: bool = False) -> bool:
        """Return whether to save now; a save that is due by the clock may wait for the next window."""
        by_count = self.every_n_windows is not None and (batch_idx + 1) % self.every_n_windows == 0
        return by_count or (not waits and time.monotonic() - self.saved_at > self.seconds)

    def _save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            logger.save()  # the log up to here, which the resumed run will not write again
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self.saved_at, self.saved_window = time.monotonic(), _learner(pl_module).state.windows

    def _export(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        best = _learner(pl_module).state.best
        if trainer.is_global_zero and best is not None and best < self.exported:
            self._write_best(pl_module)

    def _write_best(self, pl_module: pl.LightningModule) -> None:
        learner = _learner(pl_module)
        about = {"optimizee": type(learner.optimizee).__name__, "horizon": learner.horizon, "seed": learner.seed}
        try:
            export_best(learner, self.folder / "best", about if self.card is None else self.card)
            self.exported = learner.best_loss
        except OSError as error:
            log.warning("'%s' could not be written (%s): the run goes on and tries again", self.folder / "best", error)

    def _stop(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            sys.exit(0)  # by any other status Lightning's launcher would kill rank zero before it has ended
        name, windows = self.request.received or "another rank", _learner(pl_module).state.windows
        log.warning("stopped by %s after window %d; %s", name, windows, way_on(self.folder / LAST))
        sys.exit(STATUS if self.request.number is None else status_of(self.request.number))


def refuse_nothing_to_do(trainer: pl.Trainer) -> None:
    """Raise ValueError where a trainer's limits leave nothing to train: Lightning would return without a word."""
    limits = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
    limits["limit_train_batches"] = trainer.limit_train_batches
    for name, value in limits.items():
        if value == 0:
            raise ValueError(
                f"trainer.{name}={value} trains nothing: give more, or compare an optimizer without training it by "
                "evaluate.py learned.NAME=FOLDER"
            )


def _learner(module: pl.LightningModule) -> MetaLearner:
    assert isinstance(module, MetaLearner)
    return module
