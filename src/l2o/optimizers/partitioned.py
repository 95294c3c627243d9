"""Several update rules that share θ out by the names and the kinds of its parts.

Shapes: B tasks, P coordinates, G of them in a group, K steps of a window.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.base import (
    Observation,
    Part,
    Scope,
    State,
    UpdateRule,
    is_called_plainly,
    spans_within,
    state_of,
    take,
)
from l2o.optimizers.routing import group_of


class Group(NamedTuple):
    """Name what one rule serves: spans of coordinates, G in all, and the layout that these make by themselves."""

    name: str
    spans: list[slice]
    layout: Layout


class Partitioned(UpdateRule):
    """Has a rule for each group of θ's parts: [g_1, g_2, …] = [m_1(∇_1, h_1, φ_1), m_2(∇_2, h_2, φ_2), …].

    A part belongs to the group whose regular expression in `patterns` matches its name; where none does, its kind
    decides between convolutions' kernels and all else (`l2o.optimizers.routing.group_of`). Raises ValueError for a part
    that belongs to no group or to several. A group that has no part in a layout does nothing there. The state of a
    group's rule is kept under "group.key"; its axis 1 belongs to the group's G coordinates.
    """

    batched_phi = True  # it has no parameters beside those of its rules

    def __init__(self, rules: Mapping[str, UpdateRule], patterns: Mapping[str, str]):
        super().__init__()
        if not rules or set(rules) != set(patterns) or "class" in rules:  # an exported rule's own word
            raise ValueError(f"every group, not named class, needs a rule and a pattern: {[*rules]}, {[*patterns]}")
        for pattern in patterns.values():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
        self.rules, self.patterns = nn.ModuleDict(rules), dict(patterns)
        self.scope = max((rule.scope for rule in rules.values()), key=[*Scope].index)
        self.needs = frozenset().union(*(rule.needs for rule in rules.values()))

    @property
    def label(self) -> str:
        return " + ".join(dict.fromkeys(self._rule(name).label for name in self.rules))

    def parts(self, layout: Layout) -> list[Part]:
        """Give a part for each group that θ has in this layout. Groups inside groups are parts of their own."""
        found = []
        for group in self._groups(layout):
            for part in self._rule(group.name).parts(group.layout):
                spans = [inner for span in part.spans for inner in spans_within(group.spans, span)]
                found.append(part._replace(prefix=f"{group.name}.{part.prefix}", spans=spans))
        return found

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        state: State = {}
        for part in self.parts(layout):
            own = part.rule.init_state(take(theta, part.spans), part.layout)
            state |= {part.prefix + key: value for key, value in own.items()}
        return state

    def state_axes(self) -> dict[str, Axis]:
        """Say what the second axis of each rule's state counts, within that rule's own share of θ."""
        rules = {name: self._rule(name) for name in self.rules}
        return {f"{name}.{key}": axis for name, rule in rules.items() for key, axis in rule.state_axes().items()}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        parts, updates, after = self.parts(layout), [], {}
        for part in parts:
            own = seen._replace(grad=take(seen.grad, part.spans), theta=take(seen.theta, part.spans))
            update, new = part.rule(own, state_of(part, state), part.layout)
            updates.append(update)
            after |= {part.prefix + key: value for key, value in new.items()}
        return _in_place(parts, updates), after

    def stepper(self, state: State, layout: Layout) -> tuple[Callable[[Tensor], Tensor], State] | None:
        parts = self.parts(layout)
        found = [part.rule.stepper(state_of(part, state), part.layout) for part in parts]
        served = [(part, *stepper) for part, stepper in zip(parts, found, strict=True) if stepper is not None]
        if len(served) < len(parts) or not parts or not is_called_plainly(self, Partitioned):
            return None
        after = {part.prefix + key: value for part, _, own in served for key, value in own.items()}
        return lambda grad: _in_place(parts, [step(take(grad, part.spans)) for part, step, _ in served]), after

    def _rule(self, name: str) -> UpdateRule:
        rule = self.rules[name]
        assert isinstance(rule, UpdateRule)
        return rule

    def _groups(self, layout: Layout) -> list[Group]:
        return _resolved(layout, tuple(self.patterns.items()))


def _in_place(parts: Sequence[Part], updates: Sequence[Tensor]) -> Tensor:
    """Put the updates (B, G) of all parts where their coordinates are: (B, P)."""
    places = {}
    for part, update in zip(parts, updates, strict=True):
        pieces = update.split([span.stop - span.start for span in part.spans], 1)
        places |= {(span.start, span.stop): piece for span, piece in zip(part.spans, pieces, strict=True)}
    return torch.cat([places[span] for span in sorted(places)], 1)


@functools.lru_cache(maxsize=32)
def _resolved(layout: Layout, patterns: tuple[tuple[str, str], ...]) -> list[Group]:
    """Return the groups that have a part in the layout."""
    members: dict[str, list[str]] = {name: [] for name, _ in patterns}
    for part, shape in layout.shapes.items():
        members[group_of(part, len(shape), patterns)].append(part)
    return [
        Group(
            name,
            _joined([layout.slices[part] for part in parts]),
            layout.of(parts),
        )
        for name, parts in members.items()
        if parts
    ]


def _joined(slices: Sequence[slice]) -> list[slice]:
    """Return the same coordinates in as few runs as possible."""
    runs: list[slice] = []
    for part in slices:
        if runs and runs[-1].stop == part.start:
            runs[-1] = slice(runs[-1].start, part.stop)
        elif part.start < part.stop or not runs:
            runs.append(part)
    return runs
