"""Parameters as one flat vector beside what a rule remembers of them: one call of the rule moves them all.

Shapes: P coordinates of all parameters together, `...` what the rule remembers of one coordinate.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.deploy.arrangement import Arrangement, Axes, beside, layout_of, local_part
from l2o.deploy.chunks import cuts, default_size
from l2o.deploy.fit import check_fit, prepared, refuse_shape
from l2o.deploy.nonfinite import NonFinite
from l2o.deploy.places import Places
from l2o.deploy.resting import KEY, Resting, is_due
from l2o.deploy.told import Numbers, Told, in_full_precision
from l2o.optimizees.layout import Axis, Cut
from l2o.optimizers.base import Scope, State, UpdateRule
from l2o.optimizers.kernels.dispatch import donated_state

copy_all = torch._foreach_copy_  # type: ignore[reportPrivateImportUsage]

MANY = 1000
"""So many chunks are made anew at each step, one after another, rather than kept."""


class Flat:
    """Some parameters θ (1, P), their gradients and a rule's state, in buffers that stay where they are.

    `entries` go into the optimizer's state, one for each parameter: its own share of the state, and what all share, as
    views of the buffers. `shared` holds what the rule remembers for all parameters together; whoever steps the rule for
    some of the parameters finds it there, and leaves it there. The state of a rule that sees all parameters at once
    may grow: it is the first parameter's entry. Every entry also says which coordinates are awake, where `resting`.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        names: Sequence[str],
        rule: UpdateRule,
        saved: Sequence[Mapping[str, Tensor]],
        shared: State,
        axes: Axes = "torch",
        resting: bool = True,
    ):
        parts = [local_part(param) for param in params]
        self.params, self.device, self.names = list(params), parts[0].device, list(names)
        self.shapes, self.param_dtypes = [param.shape for param in params], [param.dtype for param in params]
        self.shared, self.whole = shared, rule.scope is Scope.ALL
        self.rule = prepared(rule, self.device)
        axes = "as_given" if rule.scope is Scope.COORDINATE else axes  # any order of coordinates will do
        self.arrangements = [Arrangement.of(tuple(part.shape), axes) for part in parts]
        self.layout = layout_of(names, self.arrangements)
        dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts), torch.float32)
        self.dtype = next((weight.dtype for weight in self.rule.parameters()), dtype)  # the rule's own arithmetic
        self.places = Places(parts, self.arrangements, self.layout, dtype, self.rule.scope)
        self.grad = torch.empty(1, self.layout.size, dtype=self.dtype, device=self.device)
        self.grad_parts = self._shares(self.grad, Axis.COORDINATES)
        fresh = self.rule.init_state(self.places.all(parts).to(self.dtype), self.layout)
        self.axes = {key: axis for key, axis in self.rule.state_axes().items() if key in fresh}
        self.state = {key: value.clone() for key, value in fresh.items()}
        if not self.whole:
            for key, axis in self.axes.items():
                if axis is Axis.SHARED:
                    self.state[key] = shared.setdefault(key, self.state[key])
        self.resting = Resting(self.layout.size, self.device) if resting else None
        self.nonfinite, self.steps = NonFinite(self.names, self.grad_parts), 0
        self.cut_at: tuple[int, list[Cut]] | None = None
        self.entries = [dict(self.state), *({} for _ in params[1:])] if self.whole else self._entries()
        self._mark_resting()
        self.known = [dict(entry) for entry in self.entries]
        older = any(entry and KEY not in entry for entry in saved)  # all of its coordinates had moved
        for name, own, entry in zip(names, self.entries, saved, strict=True):
            self._restore(name, own, entry, older)

    def _shares(self, flat: Tensor, axis: Axis) -> list[Tensor]:
        """Each parameter's view of its own share of a flat tensor (1, n, ...)."""
        spans = [slice(0, 1)] * len(self.params) if axis is Axis.SHARED else self.layout.spans(axis).values()
        return [own.entry(flat[0, span], axis) for own, span in zip(self.arrangements, spans, strict=True)]

    def _entries(self) -> list[dict[str, Tensor]]:
        entries: list[dict[str, Tensor]] = [{} for _ in self.params]
        for key, axis in self.axes.items():
            for param, entry, share in zip(self.params, entries, self._shares(self.state[key], axis), strict=True):
                entry[key] = beside(param, share) if axis is Axis.COORDINATES else share
        return entries

    def _mark_resting(self) -> None:
        if self.resting is not None:
            shares = self._shares(self.resting.awake, Axis.COORDINATES)
            for param, entry, share in zip(self.params, self.entries, shares, strict=True):
                entry[KEY] = beside(param, share)

    def _restore(self, name: str, own: dict[str, Tensor], saved: Mapping[str, Tensor], older: bool) -> None:
        if KEY in own and (KEY in saved or older):
            awake = local_part(own[KEY])
            awake.copy_(local_part(saved[KEY])) if KEY in saved else awake.fill_(True)
        remembered = {key: value for key, value in saved.items() if key != KEY}
        if not remembered:
            return
        wanted = {key: tuple(value.shape) for key, value in own.items() if key != KEY}
        check_fit(name, {key: remembered.get(key) for key in wanted}, wanted)
        if self.whole:
            own.update(remembered)
            return
        for key in wanted:
            if self.axes[key] is not Axis.SHARED:
                local_part(own[key]).copy_(local_part(remembered[key]))

    def intact(self, state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether the optimizer's state is still this one, and the parameters are as they were.

        Somebody may have loaded, moved or cleared the state, or given a parameter another device, dtype or shape.
        """
        return all(
            (param.device, param.shape, param.dtype) == (self.device, shape, dtype)
            and state.get(param) is entry
            and all(entry.get(key) is value for key, value in known.items() if not self.whole or key == KEY)
            for param, entry, known, shape, dtype in zip(
                self.params, self.entries, self.known, self.shapes, self.param_dtypes, strict=True
            )
        )

    def refuse_other_shapes(self) -> None:
        """Raise ValueError where a parameter has another shape than when it was flattened."""
        for name, param, shape in zip(self.names, self.params, self.shapes, strict=True):
            if param.shape != shape:
                refuse_shape(name, shape, param.shape)

    def take_gradients(self, maximize: bool) -> None:
        """Take up the parameters' gradients, negated to maximise, and count those that are not finite."""
        copy_all(self.grad_parts, [local_part(param.grad) for param in self.params])  # type: ignore[arg-type]
        if maximize:
            self.grad.neg_()
        self.nonfinite.add(self.grad)

    def step(self, told: Told, numbers: Numbers) -> State:
        """After `take_gradients`, move the parameters chunk by chunk; give the next state of what all share."""
        params = [local_part(param) for param in self.params]
        self.places.begin(params)
        # What a step begins with: pieces of one tensor, in several chunks, all read the tensor's state from before.
        before = {key: value.clone() for key, value in self.state.items() if self._is_read_by_chunks(key)}
        after: State = {}
        for cut in self._cuts(numbers.chunk_size):
            with self.places.lent(cut, params) as theta:
                after = self._move(cut, theta, before, told, numbers)
        self.places.end(params)
        self.steps += 1
        if self.resting is not None and is_due(self.steps):
            self.resting.look()
        if self.whole:
            self._remember(after)
            return {}
        return after

    def _move(self, cut: Cut, theta: Tensor, before: State, told: Told, numbers: Numbers) -> State:
        """Move a chunk; give the next state of what all share, or all of it where the rule sees all parameters."""
        where = cut.coordinates
        grad, state = self.grad[:, where], self._state(cut, before)
        with donated_state(), in_full_precision(self.device):
            update, after = self.rule(told.seen(grad, theta.to(self.dtype)), state, cut.layout)
        if not self.whole:
            for key in state:
                own = self.state[key][:, cut.places[self.axes[key]]]
                if self.axes[key] is not Axis.SHARED and after[key].data_ptr() != own.data_ptr():  # not in place
                    own.copy_(after[key])
        if self.resting is not None:
            update = self.resting.masked(update, grad, where)
        numbers.apply(theta, update)
        if self.whole:
            return after
        return {key: after[key] for key in state if self.axes[key] is Axis.SHARED}

    def _cuts(self, chunk_size: int | None) -> Iterable[Cut]:
        """The chunks, as at the last step while their size is the same: rules keep constants of a layout, too."""
        size = chunk_size or default_size(self.device)
        if self.rule.scope is Scope.COORDINATE and self.layout.size > MANY * size:
            return cuts(self.layout, self.rule.scope, size)
        if self.cut_at is None or self.cut_at[0] != size:
            self.cut_at = size, [*cuts(self.layout, self.rule.scope, size, self.device.type == "cpu")]
        return self.cut_at[1]

    def _state(self, cut: Cut, before: State) -> State:
        if self.whole:  # the first entry is what the rule remembers, whoever has changed it
            return {key: value for key, value in self.entries[0].items() if key != KEY}
        own = {key: value[:, cut.places[self.axes[key]]] for key, value in (self.state | before).items()}
        return own | {key: own[key].clone() for key in before}  # a rule may overwrite what it is given

    def _is_read_by_chunks(self, key: str) -> bool:
        return not self.whole and self.axes[key] in (Axis.SHARED, Axis.TENSORS)

    def _remember(self, after: State) -> None:
        entry = self.entries[0]
        for key in entry.keys() - after.keys() - {KEY}:
            del entry[key]
        entry.update(after)
