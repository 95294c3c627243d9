"""Learning from a teacher, for problems on which the meta-gradient does not make φ better.

Shapes: B tasks, P coordinates of one optimizee, K steps of the window.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator

from l2o.meta_gradients.base import MetaGradient, WindowResult
from l2o.meta_gradients.truncated_bptt import recorded
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import State, UpdateRule, take
from l2o.replay import replay
from l2o.unroll import Episode, steps


class Apprenticeship(NamedTuple):
    """Hold the rule's own episode and the state of the teacher, which reads the episode's gradients, too."""

    episode: Episode
    teacher: State


class Imitation(MetaGradient):
    """φ learns a teacher's updates a_t: L(φ) = 1/BK Σ_tasks Σ_t ‖g_t − s_t a_t‖² / 2‖a_t‖² (after Chen et al. 2020).

    Rule and teacher both read the gradients ∇_t of the rule's own trajectory, so that the rule learns what to do at the
    points that it comes to. ∇_t and a_t count as constants. s_t is 1; with a cooldown, s_t falls linearly to 0 over the
    last part of an episode, which is its last quarter for `cooldown=0.25`. Steps in which the teacher rests are left
    out of L.

    The cooldown ends at the episode's own horizon; `horizon` is that of episodes which have none of their own. The
    teacher is an update rule with a learning rate. Its state is carried through the whole episode, while the replay
    goes back through one window, as in `TruncatedBPTT`. The losses returned are the optimizee's, f(θ_t), while the
    objective returned is L. Raises ValueError for a teacher without a learning rate, for a cooldown that is no part of
    an episode, and for a cooldown in an episode of unknown length.
    """

    def __init__(
        self, teacher: UpdateRule, cooldown: float = 0.0, horizon: int | None = None, max_replay_bytes: int = 2**30
    ):
        if getattr(teacher, "lr", 0) is None:
            raise ValueError("imitation needs the teacher's learning rate: set meta_gradient.teacher.lr")
        if not 0 <= cooldown <= 1:
            raise ValueError(f"cooldown is the last part of an episode, between 0 and 1, got {cooldown}")
        if max_replay_bytes < 1:
            raise ValueError(f"max_replay_bytes must be positive, got {max_replay_bytes}")
        self.teacher, self.cooldown, self.horizon = teacher, cooldown, horizon
        self.max_replay_bytes = max_replay_bytes

    def start(
        self, rule: UpdateRule, optimizee: Optimizee, num_tasks: int, horizon: float, generator: Generator
    ) -> Apprenticeship:
        """Start an episode of the rule, with a teacher that remembers nothing yet."""
        episode = super().start(rule, optimizee, num_tasks, horizon, generator)
        teacher = self.teacher.to(episode.theta.device)
        return Apprenticeship(episode, teacher.init_state(episode.theta, optimizee.layout))

    @torch.no_grad()
    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Apprenticeship, num_steps: int, generator: Generator
    ) -> WindowResult:
        layout, teacher = optimizee.layout, self.teacher.to(carry.episode.theta.device)
        episode, memory = carry
        losses = episode.theta.new_empty(num_steps, len(episode.theta))
        grads = episode.theta.new_empty(num_steps, *episode.theta.shape)
        cotangents, objective = torch.empty_like(grads), episode.theta.new_zeros(())
        for t, (update, after) in enumerate(steps(rule, optimizee, episode, num_steps, generator)):
            grads[t] = episode.grad
            aim, memory = teacher(episode.seen, memory, layout)
            share = self._share(episode)
            scale = num_steps * len(aim) * aim.square().sum(1, keepdim=True)
            cotangents[t] = torch.where(scale > 0, (update - share * aim) / scale, 0.0)
            objective += 0.5 * (cotangents[t] * (update - share * aim)).sum()
            losses[t], episode = after.loss, after
        recording = recorded(carry.episode, grads, losses, optimizee)
        gradient = replay(rule, recording, lambda spans: take(cotangents, spans), self.max_replay_bytes)
        done = episode.step >= episode.horizon
        return WindowResult(losses, objective, gradient, Apprenticeship(episode, memory), done)

    def _share(self, episode: Episode) -> float:
        """Return s_t, the share of the teacher's update that the rule aims at in the episode's next step."""
        if not self.cooldown:
            return 1.0
        horizon = self.horizon if math.isinf(episode.horizon) else episode.horizon
        if horizon is None:
            raise ValueError("a cooldown needs the episode's horizon: start the episode with one, or set cooldown=0")
        return min(1.0, max(0.0, (horizon - episode.step) / (self.cooldown * horizon)))
