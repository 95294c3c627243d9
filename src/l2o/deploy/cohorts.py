"""Which parameters of a group go through a rule in one call."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l2o.deploy.arrangement import is_sharded
from l2o.deploy.groups import Group, named, serving
from l2o.optimizers.base import Scope, UpdateRule

Parameters = dict[str, Tensor]


def together(
    group: Group, rules: list[UpdateRule], present: Parameters, state: Mapping[Tensor, Mapping[str, Any]]
) -> list[tuple[UpdateRule, Parameters]]:
    """Return the rules that serve the parameters that have a gradient now, each with those that it moves in one call.

    Raises ValueError where a rule that sees all parameters at once would see others than at the steps before.
    """
    found: dict[Any, tuple[UpdateRule, Parameters]] = {}
    for name, param in present.items():
        rule = serving(group, rules, name, param)
        alone = name if gathers(rule, param) else None
        device = None if rule.scope is Scope.ALL else param.device
        found.setdefault((rule, device, alone), (rule, {}))[1][name] = param
    for rule, own in found.values():
        if rule.scope is Scope.ALL:
            known = {name for name, p in named(group) if p in state and serving(group, rules, name, p) is rule}
            _refuse_a_change(rule, known, set(own))
    return [*found.values()]


def gathers(rule: UpdateRule, param: Tensor) -> bool:
    """Whether a parameter is sharded while its rule must see the whole tensor."""
    return is_sharded(param) and rule.scope is Scope.TENSOR


def _refuse_a_change(rule: UpdateRule, known: set[str], present: set[str]) -> None:
    if known and known != present:
        raise ValueError(
            f"{type(rule).__name__} sees all parameters at once and needs gradients of the same parameters at every "
            f"step; what has changed: {', '.join(sorted(known ^ present))}"
        )
