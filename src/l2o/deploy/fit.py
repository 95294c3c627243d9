"""Whether what an optimizer remembers fits its rule and its parameters."""

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from l2o.deploy.arrangement import Arrangement, Axes
from l2o.deploy.groups import Group, named, serving
from l2o.deploy.resting import KEY
from l2o.optimizees.layout import Layout, Shape
from l2o.optimizers.base import Scope, UpdateRule


def entry_shapes(rule: UpdateRule, param: Tensor, axes: Axes) -> dict[str, Shape]:
    """Return the shapes of what a rule remembers of a parameter, by key. Nothing is computed: the meta device tells."""
    copied = copy.deepcopy(rule).to("meta")
    own = Arrangement.of(tuple(param.shape), "as_given" if rule.scope is Scope.COORDINATE else axes)
    state = copied.init_state(torch.empty(1, param.numel(), device="meta"), Layout({"parameter": own.seen}))
    axis_of = rule.state_axes()
    return {key: own.entry_shape(axis_of[key], tuple(value.shape[2:])) for key, value in state.items()}


def check_fit(name: str, saved: Mapping[str, Any], wanted: Mapping[str, Shape]) -> None:
    """Raise ValueError unless a parameter's saved entry has the names and shapes that its rule wants.

    What says which coordinates rest may be missing: earlier versions did not write it.
    """
    found = {key: tuple(getattr(value, "shape", ("no tensor",))) for key, value in saved.items()}
    if found != {key: shape for key, shape in wanted.items() if key != KEY or key in found}:
        raise ValueError(f"the saved state of '{name}' is of another rule or parameter: {found} instead of {wanted}")


def check_shape(name: str, param: Tensor, entry: Mapping[str, Any]) -> None:
    """Raise ValueError where a parameter has another shape than its state, or than its gradient."""
    before = entry[KEY].shape if KEY in entry else param.shape
    if before != param.shape or (param.grad is not None and param.grad.shape != param.shape):
        refuse_shape(name, before if before != param.shape else param.grad.shape, param.shape)  # type: ignore[union-attr]


def refuse_shape(name: str, before: Sequence[int], now: Sequence[int]) -> NoReturn:
    """Raise the ValueError for a parameter that has another shape now."""
    raise ValueError(
        f"'{name}' has changed its shape from {tuple(before)} to {tuple(now)}, and what the optimizer remembers of it "
        "no longer fits: make a new optimizer"
    )


def saved_entries(
    groups: Sequence[Group], rules: list[UpdateRule], saved: Mapping[str, Any]
) -> dict[Tensor, dict[str, Tensor]]:
    """Return a state dict's entries by parameter, checked against the rules of the groups."""
    entries = {}
    for group, saved_group in zip(groups, saved["param_groups"], strict=False):  # torch refuses other lengths
        if "chunk_size" not in saved_group:  # Adam's lr, say, would become this optimizer's
            raise ValueError(f"the saved state is of another optimizer: its groups have {', '.join(saved_group)}")
        for (name, param), key in zip(named(group), saved_group["params"], strict=False):
            if key in saved["state"]:
                entries[param], rule = saved["state"][key], serving(group, rules, name, param)
                if rule.scope is not Scope.ALL:  # else its shapes are not known before the next step
                    wanted = entry_shapes(rule, param, group["axes"]) | {KEY: tuple(param.shape)}
                    check_fit(name, entries[param], wanted)
    return entries


def prepared(rule: UpdateRule, device: torch.device) -> UpdateRule:
    """Return the rule where it lies on the device with weights of one dtype, float32 at least; else such a copy."""
    tensors = [*rule.parameters(), *rule.buffers()]
    dtypes = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
    if {tensor.device for tensor in tensors} <= {device} and set(dtypes) <= {dtype}:
        return rule
    return copy.deepcopy(rule).to(device, dtype)
