"""Several update rules that share θ out by the names of its parts.

Shapes: B tasks, P coordinates, G of them in a group, K steps of a window.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import State, UpdateRule


class Group(NamedTuple):
    """Coordinates (G,) that one rule serves, and the layout that they make by themselves."""

    name: str
    columns: Tensor
    layout: Layout


class Partitioned(UpdateRule):
    """One rule for each group of θ's parts: [g_1, g_2, …] = [m_1(∇_1, h_1, φ_1), m_2(∇_2, h_2, φ_2), …].

    A part belongs to the group whose regular expression in `patterns` matches its whole name. Raises ValueError for a
    part that matches none or several; a group without a part in some layout rests there. The state of a group's rule is
    kept under "group.key"; on axis 1 it has the group's G coordinates.
    """

    def __init__(self, rules: Mapping[str, UpdateRule], patterns: Mapping[str, str]):
        super().__init__()
        if set(rules) != set(patterns) or "class" in rules:  # an exported rule's own word
            raise ValueError(f"every group, not named class, needs a rule and a pattern: {[*rules]}, {[*patterns]}")
        for pattern in patterns.values():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
        self.rules, self.patterns = nn.ModuleDict(rules), dict(patterns)
        self.coordinatewise = all(rule.coordinatewise for rule in rules.values())

    @property
    def label(self) -> str:
        return " + ".join(dict.fromkeys(self._rule(name).label for name in self.rules))

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        state: State = {}
        for group in self._groups(theta, layout):
            own = self._rule(group.name).init_state(theta[:, group.columns], group.layout)
            state |= _prefixed(group.name, own)
        return state

    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        return self._step(grad, state, theta, layout, UpdateRule.__call__)

    def advance(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        return self._step(grad, state, theta, layout, lambda rule, *part: rule.advance(*part))

    def _step(
        self, grad: Tensor, state: State, theta: Tensor, layout: Layout, step: Callable[..., tuple[Tensor, State]]
    ) -> tuple[Tensor, State]:
        groups, updates, after = self._groups(theta, layout), [], {}
        for group, own in _with_state(groups, state):
            part = grad[:, group.columns], own, theta[:, group.columns], group.layout
            update, own = step(self._rule(group.name), *part)
            updates.append(update)
            after |= _prefixed(group.name, own)
        places = torch.cat([group.columns for group in groups]).argsort()
        return torch.cat(updates, 1)[:, places], after

    def replay_in_chunks(
        self, grads: Tensor, cotangents: Tensor, state: State, theta: Tensor, layout: Layout, max_bytes: int
    ) -> list[Tensor]:
        """Group by group, each in chunks of its own and with its rule's own way to replay."""
        total = {parameter: torch.zeros_like(parameter) for parameter in self.parameters()}
        for group, own in _with_state(self._groups(theta, layout), state):
            rule, columns = self._rule(group.name), group.columns
            part = grads[:, :, columns], cotangents[:, :, columns], own, theta[:, columns], group.layout
            for parameter, share in zip(rule.parameters(), rule.replay_in_chunks(*part, max_bytes), strict=True):
                total[parameter] = total[parameter] + share  # groups may have a rule in common
        return list(total.values())

    def rule_for(self, part: str) -> UpdateRule:
        """The rule that serves the part of this name."""
        (group,) = _resolved(Layout({part: ()}), tuple(self.patterns.items()), torch.device("cpu"))
        return self._rule(group.name)

    def _rule(self, name: str) -> UpdateRule:
        rule = self.rules[name]
        assert isinstance(rule, UpdateRule)
        return rule

    def _groups(self, theta: Tensor, layout: Layout) -> list[Group]:
        return _resolved(layout, tuple(self.patterns.items()), theta.device)


def _prefixed(name: str, state: State) -> State:
    return {f"{name}.{key}": value for key, value in state.items()}


def _with_state(groups: list[Group], state: State) -> Iterator[tuple[Group, State]]:
    for group in groups:
        prefix = f"{group.name}."
        yield group, {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@functools.lru_cache(maxsize=32)
def _resolved(layout: Layout, patterns: tuple[tuple[str, str], ...], device: torch.device) -> list[Group]:
    """The groups that have a part in the layout."""
    members: dict[str, list[str]] = {name: [] for name, _ in patterns}
    for part in layout.shapes:
        matching = [name for name, pattern in patterns if re.fullmatch(pattern, part)]
        if len(matching) != 1:
            raise ValueError(
                f"'{part}' belongs to {' and '.join(matching) or 'none'} of the groups {', '.join(members)}: "
                "change optimizer.patterns so that every part of θ matches one of them"
            )
        members[matching[0]].append(part)
    groups = []
    for name, parts in members.items():
        if parts:
            columns = layout.select("|".join(map(re.escape, parts))).to(device)
            groups.append(Group(name, columns, Layout({part: layout.shapes[part] for part in parts})))
    return groups
