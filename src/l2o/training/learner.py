"""Meta-training: the update rule's own parameters φ are trained by an ordinary optimizer.

Shapes: B tasks, T steps of an episode (horizon), K steps of a window.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2o import seeds
from l2o.checks import at_least_one
from l2o.deploy import export
from l2o.meta_gradients.truncated_bptt import MetaGradient, TruncatedBPTT
from l2o.optimizees.base import Optimizee
from l2o.optimizees.checks import check
from l2o.optimizers.base import UpdateRule
from l2o.seeds import Stream
from l2o.training.training_state import ResumableModule
from l2o.training.validation import validate
from l2o.training.windows import Windows
from l2o.unroll import Episode, start_episode

log = logging.getLogger(__name__)

CHANCE = 0.95
"""A final loss above this part of the loss at θ_0 counts as no progress."""

HUGE = 1e9
"""Stands for a validation loss that is larger still, or not finite."""


class Diverged(RuntimeError):
    """Too many windows in a row had a loss or a meta-gradient that is not finite."""


class MetaLearner(ResumableModule):
    """Trains an update rule on an optimizee: one `training_step` = one window of K steps = one meta-update.

    All B tasks of an episode go in lockstep; an epoch is `episodes_per_epoch` episodes of T steps. The meta learning
    rate falls along a half cosine to `final_lr_fraction` of itself (1 keeps it constant). Every epoch φ is evaluated on
    the same `validation_tasks` fresh problems, and the φ with the best final loss is kept as `best_phi`. A run that was
    making progress and falls to chance level goes on from there, at half the meta learning rate.
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
        final_lr_fraction: float = 0.01,
        clip_norm: float | None = 1.0,
        validation_tasks: int = 16,
        max_skipped: int = 20,
        seed: int = 0,
    ):
        super().__init__()
        at_least_one("learner", horizon=horizon, window=window, num_tasks=num_tasks, max_skipped=max_skipped)
        at_least_one("learner", episodes_per_epoch=episodes_per_epoch, validation_tasks=validation_tasks)
        if horizon % window:
            raise ValueError(
                f"a window must divide the horizon: {window} does not divide {horizon}. "
                f"Set learner.window to {math.gcd(window, horizon)}, or change learner.horizon"
            )
        if not any(parameter.requires_grad for parameter in rule.parameters()):
            raise ValueError(f"{type(rule).__name__} has no parameters to train: choose a learned optimizer, e.g. lstm")
        self.automatic_optimization = False
        self.rule, self.optimizee = rule, optimizee
        self.meta_gradient = meta_gradient or TruncatedBPTT()
        self.horizon, self.window, self.num_tasks = horizon, window, num_tasks
        self.windows_per_epoch = episodes_per_epoch * horizon // window
        self.meta_optimizer, self.final_lr_fraction, self.clip_norm = meta_optimizer, final_lr_fraction, clip_norm
        self.validation_tasks, self.max_skipped, self.seed = validation_tasks, max_skipped, seed
        self.episode: Episode | None = None
        self.windows = self.episodes = self.skipped = self.skipped_in_a_row = 0
        self.best_loss, self.best_phi = math.inf, self._phi()
        self.initial_loss, self.lr_factor = math.inf, 1.0

    # ------------------------------------------------------------------------------------------------ training

    def train_dataloader(self) -> Windows:
        return Windows(self.windows_per_epoch, lambda: self.windows)

    def configure_optimizers(self) -> Any:
        optimizer = self.meta_optimizer(self.rule.parameters())
        total = max(1, int(min(self.trainer.estimated_stepping_batches, 1e9)))
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, partial(self._decay, total))]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.optimizee.to(self.device)
        check(self.optimizee, self.device)

    def training_step(self, batch: int, batch_idx: int) -> None:
        episode = self.episode or self._start_episode()
        losses, gradient, episode = self.meta_gradient(self.rule, self.optimizee, episode, self.window, self.generator)
        # One all-reduce, the same for every estimator; a rank that is not finite makes the mean so on every rank.
        flat = torch.cat([losses.mean().view(1), *(part.flatten() for part in gradient)])
        flat = self.trainer.strategy.reduce(flat, reduce_op="mean")
        if math.isfinite(flat.sum().item()):  # the window's only synchronisation
            self._update(flat[1:])
            self.skipped_in_a_row = 0
            self.episode = episode if episode.step < self.horizon else None
        else:
            self._skip()
        self.windows += 1
        if self.logs_now():
            self.log("train/loss", flat[0], prog_bar=True, batch_size=1)

    def logs_now(self) -> bool:
        """Whether the window just done is one that loggers and progress bar show: the others are not even offered to
        Lightning, which takes some 0.1 ms for each number."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it in its logger connector
        return self.windows % max(1, every) == 0

    def _start_episode(self) -> Episode:
        self.generator.manual_seed(seeds.seed_of(self.seed, Stream.TRAINING, self.global_rank, self.episodes))
        self.episodes += 1
        return start_episode(self.rule, self.optimizee, self.num_tasks, self.generator)

    def _update(self, flat: Tensor) -> None:
        parameters = list(self.rule.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, gradient in zip(parameters, flat.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.optimizers().step()  # type: ignore[union-attr]
        self.lr_schedulers().step()  # type: ignore[union-attr]

    def _skip(self) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.episode = None
        if self.skipped_in_a_row >= self.max_skipped:
            raise Diverged(
                f"{self.skipped_in_a_row} windows in a row had a loss or a meta-gradient that is not finite. Try a "
                "smaller learner.meta_optimizer.lr or output_scale, or preprocessing=log_and_sign"
            )

    def _decay(self, total: int, window: int) -> float:
        progress = min(1.0, window / total)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr_factor * (self.final_lr_fraction + (1 - self.final_lr_fraction) * cosine)

    # ---------------------------------------------------------------------------------------------- validation

    def val_dataloader(self) -> list[int]:
        return [0]

    def on_validation_start(self) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("validation needs gradients of the optimizee: leave trainer.inference_mode=false")

    def validation_step(self, batch: int, batch_idx: int) -> None:
        problems = self.optimizee.split("validation")
        final, self.initial_loss, mean = validate(
            self.rule, problems, self.validation_tasks, self.horizon, self.seed, self.trainer.strategy
        )
        if final < self.best_loss:
            self.best_loss, self.best_phi = final, self._phi()
        if self.trainer.optimizers and final > CHANCE * self.initial_loss > self.best_loss:
            self._fall_back(final)
        values = {"val/final_loss": final, "val/mean_loss": mean, "val/best_final_loss": self.best_loss}
        for name, value in values.items():
            number = value if value < HUGE else HUGE  # loggers and early stopping want numbers
            self.log(name, number, prog_bar=name == "val/final_loss", batch_size=1, sync_dist=True)

    def _fall_back(self, final: float) -> None:
        lost = f"meta-training fell to chance level (final loss {final:.4g})"
        log.warning("%s: going on from the best φ (%.4g), at half the meta learning rate", lost, self.best_loss)
        self.rule.load_state_dict(self.best_phi)
        self.trainer.optimizers[0].state.clear()
        self.lr_factor /= 2
        self.episode = None

    def best_rule(self) -> UpdateRule:
        """The rule with the φ of the best final validation loss, on the CPU; the learner's own φ is left alone."""
        rule = export.build(export.describe(self.rule))
        rule.load_state_dict(self.best_phi)
        return rule.eval()

    def _phi(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.rule.state_dict().items()}
