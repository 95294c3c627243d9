"""AdamW, Muon and schedule-free AdamW against their reference code, and every baseline's learning-rate schedule.

Shapes: B tasks, P coordinates, K steps.
"""

import math

import modern_rules
import numpy as np
import pytest
import torch
from modern_rules import seen
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import SGD, Adam, AdamW, Momentum, Muon, RMSprop, ScheduleFreeAdamW, Scope
from l2o.optimizers.hand_designed import HandDesigned

pytestmark = pytest.mark.usefixtures("float64")

K = 20
SHAPES = {"weight": (4, 6), "tall": (7, 2), "bias": (5,), "conv": (2, 3, 2, 2), "embed.weight": (6, 3), "scale": ()}
LAYOUT = Layout(SHAPES)
RULES = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": lambda lr, **options: Momentum(lr, nesterov=True, **options),
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "muon": Muon,
}


def updates(rule: HandDesigned, grads: torch.Tensor, theta: torch.Tensor, horizon: float = 20.0) -> torch.Tensor:
    with torch.no_grad():
        losses = torch.ones(grads.shape[:2])
        return modern_rules.run(rule, grads, theta, losses, LAYOUT, horizon)[0]


def reference(optimizers, points: dict[str, torch.Tensor], grads: torch.Tensor, schedulers=()) -> torch.Tensor:
    """θ (K, P) after each step of torch's optimizers."""
    found = []
    for grad in grads[:, 0]:
        for name, part in LAYOUT.unravel(grad).items():
            points[name].grad = part.clone()
        for optimizer in (*optimizers, *schedulers):
            optimizer.step()
        found.append(LAYOUT.ravel({name: point.detach() for name, point in points.items()}))
    return torch.stack(found)


