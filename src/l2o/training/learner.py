"""Meta-training: the update rule's own parameters φ are trained by an ordinary optimizer.

Shapes: B tasks, T steps of an episode (horizon), K steps of a window.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from l2o.checks import at_least_one
from l2o.meta_gradients.base import MetaGradient
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees.base import Optimizee
from l2o.optimizees.held_out import Combination, refuse_held_out
from l2o.optimizers.base import UpdateRule
from l2o.training import meta_schedule, resuming, warm_start
from l2o.training.average import Average
from l2o.training.families import Family, named, ready
from l2o.training.horizons import Progress
from l2o.training.influence import refuse_families
from l2o.training.meta_optimizer import go_on, made, refuse_meta_optimizer, settings_of
from l2o.training.meta_step import meta_step
from l2o.training.safeguards import refuse, set_gradients, skip
from l2o.training.selection import Selection
from l2o.training.slots import slots_of
from l2o.training.training_state import TrainingState
from l2o.training.validating import Validating
from l2o.training.windows import Windows


class MetaLearner(Validating):
    """Trains an update rule: one `training_step` is one window of K steps of every slot, and one meta-update.

    The rule is trained on `families` of optimizees, or on the single `optimizee`, which is a family of one with one
    slot. All B tasks of a slot go in lockstep; when a slot's episode ends, the slot draws another optimizee and another
    horizon. An epoch is `episodes_per_epoch` times `horizon` steps of a slot. `meta_scheduler` moves the meta learning
    rate after each meta-update; by default the rate falls along a half cosine to `final_lr_fraction` of itself (1 keeps
    it constant). The meta-gradient's norm is clipped to `clip_norm` before the meta-optimizer reads it.

    In each validation, and when training ends, φ is evaluated for `horizon` steps on the same `validation_tasks` fresh
    problems of each family, or of each optimizee in `validation`, and the φ with the best final loss is kept; with
    several names that loss is the mean of ℓ_T/ℓ_0. With several `validation_horizons` every problem is unrolled for
    each of these numbers of steps, and the mean is the geometric one, because losses fall further in longer episodes.
    With `ema_decay`, the moving average of φ is validated beside φ. A run that was making progress and falls to chance
    level goes on from the best φ, at half the meta learning rate.

    `snapshots` are the moments at which φ is kept beside: whole numbers of windows, or parts of the run between 0 and
    1. `warm_start` is a file (`warm_start.ckpt`, or a checkpoint) whose φ, meta-optimizer and counters a new run goes
    on from, with new episodes. `state` is where the run stands. No family may contain an optimizee with all the
    features of an entry of `held_out` (`l2o.optimizees.held_out`).
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
        families: Mapping[str, Family] | None = None,
        validation: Mapping[str, Optimizee] | None = None,
        validation_horizons: Sequence[int] | None = None,
        snapshots: Sequence[float] = (),
        ema_decay: float | None = None,
        warm_start: str | None = None,
        held_out: Sequence[Combination] = (),
    ):
        super().__init__()
        at_least_one("learner", horizon=horizon, window=window, num_tasks=num_tasks, max_skipped=max_skipped)
        at_least_one("learner", episodes_per_epoch=episodes_per_epoch, validation_tasks=validation_tasks)
        self.families = {name: f.filled(num_tasks, horizon) for name, f in named(families, optimizee).items()}
        refuse(rule, self.families, horizon, window, final_lr_fraction, snapshots)
        refuse_meta_optimizer(meta_optimizer)
        meta_schedule.refuse(meta_scheduler)
        refuse_families(rule, self.families, seed)
        refuse_held_out({name: f.architectures(name, seed) for name, f in self.families.items()}, held_out)
        self.automatic_optimization = False
        self.rule, self.optimizee = rule, optimizee
        self.meta_gradient = meta_gradient or TruncatedBPTT()
        self.horizon, self.window, self.num_tasks = horizon, window, num_tasks
        self.windows_per_epoch = episodes_per_epoch * horizon // window
        self.meta_optimizer, self.meta_scheduler = meta_optimizer, meta_scheduler
        self.final_lr_fraction, self.clip_norm = final_lr_fraction, clip_norm
        self.max_skipped, self.seed, self.snapshots, self.warm_start = max_skipped, seed, list(snapshots), warm_start
        self.slots = slots_of(self.families, seed)
        self.average = Average(ema_decay) if ema_decay is not None else None
        looks = validation_horizons if validation_horizons is not None else [horizon]
        self.selection = Selection(self.families, validation, validation_tasks, looks, seed)
        self.state = TrainingState(self.selection.names, self.selection.horizons)
        self.checkpoint: dict[str, Any] | None = None  # that the run goes on from, until training starts

    def train_dataloader(self) -> Windows:
        return Windows(self.windows_per_epoch, self.own_windows, self.trainer.limit_train_batches)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.rule.parameters() if p.requires_grad]  # decay moves no other
        optimizer = made(self.meta_optimizer, trained)
        scheduler = meta_schedule.make(self.meta_scheduler, optimizer, *self._schedule())
        if self.checkpoint is not None:
            was, state = self.checkpoint["l2o"].get("meta_optimizer"), self.state
            if go_on(optimizer, self.checkpoint["optimizer_states"][0], was, state.lr_factor):
                state.schedule = "of another learning rate"  # it is laid out anew when training starts
        return [optimizer], [scheduler]

    def on_fit_start(self) -> None:
        ready(self.optimizee, self.device)
        self.selection.prepare(self.device)
        if self.checkpoint is not None:
            place = self.global_rank, self.device
            resuming.load_slots(self.slots, self.checkpoint["l2o"], self.rule, self.meta_gradient, *place)
        elif self.warm_start is not None:
            warm_start.begin(self, self.warm_start)
        self.checkpoint = None

    def on_train_start(self) -> None:
        meta_schedule.resume(self.trainer, self.state, self.meta_scheduler, *self._schedule())

    def training_step(self, batch: int, batch_idx: int) -> None:
        state, strategy = self.state, self.trainer.strategy
        found = meta_step(self.slots, self.rule, self.meta_gradient, self.window, self.progress(), strategy)
        state.windows += 1
        state.episodes += found.episodes
        state.inner_steps += found.steps
        if found.gradient is not None:
            self._update(found.gradient)
        skip(state, self.slots, self.max_skipped)
        if self.logs_now():
            for name, value in found.logs.items():
                self.log(name, value, prog_bar=name == "train/loss", batch_size=1)

    def progress(self) -> Progress:
        """Return how far the run has come."""
        fraction = min(1.0, self.state.windows / self.total_windows())
        return Progress(self.state.windows, fraction, self.state.validations_since_best)

    def total_windows(self) -> int:
        """Return the number of windows of the whole run, those before a warm start included; huge if it has no end."""
        return self.state.windows_before + max(1, int(min(self.trainer.estimated_stepping_batches, 1e9)))

    def own_windows(self) -> int:
        """Return the windows behind the run since it was started, warm or cold."""
        return self.state.windows - self.state.windows_before

    def logs_now(self) -> bool:
        """Return whether loggers and progress bar show this window: Lightning takes some 0.1 ms for each number."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it in its logger connector
        return self.state.windows % max(1, every) == 0

    def _update(self, flat: Tensor) -> None:
        set_gradients(list(self.rule.parameters()), flat, self.clip_norm)
        self.optimizers().step()  # type: ignore[union-attr]
        meta_schedule.step(self.lr_schedulers())
        self.state.updates += 1
        if self.average is not None:
            self.average.update(self.rule)

    def _schedule(self) -> tuple[int, float]:
        """Return the number of meta-updates of the whole run, and the part of the meta learning rate at its end."""
        return self.total_windows(), self.final_lr_fraction

    def get_extra_state(self) -> dict[str, Any]:
        """Return what validation has found: spawned ranks hand it back to the process that waits for them."""
        return self.state.found()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.state.load_found(state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        average = {"average": self.average.state_dict()} if self.average is not None else {}
        known = {"meta_optimizer": settings_of(self.trainer.optimizers[0])} | average
        checkpoint["l2o"] = self.state.state_dict(self.rule) | known | resuming.state_of(self.slots)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        resuming.refuse_other_ranks(checkpoint["l2o"], self.trainer.world_size)
        self.take_over(checkpoint)
        self.checkpoint = checkpoint
        checkpoint["lr_schedulers"] = []  # Lightning would restore one of a kind that this run may not have

    def take_over(self, checkpoint: dict[str, Any]) -> None:
        """Take over where a checkpoint stands, but for its episodes."""
        self.state.load_state_dict(checkpoint["l2o"], self.rule)
        if "inner_steps" not in checkpoint["l2o"]:  # an older checkpoint's run had one slot
            self.state.inner_steps = self.state.windows * self.window
        self.state.scheduler = checkpoint["lr_schedulers"][0]
        if self.average is not None and "average" in checkpoint["l2o"]:
            self.average.load_state_dict(checkpoint["l2o"]["average"])
