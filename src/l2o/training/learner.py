"""Meta-training: the update rule's own parameters φ are trained by an ordinary optimizer.

Shapes: B tasks, T steps of an episode (horizon), K steps of a window.
"""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from l2o import seeds
from l2o.checks import at_least_one
from l2o.deploy import export
from l2o.meta_gradients.base import Carry, MetaGradient
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees.base import Optimizee
from l2o.optimizees.checks import check
from l2o.optimizers.base import UpdateRule
from l2o.seeds import Stream
from l2o.training import meta_schedule
from l2o.training.carries import Leaves, filled
from l2o.training.influence import refuse_no_influence
from l2o.training.safeguards import CHANCE, fall_back, refuse, set_gradients, shown, skip, warn
from l2o.training.training_state import TrainingState, phi_of
from l2o.training.validation import validate
from l2o.training.windows import Windows


class MetaLearner(pl.LightningModule):
    """Trains an update rule on an optimizee: one `training_step` is one window of K steps and one meta-update.

    All B tasks of an episode go in lockstep; an epoch is `episodes_per_epoch` episodes of T steps. `meta_scheduler`
    moves the meta learning rate after each meta-update; by default the rate falls along a half cosine to
    `final_lr_fraction` of itself (1 keeps it constant). In each validation, and when training ends, φ is evaluated on
    the same `validation_tasks` fresh problems, and the φ with the best final loss is kept. A run that was making
    progress and falls to chance level goes on from that φ, at half the meta learning rate. `state` is where it stands.
    """

    def __init__(
        self,
        rule: UpdateRule,
        optimizee: Optimizee,
        meta_gradient: MetaGradient | None = None,
        horizon: int = 100,
        window: int = 20,
        num_tasks: int = 8,
        episodes_per_epoch: int = 10,
        meta_optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        meta_scheduler: meta_schedule.Factory | None = CosineAnnealingLR,
        final_lr_fraction: float = 0.01,
        clip_norm: float | None = 1.0,
        validation_tasks: int = 16,
        max_skipped: int = 20,
        seed: int = 0,
    ):
        super().__init__()
        at_least_one("learner", horizon=horizon, window=window, num_tasks=num_tasks, max_skipped=max_skipped)
        at_least_one("learner", episodes_per_epoch=episodes_per_epoch, validation_tasks=validation_tasks)
        refuse(rule, horizon, window, final_lr_fraction)
        refuse_no_influence(rule, optimizee.layout)
        self.automatic_optimization = False
        self.rule, self.optimizee = rule, optimizee
        self.meta_gradient = meta_gradient or TruncatedBPTT()
        self.horizon, self.window, self.num_tasks = horizon, window, num_tasks
        self.windows_per_epoch = episodes_per_epoch * horizon // window
        self.meta_optimizer, self.meta_scheduler = meta_optimizer, meta_scheduler
        self.final_lr_fraction, self.clip_norm = final_lr_fraction, clip_norm
        self.validation_tasks, self.max_skipped, self.seed = validation_tasks, max_skipped, seed
        self.state = TrainingState()

    def train_dataloader(self) -> Windows:
        return Windows(self.windows_per_epoch, lambda: self.state.windows, self.trainer.limit_train_batches)

    def configure_optimizers(self) -> Any:
        optimizer = self.meta_optimizer([p for p in self.rule.parameters() if p.requires_grad])  # decay moves no other
        return [optimizer], [meta_schedule.make(self.meta_scheduler, optimizer, *self._schedule())]

    def on_fit_start(self) -> None:
        self.optimizee.to(self.device)
        check(self.optimizee, self.device)
        self.generator = torch.Generator(self.device)
        if self.state.generator_state is not None:  # resumed
            self.generator.set_state(self.state.generator_state)
        if self.state.saved_carry:
            self.state.carry, self.state.saved_carry = self._resumed_carry(self.state.saved_carry), []

    def _resumed_carry(self, saved: list[Leaves]) -> Carry | None:
        """Return the carry of a checkpoint, or None, with a word, where the estimator carries something else."""
        unused = torch.Generator(self.device)
        like = self.meta_gradient.start(self.rule, self.optimizee, self.num_tasks, self.horizon, unused)
        found = next((carry for carry in (filled(like, leaves) for leaves in saved) if carry is not None), None)
        if found is None:
            warn("the checkpoint's episode is one of another meta_gradient or problem: a new episode starts")
        return found

    def on_train_start(self) -> None:
        meta_schedule.resume(self.trainer, self.state, self.meta_scheduler, *self._schedule())

    def training_step(self, batch: int, batch_idx: int) -> None:
        state = self.state
        carry = state.carry if state.carry is not None else self._start_episode()
        found = self.meta_gradient(self.rule, self.optimizee, carry, self.window, self.generator)
        # One all-reduce, the same for every estimator; a rank that is not finite makes the mean so on every rank.
        flat = torch.cat([found.losses.mean().view(1), *(part.flatten() for part in found.gradient)])
        flat = self.trainer.strategy.reduce(flat, reduce_op="mean")
        finite = math.isfinite(flat.sum().item())  # the window's only synchronisation
        state.windows += 1
        if finite:
            self._update(flat[1:])
            state.skipped_in_a_row = 0
            state.carry = None if found.done else found.carry
        else:
            skip(state, self.max_skipped)
        if finite and self.logs_now():
            self.log("train/loss", flat[0], prog_bar=True, batch_size=1)

    def logs_now(self) -> bool:
        """Return whether loggers and progress bar show this window: Lightning takes some 0.1 ms for each number."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it in its logger connector
        return self.state.windows % max(1, every) == 0

    def _start_episode(self) -> Carry:
        self.generator.manual_seed(seeds.seed_of(self.seed, Stream.TRAINING, self.global_rank, self.state.episodes))
        self.state.episodes += 1
        return self.meta_gradient.start(self.rule, self.optimizee, self.num_tasks, self.horizon, self.generator)

    def _update(self, flat: Tensor) -> None:
        set_gradients(list(self.rule.parameters()), flat, self.clip_norm)
        self.optimizers().step()  # type: ignore[union-attr]
        meta_schedule.step(self.lr_schedulers())

    def _schedule(self) -> tuple[int, float]:
        """Return the number of meta-updates of the whole run, and the part of the meta learning rate at its end."""
        return max(1, int(min(self.trainer.estimated_stepping_batches, 1e9))), self.final_lr_fraction

    def val_dataloader(self) -> list[int]:
        return [0]

    def on_validation_start(self) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("validation needs gradients of the optimizee: leave trainer.inference_mode=false")

    def validation_step(self, batch: int, batch_idx: int) -> None:
        for name, value in self.validate_phi().items():
            self.log(name, value, prog_bar=name == "val/final_loss", batch_size=1, sync_dist=True)

    def validate_phi(self) -> dict[str, float]:
        """Evaluate φ on the validation problems, keep it if it is the best, and return finite numbers for the logs.

        All ranks must call it. Lightning's sanity check, before the first window, is told the numbers but keeps no φ.
        """
        state, problems = self.state, self.optimizee.split("validation")
        found = validate(self.rule, problems, self.validation_tasks, self.horizon, self.seed, self.trainer.strategy)
        if not self.trainer.sanity_checking:
            state.saw(found, self.rule)
        if self.trainer.optimizers and not self.trainer.sanity_checking:
            if found.final > CHANCE * found.initial > state.best_loss:
                fall_back(state, self.rule, self.trainer.optimizers[0], self.lr_schedulers(), found.final)
            meta_schedule.saw(self.lr_schedulers(), shown(found.final))
        values = {"val/final_loss": found.final, "val/mean_loss": found.mean, "val/best_final_loss": state.best_loss}
        return {name: shown(value) for name, value in values.items()}

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
            logger.log_metrics({**values, "epoch": self.trainer.current_epoch}, step=self.state.windows - 1)

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

    def get_extra_state(self) -> dict[str, Any]:
        """Return what validation has found: spawned ranks hand it back to the process that waits for them."""
        return self.state.found()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.state.load_found(state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["l2o"] = self.state.state_dict(self.rule, self.generator)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.state.load_state_dict(
            checkpoint["l2o"], self.rule, self.global_rank, self.trainer.world_size, self.horizon
        )
        # Lightning would restore it before anybody knows whether it is of the kind that this run has.
        self.state.scheduler, checkpoint["lr_schedulers"] = checkpoint["lr_schedulers"][0], []
