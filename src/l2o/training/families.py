"""Families of optimizees: what an update rule is meta-trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any
from zlib import crc32

import torch
from torch import Generator

from l2o import seeds
from l2o.checks import at_least_one
from l2o.optimizees.base import Optimizee
from l2o.optimizees.checks import check
from l2o.seeds import Stream
from l2o.training.horizons import Horizon, as_horizon

ARCHITECTURES = 16
"""How many optimizees stand for a family in validation where the family does not list its optimizees."""

ALONE = ""
"""The name of the only family of a run on a single optimizee."""


class Choices:
    """Draws one of finitely many optimizees, all equally likely.

    An entry that is no optimizee is called with the keywords of `shared` when the choices are made, and must return
    one. `shared={"dataset": …}` therefore gives one data set to all of them, without a copy for each.
    """

    def __init__(
        self, optimizees: Sequence[Optimizee | Callable[..., Optimizee]], shared: Mapping[str, Any] | None = None
    ):
        if not len(optimizees):
            raise ValueError("a family needs at least one optimizee to choose from, got optimizees=[]")
        keywords = dict(shared or {})
        self.optimizees = [one if isinstance(one, Optimizee) else _made(one, keywords) for one in optimizees]

    def __call__(self, generator: Generator) -> Optimizee:
        return self.optimizees[int(torch.randint(len(self.optimizees), (), generator=generator))]


class Drawn(Choices):
    """Chooses among `count` optimizees which `make` has drawn once, from a generator with a fixed `seed`.

    `make(generator)` returns a random optimizee: its architecture, activation, minibatch and so on. It keeps the data
    set in itself, so that all optimizees share it. A run sees the same optimizees whatever the run's own seed is.
    `view(optimizee)`, where it is given, returns a view that is used in the optimizee's place.
    """

    def __init__(
        self,
        make: Callable[[Generator], Optimizee],
        count: int = ARCHITECTURES,
        seed: int = 0,
        view: Callable[[Optimizee], Optimizee] | None = None,
    ):
        at_least_one("a family", count=count)
        if not callable(make):
            raise ValueError(f"a family draws optimizees by a function of a generator, got make={make!r}")
        generator = torch.Generator().manual_seed(seed)
        found = [_checked_kind(make(generator), make) for _ in range(count)]
        super().__init__([_checked_kind(view(one), view) for one in found] if view is not None else found)


@dataclass(frozen=True)
class Family:
    """Describes one distribution of optimizees, and how much of meta-training it gets."""

    sample_optimizee: Optimizee | Callable[[Generator], Optimizee]
    """Draws the optimizee of an episode from a generator on the CPU, as `Choices` and `Drawn` do. A single optimizee
    stands for itself."""
    num_tasks: int | None = None
    """B: tasks in lockstep in each slot, on each rank; None takes the learner's `num_tasks`."""
    num_slots: int = 1
    """Episodes in flight at a time, each with an optimizee of its own."""
    horizon: Horizon | int | None = None
    """Steps of an episode; None takes the learner's `horizon`."""
    weight: float = 1.0
    """Share of the family in the meta-gradient, relative to those of the other families."""

    def __post_init__(self) -> None:
        at_least_one("a family", num_slots=self.num_slots)
        if self.num_tasks is not None:
            at_least_one("a family", num_tasks=self.num_tasks)
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"a family's weight must be a positive number, got {self.weight}")
        if isinstance(self.sample_optimizee, Optimizee):
            object.__setattr__(self, "sample_optimizee", Choices([self.sample_optimizee]))
        elif not callable(self.sample_optimizee):
            raise ValueError(
                "a family's sample_optimizee is an optimizee, Choices, Drawn, or a function of a generator that "
                f"returns an optimizee: got {self.sample_optimizee!r}"
            )

    def filled(self, num_tasks: int, horizon: int) -> "Family":
        """Return the family with the learner's values in the place of those that it leaves open."""
        return replace(
            self,
            num_tasks=self.num_tasks if self.num_tasks is not None else num_tasks,
            horizon=as_horizon(self.horizon if self.horizon is not None else horizon),
        )

    def draw(self, generator: Generator, device: torch.device) -> Optimizee:
        """Draw an optimizee for an episode, and make it ready on a device."""
        assert not isinstance(self.sample_optimizee, Optimizee)
        return ready(_checked_kind(self.sample_optimizee(generator), self.sample_optimizee), device)

    def architectures(self, name: str, seed: int) -> list[Optimizee]:
        """Return the optimizees on which φ is validated: all that the family lists, or some that are drawn once."""
        if isinstance(self.sample_optimizee, Choices):
            return self.sample_optimizee.optimizees
        assert not isinstance(self.sample_optimizee, Optimizee)
        keys = [(seed, Stream.FAMILIES, number_of(name), index) for index in range(ARCHITECTURES)]
        return [self.sample_optimizee(seeds.generator(*key)) for key in keys]


def named(families: Mapping[str, Family] | None, optimizee: Optimizee) -> dict[str, Family]:
    """Return the families of a run by name: those given, or the single optimizee as the only one.

    Raises ValueError for what cannot be the families of a run.
    """
    if families is None:
        return {ALONE: Family(optimizee)}
    if not isinstance(families, Mapping):
        raise ValueError(f"learner.families gives each family a name, as {{NAME: FAMILY}}: got {families!r}")
    if not families:
        raise ValueError("learner.families has no entry: give at least one family, or null to train on one optimizee")
    for name, family in families.items():
        if not str(name) or "/" in str(name):
            raise ValueError(f"a family's name goes into the names of the logs: it needs one without '/', got {name!r}")
        if not isinstance(family, Family):
            raise ValueError(
                f"learner.families.{name} must be a Family (l2o.training.families.Family), got {type(family).__name__}"
            )
    if len({str(name) for name in families}) < len(families):
        raise ValueError(f"learner.families has one name twice: {', '.join(map(repr, families))}")
    return {str(name): family for name, family in families.items()}


def number_of(name: str) -> int:
    """Return a number for a family's name, which goes into the keys of random streams."""
    return crc32(name.encode())


def ready(optimizee: Optimizee, device: torch.device) -> Optimizee:
    """Move an optimizee to a device, and hold a user's own one to the contract, once."""
    optimizee.to(device)
    check(optimizee, device)
    return optimizee


def _made(make: Callable[..., Optimizee], keywords: Mapping[str, Any]) -> Optimizee:
    if not callable(make):
        raise ValueError(f"a family chooses among optimizees and functions that return one, got {make!r}")
    try:
        signature(make).bind(**keywords)
    except TypeError as error:
        raise ValueError(f"{make!r} of a family cannot be called with shared={[*keywords]}: {error}") from error
    except ValueError:  # functions of C have no signature
        pass
    return _checked_kind(make(**keywords), make)


def _checked_kind(made: Any, source: Any) -> Optimizee:
    if not isinstance(made, Optimizee):
        raise ValueError(f"{source!r} of a family must return an Optimizee, it returned {type(made).__name__}")
    return made
