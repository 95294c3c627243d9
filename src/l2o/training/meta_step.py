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
    logs: dict[str, Tensor]  # means over the finite slots, for the loggers
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
    names = list(found[0].diagnostics)
    means = strategy.reduce(torch.stack(rows), reduce_op="mean")  # (S, 1 + D + 1 + |φ|)
    finite = means[:, 1 + len(names) :].isfinite().all(1).tolist()  # the step's only synchronisation
    for slot, result, good in zip(slots, found, finite, strict=True):
        slot.settle(result, good)
    shares = [(slot.weight, row) for slot, row, good in zip(slots, means, finite, strict=True) if good]
    gradient = sum(weight * row[2 + len(names) :] for weight, row in shares) if shares else None
    steps = sum(len(result.losses) for result in found)
    return Outcome(finite, gradient, _logs(slots, means, finite, names), started, steps)  # type: ignore[arg-type]


def _row(found: WindowResult) -> Tensor:
    """Return a window's numbers as one vector: mean loss, diagnostics, objective, gradient."""
    told = [torch.as_tensor(value, dtype=found.losses.dtype, device=found.losses.device) for value in
            found.diagnostics.values()]  # fmt: skip
    head = [found.losses.mean(), *told, found.objective]
    return torch.cat([*(value.reshape(1) for value in head), *(part.flatten() for part in found.gradient)])


def _logs(slots: Sequence[Slot], means: Tensor, finite: list[bool], names: list[str]) -> dict[str, Tensor]:
    """Return what loggers show: train/loss and the diagnostics, of all slots together and of each named family."""
    good = [(slot, row) for slot, row, fine in zip(slots, means, finite, strict=True) if fine]
    found = {}
    for column, name in enumerate(["loss", *names]):
        if good:
            total = sum(slot.weight for slot, _ in good)
            found[f"train/{name}"] = sum(slot.weight / total * row[column] for slot, row in good)
        for family in dict.fromkeys(slot.name for slot, _ in good if slot.name != ALONE):
            own = [row[column] for slot, row in good if slot.name == family]
            found[f"train/{name}/{family}"] = torch.stack(own).mean()
    return found  # type: ignore[return-value]
