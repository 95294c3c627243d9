"""Gradients that are nan or infinite are counted, parameter by parameter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EVERY = 10
"""On a GPU somebody looks at every so many steps, because to look is to wait until the device has caught up."""


class NonFinite:
    """At how many steps each of some parameters had a gradient that was not finite.

    On a GPU the counts stay there until somebody asks, so that no step waits for them.
    """

    def __init__(self, names: Sequence[str], grads: Sequence[Tensor]):
        self._names = [name for name, grad in zip(names, grads, strict=True) if grad.numel()]
        self._grads = [grad for grad in grads if grad.numel()]
        self._counts = torch.zeros(len(self._grads), dtype=torch.long, device=grads[0].device)
        self.found = False

    def add(self, grad: Tensor) -> None:
        """Count this step; `grad` is all gradients in one tensor, whose parts were given at the start."""
        if self._grads and (grad.device.type != "cpu" or not math.isfinite(grad.sum())):  # a finite sum: all are
            largest = torch._foreach_norm(self._grads, torch.inf)  # type: ignore[reportPrivateImportUsage]
            self._counts += ~torch.stack(largest).isfinite()
            self.found = grad.device.type == "cpu"

    def is_worth_asking(self, step: int) -> bool:
        """Return whether `counts` may have something new at this step, from 1. On a CPU that is always known."""
        return self.found or (self._counts.device.type != "cpu" and step % EVERY == 0)

    def counts(self) -> dict[str, int]:
        """Steps by the names of the parameters that had such a gradient. Waits for the device."""
        return {name: count for name, count in zip(self._names, self._counts.tolist(), strict=True) if count}


def message(counts: dict[str, int]) -> str:
    """Say which parameters had such a gradient, and what to do about it."""
    name, steps = next(iter(counts.items()))
    others = f", and those of {len(counts) - 1} other parameters" if len(counts) > 1 else ""
    return (
        f"the gradient of '{name}' was nan or infinite at {steps} step{'s' if steps > 1 else ''}{others}: "
        "the rule is given it as it is. Lower the loss's scale, clip gradients, or look for a division by zero"
    )
