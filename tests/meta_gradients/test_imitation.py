"""Imitation: its gradient, its teacher's memory, and that a rule comes to be its teacher."""

import pytest
import torch
from observations import seen
from torch.testing import assert_close

from l2o.meta_gradients.imitation import TEACHER, Imitation
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM, Adam, Momentum, Partitioned
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
    episode = start_episode(rule, optimizee, B, generator())
    theta, state, taught = episode.theta, episode.state, teacher.init_state(episode.theta, optimizee.layout)
    for window in range(2):
        _, gradient, after = estimator(rule, optimizee, episode, K, generator(window))
        objective, batches = 0.0, generator(window)
        state = {key: value.detach() for key, value in state.items()}
        for _ in range(K):
            _, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(episode.task, B, batches))
            update, state = rule(seen(grad, theta), state, optimizee.layout)
            aim, taught = teacher(seen(grad, theta), taught, optimizee.layout)
            objective = objective + ((update - aim).square().sum(1) / (2 * aim.square().sum(1))).sum() / (B * K)
            theta = theta + update.detach()
        for part, expected in zip(gradient, gradients(objective, list(rule.parameters())), strict=True):
            assert_close(part, expected, rtol=1e-9, atol=1e-12)
            assert part.abs().max() > 0
        assert_close(after.theta, theta, rtol=1e-12, atol=1e-15)
        assert_close(after.state[TEACHER + "buffer"], taught["buffer"], rtol=1e-12, atol=1e-15)
        episode = after


def test_a_cooldown_aims_at_less_and_less(float64):
    """A rule that stands still is off by its aim, which falls over the last 4 of 8 steps, in two windows."""
    rule, optimizee, teacher = LSTM(num_layers=0, head_init=0.0), Quadratic(P), Momentum(lr=0.01, momentum=0.0)
    shares = torch.tensor([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    episode = start_episode(rule, optimizee, B, generator())
    for window in range(2):
        _, (weight, _), after = Imitation(teacher, cooldown=0.5, horizon=2 * K)(
            rule, optimizee, episode, K, generator(window)
        )
        # ∂/∂w of (w ∇ − s a)² / 2a² with a = −0.01 ∇ at w = 0 is −s ∇·a / a² = 100 s
        expected = 100 * shares[4 * window : 4 * window + 4].mean()
        assert_close(weight.item(), expected.item(), rtol=1e-12, atol=0)
        episode = after


def test_a_step_in_which_the_teacher_rests_is_left_out(rule):
    """A task whose gradient is 0 neither divides by 0 nor takes part."""
    optimizee, both = Quadratic(P), []
    episode = start_episode(rule, optimizee, B, generator())
    resting = episode._replace(grad=episode.grad * torch.tensor([[1.0], [0.0]]))
    for estimator in (Imitation(Momentum(lr=0.01)), Imitation(Momentum(lr=0.0))):
        _, gradient, _ = estimator(rule, optimizee, resting, 1, generator(1))
        assert all(part.isfinite().all() for part in gradient)
        both.append(gradient)
    first = episode._replace(
        theta=episode.theta[:1],
        grad=episode.grad[:1],
        loss=episode.loss[:1],
        task={key: value[:1] for key, value in episode.task.items()},
        state={key: value[:1] for key, value in episode.state.items()},
    )
    _, alone, _ = Imitation(Momentum(lr=0.01))(rule, optimizee, first, 1, generator(1))
    assert_close(both[0], [part / 2 for part in alone], rtol=1e-10, atol=1e-14)
    assert not any(part.any() for part in both[1])


def test_another_teacher_starts_afresh_in_an_episode_that_goes_on(rule):
    optimizee = Quadratic(P)
    _, _, begun = Imitation(Momentum(lr=0.01))(
        rule, optimizee, start_episode(rule, optimizee, B, generator()), K, generator()
    )
    _, _, after = Imitation(Adam(lr=0.01))(rule, optimizee, begun, K, generator(1))
    assert after.state[TEACHER + "step"].unique().tolist() == [K]


@pytest.mark.parametrize("cooldown", [-0.1, 50])
def test_a_cooldown_is_a_part_of_the_episode(cooldown):
    with pytest.raises(ValueError, match="cooldown is the last part of an episode, between 0 and 1"):
        Imitation(Momentum(lr=0.1), cooldown=cooldown, horizon=200)


def test_a_cooldown_needs_the_horizon():
    with pytest.raises(ValueError, match="horizon"):
        Imitation(Momentum(lr=0.1), cooldown=0.25)


def test_the_losses_are_those_of_the_rule_s_own_trajectory(rule):
    optimizee = Quadratic(P)
    episode = start_episode(rule, optimizee, B, generator())
    losses, _, after = Imitation(Momentum(lr=0.01))(rule, optimizee, episode, K, generator(1))
    expected, alone = unroll(rule, optimizee, episode, K, generator(1))
    assert_close(losses, expected, rtol=0, atol=0)
    assert_close(after.theta, alone.theta, rtol=0, atol=0)
    assert after.step == K


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
