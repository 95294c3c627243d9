"""Small runs of the learner, for the tests of meta-training."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM
from l2o.training.learner import MetaLearner


def learner(**changes: Any) -> MetaLearner:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"horizon": 12, "window": 4, "num_tasks": 2, "episodes_per_epoch": 2}
    arguments |= {"validation_tasks": 3, "rule": LSTM(hidden_size=4), "optimizee": Quadratic(3)}
    return MetaLearner(**arguments | changes)


def trainer(epochs: int = 3, *callbacks: pl.Callback, **changes: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "inference_mode": False}
    return pl.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, callbacks=list(callbacks), **quiet | changes)


def phi(module: MetaLearner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class SaveAlways(pl.Callback):
    """A checkpoint after every window but an epoch's last, and after every validation."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, module: MetaLearner, out: Any, batch: Any, index: int) -> None:
        if index + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.folder / f"window{module.state.windows}.ckpt", weights_only=False)

    def on_validation_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
        trainer.save_checkpoint(self.folder / f"validated{module.state.windows}.ckpt", weights_only=False)
