"""Which implementation of the coordinatewise LSTM serves some tensors: C++ on a CPU, Triton on a GPU, else plain torch.

Legend: N coordinates (all tasks'), F features of a coordinate, H hidden units, L layers, K steps of a window.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from l2o.optimizers.kernels import lstm_cpp, lstm_steps, lstm_torch, lstm_triton
from l2o.optimizers.kernels.lstm_arguments import LogAndSign

_donated: ContextVar[bool] = ContextVar("donated", default=False)
_compiled: ContextVar[bool] = ContextVar("compiled", default=True)


class Kernel(Protocol):
    """A module with the LSTM's two functions, whose contract stands in `lstm_cpp`. All implementations agree."""

    def step(
        self,
        weights: list[Tensor],
        features: Tensor,
        hidden: list[Tensor],
        cell: list[Tensor],
        in_place: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]: ...

    def window_gradient(
        self,
        weights: list[Tensor],
        features: Tensor,
        hidden: list[Tensor],
        cell: list[Tensor],
        cotangent: Tensor,
        *,
        scale: float = 1.0,
    ) -> list[Tensor]: ...


class donated_state:  # a class, because it is entered at every step, and `contextmanager` takes twice as long
    """Let kernels overwrite the state that a rule is given within this block: its owner needs the old one no more."""

    def __init__(self, donate: bool = True):
        self.donate = donate

    def __enter__(self) -> None:
        self.token = _donated.set(self.donate)

    def __exit__(self, *_: object) -> None:
        _donated.reset(self.token)


@contextmanager
def without_kernels() -> Iterator[None]:
    """Leave everything to plain torch within this block, as `torch.func.vmap` needs it: a kernel reads bare memory."""
    token = _compiled.set(False)
    try:
        yield
    finally:
        _compiled.reset(token)


def is_donated() -> bool:
    """Say whether kernels may overwrite the state that they are given."""
    return _donated.get()


def step(
    weights: list[Tensor],
    features: Tensor,
    hidden: list[Tensor],
    cell: list[Tensor],
    log_and_sign: LogAndSign | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Do one step of the LSTM and its head: features (N, F), states L × (N, H) -> out (N,), new states.

    Where any weight has a leading axis of B tasks, every task has weights of its own (`lstm_cpp`). With `log_and_sign`,
    which is allowed where `takes_log_and_sign` says so, `features` are gradients (N, 1).
    """
    kernel = torch_kernel if torch.is_grad_enabled() else compiled_kernel(features, hidden) or torch_kernel
    weights, several = _of_each_task(weights)
    kernel = torch_kernel if several and kernel is lstm_triton else kernel
    if log_and_sign is None:
        return kernel.step(weights, features, hidden, cell, is_donated())
    assert kernel is lstm_cpp
    return lstm_cpp.step(weights, features, hidden, cell, is_donated(), log_and_sign)


def stepper(
    weights: list[Tensor], state: list[Tensor], log_and_sign: LogAndSign | None, scale: float
) -> tuple[Callable[[Tensor], Tensor], list[Tensor]] | None:
    """Give what `lstm_steps.stepper` gives, or None where another kernel than the one in C++ has to do the steps."""
    if torch.is_grad_enabled() or compiled_kernel(state[0], state) is not lstm_cpp:
        return None
    return lstm_steps.stepper(_of_each_task(weights)[0], state, log_and_sign, scale)


def _of_each_task(weights: list[Tensor]) -> tuple[list[Tensor], bool]:
    """Return the weights, those of every task where tasks have weights of their own, and whether that is so."""
    tasks = _tasks(weights)
    if tasks is None:
        return weights, False
    return [w if w.ndim == axes + 1 else w.expand(tasks, *w.shape) for w, axes in _with_axes(weights)], True


def _tasks(weights: list[Tensor]) -> int | None:
    """Return for how many tasks there are weights; None where all tasks have the same ones."""
    if [weight.ndim for weight in weights] == [2, 2, 1, 1] * (len(weights) // 4) + [2, 1]:
        return None
    return next((len(weight) for weight, axes in _with_axes(weights) if weight.ndim > axes), None)


def _with_axes(weights: list[Tensor]) -> Iterator[tuple[Tensor, int]]:
    """Yield every weight with the number of axes that it has for a single task: a layer's are two matrices, then two
    biases, and the head has one matrix and one bias."""
    axes = [2, 2, 1, 1] * (len(weights) // 4) + [2, 1]
    return zip(weights, axes, strict=True)


def compiled_kernel(features: Tensor, hidden: list[Tensor]) -> Kernel | None:
    """The compiled kernel for features (…, F) and states (N, H) of their device and dtype, if there is one."""
    if not hidden or not _compiled.get():
        return None
    if features.device.type == "cpu":
        served = features.dtype in (torch.float32, torch.float64)
        return lstm_cpp if served and lstm_cpp.available() else None
    return lstm_triton if lstm_triton.available(features, hidden[0].shape[-1]) else None


def takes_log_and_sign(grad: Tensor, hidden: list[Tensor]) -> bool:
    """Say whether the kernel for such gradients and states (N, H) makes the features of log-and-sign itself."""
    return not torch.is_grad_enabled() and compiled_kernel(grad, hidden) is lstm_cpp


torch_kernel: Kernel = lstm_torch
