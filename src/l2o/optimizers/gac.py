"""The LSTM with global averaging cells (Andrychowicz et al. 2016, appendix: information sharing between coordinates).

Shapes: B tasks, P coordinates, N = B·P, F features, O outputs, H hidden units, A averaging cells.
"""

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.base import Observation, Scope, State, UpdateRule
from l2o.optimizers.lstm import lstm_cells
from l2o.optimizers.preprocessing import Identity, Preprocessing


class AveragingLSTM(nn.Module):
    """One LSTM for all coordinates whose first A cells of every layer are averaged over the coordinates of a task:

        h_i ← 1/P Σ_j h_j   for the cells 1 … A,

    at every step. The mean takes the activation's place wherever it goes: to the layer above, to the head, and to the
    layer's own next step. The cell's inner state stays its coordinate's own. A = 0 is the coordinatewise LSTM.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_size: int,
        num_layers: int,
        averaging_cells: int,
        forget_bias: float,
    ):
        super().__init__()
        if hidden_size < 1 or num_layers < 0:
            raise ValueError(f"hidden_size must be >= 1 and num_layers >= 0, got {hidden_size} and {num_layers}")
        if not 0 <= averaging_cells <= hidden_size:
            raise ValueError(f"averaging_cells must lie between 0 and hidden_size={hidden_size}, got {averaging_cells}")
        self.averaging_cells = averaging_cells
        sizes = [in_features, *[hidden_size] * num_layers]
        self.cells = lstm_cells(sizes, forget_bias)
        self.head = nn.Linear(sizes[-1], out_features)

    def init_state(self, theta: Tensor) -> State:
        """Zeros for θ_0 (B, P)."""
        zeros = lambda cell: theta.new_zeros(*theta.shape, cell.hidden_size)  # noqa: E731
        return {f"{part}_{layer}": zeros(cell) for layer, cell in enumerate(self.cells) for part in ("hidden", "cell")}

    def forward(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, P, F) -> (B, P, O), the next state."""
        coordinates, after = features.shape[:2], {}
        for layer, cell in enumerate(self.cells):
            before = tuple(state[f"{part}_{layer}"].flatten(0, 1) for part in ("hidden", "cell"))  # (N, H)
            hidden, inner = (part.unflatten(0, coordinates) for part in cell(features.flatten(0, 1), before))
            features = after[f"hidden_{layer}"] = self._average(hidden)
            after[f"cell_{layer}"] = inner
        return self.head(features), after

    def _average(self, hidden: Tensor) -> Tensor:
        if self.averaging_cells == 0:
            return hidden
        shared, own = hidden[..., : self.averaging_cells], hidden[..., self.averaging_cells :]
        return torch.cat((shared.mean(1, keepdim=True).expand_as(shared), own), dim=-1)


class GAC(UpdateRule):
    """g = output_scale · (w · h_top + b), h_top from an LSTM in which `averaging_cells` of each layer are global.

    The other arguments are those of `LSTM`.
    """

    scope = Scope.ALL

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        hidden_size: int = 20,
        num_layers: int = 2,
        averaging_cells: int = 5,
        output_scale: float = 1.0,
        forget_bias: float = 1.0,
        head_init: float = 1.0,
    ):
        super().__init__()
        self.preprocessing = preprocessing or Identity()
        self.hidden_size, self.num_layers, self.averaging_cells = hidden_size, num_layers, averaging_cells
        self.output_scale, self.forget_bias, self.head_init = output_scale, forget_bias, head_init
        num_features = self.preprocessing.num_features
        self.network = AveragingLSTM(num_features, 1, hidden_size, num_layers, averaging_cells, forget_bias)
        for parameter in self.network.head.parameters():
            parameter.data.mul_(head_init)

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return self.network.init_state(theta)

    def state_axes(self) -> dict[str, Axis]:
        return {f"{part}_{i}": Axis.COORDINATES for i in range(self.num_layers) for part in ("hidden", "cell")}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        out, state = self.network(self.preprocessing(seen.grad), state)
        return self.output_scale * out[..., 0], state
