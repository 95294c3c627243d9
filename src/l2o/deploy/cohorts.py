"""Which parameters of a group go through a rule in one call."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l2o.deploy.fit import remembered
from l2o.deploy.groups import Group, named, serving
from l2o.optimizers.base import UpdateRule

Parameters = dict[str, Tensor]


def together(
    group: Group, rules: list[UpdateRule], present: Parameters, state: Mapping[Tensor, Mapping[str, Any]]
) -> list[tuple[UpdateRule, Parameters]]:
    """Return the rules that serve the parameters that have a gradient now, each with those that it moves in one call.

    Raises ValueError where a rule that is not coordinatewise would see other parameters than at the steps before.
    """
    by_rule: dict[UpdateRule, Parameters] = {}
    for name, param in present.items():
        by_rule.setdefault(serving(group, rules, name, param), {})[name] = param
    for rule, own in by_rule.items():
        if not rule.coordinatewise:
            known = {name for name, p in named(group) if p in state and serving(group, rules, name, p) is rule}
            _refuse_a_change(rule, known, set(own))
    return [
        (rule, part)
        for rule, own in by_rule.items()
        for part in (_alike(rule, own, state) if rule.coordinatewise else [own])
    ]


def _alike(rule: UpdateRule, params: Parameters, state: Mapping[Tensor, Mapping[str, Any]]) -> list[Parameters]:
    """A coordinatewise rule's parameters by device, and by the state that all of them share (Adam's count of steps)."""
    _, shared = remembered(rule)
    alike: dict[Any, Parameters] = {}
    for name, param in params.items():
        entry = state.get(param)
        age = [entry[key].tolist() if entry else None for key in shared]
        alike.setdefault((param.device, str(age)), {})[name] = param
    return list(alike.values())


def _refuse_a_change(rule: UpdateRule, known: set[str], present: set[str]) -> None:
    if known and known != present:
        raise ValueError(
            f"{type(rule).__name__} is not coordinatewise and needs gradients of the same parameters at every "
            f"step; what has changed: {', '.join(sorted(known ^ present))}"
        )
