"""A teacher beside an estimator, which counts for less and less as the run goes on (ELO, Moudgil et al. 2026).

Shapes: B tasks, P coordinates of one optimizee, K steps of the window.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from l2o.meta_gradients.base import Carry, MetaGradient, WindowResult
from l2o.meta_gradients.truncated_bptt import recorded
from l2o.optimizees.base import Optimizee
from l2o.optimizers.base import State, UpdateRule, take
from l2o.replay import replay
from l2o.unroll import Episode, start_episode, steps

SMALLEST = 1e-12
"""What the norm of an update counts as at least, where it is divided by."""


class Lesson(NamedTuple):
    """Hold what the estimator carries, and beside it an episode of the rule at φ itself with the teacher's state."""

    estimator: Carry
    episode: Episode
    teacher: State


class FadingTeacher(MetaGradient):
    """Adds to an estimator's gradient those of two losses against a teacher's updates a_t (ELO, arXiv 2607.06772):

        L_dir = mean of 1 − cos(g_t, a_t),   L_mag = mean of |‖g_t‖ − ‖a_t‖| / ‖a_t‖   over tasks and steps,

    along an episode of the rule at φ itself, in which the teacher reads the rule's own gradients; both count as
    constants, as in `Imitation`. Each of the three gradients is divided by its norm, so that none drowns the others,
    and then weighed: w_dir = direction · max(floor, w), w_mag = size · w, and the estimator has the rest. w is 1 up to
    the fraction `start` of the run and then falls linearly to 0 at `until`; the defaults are ELO's, of which the
    direction keeps its floor. Losses and objective are the estimator's.

    ELO takes the two losses into the differences of its evolution strategy, and lets θ follow the teacher in part.
    Here they are differentiated exactly instead, and θ follows the rule alone. The teacher is an update rule with a
    learning rate, as Adam or Muon. Raises ValueError for a teacher without one, and for weights that make no sense.
    """

    def __init__(
        self,
        estimator: MetaGradient,
        teacher: UpdateRule,
        direction: float = 0.7,
        size: float = 0.3,
        floor: float = 0.3,
        start: float = 0.05,
        until: float = 0.5,
        max_replay_bytes: int = 2**30,
    ):
        if getattr(teacher, "lr", 0) is None:
            raise ValueError("a fading teacher needs its learning rate: set meta_gradient.teacher.lr")
        if min(direction, size) < 0 or direction + size > 1 or not 0 <= floor <= 1:
            given = f"direction={direction}, size={size} and floor={floor}"
            raise ValueError(f"a teacher's weights are parts of 1, and direction + size is at most 1, got {given}")
        if not 0 <= start <= until <= 1:
            raise ValueError(f"a teacher fades between fractions of the run, start <= until, got {start} and {until}")
        if max_replay_bytes < 1:
            raise ValueError(f"max_replay_bytes must be positive, got {max_replay_bytes}")
        self.estimator, self.teacher, self.max_replay_bytes = estimator, teacher, max_replay_bytes
        self.direction, self.size, self.floor = direction, size, floor
        self.begin, self.until, self.fraction = start, until, 0.0

    def told(self, fraction: float) -> None:
        self.fraction = fraction
        self.estimator.told(fraction)

    @property
    def weights(self) -> tuple[float, float, float]:
        """Give the weights of the estimator's gradient, of the direction's and of the size's, as they are now."""
        if self.fraction <= self.begin:
            w = 1.0
        else:
            w = max(0.0, (self.until - self.fraction) / max(self.until - self.begin, SMALLEST))
        of_direction, of_size = self.direction * max(self.floor, w), self.size * w
        return 1 - of_direction - of_size, of_direction, of_size

    @torch.no_grad()
    def start(
        self, rule: UpdateRule, optimizee: Optimizee, num_tasks: int, horizon: float, generator: Generator
    ) -> Lesson:
        carry = self.estimator.start(rule, optimizee, num_tasks, horizon, generator)
        episode = start_episode(rule, optimizee, num_tasks, generator, horizon)
        teacher = self.teacher.to(episode.theta.device)
        return Lesson(carry, episode, teacher.init_state(episode.theta, optimizee.layout))

    def __call__(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Lesson, num_steps: int, generator: Generator
    ) -> WindowResult:
        found = self.estimator(rule, optimizee, carry.estimator, num_steps, generator)
        losses, gradients, lesson = self._lesson(rule, optimizee, carry, len(found.losses), generator)
        gradient = added([found.gradient, *gradients], self.weights)
        told = {"teacher_direction": losses[0], "teacher_size": losses[1], "teacher_weight": 1 - self.weights[0]}
        lesson = lesson._replace(estimator=found.carry)
        return found._replace(gradient=gradient, carry=lesson, diagnostics={**found.diagnostics, **told})

    @torch.no_grad()
    def _lesson(
        self, rule: UpdateRule, optimizee: Optimizee, carry: Lesson, num_steps: int, generator: Generator
    ) -> tuple[Tensor, list[list[Tensor]], Lesson]:
        """Move the rule's own episode on. Give L_dir and L_mag (2,), the gradient of each, and what is carried on."""
        teacher = self.teacher.to(carry.episode.theta.device)
        _, episode, memory = carry
        losses = episode.theta.new_empty(num_steps, len(episode.theta))
        grads = episode.theta.new_empty(num_steps, *episode.theta.shape)
        cotangents, values = grads.new_empty(2, *grads.shape), grads.new_zeros(2)
        for t, (update, after) in enumerate(steps(rule, optimizee, episode, num_steps, generator)):
            grads[t] = episode.grad
            aim, memory = teacher(episode.seen, memory, optimizee.layout)
            value, cotangents[:, t] = compared(update, aim)
            values += value / num_steps
            losses[t], episode = after.loss, after
        recording = recorded(carry.episode, grads, losses, optimizee)
        cotangents /= num_steps * len(episode.theta)
        gradients = [
            replay(rule, recording, lambda spans, own=own: take(own, spans), self.max_replay_bytes)
            for own in cotangents
        ]
        return values, gradients, Lesson(carry.estimator, episode, memory)


