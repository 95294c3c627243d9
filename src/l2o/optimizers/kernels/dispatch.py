"""Which compiled kernel serves the coordinatewise LSTM: C++ on a CPU, Triton on a GPU."""

from typing import Protocol

import torch
from torch import Tensor

from l2o.optimizers.kernels import lstm_cpp, lstm_triton


class Kernel(Protocol):
    """A module with the LSTM's two functions; their contract stands in `lstm_cpp`."""

    REPLAY_BYTES: int
    """The most that a chunk of a replay is to take."""

    def step(
        self,
        weights: list[Tensor],
        features: Tensor,
        hidden: list[Tensor],
        cell: list[Tensor],
        in_place: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]: ...

    def window_gradient(
        self, weights: list[Tensor], features: Tensor, hidden: list[Tensor], cell: list[Tensor], cotangent: Tensor
    ) -> list[Tensor]: ...


def kernel_for(features: Tensor, hidden_size: int) -> Kernel | None:
    """The kernel for features (…, F) of this device and dtype; None: plain torch."""
    if features.device.type == "cpu":
        served = features.dtype in (torch.float32, torch.float64)
        return lstm_cpp if served and lstm_cpp.available() else None
    return lstm_triton if lstm_triton.available(features, hidden_size) else None
