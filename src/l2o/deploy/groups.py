"""Parameter groups of a `LearnedOptimizer`: plain values only, with the rule as an index into `optimizer.rules`."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from l2o.deploy.arrangement import is_sharded
from l2o.deploy.routing import check_patterns, deciding, rule_for
from l2o.optimizers.base import Scope, UpdateRule

Group = dict[str, Any]

SHOWN = 4
"""A message names so many parameters."""


def named(group: Group) -> Iterable[tuple[str, Tensor]]:
    """Return a group's parameters with their names, "0", "1", … where none were given."""
    count = len(group["params"])
    names = group.get("param_names") or [*map(str, range(count))]
    if len(names) != count:
        raise ValueError(
            f"a group's parameters and their names must be as many, got {count} and {len(names)}: "
            "change group['param_names'] with group['params']"
        )
    return zip(names, group["params"], strict=True)


def drop_repeated(group: Group) -> None:
    """Leave a parameter that a group holds several times, as tied weights may be, in its first place alone."""
    first: dict[int, int] = {}  # the first place of each, by identity
    for place, param in enumerate(group["params"]):
        first.setdefault(id(param), place)
    for key in {"params", "param_names"} & group.keys():
        group[key] = [group[key][place] for place in first.values()]


def titles_of(groups: Sequence[Group]) -> dict[tuple[int, str], str]:
    """Return what to call each parameter of several groups, by its group's index and its name in the group.

    That is its name alone, or "NAME (group 1)" where another group has a parameter of that name.
    """
    places = [(index, name) for index, group in enumerate(groups) for name, _ in named(group)]
    times = Counter(name for _, name in places)
    return {place: f"{place[1]} (group {place[0]})" if times[place[1]] > 1 else place[1] for place in places}


def adopt(group: Group, rules: list[UpdateRule]) -> UpdateRule:
    """Return a group's rule; where the group holds the rule itself, move it to `rules` and leave its index there."""
    rule = group.get("rule")
    if isinstance(rule, UpdateRule):
        known = [index for index, other in enumerate(rules) if other is rule]
        group["rule"] = known[0] if known else len(rules)
        if not known:
            rules.append(rule)
        return rule
    if isinstance(rule, bool) or not isinstance(rule, int):
        got = f"the class {rule.__name__}" if isinstance(rule, type) else type(rule).__name__
        raise ValueError(f"rule must be an UpdateRule, e.g. l2o.from_pretrained(…), got {got}")
    if not 0 <= rule < len(rules):
        raise ValueError(
            f"rule {rule} is none of optimizer.rules, of which there are {len(rules)}: give the rule itself"
        )
    return rules[rule]


def serving(group: Group, rules: list[UpdateRule], name: str, param: Tensor) -> UpdateRule:
    """Return the rule that serves one parameter: a partitioned rule's own rule for it, which has a state of its own."""
    return rule_for(adopt(group, rules), name, param, group["patterns"])


