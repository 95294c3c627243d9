"""What keeps meta-training from going wrong in silence: refusals, skipped windows, and the way back to the best φ."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim import Optimizer

from l2o.optimizers.base import UpdateRule
from l2o.training import meta_schedule
from l2o.training.families import Family
from l2o.training.horizons import Fixed, Horizon
from l2o.training.slots import Slot
from l2o.training.training_state import TrainingState

warn = rank_zero_only(logging.getLogger(__name__).warning)

CHANCE = 0.95
"""A final loss above this part of the loss at θ_0 counts as no progress."""

HUGE = 1e9
"""Stands in logs in the place of a validation loss that is larger, or not finite."""


class Diverged(RuntimeError):
    """Too many windows in a row had a loss or a meta-gradient that is not finite."""


def refuse(
    rule: UpdateRule,
    families: Mapping[str, Family],
    horizon: int,
    window: int,
    final_lr_fraction: float,
    snapshots: Sequence[float],
) -> None:
    """Raise ValueError for what a learner cannot work with."""
    Fixed(horizon).refuse(window)
    for name, family in families.items():
        assert isinstance(family.horizon, Horizon)
        try:
            family.horizon.refuse(window)
        except ValueError as error:
            raise ValueError(f"learner.families.{name}: {error}") from error
    if not 0 <= final_lr_fraction <= 1:
        raise ValueError(
            f"learner.final_lr_fraction is a part of the meta learning rate, from 0 to 1: got {final_lr_fraction}"
        )
    for moment in snapshots:
        if not moment > 0 or (moment > 1 and moment != int(moment)):
            raise ValueError(
                "learner.snapshots are whole numbers of windows, from 1 on, or parts of the run between 0 and 1: "
                f"got {moment}"
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


def skip(state: TrainingState, slots: Sequence[Slot], max_skipped: int) -> None:
    """Count the slots whose window was not finite, and say so in one line the first time.

    Raises Diverged where a slot has skipped `max_skipped` windows in a row.
    """
    skipping = [slot for slot in slots if slot.skipped_in_a_row]
    state.skipped_in_a_row = max((slot.skipped_in_a_row for slot in skipping), default=0)
    if skipping and not state.skipped:
        warn(
            "%swindow %d is skipped, because its loss or its meta-gradient is not finite; a new episode starts. "
            "Further windows of this kind are counted as train/skipped",
            skipping[0].where,
            state.windows,
        )
    state.skipped += len(skipping)
    for slot in skipping:
        if slot.skipped_in_a_row >= max_skipped:
            raise Diverged(
                f"{slot.where}{slot.skipped_in_a_row} windows in a row had a loss or a meta-gradient that is not "
                "finite. Try a smaller learner.meta_optimizer.lr or output_scale, or preprocessing=log_and_sign"
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


def shown(value: float) -> float:
    """Return a loss as loggers and early stopping want it: a finite number."""
    return value if value < HUGE else HUGE
