"""One step of the compiled LSTM after another, on one state: what all of them have in common is checked once.

On small problems the checks took as long as the steps. From step to step only the gradient and the output move.

Legend: B tasks, P coordinates, N = B·P, H hidden units, L layers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from l2o.optimizers.kernels import lstm_cpp
from l2o.optimizers.kernels.lstm_arguments import LogAndSign


def stepper(
    weights: list[Tensor], state: list[Tensor], log_and_sign: LogAndSign | None, scale: float
) -> tuple[Callable[[Tensor], Tensor], list[Tensor]] | None:
    """Give a function that does the next step, ∇ (B, P) -> `scale` times the output (B, P), and the state it moves on.

    `weights` are those of `lstm_cpp`, and `state` are L hidden states and L cells, (B, P, H). They stay as they are;
    the state that is returned is the one after the last step, once there was one. None stands for a state that
    the kernel reads where it lies, but in another order than that of the next one, such as a share of a larger state.
    Raises what `lstm_cpp.prepared_step` raises; the function raises ValueError for another kind of gradient.
    """
    shape, dtype, layers = state[0].shape[:2], state[0].dtype, len(state) // 2
    rows = [part.flatten(0, 1) for part in state]
    features = rows[0].new_empty(len(rows[0]), 1)
    call, _, new = lstm_cpp.prepared_step(weights, features, rows[:layers], rows[layers:], False, log_and_sign, scale)
    assert new is not None
    out_at = len(call.tensors) - len(state) - 1
    first = out_at - len(state)
    if call.tensors[first].stride() != new[0].stride():
        return None
    pointers, places = call.pointers, [part.data_ptr() for part in new]

    def step(grad: Tensor) -> Tensor:
        if grad.shape != shape or grad.dtype != dtype or not grad.is_cpu:
            told = f"{tuple(grad.shape)} of {grad.dtype} on {grad.device}"
            raise ValueError(f"expected gradients {tuple(shape)} of {dtype} on the CPU, got {told}")
        grad = grad.contiguous()
        out = torch.empty_like(grad)
        pointers[first - 1], pointers[out_at] = grad.data_ptr(), out.data_ptr()
        call()
        pointers[first:out_at] = places  # from now on in place
        return out

    return step, [part.view(*shape, part.shape[1]) for part in new]
