"""Slots: the episodes that meta-training has in flight, each of one drawn optimizee.

Shapes: B tasks, T steps of an episode.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Generator

from l2o import seeds
from l2o.meta_gradients.base import Carry, MetaGradient, WindowResult
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.seeds import Stream
from l2o.training.carries import Leaves, filled, leaves_of
from l2o.training.families import ALONE, Family, number_of
from l2o.training.horizons import Horizon, Progress, in_windows

warn = rank_zero_only(logging.getLogger(__name__).warning)


@dataclass
class Slot:
    """Hold one place for an episode: B tasks of one optimizee in lockstep, with one horizon and one carry.

    When an episode ends, the slot draws another optimizee and another horizon. These are functions of the run's seed,
    the family, the slot and `counter`, but not of the rank: all ranks train on the same architecture for the same
    number of steps, and never wait for each other. Tasks and particles are drawn with the rank.
    """

    name: str
    """The family's name."""
    index: int
    """The slot's place among the slots of its family."""
    family: Family
    weight: float
    """The slot's share in the meta-gradient. The shares of all slots add up to 1."""
    phase: float
    """The part of its horizon that the slot's first episode has, so that slots do not go in step."""
    seed: int
    counter: int = 0
    """Episodes started."""
    horizon: int = 0
    """T of the episode in flight."""
    in_phase: bool = False
    """Whether the slot has started the shorter episode that puts it out of step with the others."""
    skipped_in_a_row: int = 0
    """Windows in a row whose objective or meta-gradient was not finite."""
    optimizee: Optimizee | None = None
    carry: Carry | None = None
    """What the estimator carries to the slot's next window; None between two episodes."""
    generator: Generator = field(default_factory=Generator)
    """The random stream of the episode's tasks and particles, the rank's own."""

    def __getstate__(self) -> dict[str, Any]:
        """Give the generator as plain numbers: torch would put its state into shared memory, which is gone before a
        rank that is being spawned has opened it."""
        generator = self.generator.device, self.generator.get_state().numpy()
        return self.__dict__ | {"generator": generator}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        device, numbers = state["generator"]
        self.__dict__.update(state)
        self.generator = Generator(device)
        self.generator.set_state(torch.from_numpy(numbers))

    def start(
        self,
        rule: UpdateRule,
        estimator: MetaGradient,
        window: int,
        progress: Progress,
        rank: int,
        device: torch.device,
    ) -> None:
        """Start the slot's next episode."""
        drawn = self._redraw(device)
        assert isinstance(self.family.horizon, Horizon) and self.family.num_tasks is not None and self.optimizee
        steps = self.family.horizon(drawn, progress) * (1.0 if self.in_phase else self.phase)
        self.horizon, self.in_phase = in_windows(steps, window), True
        self.generator = Generator(device).manual_seed(seeds.seed_of(*self._key(rank)))
        self.counter += 1
        self.carry = estimator.start(rule, self.optimizee, self.family.num_tasks, self.horizon, self.generator)

    def window(self, rule: UpdateRule, estimator: MetaGradient, num_steps: int) -> WindowResult:
        """Move the episode on by one window."""
        assert self.optimizee is not None
        return estimator(rule, self.optimizee, self.carry, num_steps, self.generator)

    def settle(self, found: WindowResult, finite: bool) -> None:
        """Take over what a window has left. An episode that has ended, or that is not finite, leaves nothing."""
        self.carry = found.carry if finite and not found.done else None
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1

    def shared_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the slot that is the same on all ranks."""
        return {name: getattr(self, name) for name in ("counter", "horizon", "in_phase", "skipped_in_a_row")}

    def own_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the slot for this rank: nothing between two episodes.

        The next episode's generator is seeded anew, so that what the last one has left of its own must not show.
        """
        if self.carry is None:
            return {"carry": None, "generator": None}
        return {"carry": leaves_of(self.carry), "generator": self.generator.get_state()}

    def go_on(
        self, rule: UpdateRule, estimator: MetaGradient, ways: Iterable[Leaves], stream: Any, device: torch.device
    ) -> None:
        """Go on with the episode of a checkpoint, or start another one, with a word, where the episode does not fit.

        The optimizee is drawn again. `ways` are the ways to read the checkpoint's carry.
        """
        self.counter -= 1
        self._redraw(device)
        self.counter += 1
        assert self.optimizee is not None and self.family.num_tasks is not None
        unused = Generator(device).manual_seed(0)
        like = estimator.start(rule, self.optimizee, self.family.num_tasks, self.horizon, unused)
        found = (filled(like, leaves) for leaves in ways)
        self.carry = next((carry for carry in found if carry is not None), None)
        self.generator = Generator(device)
        self.generator.set_state(stream)
        if self.carry is None:
            warn("%sthe checkpoint's episode is one of another meta_gradient or problem: a new one starts", self.where)

    @property
    def where(self) -> str:
        """Name the slot's family at the beginning of a message; nothing where there is only one optimizee."""
        return f"family {self.name}: " if self.name != ALONE else ""

    def _redraw(self, device: torch.device) -> Generator:
        """Draw the optimizee of episode number `counter`. Return the generator, from which the horizon comes next."""
        key = self.seed, Stream.FAMILIES, number_of(self.name), self.index, self.counter
        generator = seeds.generator(*key)
        self.optimizee = self.family.draw(generator, device)
        return generator

    def _key(self, rank: int) -> tuple[int, ...]:
        """Return the key of the random stream of the next episode. The first slot of a single optimizee has a short
        one, which is that of all versions of this package."""
        key = self.seed, Stream.TRAINING, rank, self.counter
        return key if (self.name, self.index) == (ALONE, 0) else (*key, number_of(self.name), self.index)


def slots_of(families: Mapping[str, Family], seed: int) -> list[Slot]:
    """Return the slots of all families, out of step with each other."""
    total, weights = sum(f.num_slots for f in families.values()), sum(f.weight for f in families.values())
    places = [(name, family, index) for name, family in families.items() for index in range(family.num_slots)]
    return [
        Slot(name, index, family, family.weight / weights / family.num_slots, (place + 1) / total, seed)
        for place, (name, family, index) in enumerate(places)
    ]


def restart(slots: Iterable[Slot]) -> None:
    """Give up all episodes in flight, for example because φ has been replaced. The next ones are out of step again."""
    for slot in slots:
        slot.carry, slot.in_phase = None, False
