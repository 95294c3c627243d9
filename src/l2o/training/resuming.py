"""The slots of a run in its checkpoints: what all ranks have in common, and what each rank has of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist

from l2o.meta_gradients.base import MetaGradient
from l2o.optimizers.base import UpdateRule
from l2o.training.carries import of_older_checkpoint
from l2o.training.families import ALONE
from l2o.training.horizons import Horizon, Progress
from l2o.training.slots import Slot, warn

Place = tuple[str, int]
"""A slot's family and its number in there."""


def state_of(slots: Sequence[Slot]) -> dict[str, Any]:
    """Return what a checkpoint must hold of the slots. All ranks must call it, since it gathers theirs."""
    return {
        "slots": [{"family": slot.name, "index": slot.index, **slot.shared_state()} for slot in slots],
        "ranks": gather({"slots": [slot.own_state() for slot in slots]}),
    }


def refuse_other_ranks(saved: Mapping[str, Any], num_ranks: int) -> None:
    """Raise ValueError where a checkpoint is of another number of ranks than this run has."""
    if len(saved["ranks"]) != num_ranks:
        raise ValueError(
            f"the checkpoint is of a run on {len(saved['ranks'])} ranks, this one has {num_ranks}: "
            "set trainer, trainer.devices and trainer.num_nodes as they were, or start new episodes from what it has "
            "trained, by learner.warm_start=FILE"
        )


def load_counters(slots: Sequence[Slot], saved: Mapping[str, Any]) -> None:
    """Let each slot count on from a checkpoint, so that no episode is drawn twice."""
    known = _shared(saved)
    for slot in slots:
        for name, value in known.get((slot.name, slot.index), {}).items():
            setattr(slot, name, value)


def load_slots(
    slots: Sequence[Slot],
    saved: Mapping[str, Any],
    rule: UpdateRule,
    estimator: MetaGradient,
    rank: int,
    device: torch.device,
) -> None:
    """Let each slot go on with the episode that a checkpoint holds for this rank.

    A slot that the checkpoint does not know starts with a new episode.
    """
    load_counters(slots, saved)
    own = saved["ranks"][rank]
    parts = own.get("slots", [own])  # an older checkpoint has one optimizee, without a slot
    for place, part in zip(_shared(saved), parts, strict=True):
        slot = next((slot for slot in slots if (slot.name, slot.index) == place), None)
        if slot is None:
            if part.get("carry") is not None:
                where = f"family {place[0]}" if place[0] != ALONE else "the single optimizee"
                warn("%s has no slot %d in this run: the checkpoint's episode there is given up", where, place[1])
            continue
        ways = [part["carry"]] if part.get("carry") is not None else []
        if part.get("episode") is not None and isinstance(slot.family.horizon, Horizon):
            slot.horizon = slot.family.horizon(torch.Generator(), Progress(0, 0.0, 0))  # a fixed one
            ways = of_older_checkpoint(part["episode"], slot.horizon)
        if ways:
            slot.go_on(rule, estimator, ways, part["generator"], device)


def _shared(saved: Mapping[str, Any]) -> dict[Place, dict[str, Any]]:
    """Return the slots of a checkpoint by place, each with what all ranks have in common."""
    if "slots" not in saved:
        counted = {"counter": saved["episodes"], "in_phase": True}
        return {(ALONE, 0): counted | {"skipped_in_a_row": saved.get("skipped_in_a_row", 0)}}
    places = [(part["family"], part["index"]) for part in saved["slots"]]
    kept = [{key: value for key, value in part.items() if key not in ("family", "index")} for part in saved["slots"]]
    return dict(zip(places, kept, strict=True))


def gather(value: Any) -> list[Any]:
    """Return every rank's value, in order, on rank zero, and an empty list on the others."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(value, values or None)
    return values
