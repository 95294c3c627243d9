"""The coordinatewise LSTM (Andrychowicz et al. 2016, section 2.1).

Shapes: B tasks, P coordinates, N = B·P, F features, H hidden units, K steps of a window.
"""

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.base import Observation, Recording, Scope, State, UpdateRule, is_called_plainly
from l2o.optimizers.kernels import dispatch
from l2o.optimizers.preprocessing import Identity, LogAndSign, Preprocessing


class LSTM(UpdateRule):
    """g = output_scale · (w · h_top + b), by one small LSTM for all coordinates, with a state for each of them.

    All coordinates of all tasks are rows of one matrix (N, F). `num_layers=0` is a linear map of the features. The
    forget gate's bias starts at `forget_bias` (1 in the authors' code; torch's own default is 0); with `max_timescale`
    the units' memories start at lengths between a few steps and so many (see `lstm_cells`). The head starts at
    `head_init` times torch's default. At 0 an untrained rule stands still; random first updates could drive θ into
    saturation, from which meta-training returns to a rule that stands still for good.
    """

    scope = Scope.COORDINATE
    batched_phi = True

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        hidden_size: int = 20,
        num_layers: int = 2,
        output_scale: float = 1.0,
        forget_bias: float = 1.0,
        head_init: float = 1.0,
        max_timescale: float | None = None,
    ):
        super().__init__()
        if hidden_size < 1 or num_layers < 0:
            raise ValueError(f"hidden_size must be >= 1 and num_layers >= 0, got {hidden_size} and {num_layers}")
        self.preprocessing = preprocessing or Identity()
        self.hidden_size, self.num_layers = hidden_size, num_layers
        self.output_scale, self.head_init = output_scale, head_init
        self.forget_bias, self.max_timescale = forget_bias, max_timescale
        sizes = [self.preprocessing.num_features, *[hidden_size] * num_layers]
        self.cells = lstm_cells(sizes, forget_bias, max_timescale)
        self.head = nn.Linear(sizes[-1], 1)
        for parameter in self.head.parameters():
            parameter.data.mul_(head_init)

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return {key: self._zeros(theta) for key in self.state_axes()}

    def state_axes(self) -> dict[str, Axis]:
        return {f"{part}_{i}": Axis.COORDINATES for i in range(self.num_layers) for part in ("hidden", "cell")}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        layers, keys, weights = self.num_layers, self._keys(), self._weights()
        parts = [state[key] for key in keys]
        rows = [_rows(part) for part in parts]
        hidden, cell = rows[:layers], rows[layers:]
        features, log_and_sign = self._inputs(seen.grad, hidden)
        out, new_hidden, new_cell = dispatch.step(weights, features, hidden, cell, log_and_sign)
        shape = seen.grad.shape[:2]  # there may be several numbers for a coordinate (RNNprop)
        update = self.output_scale * out.view(shape)
        if new_hidden is not hidden or _places(rows) != _places(parts):  # else the kernel has overwritten the state
            parts = [part.view(*shape, self.hidden_size) for part in (*new_hidden, *new_cell)]
        return update, dict(zip(keys, parts, strict=True))

    def stepper(self, state: State, layout: Layout) -> tuple[Callable[[Tensor], Tensor], State] | None:
        if not (is_called_plainly(self, LSTM) and self._reads_gradients() and self.num_layers):
            return None
        keys = self._keys()
        parts = [state[key] for key in keys]
        found = dispatch.stepper(self._weights(), parts, self._constants(parts[0].dtype), self.output_scale)
        return None if found is None else (found[0], dict(zip(keys, found[1], strict=True)))

    def has_kernel(self, like: Tensor) -> bool:
        """Say whether there is a compiled kernel. A preprocessing with parameters of its own is left to autograd."""
        return self._kernel(like) is not None and not any(True for _ in self.preprocessing.parameters())

    @torch.no_grad()
    def window_gradient(self, recording: Recording, cotangents: Tensor) -> list[Tensor]:
        kernel = self._kernel(recording.grads)
        assert kernel is not None
        rows = [_rows(recording.state[key]) for key in self._keys()]
        hidden, cell = rows[: self.num_layers], rows[self.num_layers :]
        features, log_and_sign = self._inputs(recording.grads, hidden)
        weights, made = self._weights(), () if log_and_sign is None else (log_and_sign,)
        window = features, hidden, cell, cotangents.flatten(1)
        gradient = kernel.window_gradient(weights, *window, *made, scale=self.output_scale)
        return [g if w.requires_grad else torch.zeros_like(g) for g, w in zip(gradient, weights, strict=True)]

    def _zeros(self, theta: Tensor) -> Tensor:
        """Make zeros (B, P, H) that lie in memory as the steps to come will return the state."""
        if self._kernel(theta) is None:
            return theta.new_zeros(*theta.shape, self.hidden_size)
        return theta.new_zeros(self.hidden_size, *theta.shape).movedim(0, -1)

    def _kernel(self, like: Tensor) -> dispatch.Kernel | None:
        if like.is_cpu:  # the compiled kernel serves all sizes
            return dispatch.compiled_kernel(like, [like] * self.num_layers)
        empty = like.new_empty(0, max(self.preprocessing.num_features, self.hidden_size))
        features, hidden = empty[:, : self.preprocessing.num_features], empty[:, : self.hidden_size]
        return dispatch.compiled_kernel(features, [hidden] * self.num_layers)

    def _inputs(self, grad: Tensor, hidden: list[Tensor]) -> tuple[Tensor, tuple[float, float, float] | None]:
        """Give the features (…, N, F) of gradients (…, B, P), and None.

        For a kernel that makes these features itself, give the gradients (…, N, 1) and the constants of log-and-sign.
        """
        constants = self._constants(grad.dtype)
        if constants is not None:
            rows = grad.flatten(-2)[..., None]
            if dispatch.takes_log_and_sign(rows, hidden):
                return rows, constants
        return self.preprocessing(grad).flatten(-3, -2), None

    def _constants(self, dtype: torch.dtype) -> tuple[float, float, float] | None:
        """Give the constants of log-and-sign, where that is the preprocessing."""
        return self.preprocessing.constants(dtype) if type(self.preprocessing) is LogAndSign else None

    def _reads_gradients(self) -> bool:
        """Say whether a kernel may read the gradients where they lie, because it makes the features or needs none."""
        return type(self.preprocessing) in (Identity, LogAndSign)

    def _keys(self) -> list[str]:
        """Name the parts of the state: the hidden states of all layers, then the cells."""
        return _names(self.num_layers)

    def _weights(self) -> list[Tensor]:
        # `parameters()` would walk over all modules and compare all tensors, at every step, and `self.cells` searches
        modules: Any = self._modules
        within = (*modules["cells"]._modules.values(), modules["head"])
        return [weight for module in within for weight in module._parameters.values()]


