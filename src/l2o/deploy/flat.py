"""Parameters as one flat vector beside what a rule remembers of them: one call of the rule moves them all.

Shapes: P coordinates of all parameters together, `...` what the rule remembers of one coordinate.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from l2o.deploy.fit import check_fit, prepared, refuse_shape, remembered
from l2o.deploy.nonfinite import NonFinite
from l2o.deploy.resting import KEY, Resting, is_due
from l2o.optimizees.layout import Layout
from l2o.optimizers.base import UpdateRule

CHUNK_SIZE = 2**19
"""Coordinates in one call of a coordinatewise rule, by default. For each the 2×20 LSTM's C++ kernel needs some 40 bytes
of temporary memory, its GPU kernel 360 where there are several chunks (their states are copied), plain torch 2 KB."""

copy_all = torch._foreach_copy_  # type: ignore[reportPrivateImportUsage]


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor, sharing its memory; any other tensor is its own."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


class Flat:
    """Some parameters θ (1, P), their gradients and a rule's state, in buffers that stay where they are.

    `entries` go into the optimizer's state, one for each parameter. Those of a coordinatewise rule hold the parameter's
    own part, (*shape, ...), and what all coordinates share: views of the buffers. Another rule's state, which may grow,
    is the first parameter's entry. Every entry also says which of its coordinates are awake, where `resting`.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        names: Sequence[str],
        rule: UpdateRule,
        saved: Sequence[Mapping],
        resting: bool = True,
    ):
        parts = [local_part(param) for param in params]
        self.params, self.device, self.names = list(params), parts[0].device, list(names)
        self.shapes, self.param_dtypes = [param.shape for param in params], [param.dtype for param in params]
        self.rule = prepared(rule, self.device)
        self.layout = Layout({name: part.shape for name, part in zip(names, parts, strict=True)})
        dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts), torch.float32)
        self.dtype = next((weight.dtype for weight in self.rule.parameters()), dtype)  # the rule's own arithmetic
        self.theta = torch.empty(1, self.layout.size, dtype=dtype, device=self.device)
        self.grad = torch.empty(1, self.layout.size, dtype=self.dtype, device=self.device)
        self.theta_parts, self.grad_parts = self._parts(self.theta), self._parts(self.grad)
        copy_all(self.theta_parts, parts)
        self.state = dict(self.rule.init_state(self.theta.to(self.dtype), self.layout))
        self.resting = Resting(self.layout.size, self.device) if resting else None
        self.nonfinite, self.steps = NonFinite(self.names, self.grad_parts), 0
        if rule.coordinatewise:
            self.state = self._buffers(self.state)
            self.shared = remembered(rule)[1].keys()
            self.entries = self._entries(self.state)
        else:
            self.shared = frozenset()
            self.entries = [dict(self.state), *({} for _ in params[1:])]
        if self.resting is not None:
            for entry, mark in zip(self.entries, self._entries({KEY: self.resting.awake}), strict=True):
                entry |= mark
        self.known = [dict(entry) for entry in self.entries]
        older = any(entry and KEY not in entry for entry in saved)  # all of its coordinates had moved
        for name, own, entry in zip(names, self.entries, saved, strict=True):
            self._restore(name, own, entry, older)

    def _buffers(self, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies that lie in memory as the rule returns its state: it may work in place, and rounds as in `unroll`."""
        layout, probe = Layout({"probe": (2,)}), self.theta.new_zeros(1, 2, dtype=self.dtype)
        _, after = self.rule(probe, self.rule.init_state(probe, layout), probe, layout)
        formats = {
            key: torch.contiguous_format if after[key].is_contiguous() else torch.preserve_format for key in fresh
        }
        return {key: value.clone(memory_format=formats[key]) for key, value in fresh.items()}

    def _restore(self, name: str, own: dict[str, Tensor], saved: Mapping[str, Tensor], older: bool) -> None:
        if KEY in own and (KEY in saved or older):
            awake = local_part(own[KEY])
            awake.copy_(local_part(saved[KEY])) if KEY in saved else awake.fill_(True)
        remembered_ = {key: value for key, value in saved.items() if key != KEY}
        if not remembered_:
            return
        wanted = {key: tuple(value.shape) for key, value in own.items() if key != KEY}
        check_fit(name, {key: remembered_.get(key) for key in wanted}, wanted)
        if not self.rule.coordinatewise:
            own.update(remembered_)
            return
        for key in wanted:
            local_part(own[key]).copy_(local_part(remembered_[key]))

    def intact(self, state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether the optimizer's state is still this one, and the parameters are as they were.

        Somebody may have loaded, moved or cleared the state, or given a parameter another device, dtype or shape.
        """
        return all(
            (param.device, param.shape, param.dtype) == (self.device, shape, dtype)
            and state.get(param) is entry
            and all(entry.get(key) is value for key, value in known.items() if self.rule.coordinatewise or key == KEY)
            for param, entry, known, shape, dtype in zip(
                self.params, self.entries, self.known, self.shapes, self.param_dtypes, strict=True
            )
        )

    def refuse_other_shapes(self) -> None:
        """Raise ValueError where a parameter has another shape than when it was flattened."""
        for name, param, shape in zip(self.names, self.params, self.shapes, strict=True):
            if param.shape != shape:
                refuse_shape(name, shape, param.shape)

    @property
    def may_have_nonfinite(self) -> bool:
        """Whether to ask for the counts of gradients that are not finite: always known on a CPU, else now and then."""
        return self.nonfinite.found or (self.device.type != "cpu" and is_due(self.steps))

    def step(self, lr: float | Tensor, weight_decay: float, chunk_size: int | None, maximize: bool = False) -> None:
        """θ ← (1 − lr · weight_decay) θ + lr · m(∇, h, φ), with ∇, or −∇ to maximize, read from the parameters."""
        params = [local_part(param) for param in self.params]
        copy_all(self.theta_parts, params)
        copy_all(self.grad_parts, [local_part(param.grad) for param in self.params])  # type: ignore[arg-type]
        if maximize:
            self.grad.neg_()
        self.nonfinite.add(self.grad)
        if not self.rule.coordinatewise:  # its entry is what it remembers, whoever has changed it
            self.state = {key: value for key, value in self.entries[0].items() if key != KEY}
        after = {}
        for part in self._chunks(chunk_size):
            theta, grad = self.theta[:, part], self.grad[:, part]
            state = {key: value.clone() if key in self.shared else value[:, part] for key, value in self.state.items()}
            update, after = self.rule.advance(grad, state, theta.to(self.dtype), self.layout)
            for key in (state.keys() - self.shared) if self.rule.coordinatewise else ():
                if after[key].data_ptr() != state[key].data_ptr():  # not in place
                    state[key].copy_(after[key])
            if self.resting is not None:
                update = self.resting.masked(update, grad, part)
            theta.mul_(1 - lr * weight_decay).add_(lr * update)
        self._share(after)
        copy_all(params, self.theta_parts)
        self.steps += 1
        if self.resting is not None and is_due(self.steps):
            self.resting.look()

    def _share(self, after: Mapping[str, Tensor]) -> None:
        """Take over what all coordinates share, now that every chunk has read it."""
        if not self.rule.coordinatewise:
            entry = self.entries[0]
            for key in entry.keys() - after.keys() - {KEY}:
                del entry[key]
            entry.update(after)
            return
        for key in self.shared & after.keys():
            self.state[key].copy_(after[key])

    def _chunks(self, chunk_size: int | None) -> list[slice]:
        if not self.rule.coordinatewise:
            return [slice(None)]
        size = chunk_size or CHUNK_SIZE
        return [slice(start, start + size) for start in range(0, self.layout.size, size)]

    def _parts(self, flat: Tensor) -> list[Tensor]:
        return list(self.layout.unravel(flat[0]).values())

    def _entries(self, state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Each parameter's part of a state (1, P, ...), as views (*shape, ...)."""
        return [
            {
                name: value[0, 0]
                if name in self.shared
                else _beside(param, value[0, where].view(shape + value.shape[2:]))
                for name, value in state.items()
            }
            for param, where, shape in zip(
                self.params, self.layout.slices.values(), self.layout.shapes.values(), strict=True
            )
        ]


def _beside(param: Tensor, part: Tensor) -> Tensor:
    """A shard's state as a DTensor (*shape, ...) that is cut like its parameter: checkpoints then reshard it."""
    if not hasattr(param, "to_local"):
        return part
    from torch.distributed.tensor import DTensor  # slow to import, and there where a parameter is one

    assert isinstance(param, DTensor)
    whole = torch.empty(*param.shape, *part.shape[param.ndim :], device="meta")
    return DTensor.from_local(
        part, param.device_mesh, param.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )
