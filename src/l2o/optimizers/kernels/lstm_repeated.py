"""The compiled LSTM's step on one state again and again: what was checked at its first step is not checked anew.

On small problems the checks took half as long as the steps. Within a window only the gradient and the output move.

Legend: B tasks, P coordinates, N = B·P, H hidden units, L layers.
"""

import weakref

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
    ):
        self.call, self.log_and_sign, self.threads = call, log_and_sign, torch.get_num_threads()
        held = [*weights, *state]
        self.known = [weakref.ref(tensor) for tensor in held]
        self.places = [tensor.data_ptr() for tensor in held]
        self.shape, self.dtype = grad.shape, grad.dtype
        self.grad_at, self.out_at = len(weights), len(held) + 1

    def fits(self, held: list[Tensor], grad: Tensor, log_and_sign: LogAndSign | None) -> bool:
        """Say whether a step is the same but for the numbers in its tensors."""
        return (
            grad.shape == self.shape
            and grad.dtype == self.dtype
            and grad.is_contiguous()
            and log_and_sign == self.log_and_sign
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


def again(weights: list[Tensor], grad: Tensor, state: list[Tensor], log_and_sign: LogAndSign | None) -> Tensor | None:
    """Do a step in place as one before. Give the output (B, P), or None where there was none like it.

    `weights` are those of `lstm_cpp`, shared by all tasks, and `state` are hidden states and cells, (B, P, H).
    """
    found = _repeated.get(state[0].data_ptr())
    if found is None or not lstm_cpp.available() or not found.fits([*weights, *state], grad, log_and_sign):
        return None
    return found(grad)


def remember(
    weights: list[Tensor],
    grad: Tensor,
    state: list[Tensor],
    features: Tensor,
    rows: list[Tensor],
    log_and_sign: LogAndSign | None,
) -> None:
    """Let a step that was done in place be done `again`, if the kernel reads all of its tensors where they lie.

    `features` and `rows` are gradient and state as `lstm_cpp.step` takes them.
    """
    layers = len(rows) // 2
    places = [tensor.data_ptr() for tensor in (*weights, grad, *state)]
    call, _, new = lstm_cpp.prepared_step(weights, features, rows[:layers], rows[layers:], True, log_and_sign)
    read = [tensor.data_ptr() for tensor in call.tensors[: len(places)]]
    if new is not None or read != places or not grad.is_contiguous():
        return
    call.tensors = []
    while len(_repeated) >= MOST:
        del _repeated[next(iter(_repeated))]
    _repeated[state[0].data_ptr()] = Repeated(call, weights, state, grad, log_and_sign)
