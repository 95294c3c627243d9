"""The coordinatewise LSTM (Andrychowicz et al. 2016, section 2.1).

Shapes: B tasks, P coordinates, N = B·P, F features, H hidden units, K steps of a window.
"""

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Layout
from l2o.optimizers.base import State, UpdateRule
from l2o.optimizers.kernels.dispatch import Kernel, kernel_for
from l2o.optimizers.preprocessing import Identity, Preprocessing


class LSTM(UpdateRule):
    """g = output_scale · (w · h_top + b): one small LSTM for all coordinates, one state for each.

    All coordinates of all tasks are rows of one matrix (N, F). `num_layers=0` is a linear map of the features. The
    forget gate's bias starts at `forget_bias` (1 in the authors' code; torch's own default is 0); with `max_timescale`
    the units' memories start between short and that many steps (see `lstm_cells`). The head starts at `head_init` times
    torch's default: at 0 an untrained rule stands still, where random first updates would drive θ into saturation and
    meta-training back to standing still for good.
    """

    coordinatewise = True

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
        zeros = lambda: theta.new_zeros(self.hidden_size, *theta.shape).movedim(0, -1)  # noqa: E731  as the kernel has it
        return {f"{part}_{layer}": zeros() for layer in range(self.num_layers) for part in ("hidden", "cell")}

    def forward(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        return self._forward(grad, state)

    def advance(self, grad: Tensor, state: State, theta: Tensor, layout: Layout) -> tuple[Tensor, State]:
        return self._forward(grad, state, in_place=True)

    def replay_numbers(self, state: State) -> int:
        num_features = self.preprocessing.num_features
        kernel = self._replay_kernel(self.head.weight.new_empty(0, num_features))
        return 4 * num_features + 8 if kernel else super().replay_numbers(state)  # features, and what they are made of

    def chunks(self, num_steps: int, state: State, theta: Tensor, max_bytes: int) -> list[slice]:
        kernel = self._replay_kernel(theta.new_empty(0, self.preprocessing.num_features))
        return super().chunks(num_steps, state, theta, min(max_bytes, kernel.REPLAY_BYTES) if kernel else max_bytes)

    def replay_gradient(
        self, grads: Tensor, cotangents: Tensor, state: State, theta: Tensor, layout: Layout
    ) -> list[Tensor]:
        kernel = self._replay_kernel(grads.new_empty(0, self.preprocessing.num_features))
        if kernel is None:
            return super().replay_gradient(grads, cotangents, state, theta, layout)
        with torch.no_grad():
            features = self.preprocessing(grads).flatten(1, -2)  # (K, N, F)
            scaled = self.output_scale * cotangents.flatten(1)
            weights = self._weights()
            gradient = kernel.window_gradient(weights, features, *self._layers(state), scaled)
            return [g if w.requires_grad else torch.zeros_like(g) for g, w in zip(gradient, weights, strict=True)]

    def _forward(self, grad: Tensor, state: State, in_place: bool = False) -> tuple[Tensor, State]:
        features = self.preprocessing(grad)  # (B, P, F)
        shape, features = features.shape[:-1], features.flatten(0, -2)  # (N, F)
        hidden, cell = self._layers(state)
        kernel = self._kernel(features)
        step = partial(kernel.step, in_place=in_place) if kernel else self._step
        out, hidden, cell = step(self._weights(), features, hidden, cell)
        parts = {f"hidden_{layer}": h for layer, h in enumerate(hidden)} | {f"cell_{i}": c for i, c in enumerate(cell)}
        state = {name: part.unflatten(0, shape) for name, part in parts.items()}
        return self.output_scale * out.view(shape), state

    def _step(
        self, weights: list[Tensor], features: Tensor, hidden: list[Tensor], cell: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        new_hidden, new_cell = [], []
        for layer, h, c in zip(self.cells, hidden, cell, strict=True):
            features, c = layer(features, (h, c))
            new_hidden.append(features)
            new_cell.append(c)
        return self.head(features)[:, 0], new_hidden, new_cell

    def _layers(self, state: State) -> tuple[list[Tensor], list[Tensor]]:
        # (N, H), over (H, N) in memory where it must be copied: the kernels' order
        rows = lambda part: part.movedim(-1, 0).flatten(1).mT  # noqa: E731
        pick = lambda part: [rows(state[f"{part}_{layer}"]) for layer in range(self.num_layers)]  # noqa: E731
        return pick("hidden"), pick("cell")

    def _weights(self) -> list[Tensor]:
        return [*self.cells.parameters(), *self.head.parameters()]

    def _kernel(self, features: Tensor) -> Kernel | None:
        """Where no graph is wanted, a compiled kernel does the same in a quarter of the time."""
        return None if torch.is_grad_enabled() or self.num_layers == 0 else kernel_for(features, self.hidden_size)

    @torch.no_grad()
    def _replay_kernel(self, features: Tensor) -> Kernel | None:
        return None if any(True for _ in self.preprocessing.parameters()) else self._kernel(features)


def lstm_cells(sizes: list[int], forget_bias: float, max_timescale: float | None = None) -> nn.ModuleList:
    """Layers from sizes[0] features to sizes[1] units and so on, with the forget gate's bias at `forget_bias`.

    With `max_timescale`, T, the forget gates' biases b rise unit by unit from `forget_bias` to log T, and the input
    gates' are −b: without weights a unit averages over the last 1 + e^b steps (after the "chrono initialization" of
    Tallec & Ollivier 2018, who draw b). Such units can tell early steps from late ones. Raises ValueError for
    T < e^forget_bias.
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
