"""What a run says of itself while it goes: counters, speed, a line for each epoch, and whether it learns anything."""

import logging
import math
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Timer

from l2o.evaluation.diagnostics import advice
from l2o.training.learner import MetaLearner
from l2o.training.safeguards import CHANCE, HUGE

log = logging.getLogger(__name__)


class Progress(Callback):
    """Logs the counters that serve as x axes and the inner steps per second.

    Where no progress bar is shown, each epoch gets a line; none is shown where the output is no terminal. A run at
    chance level is told what to try, at the first validation after a quarter of it, and at its end. At its end a run
    also says how many windows were skipped.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        bar = trainer.progress_bar_callback
        if bar is not None and not sys.stdout.isatty():
            bar.disable()
        self.lines = trainer.is_global_zero and (bar is None or getattr(bar, "is_disabled", False))
        self.may_warn = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        self.began_at, self.began_with = time.perf_counter(), _done(trainer, trainer.current_epoch)
        self._restart_clock(pl_module)  # a run resumed mid-epoch starts no epoch
        self.validated_before = pl_module.state.validated_at
        self.may_warn = _fraction(trainer) < 0.25  # a resumed run has had this word, if it was due

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        self._restart_clock(pl_module)  # validation does not count

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MetaLearner)
        self.trained = time.perf_counter()
        if not pl_module.logs_now():
            return
        pl_module.log("steps_per_s", self._speed(pl_module), prog_bar=True, batch_size=1)
        self._restart_clock(pl_module)
        state = pl_module.state
        counters = {
            "meta_steps": state.windows,
            "inner_steps": state.inner_steps,
            "episodes": state.episodes,
            "train/skipped": state.skipped,
            "train/meta_lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        pl_module.log_dict({name: float(value) for name, value in counters.items()}, batch_size=1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        if self.lines:
            line = _line(trainer, pl_module, pl_module.state.validated_at > self.validated_before)
            print(line + self._left(trainer), flush=True)
        self.validated_before = pl_module.state.validated_at

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and self.may_warn and 0.25 <= _fraction(trainer) < 1:
            self.may_warn = False
            _warn_at_chance(trainer, pl_module)
        if not trainer.sanity_checking:
            _tell_where_it_stalls(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        pl_module.finish()
        _warn_at_chance(trainer, pl_module)
        state = pl_module.state
        if state.skipped and trainer.is_global_zero:
            windows = state.windows * len(pl_module.slots)
            log.warning("%d of %d windows were skipped: they were not finite", state.skipped, windows)

    def _restart_clock(self, learner: MetaLearner) -> None:
        self.started, self.steps = time.perf_counter(), learner.state.inner_steps

    def _left(self, trainer: pl.Trainer) -> str:
        """Return how long the training takes from now on, if the rest of it is as fast; nothing where nobody knows."""
        done, now = _done(trainer, trainer.current_epoch + 1), time.perf_counter()
        ends_by_time = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if not self.began_with < done < 1 or trainer.should_stop or ends_by_time:
            return ""
        return f", {in_words((now - self.began_at) * (1 - done) / (done - self.began_with))} left"

    def _speed(self, learner: MetaLearner) -> float:
        """Return the inner steps of all slots per second since the clock was started."""
        return (learner.state.inner_steps - self.steps) / (self.trained - self.started)


def in_words(seconds: float) -> str:
    """Return a duration as one says it: in seconds up to two minutes, in minutes up to two hours, else in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


STALLED = 10
"""Validations without a better φ, after which a run with a noisy estimator is told what its noise is."""


def _tell_where_it_stalls(trainer: pl.Trainer, learner: pl.LightningModule) -> None:
    """Say in one line what the meta-gradient's noise is where a run has stalled, if its estimator measures that."""
    assert isinstance(learner, MetaLearner)
    measured = [trainer.callback_metrics.get(f"train/{name}") for name in ("snr", "not_finite", "capped")]
    if measured[0] is None or learner.state.validations_since_best != STALLED or not trainer.is_global_zero:
        return
    snr, *fractions = (math.nan if value is None else value.item() for value in measured)
    size = sum(parameter.numel() for parameter in learner.rule.parameters() if parameter.requires_grad)
    found = advice(snr, size, *fractions)
    if found is None and not math.isnan(snr):
        found = (
            "noise is not what holds it up: try another learner.meta_optimizer.lr, longer horizons, another objective"
        )
    if found is not None:
        log.warning("%d validations have found no better φ; %s", STALLED, found)


def _fraction(trainer: pl.Trainer) -> float:
    """Return how much of a run lies behind it, by its meta-updates; 0 where its end is open."""
    return trainer.global_step / max(trainer.estimated_stepping_batches, 1)


def _done(trainer: pl.Trainer, epochs: int) -> float:
    """Return how much of a run lies behind it after so many epochs, whichever of its limits it comes to first. A window
    that was skipped is behind it, too."""
    limit = trainer.max_epochs or 0
    return max(_fraction(trainer), epochs / limit if limit > 0 else 0.0)


def _line(trainer: pl.Trainer, learner: MetaLearner, validated: bool) -> str:
    """Return an epoch in words. Numbers that the epoch does not have are left out."""
    state, found = learner.state, trainer.callback_metrics
    epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
    parts = [f"epoch {trainer.current_epoch + 1}{epochs}", f"window {state.windows}"]
    if "train/loss" in found:
        parts.append(f"training loss {found['train/loss'].item():.4g}")
    if validated and "val/final_loss" in found:
        final = found["val/final_loss"].item()
        parts.append(f"final validation loss {final:.4g}" if final < HUGE else "final validation loss not finite")
    if state.best is not None:
        parts.append(f"the best {state.best:.4g}")
    if "steps_per_s" in found:
        parts.append(f"{found['steps_per_s'].item():.0f} steps/s")
    if state.skipped:
        parts.append(f"{state.skipped} windows skipped")
    return ", ".join(parts)


def _warn_at_chance(trainer: pl.Trainer, learner: pl.LightningModule) -> None:
    assert isinstance(learner, MetaLearner)
    state = learner.state
    if trainer.is_global_zero and state.best is not None and state.best > CHANCE * state.initial_loss:
        log.warning(
            "the optimizer has learned nothing yet: its final loss on validation problems is %.4g, after %.4g before "
            "the first step. If it stays so, try a learner.meta_optimizer.lr three times smaller (or larger, if the "
            "training loss hardly moves), another seed, or more epochs",
            state.best,
            state.initial_loss,
        )
