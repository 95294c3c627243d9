"""A recurrent model of characters.

It is written out because `nn.GRU` has no batching rule under `torch.func.vmap`, by which many tasks go through one
network at once. The parameters are those of `nn.GRUCell`.

Shapes: N texts of a minibatch, T positions, E size of an embedding, H hidden units.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CharGRU(nn.Module):
    """Predicts every next byte of texts: bytes (N, T) -> logits (N, T, letters), from a state of zeros.

    r, z = σ(W x + U h), n = tanh(W_n x + r · (U_n h + b)), h ← (1 − z) · n + z · h, as torch's GRU has it.
    """

    def __init__(self, hidden_size: int = 32, embedding_size: int = 16, letters: int = 256):
        super().__init__()
        self.embedding, self.cell = nn.Embedding(letters, embedding_size), nn.GRUCell(embedding_size, hidden_size)
        self.head = nn.Linear(hidden_size, letters)

    def forward(self, x: Tensor) -> Tensor:
        cell = self.cell
        inputs = F.linear(self.embedding(x), cell.weight_ih, cell.bias_ih)  # (N, T, 3H), for all positions at once
        hidden = inputs.new_zeros(*inputs.shape[:-2], cell.hidden_size)
        states = []
        for from_input in inputs.unbind(-2):
            from_state = F.linear(hidden, cell.weight_hh, cell.bias_hh)
            (x_r, x_z, x_n), (h_r, h_z, h_n) = from_input.chunk(3, -1), from_state.chunk(3, -1)
            reset, keep = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
            hidden = torch.lerp((x_n + reset * h_n).tanh(), hidden, keep)
            states.append(hidden)
        return self.head(torch.stack(states, -2))
