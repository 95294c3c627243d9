"""Which φ is kept: φ and its moving average are validated, and the best so far is remembered."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from pytorch_lightning.strategies import Strategy

from l2o.checks import at_least_one
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import UpdateRule
from l2o.training.average import Average, holding
from l2o.training.families import Family, ready
from l2o.training.safeguards import shown
from l2o.training.training_state import TrainingState
from l2o.training.validation import Found, Problems, validate


class Selection:
    """Validates φ on `num_tasks` problems of each optimizee of a `suite`, or of each family.

    An episode is as long as each of the `horizons`. With several, all results are averaged by the geometric mean.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        suite: Mapping[str, Optimizee] | None,
        num_tasks: int,
        horizons: Sequence[int],
        seed: int,
    ):
        if suite is not None and not isinstance(suite, Mapping):
            raise ValueError(f"learner.validation gives each optimizee a name, as {{NAME: OPTIMIZEE}}: got {suite!r}")
        for name, optimizee in (suite or {}).items():
            if not str(name) or "/" in str(name) or not isinstance(optimizee, Optimizee):
                raise ValueError(f"learner.validation.{name} must be an optimizee under a name without '/'")
        if isinstance(horizons, str) or not isinstance(horizons, Sequence) or not horizons:
            raise ValueError(
                f"learner.validation_horizons is a list of numbers of steps, as [100, 400], got {horizons!r}"
            )
        for steps in horizons:
            at_least_one("learner", validation_horizons=steps)
        if len(set(horizons)) < len(horizons):
            raise ValueError(f"learner.validation_horizons must differ from each other: got {list(horizons)}")
        self.families, self.suite = families, {str(name): optimizee for name, optimizee in (suite or {}).items()}
        if len(self.suite) < len(suite or {}):
            raise ValueError(f"learner.validation has one name twice: {', '.join(map(repr, suite or {}))}")
        self.num_tasks, self.horizons, self.seed = num_tasks, tuple(int(steps) for steps in horizons), seed
        self.problems: dict[str, Problems] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which results are known: NAME, or with several horizons NAME@STEPS."""
        return tuple(name for _, _, name in self._named())

    def _named(self) -> Iterator[tuple[str, int, str]]:
        """Yield each entry of the suite, or family, each horizon, and the name of the two."""
        for name in self.suite or self.families:
            for steps in self.horizons:
                yield name, steps, name if len(self.horizons) == 1 else f"{name}@{steps}"

    def prepare(self, device: torch.device) -> None:
        """Draw the optimizees of the families, and make all optimizees ready on a device."""
        listed = {name: family.architectures(name, self.seed) for name, family in self.families.items()}
        ready_ones = {name: [ready(optimizee, device) for optimizee in listed[name]] for name in listed}
        chosen = {name: [ready(optimizee, device)] for name, optimizee in self.suite.items()} or ready_ones
        parts = {name: [one.split("validation") for one in optimizees] for name, optimizees in chosen.items()}
        self.problems = {known: Problems(parts[name], steps) for name, steps, known in self._named()}

    def look(
        self, state: TrainingState, rule: UpdateRule, average: Average | None, strategy: Strategy, keep: bool
    ) -> tuple[Found, dict[str, float]]:
        """Validate φ, and its average where there is one. Return φ's own result, and finite numbers for the logs.

        With `keep`, the better of the two is kept if it is the best so far. In the logs, val/final_loss is the better
        one's result, val/phi_final_loss and val/average_final_loss are those of the two. The results of single names
        are φ's own.
        """
        own = self._evaluate(rule, strategy)
        if keep:
            state.measured([result.initial for result in own.by_name.values()] or [own.overall.initial])
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
        return validate(rule, self.problems, self.num_tasks, self.seed, strategy, geometric=len(self.horizons) > 1)
