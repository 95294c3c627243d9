"""Gradients that are nan or infinite are counted, parameter by parameter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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

    def counts(self) -> dict[str, int]:
        """Steps by the names of the parameters that had such a gradient. Waits for the device."""
        return {name: count for name, count in zip(self._names, self._counts.tolist(), strict=True) if count}


def warning(counts: dict[str, int]) -> str:
    """What to tell a user about such gradients, once."""
    name, steps = next(iter(counts.items()))
    others = f", and those of {len(counts) - 1} other parameters" if len(counts) > 1 else ""
    return (
        f"the gradient of '{name}' was nan or infinite at {steps} step{'s' if steps > 1 else ''}{others}: "
        "the rule is given it as it is. Lower the loss's scale, clip gradients, or look for a division by zero. "
        "This is said once; optimizer.nonfinite_gradients() goes on counting"
    )
