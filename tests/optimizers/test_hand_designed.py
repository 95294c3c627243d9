"""The baselines against torch.optim.

Shapes: B tasks, P coordinates.
"""

import pytest
import torch
from observations import seen
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import SGD, Adam, Momentum, RMSprop
from l2o.optimizers.base import Scope

STEPS = 50
P = 6
LAYOUT = Layout({"theta": (P,)})
CASES = {  # ours, torch's with the same constants
    "sgd": (SGD, torch.optim.SGD, {}, {}),
    "momentum": (Momentum, torch.optim.SGD, {}, {"momentum": 0.9}),
    "momentum 0.5": (Momentum, torch.optim.SGD, {"momentum": 0.5}, {"momentum": 0.5}),
    "nesterov": (Momentum, torch.optim.SGD, {"nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (RMSprop, torch.optim.RMSprop, {}, {}),
    "rmsprop 0.9": (RMSprop, torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3}, {"alpha": 0.9, "eps": 1e-3}),
    "adam": (Adam, torch.optim.Adam, {}, {}),
    "adam 0.8": (Adam, torch.optim.Adam, {"beta1": 0.8, "beta2": 0.9, "eps": 1e-4}, {"betas": (0.8, 0.9), "eps": 1e-4}),
    "adam beta 0": (Adam, torch.optim.Adam, {"beta1": 0.0, "beta2": 0.0}, {"betas": (0.0, 0.0)}),
}
PRECISION = {torch.float64: 1e-12, torch.float32: 2e-6}


@pytest.fixture(params=CASES)
def case(request):
    """Ours at a learning rate; torch's for parameters and a learning rate."""
    ours, theirs, our_constants, their_constants = CASES[request.param]
    return lambda lr: ours(lr=lr, **our_constants), lambda points, lr: theirs(points, lr=lr, **their_constants)


def scales(name, dtype):
    """f(θ) = ½ Σ a_i θ_i²: well scaled, or with curvatures over eight decades."""
    return {
        "well scaled": torch.linspace(0.5, 2, P, dtype=dtype),
        "ill scaled": torch.logspace(-6, 2, P, dtype=dtype),
    }[name]


def trajectory(rule, theta, curvature):
    """θ_1 … θ_T (T, B, P)."""
    state, points = rule.init_state(theta, LAYOUT), []
    for _ in range(STEPS):
        update, state = rule(seen(curvature * theta, theta), state, LAYOUT)
        theta = theta + update
        points.append(theta)
    return torch.stack(points)


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("problem", ["well scaled", "ill scaled"])
def test_trajectory_equals_torch_s(case, problem, dtype):
    ours, theirs = case
    curvature, start = scales(problem, dtype), torch.linspace(-2, 2, P, dtype=dtype)
    point = start.clone().requires_grad_()
    optimizer, expected = theirs([point], 1e-2), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        (0.5 * curvature * point.square()).sum().backward()
        optimizer.step()
        expected.append(point.detach().clone())
    actual = trajectory(ours(1e-2), start[None], curvature)[:, 0]
    assert_close(actual, torch.stack(expected), rtol=10 * PRECISION[dtype], atol=PRECISION[dtype])


@pytest.mark.parametrize("dtype", PRECISION)
def test_every_update_equals_torch_s(case, dtype):
    """The same gradients over twelve decades for both; θ is put back to 0, so that it is the update that is left."""
    ours, theirs = case
    rule = ours(0.1)
    point = torch.zeros(P, dtype=dtype, requires_grad=True)
    optimizer = theirs([point], 0.1)
    state = rule.init_state(point.detach()[None], LAYOUT)
    grads = torch.randn(STEPS, P, dtype=dtype) * torch.logspace(-6, 6, P, dtype=dtype)
    for grad in grads:
        point.data.zero_()
        point.grad = grad.clone()
        optimizer.step()
        update, state = rule(seen(grad[None], point.detach()[None]), state, LAYOUT)
        assert update.dtype == dtype
        # Where opposite terms of a sum cancel, rounding shows relative to the terms: the largest update's size.
        assert_close(update[0], point.detach(), rtol=PRECISION[dtype], atol=PRECISION[dtype] * 1e-7)


def test_a_rate_per_task_equals_separate_runs(case):
    ours, _ = case
    rates = torch.tensor([1e-3, 1e-2, 0.3], dtype=torch.float64)
    start = torch.randn(3, P, dtype=torch.float64)
    curvature = scales("well scaled", torch.float64)
    together = trajectory(ours(rates[:, None]), start, curvature)
    for b, rate in enumerate(rates.tolist()):
        alone = trajectory(ours(rate), start[b : b + 1], curvature)
        assert_close(together[:, b : b + 1], alone, rtol=1e-14, atol=1e-14)


def test_with_lr_is_the_same_rule_at_another_rate(case):
    ours, _ = case
    rule, start = ours(None), torch.ones(1, P, dtype=torch.float64)
    curvature = scales("well scaled", torch.float64)
    tuned = rule.with_lr(0.1)
    assert rule.lr is None and tuned.rate == 0.1 and type(tuned) is type(rule)
    assert torch.equal(trajectory(tuned, start, curvature), trajectory(ours(0.1), start, curvature))


def test_without_a_rate_the_remedy_is_named(case):
    ours, _ = case
    rule, theta = ours(None), torch.zeros(1, P)
    with pytest.raises(ValueError, match=rf"{type(rule).__name__} has no learning rate: give lr=…, or tune it first"):
        rule(seen(theta, theta), rule.init_state(theta, LAYOUT), LAYOUT)


def test_forward_is_pure(case):
    ours, _ = case
    rule, theta = ours(0.1), torch.randn(2, P)
    _, state = rule(seen(torch.randn(2, P), theta), rule.init_state(theta, LAYOUT), LAYOUT)
    grad = torch.randn(2, P)
    inputs = [grad, theta, *state.values()]
    before, names = [tensor.clone() for tensor in inputs], list(state)
    first = rule(seen(grad, theta), state, LAYOUT)
    again = rule(seen(grad, theta), state, LAYOUT)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True)) and list(state) == names
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(first[1][name], again[1][name]) for name in names)


def test_tasks_and_coordinates_do_not_meet(case):
    """A task or a coordinate alone gets the update that it gets among others: chunks and grids rely on it."""
    ours, _ = case
    rule, start = ours(0.1), torch.randn(3, P, dtype=torch.float64)
    curvature = scales("well scaled", torch.float64)
    together = trajectory(rule, start, curvature)
    assert torch.equal(together[:, 1:2], trajectory(rule, start[1:2], curvature))
    assert torch.equal(together[..., 2:4], trajectory(rule, start[:, 2:4], curvature[2:4]))
    assert rule.scope is Scope.COORDINATE and not list(rule.parameters())


def test_state_has_tasks_first_and_coordinates_or_one_second(case):
    ours, _ = case
    theta = torch.zeros(3, P)
    state = ours(0.1).init_state(theta, LAYOUT)
    assert all(value.shape in ((3, P), (3, 1)) and not value.any() for value in state.values())


@pytest.mark.parametrize("rule", [Adam(0.1), RMSprop(0.1)], ids=["adam", "rmsprop"])
def test_no_gradient_no_update(rule):
    theta = torch.randn(2, P)
    update, _ = rule(seen(torch.zeros(2, P), theta), rule.init_state(theta, LAYOUT), LAYOUT)
    assert not update.any()
