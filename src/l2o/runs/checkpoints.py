"""What a run leaves on disk while it goes: `last.ckpt` to resume from, `best/` to use."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import WandbLogger

from l2o.deploy import export
from l2o.runs.checkpoint_files import LAST, CheckpointFiles
from l2o.runs.preemption import STATUS, StopRequest
from l2o.training.learner import MetaLearner

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Writes `last.ckpt` every `every_n_minutes` (or `every_n_windows`) and after each validation, and exports the best
    rule whenever it improves. Answers SIGTERM, SIGUSR1 and SIGUSR2 with a checkpoint at the window's end and status 75;
    after the last window with that status alone: the run that goes on has only to compare.

    Lightning's own `ModelCheckpoint` never saves by time under manual optimization. Mid-epoch, the epoch's last window
    is left to the save after validation: a run resumed between the two would skip that validation.
    """

    def __init__(self, folder: str, every_n_minutes: float = 5.0, every_n_windows: int | None = None):
        self.folder, self.every_n_windows = Path(folder), every_n_windows
        self.seconds = 60 * every_n_minutes
        self.saved_at, self.exported = time.monotonic(), float("inf")
        self.request = StopRequest()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.request.listen()
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
        due, stop = self._agreed(trainer, self._due(batch_idx))
        if due or stop:
            self._save(trainer)
        if stop:
            self._stop(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._save(trainer)
        self._export(trainer, pl_module)
        _, stop = self._agreed(trainer, False)
        if stop:
            self._stop(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._export(trainer, pl_module)
        _, stop = self._agreed(trainer, False)
        self.request.over = True  # nobody asks again: from here a signal ends the rank at once
        if stop or self.request.received:
            self._stop(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        runs = [logger.version for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        checkpoint["wandb"] = runs[0] if runs else None

    def _agreed(self, trainer: pl.Trainer, due: bool) -> tuple[bool, bool]:
        """Save now, stop now: what any rank wants, all do."""
        wishes = due, self.request.received is not None
        if trainer.world_size == 1:
            return wishes
        flags = torch.tensor(wishes, dtype=torch.float32, device=trainer.strategy.root_device)
        due, stop = trainer.strategy.reduce(flags, reduce_op="max").bool().tolist()
        return due, stop

    def _due(self, batch_idx: int) -> bool:
        by_count = self.every_n_windows is not None and (batch_idx + 1) % self.every_n_windows == 0
        return by_count or time.monotonic() - self.saved_at > self.seconds

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # the log up to here, which the resumed run will not write again
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self.saved_at = time.monotonic()

    def _export(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        if not trainer.is_global_zero or pl_module.best_loss >= self.exported:
            return
        card = {
            "optimizee": type(pl_module.optimizee).__name__,
            "horizon": pl_module.horizon,
            "validation_loss": pl_module.best_loss,
            "seed": pl_module.seed,
        }
        try:
            export.save(pl_module.best_rule(), self.folder / "best", card)
            self.exported = pl_module.best_loss
        except OSError as error:
            log.warning("'%s' could not be written (%s): the run goes on and tries again", self.folder / "best", error)

    def _stop(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        if not trainer.is_global_zero:
            sys.exit(0)  # by any other status Lightning's launcher would kill rank zero before it has ended
        name = self.request.received or "another rank"
        log.warning("stopped by %s after window %d: ckpt_path=%s goes on", name, pl_module.windows, self.folder / LAST)
        sys.exit(STATUS)
