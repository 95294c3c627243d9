"""The meta-gradient of a window, from what was recorded of it: the update rule alone is run again, and differentiated.

Shapes: B tasks, P coordinates of one optimizee, G coordinates of a chunk, K steps of the window.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o.optimizees.layout import Axis, Cut, Layout
from l2o.optimizers.base import Part, Recording, Scope, UpdateRule, cut_state, spans_within, state_of, take

Cotangents = Callable[[list[slice]], Tensor]
"""Gives λ = ∂L/∂g_t (K, B, G) for the coordinates of some spans."""

CACHE = 2**23
"""Bytes of a chunk for a compiled kernel on a CPU, which keeps no graph: what is recorded of it stays in the cache."""

KERNEL_NUMBERS = 16
"""How many numbers a compiled kernel takes for each coordinate and step: its gradient, features, and their parts."""


class Chunk(NamedTuple):
    """Name what is replayed at a time: some coordinates of a part, for some of the tasks."""

    part: Part
    cut: Cut
    tasks: slice


def replay(rule: UpdateRule, recording: Recording, cotangents: Cotangents, budget: int) -> list[Tensor]:
    """Give Σ_t ⟨λ_t, ∂g_t/∂φ⟩, one gradient for each of `rule.parameters()`, in their order. It needs no optimizee.

    Coordinates that do not depend on each other (`Scope`) are replayed in chunks that take about `budget` bytes each;
    only a chunk's recorded gradients are ever copied, and only its λ ever made.
    """
    parameters, total = list(rule.parameters()), dict[Tensor, Tensor]()
    for part in rule.parts(recording.layout):
        served = parameters if part.rule is rule else list(part.rule.parameters())
        for chunk in chunks(part, recording, budget):
            spans = spans_within(part.spans, chunk.cut.coordinates)
            window = _recorded(chunk, spans, recording)
            gradient = window_gradient(part.rule, window, cotangents(spans)[:, chunk.tasks])
            for parameter, share in zip(served, gradient, strict=True):  # parts may have a rule in common
                total[parameter] = total[parameter] + share if parameter in total else share
    found = [total.pop(parameter) if parameter in total else torch.zeros_like(parameter) for parameter in parameters]
    assert not total, "a part has parameters that the rule has not"
    return found


def window_gradient(rule: UpdateRule, recording: Recording, cotangents: Tensor) -> list[Tensor]:
    """Replay one window at once, by the rule's kernel where it has one, else by autograd.

    In the episode's first window the rule's initial state is made anew, so that a learned one gets its gradient.
    """
    if rule.has_kernel(recording.theta):
        return rule.window_gradient(recording, cotangents)
    theta, objective = recording.theta, recording.theta.new_zeros(())
    with torch.enable_grad():
        state = recording.state if recording.step else rule.init_state(theta, recording.layout)
        for t, cotangent in enumerate(cotangents):
            update, state = rule(recording.seen(t, theta), state, recording.layout)
            theta = theta + update.detach()  # the trajectory that was recorded, without recording it
            objective = objective + (update * cotangent).sum()
    # Autograd may give parameters that are added up one tensor in common: who scales it in place would scale it twice.
    return [gradient.clone() for gradient in gradients(objective, list(rule.parameters()))]


def gradients(objective: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Give ∂objective/∂φ, with zeros for parameters that are frozen or that the objective does not depend on."""
    if not objective.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(torch.autograd.grad(objective, trained, allow_unused=True, materialize_grads=True))
    return [next(found) if parameter.requires_grad else torch.zeros_like(parameter) for parameter in parameters]


def chunks(part: Part, recording: Recording, budget: int) -> Iterator[Chunk]:
    """Share a part's coordinates and tasks out so that the replay of each share takes about `budget` bytes."""
    layout, num_tasks = part.layout, len(recording.theta)
    all_tasks = slice(0, num_tasks)
    if part.rule.scope is Scope.ALL or not layout.size:
        yield Chunk(part, layout.parts(0, len(layout.shapes)), all_tasks)
        return
    compiled = part.rule.has_kernel(recording.theta)
    if compiled and recording.theta.device.type == "cpu":
        budget = min(budget, CACHE)
    of_step = KERNEL_NUMBERS * recording.theta.element_size() if compiled else _bytes_per_step(part, recording)
    room = max(1, budget // (len(recording.grads) * of_step))  # coordinates of all tasks
    if part.rule.scope is Scope.COORDINATE:
        size = max(1, room // num_tasks)
        for start in range(0, layout.size, size):
            yield Chunk(part, _cut(layout, start, min(start + size, layout.size)), all_tasks)
        return
    for number, shape in enumerate(layout.shapes.values()):
        at_once = min(num_tasks, max(1, room // max(1, Axis.COORDINATES.size(shape))))
        for first in range(0, num_tasks, at_once):
            yield Chunk(part, layout.parts(number, number + 1), slice(first, min(first + at_once, num_tasks)))


@functools.lru_cache(maxsize=256)
def _cut(layout: Layout, start: int, stop: int) -> Cut:
    """Cut a layout, as every window of an episode cuts it anew."""
    return layout.cut(start, stop)


def _bytes_per_step(part: Part, recording: Recording) -> int:
    """Give the bytes that a replay by autograd keeps for a coordinate, task and step, measured on one step of a few."""
    layout = part.layout
    if part.rule.scope is Scope.COORDINATE:
        cut = layout.cut(0, min(64, layout.size))
    else:
        sizes = [Axis.COORDINATES.size(shape) for shape in layout.shapes.values()]
        largest = sizes.index(max(sizes))
        cut = layout.parts(largest, largest + 1)
    probe = Chunk(part, cut, slice(0, 1))
    window = _copied(_recorded(probe, spans_within(part.spans, cut.coordinates), recording))
    known = {tensor.untyped_storage().data_ptr() for tensor in part.rule.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()  # not the tensor: one that is saved by its own node would never be freed
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage

    def never(_: Any) -> Tensor:
        raise AssertionError("no backward follows")

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, never):
        part.rule(window.seen(0, window.theta), window.state, window.layout)
    numbers = sum(value.numel() for value in window.state.values()) + 3 * window.theta.numel()  # what is copied of it
    total = sum(storage.nbytes() for storage in kept.values()) + numbers * recording.theta.element_size()
    return -(-total // max(1, cut.layout.size))


def _copied(window: Recording) -> Recording:
    """Copy the window's first step into memory of its own, so that the size of its storage is its own size."""
    state = {key: value.clone() for key, value in window.state.items()}
    first = window.grads[:1].clone(), window.losses[:1].clone(), window.theta.clone()
    return window._replace(grads=first[0], losses=first[1], theta=first[2], state=state)


def _recorded(chunk: Chunk, spans: list[slice], recording: Recording) -> Recording:
    part, cut, tasks = chunk
    state = state_of(part, recording.state)
    all_of_it = [slice(0, recording.layout.size)], slice(0, len(recording.theta))
    if (spans, tasks) == all_of_it and len(cut.layout.shapes) == len(part.layout.shapes):
        return recording._replace(state=state, layout=cut.layout)  # a small problem is one chunk
    state = {key: value[tasks] for key, value in state.items()}
    if part.rule.scope is not Scope.ALL:
        state = cut_state(part.rule, state, cut)
    return recording._replace(
        grads=take(recording.grads, spans)[:, tasks],
        losses=recording.losses[:, tasks],
        theta=take(recording.theta, spans)[tasks],
        state=state,
        layout=cut.layout,
    )
