"""What a learned rule sees of a gradient."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from l2o.optimizers import registry


class Preprocessing(nn.Module, ABC):
    """Turns gradients ∇ (...) into features (..., num_features), coordinate by coordinate."""

    num_features: int

    batched_phi: bool = False
    """Whether `forward` deals with parameters that have a leading axis of B tasks, as does the gradient then."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Make the class known by its name, so that exported files can name it."""
        super().__init_subclass__(**keywords)
        registry.register(cls)

    @abstractmethod
    def forward(self, grad: Tensor) -> Tensor: ...


class Identity(Preprocessing):
    """Gives the gradient itself, as for the paper's quadratics."""

    num_features = 1

    def forward(self, grad: Tensor) -> Tensor:
        return grad.unsqueeze(-1)


class Scale(Preprocessing):
    """Multiplies the gradient by a constant, which often suffices (Andrychowicz et al. 2016, section 2.1)."""

    num_features = 1

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, grad: Tensor) -> Tensor:
        return self.factor * grad.unsqueeze(-1)


class LogAndSign(Preprocessing):
    """Gives (log|∇|/p, sgn ∇) where |∇| ≥ e^−p, else (−1, e^p ∇) (Andrychowicz et al. 2016, appendix A).

    The features are defined for every float: 0 gives (−1, 0), ±inf counts as the largest finite number, and nan as 0.
    """

    num_features = 2

    def __init__(self, p: float = 10.0):
        super().__init__()
        if not p > 0:
            raise ValueError(f"log-and-sign needs p > 0, got {p}")
        self.p = p

    def constants(self, dtype: torch.dtype) -> tuple[float, float, float]:
        """Give p, e^−p, and e^p as far as the dtype goes."""
        return self.p, math.exp(-self.p), math.exp(min(self.p, math.log(torch.finfo(dtype).max)))

    def forward(self, grad: Tensor) -> Tensor:
        grad = grad.nan_to_num(nan=0.0)
        p, floor, steep = self.constants(grad.dtype)
        size = grad.abs()
        # The clamp keeps the derivative of log finite at 0, for second order. Where it acts, −1 is taken instead.
        log = size.clamp(min=torch.finfo(grad.dtype).smallest_normal).log() / p
        log = torch.where(size <= floor, -1.0, log)
        sign = (grad * steep).clamp(-1, 1)  # e^p ∇ passes ±1 just where |∇| passes e^−p
        return torch.stack((log, sign)).movedim(0, -1)  # in memory feature by feature, as the LSTM's kernel reads them
