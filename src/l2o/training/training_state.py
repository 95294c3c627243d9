"""What a run must remember, on every rank, so that it goes on as if it had never stopped.

φ itself and the meta-optimizer's state are in Lightning's part of a checkpoint.

Shapes: B tasks, P coordinates of one optimizee.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import Generator, Tensor

from l2o.deploy import export
from l2o.meta_gradients.base import Carry
from l2o.optimizers.base import UpdateRule
from l2o.training.carries import Leaves, leaves_of, of_older_checkpoint
from l2o.training.validation import Validation

FOUND = ("best_loss", "best_phi", "initial_loss")
"""What validation has found. Spawned ranks hand these back to the process that waits for them."""

COUNTED = ("windows", "episodes", "skipped", "skipped_in_a_row", "validated_at", "lr_factor", "schedule")
"""What is the same on every rank."""


@dataclass
class TrainingState:
    """Where meta-training stands, and the best φ so far."""

    windows: int = 0
    """Windows behind the run, those that were skipped included."""
    episodes: int = 0
    """Episodes started."""
    skipped: int = 0
    """Windows that were skipped because their loss or meta-gradient was not finite."""
    skipped_in_a_row: int = 0
    validated_at: int = 0
    """The window after which φ was validated for the last time; 0: never."""
    lr_factor: float = 1.0
    """By how much falls to chance level have scaled the meta learning rate."""
    schedule: str | None = None
    """The schedule of the meta learning rate, in words; None: unknown."""
    scheduler: dict[str, Any] | None = None
    """The state of the schedule's scheduler in the checkpoint that the run goes on from."""
    best_loss: float = math.inf
    """The lowest final loss on validation problems; infinite where none was finite."""
    best_phi: dict[str, Tensor] | None = None
    """φ by name at `best_loss`; None where no validation has come to a finite loss."""
    initial_loss: float = math.inf
    """The loss at θ_0 on validation problems."""
    carry: Carry | None = None
    """What the estimator carries to the next window of the rank's own episode; None between two episodes."""
    saved_carry: list[Leaves] = field(default_factory=list)
    """The carry in the checkpoint that the run goes on from: one entry for each way to read it, or none."""
    generator_state: Tensor | None = None
    """The state of the rank's own generator, as a checkpoint holds it."""

    @property
    def best(self) -> float | None:
        """The lowest final loss on validation problems, or None where no validation came to a finite one."""
        return self.best_loss if self.best_phi is not None else None

    def skip(self) -> None:
        """Count a window that is not finite; its episode is given up."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.carry = None

    def saw(self, validation: Validation, rule: UpdateRule) -> None:
        """Take note of a validation, and keep φ if it is the best so far."""
        self.validated_at, self.initial_loss = self.windows, validation.initial
        if validation.final < self.best_loss:
            self.best_loss, self.best_phi = validation.final, phi_of(rule)

    def state_dict(self, rule: UpdateRule, generator: Generator) -> dict[str, Any]:
        """Return everything that a checkpoint must hold, with the episodes and generators of all ranks.

        All ranks must call it, since it gathers. Where no φ is the best yet, the current one stands in its place, so
        that a checkpoint can always be loaded as a rule.
        """
        carry = leaves_of(self.carry) if self.carry is not None else None
        saved = {name: getattr(self, name) for name in (*COUNTED, *FOUND)}
        return saved | {
            "rule": json.dumps(normalised(rule)),
            "ranks": gather({"carry": carry, "generator": generator.get_state()}),
            "best_phi": self.best_phi if self.best_phi is not None else phi_of(rule),
        }

    def load_state_dict(
        self, saved: Mapping[str, Any], rule: UpdateRule, rank: int, num_ranks: int, horizon: int
    ) -> None:
        """Take over what a checkpoint holds. What an older checkpoint does not know keeps its default.

        Raises ValueError where the checkpoint is of another rule or of another number of ranks.
        """
        refuse_another_rule(saved["rule"], rule)
        if len(saved["ranks"]) != num_ranks:
            raise ValueError(
                f"the checkpoint is of a run on {len(saved['ranks'])} ranks, this one has {num_ranks}: "
                "set trainer, trainer.devices and trainer.num_nodes as they were"
            )
        own = saved["ranks"][rank]
        if own.get("carry") is not None:
            self.saved_carry = [own["carry"]]
        elif own.get("episode") is not None:
            self.saved_carry = of_older_checkpoint(own["episode"], horizon)
        self.generator_state = own["generator"]
        for name in COUNTED:
            setattr(self, name, saved.get(name, getattr(TrainingState, name)))
        self.load_found(saved)

    def found(self) -> dict[str, Any]:
        """Return what validation has found."""
        return {name: getattr(self, name) for name in FOUND}

    def load_found(self, saved: Mapping[str, Any]) -> None:
        """Take over what validation has found; a φ without a finite loss is not the best one."""
        self.best_loss, self.initial_loss = saved["best_loss"], saved["initial_loss"]
        self.best_phi = saved["best_phi"] if math.isfinite(self.best_loss) else None


def phi_of(rule: UpdateRule) -> dict[str, Tensor]:
    """Return a copy of a rule's φ on the CPU, by name."""
    return {name: value.detach().cpu().clone() for name, value in rule.state_dict().items()}


def normalised(rule: UpdateRule) -> Any:
    """Return a rule's description as JSON gives it back: a tuple is a list there."""
    return json.loads(json.dumps(export.describe(rule)))


def refuse_another_rule(saved: str, rule: UpdateRule) -> None:
    """Raise ValueError where a checkpoint's description is that of another rule."""
    trained = export.build(json.loads(saved))  # arguments newer than the checkpoint get their defaults
    if normalised(trained) != normalised(rule):
        raise ValueError(
            f"the checkpoint holds another optimizer, {saved}, than this run's, "
            f"{json.dumps(normalised(rule))}: give the overrides that it was trained with"
        )


def gather(value: Any) -> list[Any]:
    """Return every rank's value, in order, on rank zero, and an empty list on the others."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size() if dist.get_rank() == 0 else []
    dist.gather_object(value, values or None)
    return values
