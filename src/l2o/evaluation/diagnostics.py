"""How good an estimate of the meta-gradient is: its signal, its noise, its bias and its cost, at a φ that stands still.

Shapes: M independent estimates, D numbers of φ that are trained, B tasks (or antithetic pairs).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from l2o import seeds
from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.views import View
from l2o.optimizers.base import UpdateRule
from l2o.seeds import Stream

if TYPE_CHECKING:
    from l2o.meta_gradients.base import MetaGradient


class Diagnosis(NamedTuple):
    """Say how good the estimates of one estimator are, for episodes of `horizon` steps in windows of `window` steps.

    One estimate is the mean over the windows of an episode. `snr` is ‖g‖² / E‖ĝ − g‖², the signal-to-noise ratio of one
    estimate. `cosine` is that of the angle between the estimator's expectation g and the reference's. It is 1 where
    there is no bias, and cut at ±1; its standard error leaves the error of the reference out. For signal and cosine the
    squared norms of means are freed of the noise that is left in them; nan says that so few estimates show no signal at
    all. `inner_steps` are the evaluations of f and its gradient that one estimate takes.
    """

    estimator: str
    horizon: int
    window: int
    tasks: int
    estimates: int
    snr: float
    cosine: float
    cosine_error: float
    signal: float  # ‖g‖
    noise: float  # √E‖ĝ − g‖²
    inner_steps: int


def diagnose(
    rule: UpdateRule,
    optimizee: Optimizee,
    estimators: Mapping[str, "MetaGradient"],
    reference: "MetaGradient",
    horizons: Sequence[int],
    windows: Sequence[int],
    num_tasks: int = 8,
    num_estimates: int = 8,
    num_reference: int = 16,
    seed: int = 0,
) -> Iterable[Diagnosis]:
    """Yield a diagnosis of every estimator, for every horizon and every window that divides it.

    `reference` has the unbiased direction, as `FullES` has; its estimates come from seeds of their own. Raises
    ValueError where no window divides a horizon, where there are fewer than two estimates, and where φ is all frozen.
    """
    if min(num_estimates, num_reference) < 2:
        raise ValueError(f"a diagnosis needs at least 2 estimates of each kind, got {num_estimates}, {num_reference}")
    if not any(parameter.requires_grad for parameter in rule.parameters()):
        raise ValueError(f"{rule.label} has no meta-parameters that are trained: there is no meta-gradient to diagnose")
    for horizon in horizons:
        fitting = [window for window in windows if horizon % window == 0]
        if not fitting:
            raise ValueError(
                f"no window of {', '.join(map(str, windows))} steps divides the horizon {horizon}: add one"
            )
        exact, _ = estimates(rule, optimizee, reference, num_tasks, horizon, horizon, num_reference, seed + 1)
        for name, estimator in estimators.items():
            for window in fitting:
                given = num_tasks, horizon, window, num_estimates, seed
                found, inner_steps = estimates(rule, optimizee, estimator, *given)
                yield _diagnosis(name, found, exact, num_tasks, horizon, window, inner_steps)


def estimates(
    rule: UpdateRule,
    optimizee: Optimizee,
    estimator: "MetaGradient",
    num_tasks: int,
    horizon: int,
    window: int,
    count: int,
    seed: int,
) -> tuple[Tensor, int]:
    """Give M independent estimates (M, D), each the mean over an episode's windows, and the inner steps of one."""
    counted, found = Counted(optimizee), []
    for number in range(count):
        generator, total, windows, done = seeds.generator(seed, Stream.EVALUATION, number), 0.0, 0, False
        carry = estimator.start(rule, counted, num_tasks, horizon, generator)
        while not done:
            result = estimator(rule, counted, carry, window, generator)
            carry, done, windows = result.carry, result.done, windows + 1
            pairs = zip(result.gradient, rule.parameters(), strict=True)
            total = total + torch.cat([part.flatten() for part, parameter in pairs if parameter.requires_grad])
        found.append(total / windows)
    return torch.stack(found), counted.evaluations // count


class Counted(View):
    """Counts the evaluations of f, one for each task."""

    evaluations = 0

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        self.evaluations += len(theta)
        return super().losses(theta, batch)

    def loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        self.evaluations += len(theta)
        return super().loss_and_grad(theta, batch)


def _diagnosis(
    name: str, found: Tensor, exact: Tensor, num_tasks: int, horizon: int, window: int, inner_steps: int
) -> Diagnosis:
    square, noise = moments(found)
    one_less = [cosine(torch.cat((found[:i], found[i + 1 :])), exact) for i in range(len(found))]
    spread = torch.tensor(one_less, dtype=torch.float64)
    error = math.sqrt((len(found) - 1) * (spread - spread.mean()).square().mean().item())  # the jackknife's
    return Diagnosis(
        name,
        horizon,
        window,
        num_tasks,
        len(found),
        max(square, 0.0) / noise if noise else math.inf,
        cosine(found, exact),
        error,
        math.sqrt(max(square, 0.0)),
        math.sqrt(noise),
        inner_steps,
    )


def moments(found: Tensor) -> tuple[float, float]:
    """Give unbiased estimates of ‖g‖² and of E‖ĝ − g‖² from estimates (M, D), M ≥ 2. The first may be negative."""
    found = found.double()
    mean = found.mean(0)
    noise = (found - mean).square().sum().item() / (len(found) - 1)
    return mean.square().sum().item() - noise / len(found), noise


def cosine(found: Tensor, exact: Tensor) -> float:
    """Give the cosine between two expectations, from independent estimates of each; nan where one shows no signal."""
    squares = [moments(part)[0] if len(part) > 1 else math.nan for part in (found, exact)]
    if not all(square > 0 for square in squares):
        return math.nan
    inner = (found.double().mean(0) @ exact.double().mean(0)).item()
    return max(-1.0, min(1.0, inner / math.sqrt(squares[0] * squares[1])))


def advice(snr: float, num_parameters: int, not_finite: float = 0.0, capped: float = 0.0) -> str | None:
    """Say in one line what holds a training by evolution strategies up, from its diagnostics; None where nothing does.

    `snr` is the signal-to-noise ratio of a single pair. Even where losses are linear in φ and have no noise of their
    own it is no more than 1/(D + 1) for D meta-parameters, since a pair sees one direction of D. A tenth of that is
    where the line is drawn. The others are the fractions of episodes that are not finite, and of losses at the cap.
    """
    if not_finite > 0.1:
        return (
            f"{not_finite:.0%} of the episodes are not finite: start from a smaller output_scale or step_mult, shorten "
            "the horizon, or lower meta_gradient.sigma"
        )
    if capped > 0.5:
        return f"{capped:.0%} of the losses are at the cap and show no differences: raise meta_gradient.cap"
    best = 1 / (num_parameters + 1)
    if snr < best / 10:
        return (
            f"a pair's signal-to-noise ratio is {snr:.1g}, where {best:.1g} is the most for {num_parameters} "
            "meta-parameters: the losses of long episodes drown it. Raise learner.num_tasks, take meta_gradient=nres, "
            "shorten the horizon, or let learner.ema_decay average φ"
        )
    return None