def problem() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(2)
    grads, theta = torch.randn(K, 1, LAYOUT.size), torch.randn(1, LAYOUT.size)
    points = {name: part.clone().requires_grad_() for name, part in LAYOUT.unravel(theta[0]).items()}
    return grads * torch.logspace(-3, 3, LAYOUT.size), theta, points


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_equals_torch_s(decay: float) -> None:
    grads, theta, points = problem()
    torch_s = torch.optim.AdamW(points.values(), lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    expected = reference([torch_s], points, grads)
    mine = theta + updates(AdamW(0.02, 0.8, 0.95, 1e-6, weight_decay=decay), grads, theta).cumsum(0)[:, 0]
    assert_close(mine, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_equals_torch_s(nesterov: bool, adjust: str) -> None:
    """Matrices by torch's Muon, the rest by its AdamW at a part of the rate; bfloat16 rounds the same way in both."""
    grads, theta, points = problem()
    matrices = [points["weight"], points["tall"]]
    others = [points[name] for name in SHAPES if name not in ("weight", "tall")]
    torch_s = torch.optim.Muon(matrices, 0.02, 0.1, 0.9, nesterov=nesterov, adjust_lr_fn=adjust)
    adamw = torch.optim.AdamW(others, lr=0.006, betas=(0.9, 0.95), weight_decay=0.1)
    expected = reference([torch_s, adamw], points, grads)
    rule = Muon(0.02, 0.9, nesterov, adjust, adam_mult=0.3)
    mine = theta + updates(rule, grads, theta).cumsum(0)[:, 0]
    assert_close(mine, expected, rtol=1e-9, atol=1e-11)
    assert rule.scope is Scope.TENSOR


@pytest.mark.parametrize(
    ("name", "options", "horizon"),
    [
        ("plain", {"lr": 0.0025}, math.inf),
        ("full", {"lr": 0.01, "beta1": 0.95, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1, "warmup": 0.2}, 30.0),
    ],
)
def test_schedule_free_adamw_equals_the_package(name: str, options: dict, horizon: float) -> None:
    """schedulefree 1.4.1, float64: y, where the gradients are taken, and x, the average, after each of 30 steps."""
    arrays = modern_rules.golden("schedule_free_1.4.1")
    rule, layout = ScheduleFreeAdamW(**options), Layout({"theta": (7,)})
    theta = torch.from_numpy(arrays["start"])[None]
    state = rule.init_state(theta, layout)
    for t, grad in enumerate(torch.from_numpy(arrays["grads"])):
        update, state = rule(seen(grad[None], theta, t, horizon), state, layout)
        theta = theta + update
        assert_close(theta[0].numpy(), arrays[f"{name}|y"][t], rtol=1e-11, atol=1e-13)
        assert_close(rule.averaged(theta, state)[0].numpy(), arrays[f"{name}|x"][t], rtol=1e-10, atol=1e-12)
    assert not np.allclose(arrays["plain|y"][-1], arrays["full|y"][-1])


def factor(number: int, horizon: int, warmup: float, final: float) -> float:
    """s_t of step `number`, from 1."""
    rise = max(1.0, warmup * horizon)
    if number < rise:
        return number / rise
    done = (number - rise) / max(1.0, horizon - rise)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("warmup", "final"), [(0.25, 0.0), (0.0, 0.1), (0.1, 0.1)])
def test_warm_up_and_cosine_scale_every_rule_s_rate(name: str, warmup: float, final: float) -> None:
    """As torch's LambdaLR does where the rate scales the update; the rule's memory knows nothing of it."""
    torch.manual_seed(3)
    grads, theta = torch.randn(K, 2, LAYOUT.size), torch.zeros(2, LAYOUT.size)
    plain, scheduled = RULES[name](0.1), RULES[name](0.1, warmup=warmup, schedule="cosine", final=final)
    assert not plain.needs and scheduled.needs == {"horizon"}
    states = [rule.init_state(theta, LAYOUT) for rule in (plain, scheduled)]
    for t, grad in enumerate(grads):
        told = seen(grad, theta, t, float(K))
        (full, states[0]), (part, states[1]) = (
            rule(told, state, LAYOUT) for rule, state in zip((plain, scheduled), states, strict=True)
        )
        assert_close(part, factor(t + 1, K, warmup, final) * full, rtol=1e-12, atol=1e-16)


def test_a_schedule_equals_torch_s_lambda_lr() -> None:
    grads, theta, points = problem()
    torch_s = torch.optim.AdamW(points.values(), lr=0.02, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(torch_s, lambda t: factor(t + 1, K, 0.2, 0.1))
    expected = reference([torch_s], points, grads, [scheduler])
    rule = AdamW(0.02, weight_decay=0.1, warmup=0.2, schedule="cosine", final=0.1)
    assert_close(theta + updates(rule, grads, theta, K).cumsum(0)[:, 0], expected, rtol=1e-9, atol=1e-11)


def test_horizons_may_differ_between_tasks_and_an_unknown_one_means_no_schedule() -> None:
    rule, theta = SGD(1.0, warmup=0.5, schedule="cosine"), torch.zeros(3, LAYOUT.size)
    told = seen(torch.ones_like(theta), theta, 1)._replace(horizon=torch.tensor([8.0, 2.0, math.inf]))
    update, _ = rule(told, {}, LAYOUT)
    assert_close(update[:, 0], torch.tensor([-0.5, 0.0, -1.0]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", [*RULES, "schedule free"])
def test_a_grid_of_rates_is_one_run_of_many_tasks(name: str) -> None:
    make = ScheduleFreeAdamW if name == "schedule free" else RULES[name]
    rates = torch.tensor([1e-3, 0.1, 1.0])
    torch.manual_seed(4)
    grads, theta = torch.randn(K, 3, LAYOUT.size), torch.randn(3, LAYOUT.size)
    together = updates(make(rates[:, None], warmup=0.3), grads, theta)
    for b, rate in enumerate(rates.tolist()):
        alone = updates(make(rate, warmup=0.3), grads[:, b : b + 1], theta[b : b + 1])
        scale = alone.abs().max().item()
        tolerance = 2e-2 if name == "muon" else 1e-12  # bfloat16 may round products of one and of three otherwise
        assert_close(together[:, b : b + 1], alone, rtol=tolerance, atol=tolerance * scale)


def test_muon_and_schedule_free_stay_finite() -> None:
    torch.manual_seed(5)
    layout = Layout({"empty": (0, 3), "none": (0,), "row": (1, 4), "w": (3, 3), "scalar": ()})
    for rule in (Muon(0.1), ScheduleFreeAdamW(0.1), AdamW(0.1)):
        for scale in (0.0, 1e-6, 1e6):
            grads, theta = scale * torch.randn(3, 2, layout.size).float(), torch.randn(2, layout.size).float()
            found, state = modern_rules.run(rule, grads, theta, torch.ones(3, 2).float(), layout)
            assert found.isfinite().all() and all(value.isfinite().all() for value in state.values())
            assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Muon(0.1, adjust="none"), "adjust must be one of original, match_rms_adamw"),
        (lambda: ScheduleFreeAdamW(0.1, beta1=0.0), "beta1 must be more than 0"),
        (lambda: AdamW(0.1, weight_decay=-0.1), "must be at least 0"),
        (lambda: SGD(0.1, warmup=-0.1), "warmup is a fraction of the horizon"),
    ],
)
def test_bad_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
