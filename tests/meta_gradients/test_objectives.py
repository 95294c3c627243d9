"""Objectives: their values, and that first order is exact for each of them.

Shapes: B tasks, K steps.
"""

import math

import pytest
import torch
from observations import seen
from torch import Generator
from torch.testing import assert_close

from l2o.meta_gradients import Last, Log, Mean, Normalised, Objective, Sum, TruncatedBPTT
from l2o.optimizees import Classifier, Quadratic, mlp
from l2o.optimizees.views import Repeated, Subset
from l2o.optimizers import LSTM, LogAndSign
from l2o.unroll import start_episode, unroll

pytestmark = pytest.mark.usefixtures("float64")

B, K = 3, 4


class Cubic(Objective):
    """One that is not shipped: tasks and steps count unequally."""

    def __call__(self, losses, start_loss, last):
        return (losses**3 * torch.arange(1.0, len(losses) + 1)[:, None]).sum(0) / start_loss


OBJECTIVES = {
    "sum": Sum(),
    "mean": Mean(),
    "last": Last(),
    "last of each window": Last(each_window=True),
    "log": Log(0.01),
    "log of the sum": Log(0.01, then=Sum()),
    "normalised": Normalised(cap=0.99),  # some of the ratios are above it
    "normalised last": Normalised(then=Last()),
    "cubic": Cubic(),
}


def test_values():
    losses, start = torch.tensor([[2.0, 3.0], [1.0, math.nan], [0.5, 90.0]]), torch.tensor([4.0, 3.0])
    rows = lambda objective, last=False: objective(losses, start, last).tolist()  # noqa: E731
    assert rows(Sum())[0] == 3.5 and rows(Mean())[0] == pytest.approx(3.5 / 3)
    assert rows(Last()) == [0, 0] and rows(Last(), last=True) == [0.5, 90]
    assert rows(Last(each_window=True)) == [0.5, 90]
    assert rows(Log(1.0))[0] == pytest.approx((math.log(3) + math.log(2) + math.log(1.5)) / 3)
    assert rows(Normalised(cap=2.0)) == pytest.approx([(0.5 + 0.25 + 0.125) / 3, (1 + 2 + 2) / 3])
    assert rows(Normalised(cap=2.0, then=Last()), last=True) == [0.125, 2.0]
    assert rows(Normalised(cap=2.0, then=Last())) == [0, 0]


def start(optimizee, seed=1):
    torch.manual_seed(0)
    rule = LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1)
    generator = Generator().manual_seed(seed)
    return rule, start_episode(rule, optimizee, B, generator, horizon=2 * K), generator.get_state()


def stream(state):
    generator = Generator()
    generator.set_state(state)
    return generator


@pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])
@pytest.mark.parametrize("loss_on", ["inner", "fresh", "test"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_equals_autograd_s_in_both_windows(dataset, name, loss_on, second_order):
    """The window is unrolled with a graph here, one evaluation after the other; what the rule reads is detached."""
    optimizee = Classifier(mlp(16, [3], 3), dataset, batch_size=6, init_std=0.5)
    rule, episode, drawn = start(optimizee)
    first_loss, objective = episode.loss, OBJECTIVES[name]
    estimator = TruncatedBPTT(second_order, objective=objective, loss_on=loss_on)
    ours, theirs = stream(drawn), stream(drawn)
    for window in range(2):
        found = estimator(rule, optimizee, episode, K, ours)
        theta, grad, state, losses = episode.theta, episode.grad, episode.state, []
        for _ in range(K):
            update, state = rule(seen(grad, theta if second_order else theta.detach()), state, optimizee.layout)
            theta = theta + update
            batch = optimizee.sample_batch(episode.task, B, theirs)
            inner = optimizee.losses(theta, batch)
            (grad,) = torch.autograd.grad(inner.sum(), theta, create_graph=True)
            grad = grad if second_order else grad.detach()
            if loss_on != "inner":
                draw = optimizee.sample_test_batch if loss_on == "test" else optimizee.sample_batch
                inner = optimizee.losses(theta, draw(episode.task, B, theirs))
            losses.append(inner)
        curve = torch.stack(losses)
        value = objective(curve, first_loss, window == 1).mean()
        assert_close(found.losses, curve.detach(), rtol=1e-11, atol=1e-13)
        assert_close(found.objective, value.detach(), rtol=1e-11, atol=1e-13)
        assert (found.done, found.carry.step) == (window == 1, (window + 1) * K)
        assert not found.objective.requires_grad
        if value.requires_grad:
            expected = torch.autograd.grad(value, list(rule.parameters()))
            scale = max(part.abs().max().item() for part in expected)
            assert scale > 1e-7
        else:
            assert "last" in name and window == 0
            expected, scale = [torch.zeros_like(part) for part in rule.parameters()], 1.0
        for part, wanted in zip(found.gradient, expected, strict=True):
            assert_close(part, wanted, rtol=0, atol=1e-11 * scale)
        episode = found.carry
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_the_paper_s_objective_is_the_default_to_the_last_bit():
    rule, episode, drawn = start(Quadratic(4))
    one, other = (
        estimator(rule, Quadratic(4), episode, K, stream(drawn))
        for estimator in (TruncatedBPTT(), TruncatedBPTT(objective=Sum()))
    )
    assert torch.equal(one.objective, one.losses.sum(0).mean())
    assert all(torch.equal(a, b) for a, b in zip(one.gradient, other.gradient, strict=True))


def test_other_losses_leave_the_trajectory_of_a_deterministic_problem_alone():
    """On a quadratic every batch is the task: fresh losses are the inner ones."""
    optimizee = Quadratic(4)
    rule, episode, drawn = start(optimizee)
    inner, fresh = (
        TruncatedBPTT(loss_on=kind)(rule, optimizee, episode, K, stream(drawn)) for kind in ("inner", "fresh")
    )
    assert torch.equal(inner.losses, fresh.losses) and torch.equal(inner.carry.theta, fresh.carry.theta)
    assert torch.equal(inner.losses, unroll(rule, optimizee, episode, K, stream(drawn))[0])
    assert all(torch.equal(a, b) for a, b in zip(inner.gradient, fresh.gradient, strict=True))


def test_a_test_batch_holds_test_images_through_every_view(dataset):
    """A train pixel is even, a test pixel odd (conftest)."""
    optimizee = Classifier(mlp(16, [3], 3), dataset, batch_size=6)
    for view, count in ((optimizee, 4), (Repeated(optimizee, 2), 4), (Subset(optimizee, slice(1, 3)), 2)):
        theta, task = view.sample(4, Generator().manual_seed(0))
        pixels = (255 * view.sample_test_batch(task, len(theta), Generator().manual_seed(1))["x"]).round()
        assert pixels.shape == (count, 6, 4, 4) and bool((pixels % 2 == 1).all())
    batch = Repeated(optimizee, 2).sample_test_batch({}, 4, Generator().manual_seed(1))
    assert torch.equal(batch["x"][:2], batch["x"][2:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncatedBPTT(loss_on="outer"), "loss_on must be one of inner, fresh, test, got 'outer'"),
        (lambda: TruncatedBPTT(last_step_only=True, objective=Mean()), "contradict each other"),
        (lambda: Log(-1.0), "epsilon of at least 0, got -1.0"),
        (lambda: Log(math.nan), "epsilon of at least 0, got nan"),
        (lambda: Normalised(0.0), "positive cap, got 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("objective", [Sum(), Mean()])
def test_a_constant_slope_is_that_of_autograd(objective):
    losses = (1 + torch.rand(4, 3)).requires_grad_()
    (wanted,) = torch.autograd.grad(objective(losses, torch.ones(3), False).sum(), losses)
    assert_close(torch.full_like(wanted, objective.slope(4)), wanted, rtol=1e-15, atol=0)
