"""Imitation: its gradient, its teacher's memory, and that a rule comes to be its teacher."""

import math

import pytest
import torch
from observations import seen
from torch.testing import assert_close

from l2o.meta_gradients.imitation import Apprenticeship, Imitation
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM, Momentum, Partitioned
from l2o.replay import gradients
from l2o.training.learner import MetaLearner
from l2o.unroll import start_episode, unroll

B, P, K = 2, 6, 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["lstm", "partitioned"])
def rule(request, float64):
    lstm = LSTM(hidden_size=3, output_scale=0.01)
    return lstm if request.param == "lstm" else Partitioned({"all": lstm}, {"all": ".*"})


def test_gradient_is_autograd_s_of_the_relative_squared_error(rule):
    """Over two windows: the teacher remembers the first, the rule's gradient does not go back to it."""
    optimizee, teacher = Quadratic(P), Momentum(lr=0.01, nesterov=True)
    estimator = Imitation(teacher, max_replay_bytes=3000)  # several chunks
    carry = estimator.start(rule, optimizee, B, 2 * K, generator())
    episode, taught = carry
    theta, state = episode.theta, episode.state
    for window in range(2):
        found = estimator(rule, optimizee, carry, K, generator(window))
        objective, batches = 0.0, generator(window)
        state = {key: value.detach() for key, value in state.items()}
        for _ in range(K):
            _, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(episode.task, B, batches))
            update, state = rule(seen(grad, theta), state, optimizee.layout)
            aim, taught = teacher(seen(grad, theta), taught, optimizee.layout)
            objective = objective + ((update - aim).square().sum(1) / (2 * aim.square().sum(1))).sum() / (B * K)
            theta = theta + update.detach()
        for part, expected in zip(found.gradient, gradients(objective, list(rule.parameters())), strict=True):
            assert_close(part, expected, rtol=1e-9, atol=1e-12)
            assert part.abs().max() > 0
        carry = found.carry
        assert_close(found.objective, objective.detach(), rtol=1e-10, atol=0)
        assert_close(carry.episode.theta, theta, rtol=1e-12, atol=1e-15)
        assert carry.episode.state.keys() == rule.init_state(theta, optimizee.layout).keys()
        assert_close(carry.teacher["buffer"], taught["buffer"], rtol=1e-12, atol=1e-15)
        assert found.done == (window == 1)


@pytest.mark.parametrize("own_horizon", [True, False], ids=["the episode's horizon", "an episode without one"])
def test_a_cooldown_aims_at_less_and_less(float64, own_horizon):
    """A rule that stands still is off by its aim, which falls over the last 4 of 8 steps, in two windows.

    The episode's own horizon counts, whatever the estimator was told.
    """
    rule, optimizee, teacher = LSTM(num_layers=0, head_init=0.0), Quadratic(P), Momentum(lr=0.01, momentum=0.0)
    shares = torch.tensor([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    estimator = Imitation(teacher, cooldown=0.5, horizon=100 if own_horizon else 2 * K)
    carry = estimator.start(rule, optimizee, B, 2 * K if own_horizon else math.inf, generator())
    for window in range(2):
        found = estimator(rule, optimizee, carry, K, generator(window))
        # ∂/∂w of (w ∇ − s a)² / 2a² with a = −0.01 ∇ at w = 0 is −s ∇·a / a² = 100 s
        expected = 100 * shares[4 * window : 4 * window + 4].mean()
        assert_close(found.gradient[0].item(), expected.item(), rtol=1e-12, atol=0)
        assert found.done == (own_horizon and window == 1)
        carry = found.carry


def test_a_step_in_which_the_teacher_rests_is_left_out(rule):
    """A task whose gradient is 0 neither divides by 0 nor takes part."""
    optimizee, both = Quadratic(P), []
    episode = start_episode(rule, optimizee, B, generator())
    resting = episode._replace(grad=episode.grad * torch.tensor([[1.0], [0.0]]))
    for estimator in (Imitation(Momentum(lr=0.01)), Imitation(Momentum(lr=0.0))):
        taught = estimator.teacher.init_state(episode.theta, optimizee.layout)
        gradient = estimator(rule, optimizee, Apprenticeship(resting, taught), 1, generator(1)).gradient
        assert all(part.isfinite().all() for part in gradient)
        both.append(gradient)
    first = episode._replace(
        theta=episode.theta[:1],
        grad=episode.grad[:1],
        loss=episode.loss[:1],
        task={key: value[:1] for key, value in episode.task.items()},
        state={key: value[:1] for key, value in episode.state.items()},
    )
    taught = Momentum(lr=0.01).init_state(first.theta, optimizee.layout)
    alone = Imitation(Momentum(lr=0.01))(rule, optimizee, Apprenticeship(first, taught), 1, generator(1)).gradient
    assert_close(both[0], [part / 2 for part in alone], rtol=1e-10, atol=1e-14)
    assert not any(part.any() for part in both[1])


@pytest.mark.parametrize("cooldown", [-0.1, 50])
def test_a_cooldown_is_a_part_of_the_episode(cooldown):
    with pytest.raises(ValueError, match="cooldown is the last part of an episode, between 0 and 1"):
        Imitation(Momentum(lr=0.1), cooldown=cooldown, horizon=200)


def test_a_cooldown_needs_the_horizon(rule):
    estimator, optimizee = Imitation(Momentum(lr=0.1), cooldown=0.25), Quadratic(P)
    carry = estimator.start(rule, optimizee, B, math.inf, generator())
    with pytest.raises(ValueError, match="needs the episode's horizon"):
        estimator(rule, optimizee, carry, K, generator())


def test_the_losses_are_those_of_the_rule_s_own_trajectory(rule):
    optimizee = Quadratic(P)
    estimator = Imitation(Momentum(lr=0.01))
    carry = estimator.start(rule, optimizee, B, 10, generator())
    found = estimator(rule, optimizee, carry, K, generator(1))
    expected, alone = unroll(rule, optimizee, carry.episode, K, generator(1))
    assert_close(found.losses, expected, rtol=0, atol=0)
    assert_close(found.carry.episode.theta, alone.theta, rtol=0, atol=0)
    assert found.carry.episode.step == K


def test_a_linear_rule_becomes_gradient_descent(float64):
    """g = w ∇ + b can be −0.01 ∇ exactly: meta-training by imitation gets there."""
    from pytorch_lightning import Trainer

    rule = LSTM(num_layers=0)
    learner = MetaLearner(
        rule,
        Quadratic(P),
        Imitation(Momentum(lr=0.01, momentum=0.0)),
        horizon=10,
        window=10,
        episodes_per_epoch=400,
        validation_tasks=1,
        meta_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03),
    )
    Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False).fit(
        learner
    )
    assert_close(rule.head.weight.item(), -0.01, rtol=1e-3, atol=0)
    assert abs(rule.head.bias.item()) < 1e-3


def test_a_teacher_needs_a_learning_rate():
    with pytest.raises(ValueError, match=r"set meta_gradient\.teacher\.lr"):
        Imitation(Momentum())


def test_replay_needs_memory():
    with pytest.raises(ValueError, match="max_replay_bytes must be positive"):
        Imitation(Momentum(lr=0.1), max_replay_bytes=0)
