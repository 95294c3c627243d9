"""The loss that rules read: who needs it, and what it is where there are several ranks."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from l2o.deploy.groups import Group, adopt
from l2o.optimizers.base import UpdateRule


def checked_loss(loss: Any, groups: Sequence[Group], rules: list[UpdateRule]) -> float | Tensor:
    """Return the loss that rules are told at this step: nan where nobody knows it, its mean over the ranks of a group.

    Raises ValueError where a rule needs a loss and none is given, and where it is no single number.
    """
    serving = [(adopt(group, rules), group) for group in groups]
    readers = [(rule, group) for rule, group in serving if "loss" in rule.needs]
    if loss is None:
        # torch.distributed.checkpoint steps an optimizer with every lr at 0 to make it show its state: nothing moves.
        for rule, group in readers:
            if group["lr"] != 0:
                raise ValueError(
                    f"{type(rule).__name__} reads the loss at every step: optimizer.step(loss=loss), or a closure that "
                    "returns it"
                )
        return math.nan
    value = torch.as_tensor(loss).detach()
    if value.numel() != 1 or value.dtype == torch.bool or value.is_complex():
        raise ValueError(f"the loss must be one number, got {value.dtype} of shape {tuple(value.shape)}")
    if readers and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.to(torch.float64 if value.device.type == "cpu" else torch.float32).reshape(1).clone()
        dist.all_reduce(value)  # else the replicas' updates would drift apart
        value /= dist.get_world_size()
    return value
