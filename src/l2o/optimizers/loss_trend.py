"""How the loss has moved since the episode's start, as features that do not depend on the loss's scale.

Shapes: B tasks.
"""

import torch
from torch import Tensor

from l2o.optimizees.layout import Axis
from l2o.optimizers.base import Observation, State

NUM_FEATURES = 3

FAST, SLOW = 0.9, 0.98
"""Decays of the two running means of the loss."""

SMALLEST = 1e-10
"""What a loss counts as that is smaller, zero or negative, because its logarithm is taken."""


def init_loss_trend(theta: Tensor) -> State:
    """Give a memory of no losses, for θ_0 (B, P)."""
    return {"losses": theta.new_zeros(len(theta), 1, 4)}  # number seen, first, fast mean, slow mean


def loss_trend_axes() -> dict[str, Axis]:
    """Say that the memory of losses is shared by all parameters, since it depends on the loss alone."""
    return {"losses": Axis.SHARED}


def loss_trend(seen: Observation, state: State) -> tuple[Tensor, State]:
    """Take up a loss; give three features (3, B) and the new memory.

    The features are whether any loss is known (1 or 0), ln(mean loss / first loss) / 3, and ln(fast mean / slow mean).
    A loss that nobody knows (nan) or that is not finite leaves the memory as it was. Where no loss has been known yet,
    all three features are 0, so that a rule can be trained to do without.
    """
    number, first, fast, slow = state["losses"].squeeze(1).unbind(1)
    known = seen.loss.isfinite()
    loss = torch.where(known, seen.loss, 1.0).clamp(min=SMALLEST)
    after = torch.stack(
        (number + 1, torch.where(number == 0, loss, first), torch.lerp(loss, fast, FAST), torch.lerp(loss, slow, SLOW)),
        1,
    )
    after = torch.where(known[:, None], after, state["losses"].squeeze(1))
    number, first, fast, slow = after.unbind(1)
    count = number.clamp(min=1)
    fast, slow = fast / (1 - FAST**count), slow / (1 - SLOW**count)
    since_start = (fast.clamp(min=SMALLEST).log() - first.clamp(min=SMALLEST).log()).clamp(-9, 3) / 3
    lately = (fast.clamp(min=SMALLEST).log() - slow.clamp(min=SMALLEST).log()).clamp(-1, 1)
    some = (number > 0).to(fast.dtype)
    return torch.stack((some, some * since_start, some * lately)), {"losses": after[:, None]}
