"""What a run says of itself while it goes: counters, speed, and whether it learns anything at all."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from l2o.training.learner import CHANCE, MetaLearner

log = logging.getLogger(__name__)


class Progress(Callback):
    """Logs the counters that serve as x axes and the inner steps per second; a run at chance level is told what to try,
    once a quarter of it has passed, and at its end."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.time, self.windows = time.perf_counter(), 0  # a run resumed mid-epoch starts no epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.time, self.windows = time.perf_counter(), 0  # validation does not count

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MetaLearner)
        self.windows += 1
        if not pl_module.logs_now():
            return
        now = time.perf_counter()
        speed = self.windows * pl_module.window / (now - self.time)
        self.time, self.windows = now, 0
        pl_module.log("steps_per_s", speed, prog_bar=True, batch_size=1)
        counters = {
            "meta_steps": pl_module.windows,
            "inner_steps": pl_module.windows * pl_module.window,
            "episodes": pl_module.episodes,
            "train/skipped": pl_module.skipped,
            "train/meta_lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        pl_module.log_dict({name: float(value) for name, value in counters.items()}, batch_size=1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.current_epoch + 1 == (trainer.max_epochs or 0) // 4:
            _warn_at_chance(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            _warn_at_chance(pl_module)


def _warn_at_chance(learner: pl.LightningModule) -> None:
    assert isinstance(learner, MetaLearner)
    if learner.best_loss > CHANCE * learner.initial_loss:
        log.warning(
            "the optimizer has learned nothing yet: its final loss on validation problems is %.4g, after %.4g before "
            "the first step. If it stays so, try a learner.meta_optimizer.lr three times smaller (or larger, if the "
            "training loss hardly moves), another seed, or more epochs",
            learner.best_loss,
            learner.initial_loss,
        )
