"""Watch a training for what goes wrong in silence: gradients that are not finite, and a loss that runs away."""

import math
import sys
import warnings
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from l2o.deploy.groups import Group
from l2o.deploy.horizons import beyond
from l2o.deploy.nonfinite import EVERY, message
from l2o.optimizers.base import UpdateRule

OnDivergence = Literal["warn", "raise"] | None
"""What an optimizer does about it: warn once of each kind, raise `Diverged` before it moves anything, or nothing."""

FAR = 10.0
"""A loss is far above its start where its running mean is more than so many times as large."""

MEMORY = 0.9
"""The running mean m ← MEMORY · m + (1 − MEMORY) · loss averages over about ten steps, so that one odd minibatch is no
divergence."""


class Diverged(RuntimeError):
    """The training that an optimizer serves has gone wrong: see `on_divergence` of `LearnedOptimizer`."""


def checked(on_divergence: object) -> OnDivergence:
    """Return the setting; raise ValueError where it is none."""
    if on_divergence not in ("warn", "raise", None):
        raise ValueError(f"on_divergence must be 'warn', 'raise' or None, got {on_divergence!r}")
    return on_divergence  # type: ignore[return-value]


class Watch:
    """Looks at every loss that an optimizer is told, and at the counts of gradients that are not finite.

    A loss or a gradient on the CPU is looked at when it comes. On any other device losses are kept there, and all is
    looked at together at every tenth step, which costs one wait for the device.
    """

    def __init__(self, on_divergence: OnDivergence):
        self.on_divergence = on_divergence
        self._start: float | None = None
        self._mean = 0.0
        self._waiting: list[Tensor] = []  # losses on a device, not looked at yet
        self._counted: dict[str, int] = {}  # of gradients that were not finite, as known at the last look
        self._said: set[str | int] = set()  # kinds of what went wrong, and rules whose horizon is over

    def loss(self, loss: Tensor) -> None:
        """Take up a loss of one number. Its first value is the start; one that is not finite is a divergence.

        A loss that is nan from the first step on is taken for one that nobody knows, as rules take it.
        """
        if self.on_divergence is None:
            return
        self._waiting.append(loss.detach().reshape(()).clone())
        if loss.device.type == "cpu" or len(self._waiting) >= EVERY:
            values, self._waiting = [value.item() for value in self._waiting], []
            if found := [text for value in values if (text := self._wrong(value))]:
                self._tell("loss", found[0])

    def gradients(self, counts: Mapping[str, int]) -> None:
        """Take up at how many steps a parameter's gradient was not finite, by the names of those parameters."""
        fresh = {name: count for name, count in counts.items() if count > self._counted.get(name, 0)}
        self._counted = dict(counts)
        if fresh:
            self._tell("gradient", message({name: counts[name] for name in fresh}))

    def horizon(self, group: Group, rule: UpdateRule) -> None:
        """Warn once, of each rule, where the group's next step lies beyond the rule's horizon."""
        if group["rule"] not in self._said and (text := beyond(group, rule)):
            self._said.add(group["rule"])
            _warn(text)

    def _wrong(self, loss: float) -> str | None:
        """Return what is wrong with a loss; None where nothing is."""
        if math.isnan(loss) and self._start is None:
            return None  # a nan from the first step on says that nobody knows the loss
        if not math.isfinite(loss):
            return f"the loss is {loss}: {REMEDY}"
        if not self._start:  # a start at exactly 0 has no size that a loss could be compared with
            self._start = self._mean = loss
        self._mean = MEMORY * self._mean + (1 - MEMORY) * loss
        if self._mean - self._start <= (FAR - 1) * abs(self._start):
            return None
        return f"the loss was {self._start:.3g} at the start and is {loss:.3g} now: {REMEDY}"

    def _tell(self, kind: str, text: str) -> None:
        if self.on_divergence == "raise":
            raise Diverged(text)
        if self.on_divergence == "warn" and kind not in self._said:
            self._said.add(kind)
            _warn(f"{text}. {ONCE[kind]}")


REMEDY = (
    "the training has diverged. Take a smaller lr, or a rule that was trained on models like this one "
    "(python -m l2o list), and start again"
)

ONCE = {
    "loss": "This is said once; on_divergence='raise' stops instead, on_divergence=None says nothing",
    "gradient": "This is said once; optimizer.nonfinite_gradients() goes on counting",
}


def _warn(text: str) -> None:
    """Warn at the line that has called the optimizer: the first one that belongs neither to l2o nor to torch."""
    level, frame = 1, sys._getframe()
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] in ("l2o", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
