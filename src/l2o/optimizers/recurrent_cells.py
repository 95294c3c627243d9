"""torch's recurrent cells, written out: `torch.func.vmap` has no rule for torch's own, or falls back to a slow loop.

Shapes: N rows, F features, H units.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class WrittenOut(TorchFunctionMode):
    """Within this block, `nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell` are computed by the formulas in this file."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cell: Any = CELLS.get(func, func)
        return cell(*args, **(kwargs or {}))


def lstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Give h' and c' (N, H) for x (N, F) and (h, c), with the gates' rows in the order i, f, g, o."""
    hidden, cell = state
    i, f, g, o = (F.linear(x, weight_ih, bias_ih) + F.linear(hidden, weight_hh, bias_hh)).chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def gru_cell(
    x: Tensor,
    hidden: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> Tensor:
    """Give h' (N, H) for x (N, F) and h, with the gates' rows in the order r, z, n."""
    of_x, of_hidden = F.linear(x, weight_ih, bias_ih).chunk(3, -1), F.linear(hidden, weight_hh, bias_hh).chunk(3, -1)
    reset, update = ((a + b).sigmoid() for a, b in zip(of_x[:2], of_hidden[:2], strict=True))
    new = (of_x[2] + reset * of_hidden[2]).tanh()
    return torch.lerp(new, hidden, update)


def _rnn_cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cell(
        x: Tensor,
        hidden: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
    ) -> Tensor:
        return activation(F.linear(x, weight_ih, bias_ih) + F.linear(hidden, weight_hh, bias_hh))

    return cell


CELLS: dict[Any, Callable[..., Any]] = {
    torch.lstm_cell: lstm_cell,
    torch.gru_cell: gru_cell,
    torch.rnn_tanh_cell: _rnn_cell(torch.tanh),
    torch.rnn_relu_cell: _rnn_cell(torch.relu),
}
