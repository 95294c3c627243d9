"""The exponential moving average of φ, which is often better than φ where meta-gradients are noisy."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from l2o.optimizers.base import UpdateRule

Phi = dict[str, Tensor]
"""Meta-parameters by name."""


class Average:
    """Averages φ over the meta-updates: φ̄ ← d φ̄ + (1 − d) φ.

    d is `decay`, and less at the start, (1 + n) / (10 + n) after n updates, so that the average soon forgets the φ that
    training began with. Raises ValueError for a decay that is not between 0 and 1.
    """

    def __init__(self, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"learner.ema_decay must be at least 0 and below 1, as 0.99, or null: got {decay}")
        self.decay, self.updates = decay, 0
        self.phi: Phi | None = None

    @torch.no_grad()
    def update(self, rule: UpdateRule) -> None:
        """Take up φ as it is after a meta-update."""
        current = rule.state_dict()
        if self.phi is None:
            self.phi = {name: value.clone() for name, value in current.items()}
        # A checkpoint is read before Lightning moves φ to its device.
        self.phi = {name: value.to(current[name].device) for name, value in self.phi.items()}
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in self.phi.items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    def restart(self) -> None:
        """Forget the average: φ has been replaced."""
        self.phi, self.updates = None, 0

    def state_dict(self) -> dict[str, Phi | int | None]:
        """Return what a checkpoint holds, on the CPU."""
        phi = None if self.phi is None else {name: value.cpu().clone() for name, value in self.phi.items()}
        return {"phi": phi, "updates": self.updates}

    def load_state_dict(self, saved: dict[str, Phi | int | None]) -> None:
        """Take over what a checkpoint holds. The next update moves it to the device of φ."""
        phi, updates = saved["phi"], saved["updates"]
        assert isinstance(updates, int) and not isinstance(phi, int)
        self.updates = updates
        self.phi = None if phi is None else {name: value.clone() for name, value in phi.items()}


@contextmanager
def holding(rule: UpdateRule, phi: Phi) -> Iterator[None]:
    """Let a rule hold another φ for a while, and give it its own back, to the last bit."""
    own = {name: value.detach().clone() for name, value in rule.state_dict().items()}
    rule.load_state_dict(phi)
    try:
        yield
    finally:
        rule.load_state_dict(own)
