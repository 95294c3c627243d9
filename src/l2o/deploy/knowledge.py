"""The loss that rules read: who needs it, and what it is where there are several ranks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from l2o.deploy.arrangement import is_sharded, local_part
from l2o.deploy.groups import Group, adopt
from l2o.optimizers.base import UpdateRule


def checked_loss(given: Any, returned: Any, groups: Sequence[Group], rules: list[UpdateRule]) -> Tensor | None:
    """Return the loss that rules are told at this step, or None where nobody knows it.

    It is the one that was given to `step`, else what the closure has returned, and where there are several ranks the
    mean of theirs, because a rule may read the loss without needing it. Raises ValueError where a rule needs a loss and
    there is none, and for a loss that is no single number; but what a closure returns may be anything where no rule
    needs it.
    """
    readers = [group for group in groups if reads_loss(group, rules)]
    if given is None and not readers and not _is_number(returned):
        return None  # as with torch's optimizers
    loss = returned if given is None else given
    if loss is None:
        for group in readers:
            if group["lr"] != 0:  # at a rate of 0 nothing need be moved: see `only_shows`
                name = type(adopt(group, rules)).__name__
                raise ValueError(
                    f"{name} reads the loss at every step: optimizer.step(loss=loss), or a closure that returns it"
                )
        return None
    if not _is_number(loss):
        found = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss must be one number, got {found}")
    value = _as_tensor(loss)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        first = next((param for group in groups for param in group["params"]), value)
        return _mean_over_ranks(value, local_part(first).device)
    return value


def reads_loss(group: Group, rules: list[UpdateRule]) -> bool:
    """Whether a group's rule cannot do without the loss."""
    return "loss" in adopt(group, rules).needs


def only_shows(group: Group, groups: Sequence[Group], rules: list[UpdateRule], loss: Tensor | None) -> bool:
    """Whether a group only shows its state at this step, which neither calls its rule nor counts.

    torch.distributed.checkpoint steps a new optimizer to see its state: with every rate at 0, gradients of 0, and
    without a loss. A rule that cannot do without the loss could not be called at all.
    """
    return loss is None and (reads_loss(group, rules) or _only_looks(groups))


def _only_looks(groups: Sequence[Group]) -> bool:
    """Whether a first step can move nothing: every rate and every gradient is 0.

    Of sharded gradients nobody asks it, because ranks that have different shards would have to agree.
    """
    if any(group["step"] or group["lr"] != 0 for group in groups):
        return False
    grads = [param.grad for group in groups for param in group["params"] if param.grad is not None]
    return bool(grads) and not any(is_sharded(grad) or bool((grad != 0).any()) for grad in grads)


def _is_number(loss: Any) -> bool:
    """Whether it is one real number: Python's, NumPy's, or a tensor of one element."""
    if loss is None:
        return False
    try:
        value = loss if isinstance(loss, Tensor) else _as_tensor(loss)  # of a sharded one nothing is gathered here
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return value.numel() == 1 and value.dtype != torch.bool and not value.is_complex()


def _as_tensor(loss: Any) -> Tensor:
    """Return a loss as a tensor: the whole of a sharded one, and a number as it is, whatever torch's defaults are."""
    if isinstance(loss, Tensor):
        return (loss.full_tensor() if is_sharded(loss) else loss).detach()  # type: ignore[reportAttributeAccessIssue]
    return torch.as_tensor(loss, dtype=torch.float64 if isinstance(loss, float) else None, device="cpu")


def _mean_over_ranks(loss: Tensor, device: torch.device) -> Tensor:
    """The mean of the ranks' losses, without which their updates would drift apart.

    It is taken on the device of the parameters, whose gradients the ranks exchange, too: NCCL knows no CPU.
    """
    value = loss.to(device, torch.float64 if device.type == "cpu" else torch.float32).reshape(1).clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()
