"""Quadratics, regressions and factorisations that are generated: their spectra, minima and noise.

Shapes: B tasks, D dimensions.
"""

import math

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from l2o.optimizees import LeastSquares, LogisticRegression, MatrixFactorisation, NoisyQuadratic

pytestmark = pytest.mark.usefixtures("float64")


def drawn(optimizee, num_tasks=6, seed=0):
    """θ_0, a task, and the generator to go on with."""
    generator = Generator().manual_seed(seed)
    return *optimizee.sample(num_tasks, generator), generator


def hessian(task):
    return task["root"].mT @ task["root"]


@pytest.mark.parametrize("kind", [NoisyQuadratic, LeastSquares])
def test_the_spectrum_is_the_one_asked_for(kind):
    """Eigenvalues from 1 to 1 / condition, evenly in the logarithm, in a basis that is not the coordinates'."""
    _, task, _ = drawn(kind(5, condition=1e4))
    expected = torch.tensor([1e-4, 1e-3, 1e-2, 1e-1, 1.0]).expand(6, -1)
    assert_close(torch.linalg.eigvalsh(hessian(task)), expected, rtol=1e-9, atol=1e-13)
    assert (hessian(task).abs().flatten(1).median(1).values > 1e-4).all()


def test_every_task_draws_its_own_condition():
    _, task, _ = drawn(NoisyQuadratic(3, condition=[10.0, 1000.0]), 400)
    values = torch.linalg.eigvalsh(hessian(task))
    logs = (values[:, -1] / values[:, 0]).log10()
    assert (1 <= logs.min() < 1.05 and 1.95 < logs.max() <= 2 + 1) or 2.9 < logs.max() <= 3
    assert abs(logs.mean() - 2) < 0.1 and abs(logs.std() - 2 / math.sqrt(12)) < 0.05


def test_a_quadratic_is_least_at_its_optimum():
    optimizee = NoisyQuadratic(4)
    _, task, _ = drawn(optimizee)
    losses, grads = optimizee.loss_and_grad(task["optimum"], task)
    assert not losses.any() and not grads.any()
    direction = torch.randn(6, 4)
    values, _ = optimizee.loss_and_grad(task["optimum"] + direction, task)
    curvature = torch.einsum("bi,bij,bj->b", direction, hessian(task), direction)
    assert_close(values, curvature / 8)


def test_a_quadratic_s_noise_moves_its_optimum():
    """At θ* the mean loss is ½ tr(H) noise² / D, and the mean gradient is that of the quadratic without noise."""
    optimizee = NoisyQuadratic(4, condition=10.0, noise=0.5)
    _, task, generator = drawn(optimizee, 1)
    many = {key: value.expand(20_000, *value.shape[1:]) for key, value in task.items()}
    losses, grads = optimizee.loss_and_grad(many["optimum"], optimizee.sample_batch(many, 20_000, generator))
    expected = hessian(task).diagonal(dim1=1, dim2=2).sum() * 0.25 / 8
    assert abs(losses.mean() / expected - 1) < 0.03 and grads.mean(0).abs().max() < 0.003


def test_least_squares_has_the_noise_s_loss_at_its_optimum():
    optimizee = LeastSquares(5, condition=10.0, noise=0.3, batch_size=5000)
    _, task, generator = drawn(optimizee)
    batch = optimizee.sample_batch(task, 6, generator)
    losses, grads = optimizee.loss_and_grad(task["optimum"], batch)
    assert_close(losses, torch.full((6,), 0.045), rtol=0.1, atol=0)
    assert grads.abs().max() < 0.03
    assert_close(batch["x"].mT @ batch["x"] / 5000, hessian(task), rtol=0, atol=0.12)
    assert not torch.equal(batch["x"], optimizee.sample_batch(task, 6, generator)["x"])


