"""The compiled LSTM's step on one state again and again: what was checked at its first step is not checked anew.

On small problems the checks took half as long as the steps. Within a window only the gradient and the output move.

Legend: B tasks, P coordinates, N = B·P, H hidden units, L layers.
"""

import weakref
from typing import Any

import torch
from torch import Tensor

from l2o.optimizers.kernels import lstm_cpp
from l2o.optimizers.kernels.lstm_arguments import LogAndSign

MOST = 16
"""So many states are known at a time: those of the windows that are under way, one for each LSTM in a rule."""


class Repeated:
    """A step in place, for weights and a state that still lie where they lay at another step. It keeps none of them."""

    def __init__(
        self,
        call: lstm_cpp.Call,
        weights: list[Tensor],
        state: list[Tensor],
        grad: Tensor,
        log_and_sign: LogAndSign | None,
        scale: float,
    ):
        self.call, self.threads = call, torch.get_num_threads()
        self.log_and_sign, self.scale = log_and_sign, scale
        held = [*weights, *state]
        self.known = [weakref.ref(tensor) for tensor in held]
        self.places = [tensor.data_ptr() for tensor in held]
        self.shape, self.dtype = grad.shape, grad.dtype
        self.grad_at, self.out_at = len(weights), len(held) + 1

    def fits(self, held: list[Tensor], grad: Tensor, log_and_sign: LogAndSign | None, scale: float) -> bool:
        """Say whether a step is the same but for the numbers in its tensors."""
        return (
            grad.shape == self.shape
            and grad.dtype == self.dtype
            and grad.is_cpu
            and grad.is_contiguous()
            and log_and_sign == self.log_and_sign
            and scale == self.scale
            and torch.get_num_threads() == self.threads
            and all(reference() is tensor for reference, tensor in zip(self.known, held, strict=True))
            and [tensor.data_ptr() for tensor in held] == self.places
        )

    def __call__(self, grad: Tensor) -> Tensor:
        """Do the step, for a gradient (B, P). Give the output (B, P)."""
        out = torch.empty_like(grad)
        self.call.pointers[self.grad_at], self.call.pointers[self.out_at] = grad.data_ptr(), out.data_ptr()
        self.call()
        return out


_repeated: dict[int, Repeated] = {}

_met: dict[int, weakref.ref[Tensor]] = {}
"""States that a step has left. `LearnedOptimizer` makes its views anew at every step: none is ever met again."""


def known(
    weights: list[Tensor], grad: Tensor, state: list[Tensor], log_and_sign: LogAndSign | None, scale: float
) -> Repeated | None:
    """Find the step on this state that was done before, or None where there was none like it.

    `weights` are those of `lstm_cpp`, shared by all tasks, and `state` are hidden states and cells, (B, P, H).
    """
    found = _repeated.get(state[0].data_ptr())
    fits = found is not None and lstm_cpp.available() and found.fits([*weights, *state], grad, log_and_sign, scale)
    return found if fits else None


def is_met(state: list[Tensor]) -> bool:
    """Say whether a step has left this very state, which is then likely to be met at every step of a window."""
    met = _met.get(state[0].data_ptr())
    return met is not None and met() is state[0]


def note(state: list[Tensor]) -> None:
    """Take note of a state that a step has left."""
    _keep(_met, state[0].data_ptr(), weakref.ref(state[0]))


def remember(
    weights: list[Tensor], grad: Tensor, state: list[Tensor], log_and_sign: LogAndSign | None, scale: float
) -> Repeated | None:
    """Check a step in place, and keep it. Give None where the kernel would not read all tensors where they lie."""
    if not grad.is_contiguous():
        return None
    layers, rows = len(state) // 2, [part.flatten(0, 1) for part in state]
    places = [tensor.data_ptr() for tensor in (*weights, grad, *state)]
    features = grad.reshape(-1, 1)
    call, _, new = lstm_cpp.prepared_step(weights, features, rows[:layers], rows[layers:], True, log_and_sign, scale)
    read = [tensor.data_ptr() for tensor in call.tensors[: len(places)]]
    if new is not None or read != places:
        return None
    call.tensors = []
    found = Repeated(call, weights, state, grad, log_and_sign, scale)
    _keep(_repeated, state[0].data_ptr(), found)
    return found


def _keep(known: dict[int, Any], place: int, value: Any) -> None:
    """Keep what is known of a place, and forget the oldest where there is too much. Threads may do so at one time."""
    known.pop(place, None)
    for oldest in [*known][: 1 - MOST]:
        known.pop(oldest, None)
    known[place] = value
