"""The part of a learner that looks at φ: in validation, when training ends, and when it is exported."""

import pytorch_lightning as pl
import torch

from l2o.deploy import export
from l2o.optimizers.base import UpdateRule
from l2o.training import meta_schedule
from l2o.training.average import Average
from l2o.training.safeguards import CHANCE, fall_back
from l2o.training.selection import Selection
from l2o.training.slots import Slot, restart
from l2o.training.training_state import TrainingState, phi_of


class Validating(pl.LightningModule):
    """Validates φ when Lightning says so, keeps the best φ, and goes back to it where training has lost it.

    `MetaLearner` extends it by the training. Its constructor sets the attributes that are declared here.
    """

    rule: UpdateRule
    state: TrainingState
    selection: Selection
    average: Average | None
    slots: list[Slot]

    def val_dataloader(self) -> list[int]:
        return [0]

    def on_validation_start(self) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("validation needs gradients of the optimizee: leave trainer.inference_mode=false")
        if not self.selection.problems:  # Trainer.validate without a training before it
            self.selection.prepare(self.device)

    def validation_step(self, batch: int, batch_idx: int) -> None:
        for name, value in self.validate_phi().items():
            self.log(name, value, prog_bar=name == "val/final_loss", batch_size=1, sync_dist=True)

    def validate_phi(self) -> dict[str, float]:
        """Evaluate φ on the validation problems, keep it if it is the best, and return finite numbers for the logs.

        All ranks must call it. Lightning's sanity check, before the first window, is told the numbers but keeps no φ.
        """
        keep, state = not self.trainer.sanity_checking, self.state
        found, values = self.selection.look(state, self.rule, self.average, self.trainer.strategy, keep)
        if self.trainer.optimizers and keep:
            final, initial, _ = found.overall
            if final > CHANCE * initial > state.best_loss:
                fall_back(state, self.rule, self.trainer.optimizers[0], self.lr_schedulers(), final)
                restart(self.slots)
                if self.average is not None:
                    self.average.restart()
            meta_schedule.saw(self.lr_schedulers(), values["val/final_loss"])
        return values

    def finish(self) -> None:
        """Validate φ where training ends and no validation has followed the last window, unless that is turned off.

        All ranks must call it; a second call does nothing.
        """
        if self.state.validated_at == self.state.windows or self.trainer.limit_val_batches == 0:
            return
        training = self.rule.training
        self.rule.eval()
        values = self.validate_phi()
        self.rule.train(training)
        for logger in self.trainer.loggers:
            step = self.state.windows - self.state.windows_before - 1
            logger.log_metrics({**values, "epoch": self.trainer.current_epoch}, step=step)

    def on_train_end(self) -> None:
        self.finish()

    def best_rule(self) -> UpdateRule:
        """Return a copy of the rule, on the CPU, with the φ of the best final validation loss.

        Where no validation came to a finite loss, it has the last φ. The learner's own φ is left alone.
        """
        rule = export.build(export.describe(self.rule))
        rule.load_state_dict(self.state.best_phi if self.state.best_phi is not None else phi_of(self.rule))
        return rule.eval()

    @property
    def best_loss(self) -> float:
        """The lowest final loss on validation problems; infinite where no validation came to a finite one."""
        return self.state.best_loss
