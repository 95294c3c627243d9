"""A learned optimizer of two levels: a network for each tensor sets the step, one for each coordinate the direction.

Matrices may move along an orthogonal matrix near that direction, as in Muon (Jordan et al. 2024).

The hierarchy is that of Wichrowska et al. (2017, "Learned optimizers that scale and generalize") and Metz et al. (2020,
arXiv 2009.11243); the inputs are ratios, which know neither the scale of the loss nor that of the gradient.

Shapes: B tasks, P coordinates, K tensors, M momenta.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from l2o.checks import at_least_one, below_one, expression, true_or_false
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.accumulators import constant
from l2o.optimizers.base import Observation, Scope, State, UpdateRule
from l2o.optimizers.kernels import hierarchical_torch
from l2o.optimizers.kernels.hierarchical import kernel_for
from l2o.optimizers.kernels.hierarchical_memory import Memory, Settings
from l2o.optimizers.loss_trend import NUM_FEATURES, init_loss_trend, loss_trend, loss_trend_axes
from l2o.optimizers.mlp import MLP, linear
from l2o.optimizers.newton_schulz import orthogonalised
from l2o.optimizers.tensor_features import UNKNOWN_HORIZON, of_gradients, of_shapes, of_time

LARGEST_EXPONENT = 4.0
"""The network of a tensor may change a step by no more than a factor of e⁴, in either direction."""

GAIN = 3.0
"""How much more a weight changes the exponent than it changes the other outputs, so that meta-training finds the sizes
of the steps first."""


class Hierarchical(UpdateRule):
    """g = −step_mult · s_t · exp(e_k) · (rms a / rms u) · u,  u = a + d,  a = m̂/(√v̂ + ε) with the first of the momenta.

    a is Adam's direction. d is the output of a small MLP for each coordinate, whose inputs are the gradient, momenta of
    several lengths and θ, all normalised, and a few numbers that its tensor tells it. e_k and these numbers come from a
    second MLP for each tensor k, which sees how much the momenta agree (their root mean squares and the cosines between
    them), the size of θ, the shape, the time, and the loss if there is one; a linear function of the same is added to
    e_k. All heads start at 0: an untrained rule is Adam, or, with `orthogonal=True`, Adam whose matrices are made
    orthogonal. Only the direction of u counts; its size is that of a, so that d alone cannot make a rule run away.

    With `orthogonal=True` a matrix moves along the orthogonalised u (`l2o.optimizers.newton_schulz.orthogonalised`),
    with the same Frobenius norm; `iterations` are those of Newton-Schulz. Matrices in whose names the regular
    expression `exempt` is found, and all vectors, move along u itself; an optimizer that was given parameters without
    their names exempts no matrix.

    With `reads_loss=False` the rule does without the loss, also where it is known.

    s_t rises over the first `warmup` of the horizon T and falls linearly to 0 at its end. After T steps the rule rests.

    Two arguments take a trained part away, so that one sees what it is worth; φ stays the same. `direction="adam"` sets
    d to 0 and orthogonalises nothing. `schedule="cosine"` sets every e_k to 0 and lets s_t fall along a half cosine.
    """

    scope = Scope.TENSOR
    needs = frozenset({"horizon"})
    batched_phi = True

    def __init__(
        self,
        hidden_size: int = 8,
        tensor_hidden_size: int = 8,
        told: int = 4,
        step_mult: float = 0.01,
        warmup: float = 0.05,
        momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
        square_decay: float = 0.99,
        reads_loss: bool = True,
        direction: str = "learned",
        schedule: str = "learned",
        orthogonal: bool = False,
        iterations: int = 5,
        exempt: str | None = "embed",
    ):
        super().__init__()
        expression("Hierarchical", exempt=exempt)
        at_least_one("optimizer", hidden_size=hidden_size, tensor_hidden_size=tensor_hidden_size, told=told)
        at_least_one("optimizer", iterations=iterations)
        true_or_false("Hierarchical", reads_loss=reads_loss, orthogonal=orthogonal)
        self.hidden_size, self.tensor_hidden_size, self.told = hidden_size, tensor_hidden_size, told
        self.step_mult, self.warmup, self.reads_loss = step_mult, warmup, reads_loss
        self.momentum_decays, self.square_decay = [*map(float, momentum_decays)], float(square_decay)
        count = len(self.momentum_decays)
        if count == 0:
            raise ValueError("Hierarchical: momentum_decays must have at least one decay, got []")
        below_one("Hierarchical", momentum_decays=self.momentum_decays, square_decay=self.square_decay)
        if not 0 <= warmup < 1:
            raise ValueError(f"Hierarchical: warmup is a fraction of the horizon, from 0 to less than 1, got {warmup}")
        for name, value, other in (("direction", direction, "adam"), ("schedule", schedule, "cosine")):
            if value not in ("learned", other):
                raise ValueError(f"Hierarchical: {name} must be learned or {other}, got {value!r}")
        self.direction, self.schedule = direction, schedule
        self.orthogonal, self.iterations, self.exempt = orthogonal, iterations, exempt
        features = 2 * count + 10 + NUM_FEATURES
        self.tensor_linear = MLP([features, 1])
        self.tensor_mlp = MLP([features, tensor_hidden_size, tensor_hidden_size, 1 + told])
        self.mlp = MLP([count + 2 + told, hidden_size, hidden_size, 1])
        for head in (self.tensor_linear.weight_0, self.tensor_mlp.weight_2, self.mlp.weight_2):
            nn.init.zeros_(head)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.tensor_mlp.weight_2[1:], std=tensor_hidden_size**-0.5)  # type: ignore[index]

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        count, tensors = len(self.momentum_decays), (len(theta), len(layout.shapes))
        return {
            "momenta": theta.new_zeros(count, *theta.shape).movedim(0, -1),
            "square": torch.zeros_like(theta),
            "statistics": theta.new_zeros(2 * count + 1, *tensors).movedim(0, -1),
            "step": theta.new_zeros(tensors),
            **init_loss_trend(theta),
        }

    def state_axes(self) -> dict[str, Axis]:
        coordinates = {"momenta": Axis.COORDINATES, "square": Axis.COORDINATES}
        return coordinates | {"statistics": Axis.TENSORS, "step": Axis.TENSORS} | loss_trend_axes()

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        phi = [*self.tensor_linear.weights, *self.tensor_mlp.weights, *self.mlp.weights]
        tensors = (*seen, *state.values(), *phi)
        settings, decays = self._settings, (*self.momentum_decays, self.square_decay)
        sizes = self.hidden_size, self.tensor_hidden_size, 1 + self.told
        if kernel := kernel_for(settings, len(decays) - 1, sizes, tensors, layout):
            update, after = kernel.step(settings, decays, phi, seen, state, layout)
        else:
            update, after = self._in_torch(seen, state, layout)
        if self.orthogonal and self.direction == "learned":
            update = orthogonalised(update, layout, self.exempt, self.iterations)
        return update, after

    @property
    def _settings(self) -> Settings:
        cosine, adam = self.schedule == "cosine", self.direction == "adam"
        return Settings(self.step_mult, self.warmup, cosine, adam, self.reads_loss, GAIN, LARGEST_EXPONENT)

    def _in_torch(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        """Give g (B, P), not yet orthogonal, and the next state: the reference, which autograd can record."""
        step, decays = state["step"] + 1, (*self.momentum_decays, self.square_decay)
        correct = 1 / (1 - constant(decays, step)[:, None, None] ** step)  # (M + 1, B, K)
        memory = Memory(state["momenta"].movedim(-1, 0), state["square"])
        memory, found = hierarchical_torch.remember(seen, memory, layout, decays, correct)
        statistics, kept = of_gradients(found[:-1], state["statistics"].movedim(-1, 0), step)
        trend, losses = loss_trend(seen, state) if self.reads_loss else _no_trend(seen, state)
        exponent, *told = self._of_tensors(seen, layout, statistics, found[-1], trend)
        scale = self.step_mult * self._scheduled(seen)[:, None] * exponent.exp() * found[1].sqrt()
        sizes = (found[-1] + 1e-16).rsqrt()
        weights, bias = self._of_coordinates(torch.stack(told))
        update = hierarchical_torch.direction(seen, memory, layout, correct, sizes, weights, bias, scale)
        after = {"momenta": memory.momenta.movedim(0, -1), "square": memory.square}
        return update, after | {"statistics": kept.movedim(0, -1), "step": step} | losses

    def _of_tensors(
        self, seen: Observation, layout: Layout, statistics: Tensor, squares: Tensor, trend: Tensor
    ) -> Tensor:
        """Give the exponent of every tensor's step and what it tells its coordinates, (1 + told, B, K)."""
        shape = of_shapes(layout, seen.grad).expand(-1, *squares.shape)
        size = (squares + 1e-12).log()[None] / 8 + 0.5
        global_features = torch.cat((of_time(seen), trend))[..., None].expand(-1, -1, squares.shape[1])
        features = torch.cat((statistics, size, shape, global_features))
        out = self.tensor_mlp(features)
        exponent = GAIN * (self.tensor_linear(features) + out[:1])
        exponent = LARGEST_EXPONENT * torch.tanh(exponent / LARGEST_EXPONENT)
        return torch.cat((torch.zeros_like(exponent) if self.schedule == "cosine" else exponent, out[1:]))

    def _of_coordinates(self, told: Tensor) -> tuple[list[Tensor], Tensor]:
        """Give the weights of the coordinates' network, and the bias of its first layer (H, B, K) for each tensor."""
        first, own_bias, *rest = self.mlp.weights
        if self.direction == "adam":
            rest = [*rest[:-2], *map(torch.zeros_like, rest[-2:])]
        inputs = len(self.momentum_decays) + 2  # the last columns read what the tensor tells
        return [first[..., :inputs], *rest], linear(told, first[..., inputs:], own_bias)

    def _scheduled(self, seen: Observation) -> Tensor:
        """Give s_t (B,)."""
        horizon = torch.where(seen.horizon.isfinite(), seen.horizon, UNKNOWN_HORIZON)
        rise = (seen.step + 1) / (self.warmup * horizon).clamp(min=1.0)
        left = (1 - seen.step / horizon).clamp(min=0.0)
        fall = 0.5 * (1 - torch.cos(math.pi * left)) if self.schedule == "cosine" else left
        return torch.minimum(rise, torch.ones_like(rise)) * fall


def _no_trend(seen: Observation, state: State) -> tuple[Tensor, State]:
    """Give the features that `loss_trend` gives where no loss was ever known, and the memory as it was."""
    return seen.grad.new_zeros(NUM_FEATURES, len(seen.grad)), {"losses": state["losses"]}
