"""How many steps an episode of meta-training has: the same number every time, or one that is drawn for each episode."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator


class Progress(NamedTuple):
    """Say how far meta-training has come when an episode starts."""

    meta_step: int  # windows behind the run, from 0
    fraction: float  # of the whole run, from 0 to 1
    validations_since_best: int


class Horizon(ABC):
    """Gives the number of steps of an episode.

    The learner rounds the number to whole windows (`in_windows`), because an episode ends between two windows.
    """

    @abstractmethod
    def __call__(self, generator: Generator, progress: Progress) -> int:
        """Return the number of steps of the next episode. What is random comes from the generator, a CPU's."""

    def refuse(self, window: int) -> None:  # noqa: B027  # most horizons suit every window
        """Raise ValueError where no episode of this horizon suits a window of that many steps."""


class Fixed(Horizon):
    """Gives every episode the same number of `steps`, which the window must divide."""

    def __init__(self, steps: int):
        _refuse_below_one(steps=steps)
        self.steps = steps

    def __call__(self, generator: Generator, progress: Progress) -> int:
        return self.steps

    def refuse(self, window: int) -> None:
        if self.steps % window:
            raise ValueError(
                f"a window must divide the horizon: {window} does not divide {self.steps}. "
                f"Set learner.window to {math.gcd(window, self.steps)}, or change learner.horizon"
            )


class Uniform(Horizon):
    """Draws a number of steps between `low` and `high`, both included, all equally likely."""

    def __init__(self, low: int, high: int):
        _refuse_bounds(low, high)
        self.low, self.high = low, high

    def __call__(self, generator: Generator, progress: Progress) -> int:
        return int(torch.randint(self.low, self.high + 1, (), generator=generator))

    def refuse(self, window: int) -> None:
        _refuse_short(self.high, window)


class LogUniform(Horizon):
    """Draws a number of steps between `low` and `high`, whose logarithm is uniformly distributed.

    With `of="episodes"` short episodes are as frequent as long ones by powers: between 100 and 10 000, half of the
    episodes are shorter than 1 000. Nearly all steps, and thus windows, then belong to long ones. With `of="steps"`
    half of all steps belong to episodes shorter than 1 000, because an episode of T steps has the density 1/T².
    """

    def __init__(self, low: int, high: int, of: str = "episodes"):
        _refuse_bounds(low, high)
        if of not in ("episodes", "steps"):
            raise ValueError(f"a horizon is log-uniform of episodes or of steps: of must be one of them, got {of!r}")
        self.low, self.high, self.of = low, high, of

    def __call__(self, generator: Generator, progress: Progress) -> int:
        position = torch.rand((), generator=generator, dtype=torch.float64).item()
        if self.of == "steps":
            return round(1 / (1 / self.low - position * (1 / self.low - 1 / self.high)))
        return round(self.low * (self.high / self.low) ** position)

    def refuse(self, window: int) -> None:
        _refuse_short(self.high, window)


class Curriculum(Horizon):
    """Goes through `stages`, horizons or numbers of steps, one after another, each for an equal part of the run.

    The last stage begins where the fraction `until` of the run is over, and lasts to the end. Where a run has no end,
    as with `trainer.max_epochs=-1`, the first stage lasts for ever.
    """

    def __init__(self, stages: Sequence[Horizon | int], until: float = 0.75):
        if not isinstance(stages, Sequence) or not stages:
            raise ValueError(f"a curriculum needs at least one stage, as stages=[100, 1000], got {stages!r}")
        if not 0 <= until <= 1:
            raise ValueError(f"the curriculum's last stage begins at a part of the run from 0 to 1, got until={until}")
        self.stages, self.until = [as_horizon(stage) for stage in stages], until

    def __call__(self, generator: Generator, progress: Progress) -> int:
        before = len(self.stages) - 1
        passed = before if progress.fraction >= self.until else int(before * progress.fraction / self.until)
        return self.stages[passed](generator, progress)

    def refuse(self, window: int) -> None:
        for stage in self.stages:
            stage.refuse(window)


def as_horizon(value: Horizon | int) -> Horizon:
    """Return a horizon as it is, and a number of steps as `Fixed`. Raises ValueError for anything else."""
    if isinstance(value, Horizon):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            "a horizon is a number of steps, or a Fixed, Uniform, LogUniform or Curriculum of l2o.training.horizons: "
            f"got {value!r}"
        )
    return Fixed(value)


def in_windows(steps: float, window: int) -> int:
    """Return the multiple of the window that is nearest to a number of steps; it holds at least one window."""
    return window * max(1, round(steps / window))


def _refuse_below_one(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"horizon must be a whole number of steps, got {name}={value!r}")
        if value < 1:
            raise ValueError(f"horizon must be at least 1, got {name}={value}")


def _refuse_bounds(low: int, high: int) -> None:
    _refuse_below_one(low=low, high=high)
    if low > high:
        raise ValueError(f"a horizon's low must not be above its high, got low={low} and high={high}")


def _refuse_short(high: int, window: int) -> None:
    if high < window:
        raise ValueError(
            f"the longest horizon, {high}, is shorter than a window of {window} steps: "
            f"set learner.window to at most {high}, or make the horizon longer"
        )
