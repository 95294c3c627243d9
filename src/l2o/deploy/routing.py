"""Which rule serves a parameter of a model, where a rule is several rules that share the parameters out."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l2o.optimizers.base import UpdateRule
from l2o.optimizers.partitioned import Partitioned
from l2o.optimizers.routing import by_name, group_of


def rule_for(rule: UpdateRule, name: str, param: Tensor, patterns: Mapping[str, str] | None) -> UpdateRule:
    """Return the rule that serves a parameter: of a `Partitioned` rule the group's own, else the rule itself.

    `patterns` (group: regular expression) decide before the rule's own patterns do. Where no pattern matches the name,
    with or without its leading components, the number of axes decides: see `l2o.optimizers.routing.group_of`.
    """
    return _followed(rule, name, param, patterns or {})[0]


def deciding(rule: UpdateRule, name: str, param: Tensor, patterns: Mapping[str, str]) -> list[str]:
    """Return the groups whose patterns decide which rule serves a parameter."""
    return _followed(rule, name, param, patterns)[1]


def check_patterns(rule: UpdateRule, patterns: Any) -> None:
    """Raise ValueError unless `patterns` is None or has regular expressions for groups of the rule."""
    if patterns is None or patterns == {}:
        return
    groups = groups_of(rule)
    if not groups:
        raise ValueError(
            f"patterns share parameters out among groups, and {type(rule).__name__} has none: leave them out"
        )
    texts = isinstance(patterns, Mapping) and all(isinstance(text, str) for text in patterns.values())
    if not texts or not patterns.keys() <= groups:
        given = dict(patterns) if isinstance(patterns, Mapping) else patterns
        raise ValueError(
            f"patterns must give a regular expression for groups of {', '.join(sorted(groups))}, got {given}"
        )
    Partitioned(dict.fromkeys(patterns, rule), patterns)  # it refuses what is no regular expression


def groups_of(rule: UpdateRule) -> set[str]:
    """Return the names of a rule's groups, with those of groups within groups."""
    if not isinstance(rule, Partitioned):
        return set()
    inner = [groups_of(part) for part in rule.rules.values() if isinstance(part, UpdateRule)]
    return set(rule.rules).union(*inner)


def _followed(rule: UpdateRule, name: str, param: Tensor, patterns: Mapping[str, str]) -> tuple[UpdateRule, list[str]]:
    """Return the rule that serves a parameter, and the groups whose patterns have led there."""
    deciders: list[str] = []
    while isinstance(rule, Partitioned):
        own = tuple((group, pattern) for group, pattern in patterns.items() if group in rule.rules)
        decided = by_name(name, own)
        if len(decided) > 1:
            both = " and ".join(decided)
            raise ValueError(f"'{name}' belongs to {both} by the patterns given: let one of them match it")
        deciders += decided
        kinds = tuple(rule.patterns.items())
        part = rule.rules[decided[0] if decided else group_of(name, param.ndim, kinds, called_by_kind=True)]
        assert isinstance(part, UpdateRule)
        rule = part
    return rule, deciders