@functools.cache
def _names(layers: int) -> list[str]:
    return [f"{part}_{i}" for part in ("hidden", "cell") for i in range(layers)]


def _rows(state: Tensor) -> Tensor:
    """(B, P, H) -> (N, H). Where it must be copied, it lies in memory as (H, N), which is the order of the kernels."""
    tasks, size, _ = state.shape
    if tasks == 1 or state.stride(0) == size * state.stride(1):
        return state.flatten(0, 1)
    return state.movedim(-1, 0).flatten(1).mT


def _places(tensors: list[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def lstm_cells(sizes: list[int], forget_bias: float, max_timescale: float | None = None) -> nn.ModuleList:
    """Make layers from sizes[0] features to sizes[1] units and so on, with the forget gate's bias at `forget_bias`.

    With `max_timescale`, T, the forget gates' biases b rise unit by unit from `forget_bias` to log T, and the input
    gates' are −b, so that without weights a unit averages over the last 1 + e^b steps (after the "chrono
    initialization" of Tallec & Ollivier 2018, who draw b). Such units can tell early steps from late ones. Raises
    ValueError for T < e^forget_bias.
    """
    if max_timescale is not None and max_timescale < math.exp(forget_bias):
        raise ValueError(f"max_timescale must be at least e^forget_bias = {math.exp(forget_bias):.3g} steps")
    longest = forget_bias if max_timescale is None else math.log(max_timescale)
    cells = nn.ModuleList(nn.LSTMCell(*pair) for pair in pairwise(sizes))
    for cell in cells:
        biases = [cell.get_parameter(name).data.chunk(4) for name in ("bias_ih", "bias_hh")]  # gates: i, f, g, o
        (input_ih, forget_ih, _, _), (input_hh, forget_hh, _, _) = biases
        forget_ih.copy_(torch.linspace(forget_bias, longest, len(forget_ih)))
        forget_hh.zero_()
        if max_timescale is not None:
            input_ih.copy_(-forget_ih)
            input_hh.zero_()
    return cells
