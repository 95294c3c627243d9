"""What a run leaves on disk while it goes: `last.ckpt` to resume from, `best/` to use."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from l2o import export
from l2o.learner import MetaLearner


class Checkpoints(Callback):
    """Writes `last.ckpt` every `every_n_minutes` (or `every_n_windows`) and after each validation, and exports the best
    rule whenever it improves. Every file is complete: it is written beside its place, then renamed.

    Lightning's own `ModelCheckpoint` never saves by time under manual optimization. Mid-epoch, the epoch's last window
    is left to the save after validation: a run resumed between the two would skip that validation.
    """

    def __init__(self, folder: str, every_n_minutes: float = 5.0, every_n_windows: int | None = None):
        self.folder, self.every_n_windows = Path(folder), every_n_windows
        self.seconds = 60 * every_n_minutes
        self.saved_at, self.exported = time.monotonic(), float("inf")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last_of_epoch = batch_idx + 1 >= trainer.num_training_batches
        if not last_of_epoch and trainer.strategy.broadcast(self._due(batch_idx)):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        self._save(trainer)
        if trainer.is_global_zero and pl_module.best_loss < self.exported:
            self.exported = pl_module.best_loss
            card = {
                "optimizee": type(pl_module.optimizee).__name__,
                "horizon": pl_module.horizon,
                "validation_loss": pl_module.best_loss,
                "seed": pl_module.seed,
            }
            export.save(pl_module.best_rule(), self.folder / "best", card)

    def _due(self, batch_idx: int) -> bool:
        by_count = self.every_n_windows is not None and (batch_idx + 1) % self.every_n_windows == 0
        return by_count or time.monotonic() - self.saved_at > self.seconds

    def _save(self, trainer: pl.Trainer) -> None:
        path = self.folder / "last.ckpt"
        trainer.save_checkpoint(path.with_suffix(".part"), weights_only=False)
        if trainer.is_global_zero:
            path.with_suffix(".part").replace(path)
        self.saved_at = time.monotonic()