def test_logistic_regression_draws_minibatches_of_its_own_points():
    optimizee = LogisticRegression(3, 4, num_points=10, batch_size=50)
    _, task, generator = drawn(optimizee)
    batch = optimizee.sample_batch(task, 6, generator)
    for b in range(6):
        places = (batch["x"][b][:, None] == task["x"][b]).all(-1).nonzero()
        assert len(places) == 50 and len(places[:, 1].unique()) > 5
        assert torch.equal(batch["y"][b], task["y"][b][places[:, 1]])
    theta = torch.zeros(6, optimizee.layout.size)
    assert_close(optimizee.losses(theta, batch), torch.full((6,), 4.0).log())


@pytest.mark.parametrize(("margin", "least", "most"), [(0.0, 0.2, 0.3), (50.0, 0.9, 1.0)])
def test_the_margin_says_how_many_labels_are_noise(margin, least, most):
    """A linear model that is trained to the end gets so many of the training points right."""
    optimizee = LogisticRegression(5, 4, 2000, 1.0, margin, weight_decay=0.0, batch_size=2000)
    _, task, _ = drawn(optimizee, 1)
    theta = torch.zeros(1, optimizee.layout.size)
    for _ in range(300):
        theta -= 4 * optimizee.loss_and_grad(theta, task)[1]
    parts = optimizee.layout.unravel(theta)
    right = (task["x"] @ parts["weight"].mT + parts["bias"][:, None]).argmax(-1) == task["y"]
    assert least < right.double().mean() <= most + 0.05


def test_weight_decay_is_that_of_the_matrix_alone():
    optimizee = LogisticRegression(3, 2, weight_decay=0.5)
    theta, task, generator = drawn(optimizee)
    batch = optimizee.sample_batch(task, 6, generator)
    without = LogisticRegression(3, 2, weight_decay=0.0).losses(theta, batch)
    weight = optimizee.layout.unravel(theta)["weight"]
    assert_close(optimizee.losses(theta, batch) - without, 0.25 * weight.square().sum((1, 2)))


def test_a_matrix_of_low_rank_is_found_again():
    """Without noise the matrix has its rank, and its own factors have no loss."""
    optimizee = MatrixFactorisation(8, 6, 3, noise=0.0)
    _, task, generator = drawn(optimizee)
    assert (torch.linalg.matrix_rank(task["matrix"]) == 3).all()
    left, values, right = torch.linalg.svd(task["matrix"])
    roots = values[:, None, :3].sqrt()
    theta = optimizee.layout.ravel({"left": left[:, :, :3] * roots, "right": right.mT[:, :, :3] * roots})
    batch = optimizee.sample_batch(task, 6, generator)
    assert_close(optimizee.losses(theta, batch), torch.zeros(6), rtol=0, atol=1e-20)
    assert abs(batch["seen"].mean() - 0.3) < 0.1


def test_unseen_entries_do_not_count():
    optimizee = MatrixFactorisation(5, 4, 2)
    theta, task, generator = drawn(optimizee)
    batch = optimizee.sample_batch(task, 6, generator)
    moved = batch | {"matrix": batch["matrix"] + 100 * (1 - batch["seen"])}
    assert_close(optimizee.losses(theta, moved), optimizee.losses(theta, batch))
    one = {"matrix": batch["matrix"], "seen": torch.ones_like(batch["seen"])}
    parts = optimizee.layout.unravel(theta)
    error = parts["left"] @ parts["right"].mT - batch["matrix"]
    assert_close(optimizee.losses(theta, one), error.square().mean((1, 2)))


def test_an_entry_has_variance_one():
    _, task, _ = drawn(MatrixFactorisation(noise=0.0), 300)
    assert abs(task["matrix"].std() - 1) < 0.05


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NoisyQuadratic(0), "dim must be >= 1"),
        (lambda: NoisyQuadratic(3, condition=0.5), "condition must be .* at least 1.0, got 0.5"),
        (lambda: NoisyQuadratic(3, noise=[0.0, 1.0]), "noise must be .* positive"),
        (lambda: NoisyQuadratic(3, condition=[10.0, 1.0]), r"condition must be .* got \[10.0, 1.0\]"),
        (lambda: LeastSquares(3, batch_size=0), "batch_size must be >= 1"),
        (lambda: LogisticRegression(3, classes=1), "classes >= 2"),
        (lambda: MatrixFactorisation(seen=0.0), r"seen in \(0, 1\]"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
