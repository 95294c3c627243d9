"""The learned learning-rate schedule of Celo (Moudgil et al. 2025, arXiv 2501.12670): an LSTM that sees time and loss.

Shapes: B tasks, H units of the LSTM, J half-lives.
"""

import torch
from torch import Tensor, nn

from l2o.optimizees.layout import Axis
from l2o.optimizers.accumulators import constant
from l2o.optimizers.base import Observation, State
from l2o.optimizers.mlp import linear, truncated_normal

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""τ of the time features tanh(10 (t/T − τ))."""

HALF_LIVES = 10
"""J: how many running means of the loss there are, with half-lives from 10 steps to T."""

LONGEST = 1e6
"""Steps that a longer horizon, or an unknown one, counts as: float32 knows no slower running mean."""

NO_MINIMUM = 999999999999.0
"""What the minimum of a running mean starts at."""

STATE = ("hidden", "cell", "loss_means", "loss_minima", "losses_seen")


class CeloScheduler(nn.Module):
    """η_t = 0.1 · exp(w·h_t + b), where h_t = LSTM(u_t) and u_t = W_2 x_t + b_2 + relu(W_1 x_t + b_1).

    x_t are nine features of t/T and nine of the loss. In the original every tensor has its own row of u, and the relu
    is followed by a maximum over the rows; but all rows are equal, so that there is one η for all of θ. The gates are
    in the order i, g, f, o, and the forget gate is σ(f + 1). The LSTM's initial state belongs to φ.

    All of the scheduler's state is shared, because it depends on the loss, the step and the horizon alone.
    """

    def __init__(self, hidden_size: int = 64):
        super().__init__()
        self.hidden_size = hidden_size
        inputs = len(FRACTIONS) + HALF_LIVES - 1
        for name, outputs, size in (
            ("pooled", hidden_size, inputs),
            ("direct", hidden_size, inputs),
            ("gates", 4 * hidden_size, 2 * hidden_size),
            ("step_size", 1, hidden_size),
        ):
            self.register_parameter(f"{name}_weight", nn.Parameter(truncated_normal(outputs, size)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(outputs)))
        self.initial_hidden = nn.Parameter(torch.zeros(hidden_size))
        self.initial_cell = nn.Parameter(torch.zeros(hidden_size))

    def init_state(self, theta: Tensor) -> State:
        num_tasks = len(theta)
        means = theta.new_zeros(num_tasks, 1, HALF_LIVES)
        return {
            "hidden": self.initial_hidden.expand(num_tasks, -1)[:, None].to(theta.dtype),
            "cell": self.initial_cell.expand(num_tasks, -1)[:, None].to(theta.dtype),
            "loss_means": means,
            "loss_minima": torch.full_like(means, NO_MINIMUM),
            "losses_seen": theta.new_zeros(num_tasks, 1),
        }

    def state_axes(self) -> dict[str, Axis]:
        return dict.fromkeys(STATE, Axis.SHARED)

    def forward(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Give η (B, 1) and the state after this step."""
        fraction = torch.where(seen.horizon.isfinite(), seen.step / seen.horizon, 0.0)[:, None]  # (B, 1)
        time = torch.tanh((fraction - constant(FRACTIONS, fraction)) * 10)  # (B, 9)
        features, losses = loss_features(seen, state)
        x = torch.cat((time, features), 1).mT[..., None]  # (18, B, 1)
        u = self._linear("direct", x) + self._linear("pooled", x).relu()
        hidden, cell = (state[key].movedim(-1, 0) for key in ("hidden", "cell"))  # (H, B, 1)
        i, g, f, o = self._linear("gates", torch.cat((u, hidden))).chunk(4)
        cell = torch.sigmoid(f + 1) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        rate = 0.1 * torch.exp(self._linear("step_size", hidden)[0])
        return rate, {"hidden": hidden.movedim(0, -1), "cell": cell.movedim(0, -1)} | losses

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))


def loss_features(seen: Observation, state: State) -> tuple[Tensor, State]:
    """Take up a loss in its running means; give J − 1 features of them (B, J − 1) and the new state.

    A feature compares a mean with the one of the next longer half-life, both measured from the lowest value that the
    first one ever had: −1 says that it is at its lowest now, 0 that both are equal, and 1 that it is at least twice as
    far above. A loss counts as no more than twice the highest mean. The features are 0 for the first two losses.
    """
    means, minima = state["loss_means"].squeeze(1), state["loss_minima"].squeeze(1)  # (B, J)
    number = state["losses_seen"] + 1  # (B, 1), of this loss, from 1
    decay = _decays(seen.horizon)
    correction = 1 - decay**number
    highest = (means / correction).amax(1, keepdim=True)
    loss = seen.loss[:, None]
    loss = torch.where(number == 1, loss, torch.minimum(2 * highest.abs(), loss))
    means = means * decay + loss * (1 - decay)
    now = means / correction
    minima = torch.minimum(minima, now)
    shorter, longer, lowest = now[:, :-1], now[:, 1:], minima[:, :-1]
    features = ((shorter - lowest) / (longer - lowest).clamp(min=1e-8) - 1).clamp(-1, 1)
    after = {"loss_means": means[:, None], "loss_minima": minima[:, None], "losses_seen": number}
    return torch.where(number <= 2, 0.0, features), after


def _decays(horizon: Tensor) -> Tensor:
    """Give exp(−1/half-life) for half-lives spaced evenly in their logarithms from 10 to T: (B,) -> (B, J)."""
    longest = horizon.clamp(min=1.0, max=LONGEST).log10()[:, None]  # inf becomes LONGEST
    place = torch.linspace(0, 1, HALF_LIVES, dtype=horizon.dtype, device=horizon.device)
    return torch.exp(-1 / 10 ** (1 + (longest - 1) * place))
