"""Learning from a teacher, for problems on which the meta-gradient does not make φ better.

Shapes: B tasks, P coordinates of one optimizee, K steps of the window.
"""

import torch
from torch import Generator

from l2o.meta_gradients.base import MetaGradient, WindowResult
from l2o.meta_gradients.truncated_bptt import recorded
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import State, UpdateRule, take
from l2o.replay import replay
from l2o.unroll import Episode, step

TEACHER = "teacher/"
"""Stands before the keys of the teacher's state in an episode. No rule's own keys begin with it."""


class Imitation(MetaGradient):
    """φ learns a teacher's updates a_t: L(φ) = 1/BK Σ_tasks Σ_t ‖g_t − s_t a_t‖² / 2‖a_t‖² (after Chen et al. 2020).

    Rule and teacher both read the gradients ∇_t of the rule's own trajectory, so that the rule learns what to do at the
    points that it comes to. ∇_t and a_t count as constants. s_t is 1; with a cooldown, s_t falls linearly to 0 over the
    last part of an episode of `horizon` steps, which is its last quarter for `cooldown=0.25`. Steps in which the
    teacher rests are left out. Raises ValueError for a teacher without a learning rate, and for a cooldown that is no
    part of a horizon.

    The teacher is an update rule with a learning rate. Its state is carried through the whole episode, while the replay
    goes back through one window, as in `TruncatedBPTT`. The losses returned are the optimizee's, f(θ_t).
    """

    def __init__(
        self, teacher: UpdateRule, cooldown: float = 0.0, horizon: int | None = None, max_replay_bytes: int = 2**30
    ):
        if getattr(teacher, "lr", 0) is None:
            raise ValueError("imitation needs the teacher's learning rate: set meta_gradient.teacher.lr")
        if not 0 <= cooldown <= 1:
            raise ValueError(f"cooldown is the last part of an episode, between 0 and 1, got {cooldown}")
        if cooldown and horizon is None:
            raise ValueError("a cooldown needs the episode's horizon")
        if max_replay_bytes < 1:
            raise ValueError(f"max_replay_bytes must be positive, got {max_replay_bytes}")
        self.teacher, self.cooldown, self.horizon = teacher, cooldown, horizon
        self.max_replay_bytes = max_replay_bytes

    @torch.no_grad()
    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        layout = optimizee.layout
        own, memory = _parted(episode.state)
        fresh = self.teacher.to(episode.theta.device).init_state(episode.theta, layout)
        memory = memory if memory.keys() == fresh.keys() else fresh  # an episode's start, or resumed with another one
        start = episode = episode._replace(state=own)
        losses = episode.theta.new_empty(num_steps, len(episode.theta))
        grads = episode.theta.new_empty(num_steps, *episode.theta.shape)
        cotangents = torch.empty_like(grads)
        for t in range(num_steps):
            grads[t] = episode.grad
            aim, memory = self.teacher(episode.seen, memory, layout)
            share = self._share(episode.step)
            update, episode = step(rule, optimizee, episode, generator, donate=t > 0)
            scale = num_steps * len(aim) * aim.square().sum(1, keepdim=True)
            cotangents[t] = torch.where(scale > 0, (update - share * aim) / scale, 0.0)
            losses[t] = episode.loss
        recording = recorded(start, grads, losses, optimizee)
        gradient = replay(rule, recording, lambda spans: take(cotangents, spans), self.max_replay_bytes)
        state = episode.state | {TEACHER + key: value for key, value in memory.items()}
        return losses, gradient, episode._replace(state=state)

    def _share(self, step: int) -> float:
        """Give s_t, the share of the teacher's update that is aimed at after `step` steps."""
        if not self.cooldown or self.horizon is None:
            return 1.0
        return min(1.0, max(0.0, (self.horizon - step) / (self.cooldown * self.horizon)))


def _parted(state: State) -> tuple[State, State]:
    """Split an episode's state into the rule's own part and the teacher's."""
    own = {key: value for key, value in state.items() if not key.startswith(TEACHER)}
    return own, {key.removeprefix(TEACHER): value for key, value in state.items() if key.startswith(TEACHER)}
