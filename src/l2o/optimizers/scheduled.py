"""A schedule for a trained rule: its updates are scaled, and it starts anew, beyond the steps that it was trained for.

The schedule is a small network that is trained while the rule's own φ is at rest, as in the second phase of Celo
(Moudgil et al. 2025, arXiv 2501.12670). The restarts are those of SGDR (Loshchilov & Hutter 2017, arXiv 1608.03983).

Shapes: B tasks, P coordinates, F features. R is the number of steps that the inner rule was trained for.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2o.checks import at_least_one, true_or_false
from l2o.native.watching import is_transformed
from l2o.optimizees.layout import Axis, Layout
from l2o.optimizers.base import Observation, State, UpdateRule
from l2o.optimizers.card import horizon_of
from l2o.optimizers.loss_trend import NUM_FEATURES, init_loss_trend, loss_trend, loss_trend_axes
from l2o.optimizers.mlp import MLP
from l2o.optimizers.partitioned import Partitioned

INNER = "rule."
"""What the keys of the inner rule's state begin with."""

TIME_FEATURES = 3
"""The place in the cycle, the part of the episode that is over, and the episode's length."""

LARGEST_EXPONENT = 4.0
"""The schedule may change an update by no more than a factor of e⁴, in either direction."""


class Cycle(NamedTuple):
    """Say where a step lies in its cycle, which is an episode of the inner rule."""

    place: Tensor  # (B,)  steps since the cycle's start
    length: Tensor  # (B,)  steps of the cycle; inf where there are no restarts and nobody knows the horizon


