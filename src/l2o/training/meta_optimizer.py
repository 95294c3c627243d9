"""The meta-optimizer, which moves φ."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

tell = rank_zero_only(logging.getLogger(__name__).info)

Make = Callable[..., torch.optim.Optimizer]
"""Makes a meta-optimizer of parameters: one of torch's classes, or such a class with arguments of one's own."""

HOW = {"fused", "foreach", "capturable", "differentiable"}
"""Arguments that say how a step is computed, and not what it is."""

SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}
"""What schedulers write into a meta-optimizer's groups."""


def refuse_meta_optimizer(make: object) -> None:
    """Raise ValueError for what makes no meta-optimizer, or one that wants a closure at every step."""
    if not callable(make):
        raise ValueError(f"learner.meta_optimizer must be a class of torch.optim, or one like them, got {make}")
    if make is torch.optim.LBFGS or getattr(make, "func", None) is torch.optim.LBFGS:
        raise ValueError(
            "learner.meta_optimizer: LBFGS wants a closure at every step, which meta-training does not have"
        )


def made(make: Make, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Make a meta-optimizer. Where torch can move all parameters in one call ("fused"), it does, unless told otherwise.

    A rule has few numbers in several tensors, so that operations tensor by tensor take longer than the arithmetic.
    """
    optimizer = make(parameters)
    open_choice = [optimizer.defaults.get(name, False) for name in ("fused", "foreach")] == [None, None]
    served = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    if not (open_choice and served) or optimizer.defaults.get("differentiable"):
        return optimizer
    try:
        return make(parameters, fused=True)
    except (RuntimeError, TypeError, ValueError):  # not with these arguments; or a class of one's own
        return optimizer


def settings_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what a meta-optimizer was made with, as far as it is plain values, for a checkpoint."""
    plain = (bool, int, float, str, type(None))
    given = {name: value for name, value in optimizer.defaults.items() if name not in HOW}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return {
        name: value
        for name, value in chosen.items()
        if isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(part, plain) for part in value))
    }


def go_on(optimizer: torch.optim.Optimizer, saved: dict[str, Any], was: dict[str, Any] | None, factor: float) -> bool:
    """Let what a checkpoint has saved of a meta-optimizer follow this run's settings, where they have changed.

    `was` are the settings that it was made with, None where an older checkpoint does not know them; `factor` is what
    the rates have been scaled by since. Returns whether the learning rate has changed, which the schedule has to
    follow. Raises ValueError for a meta-optimizer of another kind, which cannot go on from what this one remembers.
    """
    groups, own = saved["param_groups"], optimizer.state_dict()["param_groups"]
    theirs, ours = ({name for group in part for name in group} - HOW - SCHEDULERS for part in (groups, own))
    if theirs - ours and ours - theirs:  # a newer version of torch may know more of the same kind
        raise ValueError(
            f"learner.meta_optimizer: the checkpoint is of another kind of optimizer than {type(optimizer).__name__}: "
            "set it as it was, or start anew from what was trained: optimizer=pretrained optimizer.name=FOLDER/best"
        )
    now = settings_of(optimizer)
    changed = {name: value for name, value in now.items() if was is not None and was.get(name, value) != value}
    for group, mine in zip(groups, own, strict=True):
        group.update({name: value for name, value in changed.items() if name != "lr"})
        if "lr" in changed:
            group["initial_lr"] = mine.get("initial_lr", mine["lr"]) * factor
    if changed and was is not None:
        told = ", ".join(f"{name} is {value} in the place of {was[name]}" for name, value in changed.items())
        tell("the meta-optimizer has changed: from here on %s", told)
    return "lr" in changed
