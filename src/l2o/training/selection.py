"""Which φ is kept: φ and its moving average are validated, and the best so far is remembered."""

from collections.abc import Mapping

import torch
from pytorch_lightning.strategies import Strategy

from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.training.average import Average, holding
from l2o.training.families import Family, ready
from l2o.training.safeguards import shown
from l2o.training.training_state import TrainingState
from l2o.training.validation import Found, Problems, validate


class Selection:
    """Validates φ on `num_tasks` problems of each optimizee of a `suite`, or of each family, for `num_steps` steps."""

    def __init__(
        self,
        families: Mapping[str, Family],
        suite: Mapping[str, Optimizee] | None,
        num_tasks: int,
        num_steps: int,
        seed: int,
    ):
        if suite is not None and not isinstance(suite, Mapping):
            raise ValueError(f"learner.validation gives each optimizee a name, as {{NAME: OPTIMIZEE}}: got {suite!r}")
        for name, optimizee in (suite or {}).items():
            if not str(name) or "/" in str(name) or not isinstance(optimizee, Optimizee):
                raise ValueError(f"learner.validation.{name} must be an optimizee under a name without '/'")
        self.families, self.suite = families, dict(suite or {})
        self.num_tasks, self.num_steps, self.seed = num_tasks, num_steps, seed
        self.problems: Problems = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which results are known."""
        return tuple(self.suite or self.families)

    def prepare(self, device: torch.device) -> None:
        """Draw the optimizees of the families, and make all optimizees ready on a device."""
        listed = {name: family.architectures(name, self.seed) for name, family in self.families.items()}
        ready_ones = {name: [ready(optimizee, device) for optimizee in listed[name]] for name in listed}
        chosen = {name: [ready(optimizee, device)] for name, optimizee in self.suite.items()} or ready_ones
        self.problems = {name: [one.split("validation") for one in optimizees] for name, optimizees in chosen.items()}

    def look(
        self, state: TrainingState, rule: UpdateRule, average: Average | None, strategy: Strategy, keep: bool
    ) -> tuple[Found, dict[str, float]]:
        """Validate φ, and its average where there is one. Return φ's own result, and finite numbers for the logs.

        With `keep`, the better of the two is kept if it is the best so far. In the logs, val/final_loss is the better
        one's result, val/phi_final_loss and val/average_final_loss are those of the two. The results of single names
        are φ's own.
        """
        own = self._evaluate(rule, strategy)
        better = state.saw(own.overall, rule) if keep else False
        values, best = {}, own.overall
        if average is not None and average.phi is not None:
            with holding(rule, average.phi):
                other = self._evaluate(rule, strategy).overall
                better |= state.saw(other, rule) if keep else False
            values = {"val/phi_final_loss": own.overall.final, "val/average_final_loss": other.final}
            best = min(best, other, key=lambda result: shown(result.final))
        if keep:
            state.validated(better)
        values |= {"val/final_loss": best.final, "val/mean_loss": best.mean, "val/best_final_loss": state.best_loss}
        values |= {f"val/final_loss/{name}": result.final for name, result in own.by_name.items()}
        return own, {name: shown(value) for name, value in values.items()}

    def _evaluate(self, rule: UpdateRule, strategy: Strategy) -> Found:
        return validate(rule, self.problems, self.num_tasks, self.num_steps, self.seed, strategy)
