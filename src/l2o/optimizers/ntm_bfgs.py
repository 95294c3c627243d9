"""The NTM-BFGS optimizer (Andrychowicz et al. 2016, appendix: information sharing between coordinates).

Shapes: B tasks, P coordinates, F features, R read heads, W write heads.
"""

import torch
from torch import Tensor

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers import low_rank
from l2o.optimizers.base import Observation, Scope, State, UpdateRule
from l2o.optimizers.gac import AveragingLSTM
from l2o.optimizers.preprocessing import Identity, Preprocessing


class NTMBFGS(UpdateRule):
    """An LSTM with global averaging cells that reads and writes a memory M (P, P), as BFGS does its inverse Hessian.

    BFGS reads its memory by a matrix-vector product and writes to it by a low-rank update. Both are kept; the vectors
    are learned. With ρ a coordinatewise preprocessing and LSTM+GAC the controller, at every step

        [g_t, r_t, a_t, b_t], h_{t+1} = LSTM+GAC([preprocessing(∇_t), ρ(i_{t−1})], h_t)
        i_t = M_t r_t                           for every read head: the read result, fed back at the next step
        M_{t+1} = M_t + Σ a_t b_tᵀ              over the write heads

    from M_0 = I, i_{−1} = 0; g_t, and for each head r_t, or a_t and b_t, are one number per coordinate. The update is
    output_scale · g_t. The paper names no ρ (identity) and no sizes; one read and three write heads are what it says to
    suffice for simulating BFGS. `memory_window` keeps the products of that many last steps alone: the
    paper's NTM-L-BFGS.

    `head_init` scales the start of the row that makes g_t. The rows of r, a and b start as torch's default: were a and
    b zero, so would be both their gradients.
    """

    scope = Scope.ALL

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        read_preprocessing: Preprocessing | None = None,
        hidden_size: int = 20,
        num_layers: int = 2,
        averaging_cells: int = 5,
        read_heads: int = 1,
        write_heads: int = 3,
        memory_window: int | None = None,
        output_scale: float = 1.0,
        forget_bias: float = 1.0,
        head_init: float = 1.0,
    ):
        super().__init__()
        if read_heads < 1 or write_heads < 1 or (memory_window is not None and memory_window < 1):
            given = f"{read_heads}, {write_heads} and {memory_window}"
            raise ValueError(f"read_heads, write_heads and memory_window must be at least 1, got {given}")
        self.preprocessing = preprocessing or Identity()
        self.read_preprocessing = read_preprocessing or Identity()
        self.hidden_size, self.num_layers, self.averaging_cells = hidden_size, num_layers, averaging_cells
        self.read_heads, self.write_heads, self.memory_window = read_heads, write_heads, memory_window
        self.output_scale, self.forget_bias, self.head_init = output_scale, forget_bias, head_init
        num_features = self.preprocessing.num_features + read_heads * self.read_preprocessing.num_features
        self.outputs = [1, read_heads, write_heads, write_heads]
        self.controller = AveragingLSTM(
            num_features, sum(self.outputs), hidden_size, num_layers, averaging_cells, forget_bias
        )
        for parameter in self.controller.head.parameters():
            parameter.data[0] *= head_init

    @property
    def label(self) -> str:
        return "NTM-BFGS" if self.memory_window is None else "NTM-L-BFGS"

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return self.controller.init_state(theta) | {"read": theta.new_zeros(*theta.shape, self.read_heads)}

    def state_axes(self) -> dict[str, Axis]:
        """All that is there at an episode's start; the memory's factors, which grow, are coordinates as well."""
        layers = {f"{part}_{i}": Axis.COORDINATES for i in range(self.num_layers) for part in ("hidden", "cell")}
        return layers | {"read": Axis.COORDINATES}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        read = self.read_preprocessing(state["read"]).flatten(2)  # (B, P, R·F)
        out, controller = self.controller(torch.cat((self.preprocessing(seen.grad), read), -1), state)
        update, vectors, left, right = out.split(self.outputs, dim=-1)
        at_most = self.memory_window and self.memory_window * self.write_heads
        memory = low_rank.plus(state, left, right, at_most)
        after = controller | {"read": low_rank.times(state, vectors)} | memory
        return self.output_scale * update[..., 0], after
