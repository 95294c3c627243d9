"""Augmentations of an optimizee: what they draw, and what they leave as it was."""

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from l2o.meta_gradients import TruncatedBPTT
from l2o.meta_gradients.truncated_bptt import recorded
from l2o.optimizees import (
    Classifier,
    LossScaled,
    NoisyGradients,
    NoisyQuadratic,
    Quadratic,
    Reparametrised,
    Repeated,
    Untold,
    mlp,
)
from l2o.optimizees.augmented import Augmented
from l2o.optimizees.base import TOLD
from l2o.optimizees.distributions import drawn as drawn_optimizees
from l2o.optimizees.views import View
from l2o.optimizers import Hierarchical
from l2o.unroll import start_episode, step

pytestmark = pytest.mark.usefixtures("float64")

B = 300


@pytest.fixture
def classifier(dataset):
    return Classifier(mlp(16, [5], 3), dataset, batch_size=7, init_std=0.5)


def drawn(optimizee, num_tasks=B):
    generator = Generator().manual_seed(0)
    theta, task = optimizee.sample(num_tasks, generator)
    return theta, task, optimizee.sample_batch(task, num_tasks, generator)


@pytest.mark.parametrize(("level", "parts"), [("global", 1), ("tensor", 4), ("coordinate", 103)])
def test_a_reparametrised_problem_is_the_same_one_at_another_scale(classifier, level, parts):
    """f'(w) = f(α w), ∇f'(w) = α ∇f(α w), w_0 = θ_0 / α; α is log-uniform and of as many numbers as the level says."""
    view = Reparametrised(classifier, [1e-2, 1e2], level)
    w, task, batch = drawn(view)
    alpha = task["reparametrisation"].expand_as(w)
    assert torch.equal(batch["reparametrisation"], task["reparametrisation"])
    assert all(len(row.unique()) == parts for row in alpha)
    logs = alpha.log10()
    assert -2 <= logs.min() < -1.9 and 1.9 < logs.max() <= 2
    assert abs(logs[:, 0].mean()) < 0.25 and abs(logs[:, 0].std() - 4 / 12**0.5) < 0.15
    inner = {key: value for key, value in batch.items() if key in ("x", "y")}
    losses, grads = classifier.loss_and_grad(w * alpha, inner)
    assert_close(view.loss_and_grad(w, batch), (losses, grads * alpha), rtol=1e-12, atol=1e-12)
    start, _, _ = drawn(classifier)
    assert_close(w * alpha, start, rtol=1e-12, atol=1e-15)
    assert_close(view.metrics(w[:2], {"reparametrisation": alpha[:2]}), classifier.metrics(start[:2], {}))
    if level == "tensor":
        spans = classifier.layout.slices.values()
        assert all(len(row[span].unique()) == 1 for row in alpha[:5] for span in spans)


def test_a_scaled_loss_has_a_scaled_gradient():
    inner = Quadratic(4)
    theta, task, batch = drawn(LossScaled(inner, [1e-2, 1e2]))
    factor = task["loss scale"]
    losses, grads = inner.loss_and_grad(theta, batch)
    found = LossScaled(inner).loss_and_grad(theta, batch)
    assert_close(found, (factor * losses, factor[:, None] * grads), rtol=1e-12, atol=0)
    assert abs(factor.log10().mean()) < 0.25 and abs(factor.log10().std() - 4 / 12**0.5) < 0.15


def test_the_noise_of_a_gradient_follows_its_size_and_leaves_the_loss(classifier):
    view = NoisyGradients(classifier, 0.3)
    theta, _, batch = drawn(view)
    inner = {key: batch[key] for key in ("x", "y")}
    losses, grads = classifier.loss_and_grad(theta, inner)
    noisy_losses, noisy = view.loss_and_grad(theta, batch)
    assert_close(noisy_losses, losses, rtol=0, atol=0)
    for span in classifier.layout.slices.values():
        rms = grads[:, span].square().mean(1, keepdim=True).sqrt()
        noise = (noisy - grads)[:, span] / rms
        assert abs(noise.std() / 0.3 - 1) < 0.1 and abs(noise.mean()) < 0.03
    assert_close(view.losses(theta, batch), losses)