def check(group: Group, rules: list[UpdateRule]) -> None:
    """Raise ValueError, naming the value or the parameter, for what cannot be optimized."""
    rule = adopt(group, rules)
    if any(weight.is_meta for weight in rule.parameters()):
        raise ValueError(
            "the rule's weights are on the device 'meta', which holds no numbers: load it with from_pretrained"
        )
    check_values(group, rule)
    check_patterns(rule, group["patterns"])
    if isinstance(group["patterns"], Mapping):
        group["patterns"] = dict(group["patterns"])
    names = [name for name, _ in named(group)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two parameters of a group are called '{twice[0]}': give each a name of its own")
    for name, param in named(group):
        _check_parameter(name, param, group, rules)


def check_values(group: Group, rule: UpdateRule, fresh: bool = True) -> None:
    """Raise ValueError, naming the value, for one that makes no sense; turn numbers of any kind into Python's own.

    Where a group is not `fresh`, a rate that is a tensor is not looked at: that would be a wait for its device.
    """
    group.update({name: _plain(group[name], whole=False) for name in ("lr", "weight_decay")})
    group.update({name: _plain(group[name], whole=True) for name in ("horizon", "chunk_size")})
    rates = [group[name] for name in ("lr", "weight_decay") if fresh or not isinstance(group[name], Tensor)]
    if not all(map(_is_rate, rates)):
        raise ValueError(
            f"lr and weight_decay must be >= 0 and finite, got {group['lr']!r} and {group['weight_decay']!r}"
        )
    if (size := group["chunk_size"]) is not None and not _is_count(size):
        raise ValueError(f"chunk_size must be at least 1, or None, got {size!r}")
    for name in ("maximize", "resting"):
        if not isinstance(group[name], bool):
            raise ValueError(f"{name} must be True or False, got {group[name]!r}")
    _check_knowledge(rule, group)


def refuse_idle_patterns(groups: Sequence[Group], rules: list[UpdateRule]) -> None:
    """Raise ValueError for a pattern that decides for no parameter of the groups that were given it."""
    for group in groups:
        patterns = group["patterns"] or {}
        alike = [other for other in groups if other["patterns"] == group["patterns"]]
        parts = [(adopt(other, rules), name, param) for other in alike for name, param in named(other)]
        used = {decided for rule, name, param in parts for decided in deciding(rule, name, param, patterns)}
        if idle := [name for name in patterns if name not in used]:
            remedy = f"correct it: the names are {', '.join(name for _, name, _ in parts[:SHOWN])}, …"
            if not any("param_names" in other for other in alike):
                remedy = "the parameters have no names: give model.named_parameters()"
            raise ValueError(f"patterns[{idle[0]!r}] = {patterns[idle[0]]!r} matches no parameter: {remedy}")


def _check_knowledge(rule: UpdateRule, group: Group) -> None:
    horizon = group["horizon"]
    if horizon is not None and not _is_count(horizon):
        raise ValueError(
            f"horizon is the number of steps that the training will take, a whole number from 1 on, got {horizon!r}"
        )
    if horizon is None and "horizon" in rule.needs:
        raise ValueError(
            f"{type(rule).__name__} must know how many steps the training will take: "
            "LearnedOptimizer(…, horizon=1000), for instance"
        )
    if group["axes"] not in ("torch", "as_given"):
        raise ValueError(f"axes must be torch or as_given, got {group['axes']!r}")


def _plain(value: Any, whole: bool) -> Any:
    """Return a number as Python's own, whoever made it, so that files hold plain values; what is none as it is.

    A whole number may come as a float, as `np.ceil` gives it.
    """
    kind = type(value)
    if kind in (bool, int, type(None)) or (kind is float and not whole) or not isinstance(value, Real):
        return value
    number = float(value)
    if whole:
        return int(number) if number.is_integer() else value
    return number


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_rate(value: Any) -> bool:
    is_number = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    return is_number and not isinstance(value, bool) and bool(0 <= value < math.inf)


def _is_flattened(param: Tensor) -> bool:
    """Whether torch has marked it as a flat piece that FullyShardedDataParallel (FSDP1) has made of parameters."""
    return bool(getattr(param, "_fsdp_flattened", False) or getattr(param, "_is_flat_param", False))


def _check_parameter(name: str, param: Tensor, group: Group, rules: list[UpdateRule]) -> None:
    if is_lazy(param):
        raise ValueError(f"'{name}' has no shape yet: run the model once before you make the optimizer")
    if not param.is_floating_point():
        raise ValueError(f"'{name}' is {param.dtype}: an update rule moves real numbers only (torch.view_as_real)")
    own = serving(group, rules, name, param)
    if _is_flattened(param) and own.scope is not Scope.COORDINATE:
        raise ValueError(
            f"'{name}' was flattened by FullyShardedDataParallel, and {type(own).__name__} needs its shape: "
            "shard the model with torch.distributed.fsdp.fully_shard"
        )
    if is_sharded(param) and own.scope is Scope.ALL:
        raise ValueError(
            f"'{name}' is sharded, but {type(own).__name__} sees all parameters at once and needs them whole: "
            "use DDP, or a rule whose scope is a coordinate or a tensor"
        )
