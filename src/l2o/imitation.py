"""Learning from a teacher: a start for meta-training where fresh φ do not leave chance, or learn slowly.

Shapes: B tasks, P coordinates of one optimizee, K steps of the window.
"""

from collections.abc import Sequence

import torch
from torch import Generator

from l2o.meta_gradient import MetaGradient, WindowResult
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import State, UpdateRule, take
from l2o.unroll import Episode

TEACHER = "teacher/"
"""Before the teacher's part of an episode's state: no rule's own keys begin so."""


class Imitation(MetaGradient):
    """φ learns the teacher's updates a_t: L(φ) = 1/BK Σ_tasks Σ_t ‖g_t − a_t‖² / 2‖a_t‖² (imitation: Chen et al. 2020).

    Both read the gradients of the rule's own trajectory, so that it learns to act where it comes to; with a teacher
    that moves it soon moves itself. The teacher, an update rule with its learning rate, remembers the whole episode;
    the replay goes through one window, as in `TruncatedBPTT`. With `cooldown=(t_1, t_2)` the updates to learn fall
    linearly from a_t at step t_1 to 0 at step t_2. The losses returned are the optimizee's, f(θ_t).
    """

    def __init__(self, teacher: UpdateRule, cooldown: Sequence[int] | None = None, max_replay_bytes: int = 2**30):
        if cooldown is not None and not (len(cooldown) == 2 and 0 <= cooldown[0] < cooldown[1]):
            raise ValueError(f"cooldown must be two steps, the first before the second, got {list(cooldown)}")
        if max_replay_bytes < 1:
            raise ValueError(f"max_replay_bytes must be positive, got {max_replay_bytes}")
        self.teacher, self.cooldown, self.max_replay_bytes = teacher, cooldown, max_replay_bytes

    @torch.no_grad()
    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, episode: Episode, num_steps: int, generator: Generator
    ) -> WindowResult:
        layout = optimizee.layout
        task, theta, loss, grad, state, step = episode
        state, taught = _parted(state)
        taught = taught or self.teacher.init_state(theta, layout)
        start = state, theta
        losses = theta.new_empty(num_steps, len(theta))
        grads = theta.new_empty(num_steps, *theta.shape)
        cotangents = torch.empty_like(grads)
        for t in range(num_steps):
            grads[t] = grad
            update, state = rule(grad, state, theta, layout)
            aim, taught = self.teacher(grad, taught, theta, layout)
            square = aim.square().sum(1, keepdim=True).clamp(min=torch.finfo(aim.dtype).tiny)
            cotangents[t] = (update - self._share(step + t) * aim) / (square * num_steps * len(theta))
            theta = theta + update
            loss, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, len(theta), generator))
            losses[t] = loss
        gradient = rule.replay_in_chunks(
            grads, lambda runs: take(cotangents, runs), *start, layout, self.max_replay_bytes
        )
        after = state | {TEACHER + key: value for key, value in taught.items()}
        return losses, gradient, Episode(task, theta, loss, grad, after, step + num_steps)

    def _share(self, step: int) -> float:
        """How much of the teacher's update is aimed at in the step after θ_step."""
        start, end = self.cooldown or (step, step + 1)
        return min(1.0, max(0.0, (end - step) / (end - start)))


def _parted(state: State) -> tuple[State, State]:
    """The rule's own part of an episode's state, and the teacher's."""
    own = {key: value for key, value in state.items() if not key.startswith(TEACHER)}
    return own, {key.removeprefix(TEACHER): value for key, value in state.items() if key.startswith(TEACHER)}
