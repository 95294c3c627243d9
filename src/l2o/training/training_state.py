"""What a run must remember, on every rank, so that it goes on as if it had never stopped.

φ itself and the meta-optimizer's state are in Lightning's part of a checkpoint.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from l2o.deploy import export
from l2o.optimizers.base import UpdateRule
from l2o.training.families import ALONE
from l2o.training.validation import Validation

warn = rank_zero_only(logging.getLogger(__name__).warning)

FOUND = ("best_loss", "best_phi", "initial_loss", "initial_losses", "measured_on", "horizons")
"""What validation has found. Spawned ranks hand these back to the process that waits for them."""

SAME = 1e-4
"""By how much, relative to each other, losses at θ_0 of the same problems may differ: devices and ranks round."""

COUNTED = (
    "windows",
    "windows_before",
    "updates",
    "episodes",
    "inner_steps",
    "skipped",
    "skipped_in_a_row",
    "validated_at",
    "validations_since_best",
    "lr_factor",
    "schedule",
)
"""What is the same on every rank."""


@dataclass
class TrainingState:
    """Where meta-training stands, and the best φ so far. The slots and the average of φ have states of their own."""

    measured_on: tuple[str, ...] = (ALONE,)
    """The names of the problems on which φ is validated. Losses on other problems are not comparable."""
    horizons: tuple[int, ...] = ()
    """The numbers of steps of the episodes in which φ is validated. Losses after other numbers are not comparable."""
    windows: int = 0
    """Windows behind the run, of every slot, those that were skipped included."""
    windows_before: int = 0
    """Windows of the run whose φ, meta-optimizer and counters this one started from (`learner.warm_start`)."""
    updates: int = 0
    """Meta-updates of φ."""
    episodes: int = 0
    """Episodes started, of all slots."""
    inner_steps: int = 0
    """Inner steps of all slots."""
    skipped: int = 0
    """Windows of single slots that were skipped because their objective or meta-gradient was not finite."""
    skipped_in_a_row: int = 0
    """The most windows in a row that a slot has skipped up to now."""
    validated_at: int = 0
    """The window after which φ was validated for the last time; 0: never."""
    validations_since_best: int = 0
    """Validations since the one that has found the best φ."""
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
    initial_losses: tuple[float, ...] = ()
    """The same for each name of `measured_on`; empty before the first validation."""
    is_taken_over: bool = False
    """Whether what was found comes from a file, and no validation has shown yet that its problems are this run's."""

    @property
    def best(self) -> float | None:
        """The lowest final loss on validation problems, or None where no validation came to a finite one."""
        return self.best_loss if self.best_phi is not None else None

    def measured(self, initial_losses: Sequence[float]) -> None:
        """Take note of the losses at θ_0 in a validation. Where they are those of other problems than those of the file
        that the run goes on from (another optimizee, other data, another seed or number of tasks), what was the best φ
        counts no more. Within a run the problems stay, however exactly their losses are computed."""
        pairs = zip(self.initial_losses, initial_losses, strict=False)
        finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
        same = not self.is_taken_over or all(math.isclose(*pair, rel_tol=SAME) for pair in finite)
        self.is_taken_over = False
        if self.best is not None and not same:
            warn("φ is validated on other problems than before: the best φ of those counts no more")
            self.best_loss, self.best_phi = math.inf, None
        self.initial_losses = tuple(initial_losses)

    def saw(self, validation: Validation, rule: UpdateRule) -> bool:
        """Take note of a validation of the rule's φ, and keep φ if it is the best so far, which is returned."""
        self.initial_loss = validation.initial
        better = validation.final < self.best_loss
        if better:
            self.best_loss, self.best_phi = validation.final, phi_of(rule)
        return better

    def validated(self, better: bool) -> None:
        """Count a validation; `better` says whether it has found the best φ so far."""
        self.validated_at = self.windows
        self.validations_since_best = 0 if better else self.validations_since_best + 1

    def state_dict(self, rule: UpdateRule) -> dict[str, Any]:
        """Return what a checkpoint must hold of this state.

        Where no φ is the best yet, the current one stands in its place, so that a checkpoint can always be loaded as a
        rule.
        """
        return {name: getattr(self, name) for name in COUNTED} | self.found() | {
            "rule": json.dumps(normalised(rule)),
            "best_phi": self.best_phi if self.best_phi is not None else phi_of(rule),
        }  # fmt: skip

    def load_state_dict(self, saved: Mapping[str, Any], rule: UpdateRule) -> None:
        """Take over what a checkpoint holds. What an older checkpoint does not know keeps its default.

        Raises ValueError where the checkpoint is of another rule.
        """
        refuse_another_rule(saved["rule"], rule)
        for name in COUNTED:
            setattr(self, name, saved.get(name, getattr(TrainingState, name)))
        self.updates = saved.get("updates", self.windows - self.skipped)
        self.load_found(saved)

    def found(self) -> dict[str, Any]:
        """Return what validation has found."""
        lists = {name: list(getattr(self, name)) for name in ("measured_on", "horizons", "initial_losses")}
        return {name: getattr(self, name) for name in FOUND} | lists

    def load_found(self, saved: Mapping[str, Any]) -> None:
        """Take over what validation has found; a φ without a finite loss is not the best one.

        What was found on other problems than this run's, or after other numbers of steps, is left out. An older
        checkpoint does not tell the numbers of steps: they count as this run's.
        """
        same_steps = tuple(saved.get("horizons", self.horizons)) == self.horizons
        if same_steps and tuple(saved.get("measured_on", (ALONE,))) == self.measured_on:
            self.best_loss, self.initial_loss = saved["best_loss"], saved["initial_loss"]
            alone = (self.initial_loss,) if self.measured_on == (ALONE,) else ()  # of an older checkpoint
            self.initial_losses = tuple(saved.get("initial_losses", alone))
            self.best_phi = saved["best_phi"] if math.isfinite(self.best_loss) else None
            self.is_taken_over = True


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