def compared(update: Tensor, aim: Tensor) -> tuple[Tensor, Tensor]:
    """Give 1 − cos(g, a) and |‖g‖ − ‖a‖| / ‖a‖ as means over tasks, (2,), and each task's gradients by g, (2, B, P).

    Tasks in which the teacher rests count 0.
    """
    length, wanted = (part.norm(dim=1, keepdim=True) for part in (update, aim))  # (B, 1)
    unit, aimed = update / length.clamp(min=SMALLEST), aim / wanted.clamp(min=SMALLEST)
    cosine = (unit * aimed).sum(1, keepdim=True)
    values = torch.stack((1 - cosine, (length - wanted).abs() / wanted.clamp(min=SMALLEST)))
    by_update = torch.stack(
        (
            (cosine * unit - aimed) / length.clamp(min=SMALLEST),
            (length - wanted).sign() * unit / wanted.clamp(min=SMALLEST),
        )
    )
    rests = wanted == 0
    return values.masked_fill(rests, 0.0).mean((1, 2)), by_update.masked_fill(rests, 0.0)


def added(gradients: Sequence[Sequence[Tensor]], weights: Sequence[float]) -> list[Tensor]:
    """Give the weighted sum of several gradients, each divided by its norm; one that is 0 adds nothing."""
    total = [torch.zeros_like(part) for part in gradients[0]]
    for gradient, weight in zip(gradients, weights, strict=True):
        if weight and gradient:
            norm = torch.stack([part.norm() for part in gradient]).norm()
            scale = torch.where(norm > 0, weight / norm, torch.zeros_like(norm))
            scale = torch.where(norm.isfinite(), scale, norm)  # a gradient that is not finite shows
            total = [so_far + scale * part for so_far, part in zip(total, gradient, strict=True)]
    return total
