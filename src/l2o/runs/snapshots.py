"""Snapshots: φ as it was at some moments of meta-training, kept as exported folders."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from l2o.deploy import export
from l2o.training.average import holding
from l2o.training.learner import MetaLearner

log = logging.getLogger(__name__)


class Snapshots(Callback):
    """Exports φ after the windows that `learner.snapshots` names, into `snapshots/window_000123/` of a folder.

    Where the learner has a moving average of φ, the average is exported, too, into `snapshots/window_000123_average/`.
    A run that is resumed from before a moment writes that moment's folder again, with the same content.
    """

    def __init__(self, folder: str, card: Mapping[str, Any] | None = None):
        self.folder, self.card = Path(folder) / "snapshots", dict(card or {})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MetaLearner)
        windows = pl_module.state.windows
        if trainer.is_global_zero and windows in moments(pl_module.snapshots, pl_module.total_windows()):
            self._write(pl_module, self.folder / f"window_{windows:06}")

    def _write(self, learner: MetaLearner, folder: Path) -> None:
        card = {**self.card, "windows": learner.state.windows}
        training, average = learner.rule.training, learner.average
        try:
            export.save(learner.rule.eval(), folder, card)
            if average is not None and average.phi is not None:
                with holding(learner.rule, average.phi):
                    export.save(learner.rule, folder.with_name(f"{folder.name}_average"), card)
        except OSError as error:
            log.warning("'%s' could not be written (%s): the run goes on without it", folder, error)
        finally:
            learner.rule.train(training)


def moments(snapshots: Sequence[float], total: int) -> set[int]:
    """Return the windows after which φ is kept: a whole number is one itself, a float up to 1 is a part of the run.

    A part of the run becomes the nearest window, from the first one on.
    """
    parts = {max(1, round(moment * total)) for moment in snapshots if isinstance(moment, float) and moment <= 1}
    return parts | {int(moment) for moment in snapshots if not (isinstance(moment, float) and moment <= 1)}
