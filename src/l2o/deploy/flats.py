"""All that an optimizer moves: its groups' parameters, flattened for as long as the same ones have a gradient."""

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from l2o.deploy.chunks import ALONE
from l2o.deploy.cohorts import gathers, together
from l2o.deploy.fit import check_shape
from l2o.deploy.flat import Flat
from l2o.deploy.gathered import Gathered
from l2o.deploy.groups import Group, adopt, check_values, named, serving, titles_of
from l2o.optimizees.layout import Axis
from l2o.optimizers.base import Scope, State, UpdateRule

Moved = Flat | Gathered
"""Some parameters that one call of a rule moves, or one for each chunk."""

Entries = MutableMapping[Tensor, dict[str, Any]]
"""An optimizer's state: what is remembered of each parameter."""

Counts = dict[tuple[int, str], int]
"""Numbers of steps by a group's index and a parameter's name in it."""

DECIDING = ("rule", "horizon", "axes", "resting", "patterns")
"""What a group's parameters are flattened by, beside which of them have a gradient."""


class Flats:
    """What was flattened at the last step, by group; and what rules remember for all of their parameters together.

    All of it is derived from the optimizer's state, and can be dropped at any time.
    """

    def __init__(self) -> None:
        self._flats: dict[int, tuple[Any, list[Moved]]] = {}  # by group: which parameters, and what was flattened
        self._decided: list[Any] = []  # by group: what has decided how
        self._shared: dict[Any, dict[torch.device, State]] = {}  # by rule and horizon, alike on every device
        self._counted: Counts = {}  # gradients that were not finite, in flats that are no more

    def of(self, groups: list[Group], rules: list[UpdateRule], state: Entries) -> list[list[Moved]]:
        """Every group's parameters that have a gradient now, flattened; as before while those are the same."""
        for group in groups:  # anybody may have written into it
            check_values(group, adopt(group, rules), fresh=False)
        decided = [[group[name] for name in DECIDING] for group in groups]
        unchanged = all(flat.intact(state) for _, flats in self._flats.values() for flat in flats)
        if decided != self._decided or not unchanged:
            for index in [*self._flats]:
                self._retire(index)
            self._shared.clear()  # it is read anew: somebody has changed the state, or who shares it with whom
            self._decided = decided
        return [self._of(index, groups, rules, state) for index in range(len(groups))]

    def _of(self, index: int, groups: list[Group], rules: list[UpdateRule], state: Entries) -> list[Moved]:
        group = groups[index]
        present = {name: param for name, param in named(group) if param.grad is not None}
        for name, param in present.items():
            if param.grad is not None and param.grad.layout != torch.strided:
                raise ValueError(f"the gradient of '{name}' is sparse: use a dense one (sparse=False in nn.Embedding)")
            if param.is_meta:
                raise ValueError(
                    f"'{name}' is on the device 'meta', which holds no numbers: give the model its weights first"
                )
        key = [id(param) for param in present.values()]
        known, flats = self._flats.get(index, (None, []))
        if key != known:
            self._retire(index)
            for name, param in present.items():
                check_shape(name, param, state.get(param, {}))
            cohorts = together(group, rules, present, state)
            flats = [self._flatten(group, groups, rules, state, rule, params) for rule, params in cohorts]
            self._flats[index] = key, flats
        return flats

    def share(self, after: Iterable[tuple[Moved, State]]) -> None:
        """Take over the next state of what parameters share. All whom a rule serves have computed the same."""
        for flat, shared in after:
            if not shared:
                continue
            for copies in self._shared.values():
                if any(own is flat.shared for own in copies.values()):
                    for own in copies.values():  # of devices where nothing has a gradient now, too
                        for key, value in shared.items():
                            own[key].copy_(value)

    def nonfinite_gradients(self, groups: list[Group]) -> dict[str, int]:
        """At how many steps a parameter's gradient was not finite, by the titles of those parameters."""
        total = dict(self._counted)
        for index, (_, flats) in self._flats.items():
            _add(total, index, flats)
        titles = titles_of(groups)
        return {titles.get(place, place[1]): count for place, count in total.items()}

    def _retire(self, index: int) -> None:
        """Drop a group's flat buffers, but not what they have counted."""
        for flat in (flats := self._flats.pop(index, ([], []))[1]):
            flat.refuse_other_shapes()
        _add(self._counted, index, flats)

    def _flatten(
        self,
        group: Group,
        groups: list[Group],
        rules: list[UpdateRule],
        state: Entries,
        rule: UpdateRule,
        params: Mapping[str, Tensor],
    ) -> Moved:
        device = next(iter(params.values())).device
        if rule.scope is Scope.TENSOR:  # large ones first, so that the small ones are neighbours and make one chunk
            params = dict(sorted(params.items(), key=lambda item: item[1].numel() < ALONE))
        copies = self._shared.setdefault((id(rule), group["horizon"]), {})
        if device not in copies:
            alike = [other for other in groups if other["horizon"] == group["horizon"]]
            served = [(g, name, param) for g in alike for name, param in named(g) if param in state]
            own = [param for g, name, param in served if serving(g, rules, name, param) is rule]
            copies[device] = _shared(rule, {param: state[param] for param in own}, device)
        saved = [state.get(param, {}) for param in params.values()]
        given = copies[device], group["axes"], group["resting"]
        if any(gathers(rule, param) for param in params.values()):
            ((name, param),) = params.items()
            flat: Moved = Gathered(param, name, rule, saved[0], *given)
        else:
            flat = Flat(list(params.values()), list(params), rule, saved, *given)
        state.update(zip(flat.params, flat.entries, strict=True))
        return flat


def _shared(rule: UpdateRule, entries: Mapping[Tensor, dict[str, Any]], device: torch.device) -> State:
    """What a rule remembers for some parameters together, read from the first.

    The entries of those on the device then show the same tensors. Empty where no parameter has a state yet.
    """
    names = [name for name, axis in rule.state_axes().items() if axis is Axis.SHARED]
    having = {param: entry for param, entry in entries.items() if all(name in entry for name in names)}
    if not having:
        return {}
    first = next(iter(having.values()))
    shared = {name: first[name].to(device, copy=True)[None, None] for name in names}
    for param, entry in having.items():
        if param.device == device:
            entry.update({name: value[0, 0] for name, value in shared.items()})
    return shared


def _add(total: Counts, index: int, flats: Iterable[Moved]) -> None:
    for flat in flats:
        for name, count in flat.nonfinite.counts().items():
            total[index, name] = total.get((index, name), 0) + count
