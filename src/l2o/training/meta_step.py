"""One meta-update's worth of work: a window of every slot, and what all ranks together make of it.

Shapes: S slots, D diagnostics, |φ| meta-parameters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pytorch_lightning.strategies import Strategy
from torch import Tensor

from l2o.meta_gradients.base import MetaGradient, WindowResult
from l2o.optimizers.base import UpdateRule
from l2o.training.families import ALONE
from l2o.training.horizons import Progress
from l2o.training.slots import Slot


class Outcome(NamedTuple):
    """Hold what a window of every slot has come to, the same on all ranks."""

    finite: list[bool]  # of each slot: whether objective and meta-gradient are finite on every rank
    gradient: Tensor | None  # (|φ|,)  weighted sum over the slots that are finite; None where none is
    logs: dict[str, Tensor]  # means over the finite slots that know the number, for the loggers
    episodes: int  # how many were started
    steps: int  # inner steps of all slots; an estimator may do more of them than a window has


def meta_step(
    slots: Sequence[Slot],
    rule: UpdateRule,
    estimator: MetaGradient,
    window: int,
    progress: Progress,
    strategy: Strategy,
) -> Outcome:
    """Move every slot on by one window, and return what all ranks have found.

    The ranks meet once, in one all-reduce, which is the same for every estimator. A slot that is not finite on one rank
    counts for none of them, and starts anew on all; the other slots' gradients still count.
    """
    device, rank = strategy.root_device, strategy.global_rank  # type: ignore[attr-defined]
    rows, found, started = [], [], 0
    estimator.told(progress.fraction)
    for slot in slots:
        if slot.carry is None:
            slot.start(rule, estimator, window, progress, rank, device)
            started += 1
        found.append(slot.window(rule, estimator, window))
        rows.append(_row(found[-1]))
    names = ["loss", *found[0].diagnostics]
    means = strategy.reduce(torch.stack(rows), reduce_op="mean")  # (S, 2 (1 + D) + 1 + |φ|)
    told, rest = means[:, : 2 * len(names)], means[:, 2 * len(names) :]
    flags = torch.cat((rest.isfinite().all(1, keepdim=True), told[:, len(names) :] == 1), 1)  # (S, 1 + 1 + D)
    flags = flags.tolist()  # the step's only synchronisation
    finite = [row[0] for row in flags]
    for slot, result, good in zip(slots, found, finite, strict=True):
        slot.settle(result, good)
    shares = [(slot.weight, row) for slot, row, good in zip(slots, rest, finite, strict=True) if good]
    gradient = sum(weight * row[1:] for weight, row in shares) if shares else None
    steps = sum(len(result.losses) for result in found)
    return Outcome(finite, gradient, _logs(slots, told, flags, names), started, steps)  # type: ignore[arg-type]


def _row(found: WindowResult) -> Tensor:
    """Return a window's numbers as one vector: 1 + D for the logs, whether each is known, the objective, the gradient.

    A number for the logs that is not finite counts as unknown, and stands as 0. An evolution strategy has no
    signal-to-noise ratio, for example, where all losses of a slot are at the cap.
    """
    told = torch.stack([found.losses.mean(), *(_like(value, found.losses) for value in found.diagnostics.values())])
    known = told.isfinite()
    rest = [found.objective, *found.gradient]
    return torch.cat([told.where(known, 0.0), known.to(told.dtype), *(part.flatten() for part in rest)])


def _like(value: float | Tensor, losses: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=losses.dtype, device=losses.device).reshape(())


def _logs(slots: Sequence[Slot], told: Tensor, flags: list[list[bool]], names: list[str]) -> dict[str, Tensor]:
    """Return what loggers show: train/loss and the diagnostics, of all slots together and of each named family.

    Each is the mean over those windows of all slots and ranks that know the number, and nan where none does. Where some
    do not, train/NAME_known is the part of the windows that do.
    """
    good = [(slot, row) for slot, row, (fine, *_) in zip(slots, told, flags, strict=True) if fine]
    found = {}
    for column, name in enumerate(names if good else []):
        pairs = [(slot.weight, row[column], row[len(names) + column]) for slot, row in good]
        found[f"train/{name}"] = _mean(pairs)
        if not all(known[column] for fine, *known in flags if fine):
            found[f"train/{name}_known"] = torch.stack([part for _, _, part in pairs]).mean()
        for family in dict.fromkeys(slot.name for slot, _ in good if slot.name != ALONE):
            own = [pair for pair, (slot, _) in zip(pairs, good, strict=True) if slot.name == family]
            found[f"train/{name}/{family}"] = _mean(own)
    return found  # type: ignore[return-value]


def _mean(pairs: Sequence[tuple[float, Tensor, Tensor]]) -> Tensor:
    """Return a number's mean over slots, from the weight, the number (0 where unknown) and the known part of each."""
    total = torch.stack([weight * value for weight, value, _ in pairs]).sum()
    return total / torch.stack([weight * known for weight, _, known in pairs]).sum()
