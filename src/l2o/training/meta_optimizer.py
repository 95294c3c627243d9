"""The meta-optimizer, which moves φ."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Make = Callable[..., torch.optim.Optimizer]
"""Makes a meta-optimizer of parameters: one of torch's classes, or such a class with arguments of one's own."""


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
