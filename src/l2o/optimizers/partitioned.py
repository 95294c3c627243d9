"""Several update rules that share θ out by the names and the kinds of its parts.

Shapes: B tasks, P coordinates, G of them in a group, K steps of a window.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import State, UpdateRule, runs_within, take
from l2o.optimizers.routing import group_of


class Group(NamedTuple):
    """What one rule serves: runs of coordinates, G in all, and the layout that they make by themselves."""

    name: str
    runs: list[slice]
    layout: Layout


class Partitioned(UpdateRule):
    """One rule for each group of θ's parts: [g_1, g_2, …] = [m_1(∇_1, h_1, φ_1), m_2(∇_2, h_2, φ_2), …].

    A part belongs to the group whose regular expression in `patterns` matches its name; where none does, its kind
    decides between convolutions' kernels and all else (`l2o.optimizers.routing.group_of`). Raises ValueError for a part
    that belongs to no group or to several. A group without a part in some layout rests there. The state of a group's
    rule is kept under "group.key"; on axis 1 it has the group's G coordinates.
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
        for group in self._groups(layout):
            own = self._rule(group.name).init_state(take(theta, group.runs), group.layout)
            state |= _prefixed(group.name, own)
        return state

    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        return self._step(grad, state, theta, layout, UpdateRule.__call__)

    def advance(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        return self._step(grad, state, theta, layout, lambda rule, *part: rule.advance(*part))

    def _step(
        self, grad: Tensor, state: State, theta: Tensor, layout: Layout, step: Callable[..., tuple[Tensor, State]]
    ) -> tuple[Tensor, State]:
        places, after = {}, {}
        for group, own in _with_state(self._groups(layout), state):
            part = take(grad, group.runs), own, take(theta, group.runs), group.layout
            update, own = step(self._rule(group.name), *part)
            sizes = [run.stop - run.start for run in group.runs]
            places |= {
                (run.start, run.stop): piece for run, piece in zip(group.runs, update.split(sizes, 1), strict=True)
            }
            after |= _prefixed(group.name, own)
        return torch.cat([places[run] for run in sorted(places)], 1), after

    def replay_in_chunks(
        self,
        grads: Tensor,
        cotangents: Callable[[Sequence[slice]], Tensor],
        state: State,
        theta: Tensor,
        layout: Layout,
        max_bytes: int,
        runs: Sequence[slice] = (slice(None),),
    ) -> list[Tensor]:
        """Group by group, each in chunks of its own and with its rule's own way to replay."""
        total = {parameter: torch.zeros_like(parameter) for parameter in self.parameters()}
        for group, own in _with_state(self._groups(layout), state):
            rule = self._rule(group.name)
            where = [inner for run in group.runs for inner in runs_within(runs, run, grads.shape[-1])]
            part = grads, cotangents, own, take(theta, group.runs), group.layout, max_bytes, where
            for parameter, share in zip(rule.parameters(), rule.replay_in_chunks(*part), strict=True):
                total[parameter] = total[parameter] + share  # groups may have a rule in common
        return list(total.values())

    def _rule(self, name: str) -> UpdateRule:
        rule = self.rules[name]
        assert isinstance(rule, UpdateRule)
        return rule

    def _groups(self, layout: Layout) -> list[Group]:
        return _resolved(layout, tuple(self.patterns.items()))


def _prefixed(name: str, state: State) -> State:
    return {f"{name}.{key}": value for key, value in state.items()}


def _with_state(groups: list[Group], state: State) -> Iterator[tuple[Group, State]]:
    for group in groups:
        prefix = f"{group.name}."
        yield group, {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@functools.lru_cache(maxsize=32)
def _resolved(layout: Layout, patterns: tuple[tuple[str, str], ...]) -> list[Group]:
    """The groups that have a part in the layout."""
    members: dict[str, list[str]] = {name: [] for name, _ in patterns}
    for part, shape in layout.shapes.items():
        members[group_of(part, len(shape), patterns)].append(part)
    return [
        Group(
            name,
            _joined([layout.slices[part] for part in parts]),
            Layout({part: layout.shapes[part] for part in parts}),
        )
        for name, parts in members.items()
        if parts
    ]


def _joined(slices: Sequence[slice]) -> list[slice]:
    """The same coordinates in as few runs as there can be."""
    runs: list[slice] = []
    for part in slices:
        if runs and runs[-1].stop == part.start:
            runs[-1] = slice(runs[-1].start, part.stop)
        elif part.start < part.stop or not runs:
            runs.append(part)
    return runs
