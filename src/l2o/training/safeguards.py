"""What keeps meta-training from going wrong in silence: refusals, skipped windows, and the way back to the best φ."""

import logging
import math
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer

from l2o.optimizers.base import UpdateRule
from l2o.training import meta_schedule
from l2o.training.training_state import TrainingState

warn = rank_zero_only(logging.getLogger(__name__).warning)

CHANCE = 0.95
"""A final loss above this part of the loss at θ_0 counts as no progress."""

HUGE = 1e9
"""Stands in logs in the place of a validation loss that is larger, or not finite."""


class Diverged(RuntimeError):
    """Too many windows in a row had a loss or a meta-gradient that is not finite."""


def refuse(rule: UpdateRule, horizon: int, window: int, final_lr_fraction: float) -> None:
    """Raise ValueError for what a learner cannot work with."""
    if horizon % window:
        raise ValueError(
            f"a window must divide the horizon: {window} does not divide {horizon}. "
            f"Set learner.window to {math.gcd(window, horizon)}, or change learner.horizon"
        )
    if not 0 <= final_lr_fraction <= 1:
        raise ValueError(
            f"learner.final_lr_fraction is a part of the meta learning rate, from 0 to 1: got {final_lr_fraction}"
        )
    if not any(parameter.requires_grad for parameter in rule.parameters()):
        raise ValueError(f"{type(rule).__name__} has no parameters to train: choose a learned optimizer, e.g. lstm")


def set_gradients(parameters: list[nn.Parameter], flat: Tensor, clip_norm: float | None) -> None:
    """Give every parameter its part of a flat gradient, whose norm is clipped."""
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, gradient in zip(parameters, flat.split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)


def skip(state: TrainingState, max_skipped: int) -> None:
    """Count a window that is not finite, and say so in one line the first time.

    Raises Diverged where `max_skipped` windows in a row were skipped.
    """
    state.skip()
    if state.skipped == 1:
        warn(
            "window %d is skipped, because its loss or its meta-gradient is not finite; a new episode starts. "
            "Further windows of this kind are counted as train/skipped",
            state.windows,
        )
    if state.skipped_in_a_row >= max_skipped:
        raise Diverged(
            f"{state.skipped_in_a_row} windows in a row had a loss or a meta-gradient that is not finite. Try a "
            "smaller learner.meta_optimizer.lr or output_scale, or preprocessing=log_and_sign"
        )


def fall_back(state: TrainingState, rule: UpdateRule, optimizer: Optimizer, scheduler: Any, final: float) -> None:
    """Go back to the best φ, with a fresh meta-optimizer at half the meta learning rate, and say so in one line.

    `final` is the final validation loss that has shown the fall to chance level.
    """
    assert state.best_phi is not None
    lost = f"meta-training fell to chance level (final loss {final:.4g})"
    warn("%s: going on from the best φ (%.4g), at half the meta learning rate", lost, state.best_loss)
    rule.load_state_dict(state.best_phi)
    optimizer.state.clear()
    meta_schedule.scale(optimizer, scheduler, 0.5)
    state.lr_factor /= 2
    state.carry = None


def shown(value: float) -> float:
    """Return a loss as loggers and early stopping want it: a finite number."""
    return value if value < HUGE else HUGE