class Scheduled(UpdateRule):
    """g_t = η_t · m(∇_t, h_t, φ_m),  ln η_t = −d_t + MLP(x_t),  with h = h_0 again at the start of every cycle.

    A rule that was trained for R = `trained_horizon` steps is at a loss afterwards; an LSTM that has learned to come to
    rest after R steps runs away. Therefore an episode of T steps consists of cycles of R steps, at whose starts the
    inner rule's state is what `init_state` gives. The last cycle ends with the episode, and the first one has what
    is left over, T mod R steps. Where nobody knows T, there is a restart after every R steps. The inner rule is told
    the step within its cycle, and the cycle's length as its horizon. With `restarts=False` it is left to itself.

    d_t is where the schedule starts from. It is 0 in episodes of up to R steps, which are the inner rule's own until
    the schedule is trained. In longer ones η falls from 1 to R / T: d_t = (t/T) ln(T/R), or ln(t/R) for t > R where
    nobody knows T. x_t are the place in the cycle, t/T and ln(T/R) (0 where nobody knows T), and three features of the
    loss (`l2o.optimizers.loss_trend`), which are 0 where nobody knows the loss or with `reads_loss=False`. The MLP
    has one hidden layer of `hidden_size` units, or none (0): then ln η is linear in the features. Its last layer starts
    at 0. The inner rule's φ is frozen; with `frozen=False` both are trained.

    Raises ValueError for a `Partitioned` inside: each of its groups needs a schedule of its own, as `schedule` does it.
    """

    batched_phi = True

    def __init__(
        self,
        rule: UpdateRule,
        trained_horizon: int,
        restarts: bool = True,
        hidden_size: int = 0,
        reads_loss: bool = True,
        frozen: bool = True,
    ):
        super().__init__()
        at_least_one("optimizer", trained_horizon=trained_horizon)
        if not isinstance(hidden_size, int) or hidden_size < 0:
            raise ValueError(f"optimizer.hidden_size must be a whole number of at least 0, got {hidden_size!r}")
        true_or_false("Scheduled", restarts=restarts, reads_loss=reads_loss, frozen=frozen)
        if isinstance(rule, Partitioned):
            raise ValueError(
                "Scheduled takes the rule of one group, got a Partitioned: l2o.optimizers.scheduled.schedule(rule, …) "
                "gives each of its groups a schedule of its own"
            )
        self.rule, self.trained_horizon, self.restarts = rule, trained_horizon, restarts
        self.hidden_size, self.reads_loss, self.frozen = hidden_size, reads_loss, frozen
        self.scope = rule.scope
        self.needs = rule.needs - {"horizon"} if restarts else rule.needs
        hidden = [hidden_size] if hidden_size else []
        self.mlp = MLP([TIME_FEATURES + NUM_FEATURES, *hidden, 1])
        nn.init.zeros_(self.mlp.weights[-2])
        if frozen:
            rule.requires_grad_(False)

    @property
    def label(self) -> str:
        return self.rule.label

    def init_state(self, theta: Tensor, layout: Layout) -> State:
        return init_loss_trend(theta) | _outer(self.rule.init_state(theta, layout))

    def state_axes(self) -> dict[str, Axis]:
        return loss_trend_axes() | {INNER + key: axis for key, axis in self.rule.state_axes().items()}

    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        cycle = self._cycle(seen)
        known = seen if self.reads_loss else seen._replace(loss=torch.full_like(seen.loss, torch.nan))
        trend, losses = loss_trend(known, state)
        inner = self._restarted(seen, cycle, state, layout)
        update, after = self.rule(seen._replace(step=cycle.place, horizon=cycle.length), inner, layout)
        return self._rate(seen, cycle, trend) * update, losses | _outer(after)

    def _cycle(self, seen: Observation) -> Cycle:
        if not self.restarts:
            return Cycle(seen.step, seen.horizon)
        every = self.trained_horizon
        first = torch.where(seen.horizon.isfinite(), seen.horizon, 0.0) % every  # steps of a first, shorter cycle
        short = seen.step < first
        place = torch.where(short, seen.step, (seen.step - first) % every)
        return Cycle(place, torch.where(short, first, every))

    def _restarted(self, seen: Observation, cycle: Cycle, state: State, layout: Layout) -> State:
        """Give the inner rule's state, which is a new one for the tasks that are at the start of a later cycle."""
        inner = {key.removeprefix(INNER): value for key, value in state.items() if key.startswith(INNER)}
        starts = (cycle.place == 0) & (seen.step > 0)
        if not self.restarts or (_can_be_read(starts) and not starts.any()):
            return inner
        fresh = self.rule.init_state(seen.theta, layout)
        return {key: torch.where(_alike(starts, fresh[key]), fresh[key], value) for key, value in inner.items()}

    def _rate(self, seen: Observation, cycle: Cycle, trend: Tensor) -> Tensor:
        """Give η_t (B, 1)."""
        known = seen.horizon.isfinite()
        horizon = torch.where(known, seen.horizon, 1.0)
        over = torch.where(known, seen.step / horizon, 0.0).clamp(max=1.0)  # t/T; after T steps it stays at 1
        longer = torch.where(known, (horizon / self.trained_horizon).log(), 0.0)  # ln(T/R)
        beyond = (seen.step / self.trained_horizon).clamp(min=1.0).log()  # ln(t/R), 0 before
        decay = torch.where(known, over * longer.clamp(min=0.0), beyond)
        place = torch.where(cycle.length.isfinite(), cycle.place / cycle.length, 0.0)
        x = torch.cat((torch.stack((place, over, longer.clamp(-3, 3))), trend))[..., None]  # (F, B, 1)
        return (self.mlp(x)[0] - decay[:, None]).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()


def schedule(
    first: UpdateRule,
    trained_horizon: int | None = None,
    restarts: bool = True,
    hidden_size: int = 0,
    reads_loss: bool = True,
    frozen: bool = True,
) -> UpdateRule:
    """Give the rule for training a schedule of a trained rule; each group of a `Partitioned` has one of its own.

    `trained_horizon` is by default the one on the rule's card. Raises ValueError where there is none.
    """
    steps = trained_horizon if trained_horizon is not None else horizon_of(first.card)
    if steps is None:
        raise ValueError(
            f"nobody knows for how many steps {first.label} was trained, because it has no card that says so: "
            "give optimizer.trained_horizon, after which its schedule lets it start anew"
        )
    options = (steps, restarts, hidden_size, reads_loss, frozen)
    if not isinstance(first, Partitioned):
        return Scheduled(first, *options)
    groups = {name: schedule(rule, *options) for name, rule in first.rules.items() if isinstance(rule, UpdateRule)}
    return Partitioned(groups, first.patterns)


def _outer(inner: State) -> State:
    return {INNER + key: value for key, value in inner.items()}


def _can_be_read(mask: Tensor) -> bool:
    """Whether it costs nothing to look at a mask: not where a device must be waited for, nor within `vmap`."""
    return mask.device.type == "cpu" and not is_transformed(mask)


def _alike(mask: Tensor, value: Tensor) -> Tensor:
    """Give a mask (B,) as many axes as a value (B, …) has."""
    return mask.reshape(-1, *[1] * (value.ndim - 1))
