"""Coordinates that have never had a gradient stay where they are.

A learned rule may answer a gradient of 0 with an update, which moves what nothing asks to be moved: the padding row of
an embedding, rows of words that do not occur, pruned weights, weights of inputs that are constantly 0.

Shapes: P coordinates of some parameters together, G of them in a chunk.
"""

import torch
from torch import Tensor

KEY = "resting.awake"
"""The optimizer's state holds a parameter's part of `awake` under this name."""


class Resting:
    """Which coordinates have had a gradient that is not exactly 0 by now: those are awake, all others rest.

    Only the update is masked. What the rule computes and remembers stays as it was published, and so does decoupled
    weight decay, which AdamW, too, applies to coordinates whose gradient is 0. A gradient of nan wakes.
    """

    def __init__(self, num_coordinates: int, device: torch.device):
        self.awake = torch.zeros(1, num_coordinates, dtype=torch.bool, device=device)  # (1, P)
        self.all_awake = False

    def masked(self, update: Tensor, grad: Tensor, part: slice) -> Tensor:
        """(1, G) -> (1, G): 0 where a coordinate of the chunk rests; this step's gradient ∇ (1, G) wakes first."""
        if self.all_awake:
            return update
        awake = self.awake[:, part].logical_or_(grad != 0)
        return torch.where(awake, update, 0)

    def look(self) -> None:
        """See whether all are awake, so that nothing need be masked any more. Waits for the device."""
        self.all_awake = self.all_awake or bool(self.awake.all())


def is_due(step: int) -> bool:
    """Whether to look at what lies on a device after this step, from 1: at powers of two, and at every 128th step.

    To look is to wait until a GPU has caught up, which should be rare.
    """
    return step % 128 == 0 or step & (step - 1) == 0
