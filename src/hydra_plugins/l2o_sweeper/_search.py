"""What is searched: a space, and what holds for every trial, from a config and a command line in Hydra's grammar."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.l2o_sweeper._settings import is_setting


@dataclass(frozen=True)
class Search:
    """The overrides that every trial gets, the distribution of each key that is searched, and both as written."""

    given: list[Override]
    space: Mapping[str, BaseDistribution]
    written: list[str]

    @classmethod
    def of(cls, overrides: Iterable[Override]) -> "Search":
        """Later overrides of a key replace earlier ones. The sweep's own settings are no part of the search."""
        chosen = {override.get_key_element().lstrip("+"): override for override in overrides}
        space = {o.get_key_element(): distribution(o) for o in chosen.values() if o.is_sweep_override()}
        if not space:
            raise ValueError("there is nothing to search: every key has one value. Give one as key=interval(0.1,1)")
        given = [o for o in chosen.values() if not o.is_sweep_override()]
        return cls(given, space, sorted(_written(o) for o in chosen.values() if not is_setting(o)))

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """A trial's command line."""
        return [o.input_line or "" for o in self.given] + [f"{key}={value}" for key, value in params.items()]


def distribution(sweep: Override) -> BaseDistribution:
    """interval(a, b) with a tag `log` or in int(…); everything else that Hydra sweeps is a choice.

    What is chosen among are the texts as a command line has them, so that group options and lists are possible.
    """
    value = sweep.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution(list(sweep.sweep_string_iterator()))
    low, high, log = value.start, value.end, "log" in value.tags
    if low is None or high is None or low > high or (log and low <= 0):
        raise ValueError(f"{_written(sweep)}: an interval goes up, and is positive where it is logarithmic")
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    return kind(low, high, log=log)  # type: ignore[arg-type]


def _written(override: Override) -> str:
    return "".join((override.input_line or "").split())
