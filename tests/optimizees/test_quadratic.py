"""f(θ) = ‖Wθ − y‖².

Shapes: B tasks, D coordinates.
"""

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from l2o.optimizees import Optimizee, Quadratic

pytestmark = pytest.mark.usefixtures("float64")


def draw(num_tasks, dim=5, seed=0, **arguments):
    """A quadratic, θ away from 0 (B, D), a task."""
    optimizee = Quadratic(dim, **arguments)
    _, task = optimizee.sample(num_tasks, Generator().manual_seed(seed))
    return optimizee, torch.randn(num_tasks, dim), task


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_loss_and_grad_equal_autograd_task_by_task(num_tasks):
    optimizee, theta, task = draw(num_tasks)
    losses, grads = optimizee.loss_and_grad(theta, task)
    assert losses.shape == (num_tasks,) and grads.shape == theta.shape
    for b in range(num_tasks):
        point = theta[b].clone().requires_grad_()
        loss = torch.linalg.vector_norm(task["W"][b] @ point - task["y"][b]) ** 2
        (grad,) = torch.autograd.grad(loss, point)
        assert_close(losses[b], loss.detach(), rtol=1e-12, atol=1e-12)
        assert_close(grads[b], grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_closed_form_equals_the_default_of_every_optimizee(num_tasks):
    optimizee, theta, task = draw(num_tasks)
    for own, default in zip(
        optimizee.loss_and_grad(theta, task), Optimizee.loss_and_grad(optimizee, theta, task), strict=True
    ):
        assert_close(own, default, rtol=1e-12, atol=1e-12)


def test_gradient_equals_finite_differences():
    optimizee, theta, task = draw(3)
    _, grads = optimizee.loss_and_grad(theta, task)
    for i in range(optimizee.dim):
        step = torch.zeros_like(theta)
        step[:, i] = 1e-4
        up, down = (optimizee.losses(theta + sign * step, task) for sign in (1, -1))
        assert_close(grads[:, i], (up - down) / 2e-4, rtol=1e-8, atol=1e-8)  # exact for a quadratic but for rounding


def test_minimum_is_zero_at_the_solution_of_the_linear_system():
    optimizee, _, task = draw(3)
    minimum = torch.linalg.solve(task["W"], task["y"])
    losses, grads = optimizee.loss_and_grad(minimum, task)
    assert_close(losses, torch.zeros(3), rtol=0, atol=1e-20)
    assert_close(grads, torch.zeros(3, 5), rtol=0, atol=1e-10)


def test_hessian_vector_product_is_twice_w_transposed_w():
    optimizee, theta, task = draw(3)
    theta.requires_grad_()
    vector = torch.randn(3, 5)
    losses, grads = optimizee.loss_and_grad(theta, task)
    (product,) = torch.autograd.grad(grads, theta, vector, retain_graph=True)
    assert_close(product, 2 * (task["W"].mT @ task["W"] @ vector[..., None])[..., 0], rtol=1e-12, atol=1e-12)
    (grad_of_losses,) = torch.autograd.grad(losses.sum(), theta)
    assert_close(grad_of_losses, grads.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [Quadratic.loss_and_grad, Optimizee.loss_and_grad], ids=["own", "default"])
def test_results_are_detached_unless_theta_requires_grad(function):
    optimizee, theta, task = draw(2)
    assert not any(result.requires_grad for result in function(optimizee, theta, task))
    assert all(result.requires_grad for result in function(optimizee, theta.requires_grad_(), task))


@pytest.mark.parametrize("function", [Quadratic.loss_and_grad, Optimizee.loss_and_grad], ids=["own", "default"])
def test_same_bits_under_no_grad(function):
    optimizee, theta, task = draw(2)
    expected = function(optimizee, theta, task)
    with torch.no_grad():
        results = function(optimizee, theta, task)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_draws_are_standard_normal_and_theta_small():
    count, dim = 20_000, 4
    theta, task = Quadratic(dim, init_std=0.01).sample(count, Generator().manual_seed(0))
    for sample, std in ((task["W"], 1.0), (task["y"], 1.0), (theta, 0.01)):
        flat = sample.reshape(count, -1)
        n = flat.numel()
        assert abs(flat.mean().item()) < 4 * std / n**0.5
        assert abs(flat.std().item() / std - 1) < 4 / (2 * n) ** 0.5
        excess = (flat / std).pow(4).mean().item() - 3
        assert abs(excess) < 4 * (24 / n) ** 0.5  # normal, not only of the right spread
    joined = torch.cat([theta / 0.01, task["W"].flatten(1), task["y"]], 1)
    assert_close(joined.T @ joined / count, torch.eye(joined.shape[1]), rtol=0, atol=5 / count**0.5)  # independent


def test_init_std_scales_theta_alone():
    small, task = Quadratic(3, init_std=0.01).sample(4, Generator().manual_seed(2))
    large, same = Quadratic(3, init_std=1.0).sample(4, Generator().manual_seed(2))
    assert_close(large, 100 * small, rtol=1e-14, atol=0)
    assert all(torch.equal(task[key], same[key]) for key in ("W", "y"))


def test_the_generator_alone_decides():
    optimizee = Quadratic(3)
    torch.manual_seed(1)
    first = optimizee.sample(2, Generator().manual_seed(7))
    torch.manual_seed(2)
    again = optimizee.sample(2, Generator().manual_seed(7))
    other = optimizee.sample(2, Generator().manual_seed(8))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert all(torch.equal(first[1][key], again[1][key]) for key in ("W", "y"))
    assert not any(torch.equal(first[1][key], other[1][key]) for key in ("W", "y"))


def test_the_function_stays_the_same_during_an_episode():
    optimizee, _, task = draw(2)
    generator = Generator().manual_seed(0)
    batches = [optimizee.sample_batch(task, 2, generator) for _ in range(2)]
    assert all(torch.equal(batch[key], task[key]) for batch in batches for key in ("W", "y"))


def test_has_no_metrics_and_one_part():
    optimizee, theta, task = draw(2, dim=7)
    assert optimizee.metrics(theta, task) == {}
    assert optimizee.layout.shapes == {"theta": (7,)} and optimizee.to("cpu") is optimizee


def test_no_coordinates_are_refused():
    with pytest.raises(ValueError, match="at least one coordinate, got dim=0"):
        Quadratic(0)