def test_noise_is_drawn_anew_with_every_minibatch_and_alike_for_copies():
    view = Repeated(NoisyGradients(Quadratic(3)), 2)
    generator = Generator().manual_seed(0)
    _, task = view.sample(4, generator)
    first, second = (view.sample_batch(task, 4, generator)["gradient noise"] for _ in range(2))
    assert not torch.equal(first, second) and torch.equal(first[:2], first[2:])
    assert not torch.equal(first[0], first[1])


def test_a_rule_is_not_told_the_losses_of_some_tasks():
    """f is as before; the rule is told nan for the same tasks at every step, and both copies of a task are alike."""
    view, rule = Untold(NoisyQuadratic(3), 0.3), Hierarchical()
    theta, task, batch = drawn(view)
    start, _, plain = drawn(NoisyQuadratic(3))
    assert torch.equal(theta, start) and 0.6 < task[TOLD].double().mean() < 0.8
    assert view.loss_and_grad(theta, batch)[0].isfinite().all() and plain.keys() == batch.keys() - {TOLD}
    generator = Generator().manual_seed(1)
    episode = start_episode(rule, Repeated(view, 2), 20, generator)
    for _ in range(3):
        told = episode.seen.loss.isfinite()
        assert torch.equal(told, episode.task[TOLD]) and torch.equal(told[:10], told[10:]) and 0 < told.sum() < 20
        assert episode.loss.isfinite().all()
        _, episode = step(rule, Repeated(view, 2), episode, generator)
    window = TruncatedBPTT()(rule, view, start_episode(rule, view, 20, generator), 3, generator)
    assert window.losses.isfinite().all()


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_a_recording_tells_what_the_steps_have_told(chance):
    view, rule, generator = Untold(Quadratic(3), chance), Hierarchical(), Generator().manual_seed(1)
    episode = start_episode(rule, view, 2, generator)
    losses = torch.ones(3, 2)
    read = recorded(episode, torch.zeros(4, 2, 3), losses, view).losses
    assert read.isfinite().all() if chance == 0 else read.isnan().all()


def test_an_augmented_distribution_puts_its_views_around_every_draw():
    make = Augmented(lambda generator: Quadratic(3), [0.1, 10.0], loss_scale=[0.5, 2.0], gradient_noise=0.2)
    levels = set()
    for optimizee in drawn_optimizees(make, 30):
        assert isinstance(optimizee, NoisyGradients) and isinstance(optimizee.inner, LossScaled)
        view = optimizee.inner.inner
        assert isinstance(view, Reparametrised) and isinstance(view.inner, Quadratic)
        assert (optimizee.std, optimizee.inner.ends, view.ends) == (0.2, (0.5, 2.0), (0.1, 10.0))
        levels.add(view.level)
    assert levels == {"global", "tensor", "coordinate"}
    plain = Augmented(lambda generator: Quadratic(3), None)
    assert all(isinstance(optimizee, Quadratic) for optimizee in drawn_optimizees(plain, 3))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda inner: Reparametrised(inner, [0.0, 1.0]), r"two positive numbers \[low, high\], got \[0.0, 1.0\]"),
        (lambda inner: LossScaled(inner, [2.0, 1.0]), "two positive numbers"),
        (lambda inner: Reparametrised(inner, level="layer"), "global, tensor or coordinate, got 'layer'"),
        (lambda inner: NoisyGradients(inner, -1.0), "standard deviation >= 0, got -1.0"),
        (lambda inner: Untold(inner, 1.5), "from 0 to 1, got 1.5"),
        (lambda inner: LossScaled(View(LossScaled(inner))), "has one loss scale, and this one has it already"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make(NoisyQuadratic(3))
