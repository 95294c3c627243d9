"""Parameters as one flat vector beside what a rule remembers of them: one call of the rule moves them all.

Shapes: P coordinates of all parameters together, `...` what the rule remembers of one coordinate.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import UpdateRule

CHUNK_SIZE = 2**19
"""Coordinates in one call of a coordinatewise rule, by default. For each the 2×20 LSTM's C++ kernel needs some 40 bytes
of temporary memory, its GPU kernel 360 where there are several chunks (their states are copied), plain torch 2 KB."""

Shape = tuple[int, ...]

copy_all = torch._foreach_copy_  # type: ignore[reportPrivateImportUsage]


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor, sharing its memory; any other tensor is its own."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def remembered(rule: UpdateRule) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """What a coordinatewise rule remembers, name: shape. Of each coordinate, and what all of them share."""
    device = next((tensor.device for tensor in chain(rule.parameters(), rule.buffers())), None)
    probe = rule.init_state(torch.zeros(1, 2, device=device), Layout({"probe": (2,)}))
    each = {name: tuple(value.shape[2:]) for name, value in probe.items() if value.shape[1] != 1}
    return each, {name: tuple(value.shape[2:]) for name, value in probe.items() if name not in each}


def check_fit(name: str, saved: Mapping[str, Any], wanted: Mapping[str, Shape]) -> None:
    """ValueError unless a parameter's saved entry has the names and shapes that its rule wants."""
    found = {key: tuple(getattr(value, "shape", ("no tensor",))) for key, value in saved.items()}
    if found != wanted:
        raise ValueError(f"the saved state of '{name}' is of another rule or parameter: {found} instead of {wanted}")


class Flat:
    """Some parameters θ (1, P), their gradients and a rule's state, in buffers that stay where they are.

    `entries` go into the optimizer's state, one for each parameter. Those of a coordinatewise rule hold the parameter's
    own part, (*shape, ...), and what all coordinates share: views of the buffers. Another rule's state, which may grow,
    is the first parameter's entry.
    """

    def __init__(self, params: Sequence[Tensor], names: Sequence[str], rule: UpdateRule, saved: Sequence[Mapping]):
        parts = [local_part(param) for param in params]
        self.params, self.device = list(params), parts[0].device
        self.rule = _on(rule, self.device)
        self.layout = Layout({name: part.shape for name, part in zip(names, parts, strict=True)})
        dtype = functools.reduce(torch.promote_types, (part.dtype for part in parts), torch.float32)
        self.dtype = next((weight.dtype for weight in rule.parameters()), dtype)  # the rule's own arithmetic
        self.theta = torch.empty(1, self.layout.size, dtype=dtype, device=self.device)
        self.grad = torch.empty(1, self.layout.size, dtype=self.dtype, device=self.device)
        self.theta_parts, self.grad_parts = self._parts(self.theta), self._parts(self.grad)
        copy_all(self.theta_parts, parts)
        self.state = dict(self.rule.init_state(self.theta.to(self.dtype), self.layout))
        if rule.coordinatewise:
            self.state = self._buffers(self.state)
            self.shared = remembered(rule)[1].keys()
            self.entries = self._entries()
        else:
            self.shared = frozenset()
            self.entries = [self.state, *({} for _ in params[1:])]
        self.known = [dict(entry) for entry in self.entries]
        for name, own, entry in zip(names, self.entries, saved, strict=True):
            self._restore(name, own, entry)

    def _buffers(self, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies that lie in memory as the rule returns its state: it may work in place, and rounds as in `unroll`."""
        layout, probe = Layout({"probe": (2,)}), self.theta.new_zeros(1, 2, dtype=self.dtype)
        _, after = self.rule(probe, self.rule.init_state(probe, layout), probe, layout)
        formats = {
            key: torch.contiguous_format if after[key].is_contiguous() else torch.preserve_format for key in fresh
        }
        return {key: value.clone(memory_format=formats[key]) for key, value in fresh.items()}

    def _restore(self, name: str, own: dict[str, Tensor], saved: Mapping[str, Tensor]) -> None:
        if not saved:
            return
        check_fit(name, {key: saved.get(key) for key in own}, {key: tuple(value.shape) for key, value in own.items()})
        if not self.rule.coordinatewise:
            own.update(saved)
            return
        for key, value in own.items():
            local_part(value).copy_(local_part(saved[key]))

    def intact(self, state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether the optimizer's state is still this one: nobody has loaded, moved or cleared it."""
        return all(
            param.device == self.device
            and state.get(param) is entry
            and (not self.rule.coordinatewise or all(entry.get(key) is value for key, value in known.items()))
            for param, entry, known in zip(self.params, self.entries, self.known, strict=True)
        )

    def step(self, lr: float | Tensor, weight_decay: float, chunk_size: int | None) -> None:
        """θ ← (1 − lr · weight_decay) θ + lr · m(∇, h, φ), with ∇ read from the parameters."""
        params = [local_part(param) for param in self.params]
        copy_all(self.theta_parts, params)
        copy_all(self.grad_parts, [local_part(param.grad) for param in self.params])  # type: ignore[arg-type]
        after = {}
        for part in self._chunks(chunk_size):
            theta = self.theta[:, part]
            state = {key: value.clone() if key in self.shared else value[:, part] for key, value in self.state.items()}
            update, after = self.rule.advance(self.grad[:, part], state, theta.to(self.dtype), self.layout)
            for key in (state.keys() - self.shared) if self.rule.coordinatewise else ():
                if after[key].data_ptr() != state[key].data_ptr():  # not in place
                    state[key].copy_(after[key])
            theta.mul_(1 - lr * weight_decay).add_(lr * update)
        self._share(after)
        copy_all(params, self.theta_parts)

    def _share(self, after: Mapping[str, Tensor]) -> None:
        """Take over what all coordinates share, now that every chunk has read it."""
        if not self.rule.coordinatewise:
            self.state.clear()
            self.state.update(after)
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

    def _entries(self) -> list[dict[str, Tensor]]:
        return [
            {
                name: value[0, 0]
                if name in self.shared
                else _beside(param, value[0, where].view(shape + value.shape[2:]))
                for name, value in self.state.items()
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


def _on(rule: UpdateRule, device: torch.device) -> UpdateRule:
    """The rule itself where it lies on the device, else a copy there."""
    here = {tensor.device for tensor in chain(rule.parameters(), rule.buffers())} <= {device}
    return rule if here else copy.deepcopy(rule).to(device)
