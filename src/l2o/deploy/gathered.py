"""A sharded parameter whose rule must see the whole tensor: it is gathered for the step, and its state with it.

Shapes: P coordinates of the whole parameter, `...` what the rule remembers of one coordinate.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from l2o.deploy.arrangement import Arrangement, Axes, beside, layout_of, local_part
from l2o.deploy.fit import check_fit, prepared, refuse_shape
from l2o.deploy.nonfinite import NonFinite
from l2o.deploy.resting import KEY, Resting, is_due
from l2o.deploy.told import Numbers, Told, in_full_precision
from l2o.optimizees.layout import Axis
from l2o.optimizers.base import State, UpdateRule


class Gathered:
    """One parameter of which every rank holds a shard (FSDP2), and a rule that reads statistics of the whole tensor.

    At each step the parameter, its gradient and what the rule remembers of its coordinates are gathered on every rank,
    one parameter after another; every rank computes the same update and keeps its own shard of it. Between steps only
    shards of the coordinates' state are kept. Statistics of the tensor (factored moments) are kept whole on every rank.
    """

    def __init__(
        self,
        param: Tensor,
        name: str,
        rule: UpdateRule,
        saved: Mapping[str, Tensor],
        shared: State,
        axes: Axes = "torch",
        resting: bool = True,
    ):
        self.param, self.name, self.params = param, name, [param]
        self.shape, self.device, self.param_dtype = param.shape, local_part(param).device, param.dtype
        self.rule, self.shared = prepared(rule, self.device), shared
        self.arrangement = Arrangement.of(tuple(param.shape), axes)
        self.layout = layout_of([name], [self.arrangement])
        dtype = torch.promote_types(param.dtype, torch.float32)
        self.dtype = next((weight.dtype for weight in self.rule.parameters()), dtype)
        fresh = self.rule.init_state(self._seen(param), self.layout)
        self.axes = {key: axis for key, axis in self.rule.state_axes().items() if key in fresh}
        self.state: State = {}  # of the tensor, and shared; coordinates are in the entry alone
        entry: dict[str, Tensor] = {}
        for key, axis in self.axes.items():
            value = shared.setdefault(key, fresh[key].clone()) if axis is Axis.SHARED else fresh[key].clone()
            share = self.arrangement.entry(value[0], axis)
            if axis is Axis.COORDINATES:
                share = beside(param, self._own(share))
            else:
                self.state[key] = value
            entry[key] = share
        size = local_part(param).numel()
        self.resting = Resting(size, self.device) if resting else None
        if self.resting is not None:
            entry[KEY] = beside(param, self.resting.awake.view(local_part(param).shape))
        self.entries, self.known, self.steps = [entry], [dict(entry)], 0
        self.grad = torch.empty(1, size, device=self.device, dtype=self.dtype)  # of this rank's shard
        self.nonfinite = NonFinite([name], [self.grad])
        self._restore(saved)

    def _seen(self, tensor: Tensor) -> Tensor:
        """A sharded tensor (*shape, ...) gathered, in the rule's order of axes and dtype: (1, P, ...)."""
        whole = tensor.full_tensor()  # type: ignore[reportAttributeAccessIssue]
        count = len(self.arrangement.order)
        turned = whole.permute((*self.arrangement.order, *range(count, whole.ndim)))
        return turned.reshape(1, -1, *whole.shape[count:]).to(self.dtype)

    def _own(self, whole: Tensor) -> Tensor:
        """This rank's shard of a tensor (*shape, ...) that every rank has whole."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(self.param, DTensor)
        mesh, placements = self.param.device_mesh, self.param.placements
        return distribute_tensor(whole.contiguous(), mesh, placements, src_data_rank=None).to_local()

    def _restore(self, saved: Mapping[str, Tensor]) -> None:
        if not saved:
            return
        entry = self.entries[0]
        wanted = {key: tuple(value.shape) for key, value in entry.items()}
        check_fit(self.name, {key: saved[key] for key in wanted if key in saved}, wanted)
        for key, value in entry.items():
            if key in saved and self.axes.get(key) is not Axis.SHARED:
                local_part(value).copy_(local_part(saved[key]))

    def intact(self, state: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether the optimizer's state is still this one, and the parameter is as it was."""
        entry = self.entries[0]
        same = (local_part(self.param).device, self.param.shape, self.param.dtype)
        unchanged = all(entry.get(key) is value for key, value in self.known[0].items())
        return state.get(self.param) is entry and unchanged and same == (self.device, self.shape, self.param_dtype)

    def refuse_other_shapes(self) -> None:
        """Raise ValueError where the parameter has another shape than before."""
        if self.param.shape != self.shape:
            refuse_shape(self.name, self.shape, self.param.shape)

    def take_gradients(self, maximize: bool) -> None:
        """Take up this rank's shard of the gradient, and count it where it is not finite."""
        assert self.param.grad is not None
        self.grad.copy_(local_part(self.param.grad).reshape(1, -1))
        self.nonfinite.add(self.grad)

    def step(self, told: Told, numbers: Numbers) -> State:
        """Move this rank's shard; give the next state of what all parameters share."""
        assert self.param.grad is not None
        entry, shard = self.entries[0], local_part(self.param)
        grad, theta = self._seen(self.param.grad), self._seen(self.param)
        if numbers.maximize:
            grad = -grad
        state = {
            key: self._seen(entry[key]) if axis is Axis.COORDINATES else self.state[key].clone()
            for key, axis in self.axes.items()
        }
        with in_full_precision(self.device):
            update, after = self.rule(told.seen(grad, theta), state, self.layout)
        update = self._own(self.arrangement.entry(update[0], Axis.COORDINATES))
        if self.resting is not None:
            update = self.resting.masked(update.reshape(1, -1), self.grad, slice(None)).view(shard.shape)
        moved = shard.to(torch.promote_types(shard.dtype, torch.float32))  # float32 parameters move in place
        numbers.apply(moved, update)
        shard.copy_(moved)
        for key, axis in self.axes.items():
            if axis is Axis.COORDINATES:
                local_part(entry[key]).copy_(self._own(self.arrangement.entry(after[key][0], axis)))
            elif axis is not Axis.SHARED:
                self.state[key].copy_(after[key])
        self.steps += 1
        if self.resting is not None and is_due(self.steps):
            self.resting.look()
        return {key: after[key] for key, axis in self.axes.items() if axis is Axis.SHARED}
