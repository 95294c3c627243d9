"""The inner loop, against the loop written out.

Shapes: B tasks, P coordinates, K steps.
"""

import pytest
import torch
from observations import seen
from torch import Generator
from torch.testing import assert_close

from l2o.optimizees import Classifier, Quadratic, mlp
from l2o.optimizers import LSTM, SGD, Adam, LogAndSign, Momentum
from l2o.unroll import start_episode, unroll

pytestmark = pytest.mark.usefixtures("float64")

RULES = {
    "sgd": lambda: SGD(0.01),
    "momentum": lambda: Momentum(0.01),
    "adam": lambda: Adam(0.01),
    "lstm": lambda: LSTM(LogAndSign(10), hidden_size=4, output_scale=0.1),
}


@pytest.fixture(params=["quadratic", "classifier"])
def optimizee(request, dataset):
    return Quadratic(5) if request.param == "quadratic" else Classifier(mlp(16, [4], 3), dataset, batch_size=6)


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


def assert_same_bits(one, other):
    """Two episodes."""
    assert one.step == other.step and one.state.keys() == other.state.keys() and one.task.keys() == other.task.keys()
    for a, b in (
        (one.theta, other.theta),
        (one.loss, other.loss),
        (one.grad, other.grad),
        *((one.state[key], other.state[key]) for key in one.state),
        *((one.task[key], other.task[key]) for key in one.task),
    ):
        assert torch.equal(a, b)


class Recorder:
    """An optimizee that keeps the minibatches it has drawn."""

    def __init__(self, inner):
        self.inner, self.batches = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def sample_batch(self, task, num_tasks, generator):
        self.batches.append(self.inner.sample_batch(task, num_tasks, generator))
        return self.batches[-1]


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_start_is_the_first_draw_with_loss_and_gradient(optimizee, rule, num_tasks):
    episode = start_episode(rule, optimizee, num_tasks, Generator().manual_seed(1))
    generator = Generator().manual_seed(1)
    theta, task = optimizee.sample(num_tasks, generator)
    loss, grad = optimizee.loss_and_grad(theta, optimizee.sample_batch(task, num_tasks, generator))
    assert episode.step == 0 and torch.equal(episode.theta, theta)
    assert torch.equal(episode.loss, loss) and torch.equal(episode.grad, grad)
    expected = rule.init_state(theta, optimizee.layout)
    assert all(torch.equal(episode.state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_sgd_equals_the_loop_by_hand(optimizee, num_tasks):
    generator = Generator().manual_seed(1)
    losses, after = unroll(
        SGD(0.02), optimizee, start_episode(SGD(0.02), optimizee, num_tasks, generator), 6, generator
    )
    again = Generator().manual_seed(1)
    theta, task = optimizee.sample(num_tasks, again)
    batch = optimizee.sample_batch(task, num_tasks, again)
    expected = []
    for _ in range(6):
        grad = torch.stack(
            [
                torch.autograd.functional.jacobian(
                    lambda point, b=b, batch=batch: optimizee.loss(point, {k: v[b] for k, v in batch.items()}), theta[b]
                )
                for b in range(num_tasks)
            ]
        )
        theta = theta - 0.02 * grad
        batch = optimizee.sample_batch(task, num_tasks, again)
        expected.append(
            torch.stack([optimizee.loss(theta[b], {k: v[b] for k, v in batch.items()}) for b in range(num_tasks)])
        )
    assert losses.shape == (6, num_tasks) and after.step == 6
    assert_close(losses, torch.stack(expected), rtol=1e-12, atol=1e-12)
    assert_close(after.theta, theta, rtol=1e-12, atol=1e-12)


def test_losses_gradients_and_record_belong_to_the_right_points(optimizee, rule):
    """losses[t] = f(θ_{t+1}) and record[t] = ∇f(θ_t), each on the minibatch drawn for it: one evaluation per point."""
    recorder, generator = Recorder(optimizee), Generator().manual_seed(2)
    start = start_episode(rule, recorder, 3, generator)
    record = torch.full((6, *start.theta.shape), torch.nan)
    losses, after = unroll(rule, recorder, start, 5, generator, record=record)
    assert len(recorder.batches) == 6
    theta, state = start.theta, start.state
    with torch.no_grad():
        for t, batch in enumerate(recorder.batches):
            loss, grad = optimizee.loss_and_grad(theta, batch)
            assert torch.equal(record[t], grad)
            assert torch.equal(losses[t - 1] if t else start.loss, loss)
            if t < 5:
                update, state = rule(seen(grad, theta), state, optimizee.layout)
                theta = theta + update
    assert torch.equal(after.theta, theta) and torch.equal(after.loss, loss) and torch.equal(after.grad, grad)
    assert all(torch.equal(after.state[key], state[key]) for key in state)


def test_two_unrolls_of_five_equal_one_of_ten(optimizee, rule, path):
    generator = Generator().manual_seed(3)
    long_losses, long = unroll(rule, optimizee, start_episode(rule, optimizee, 2, generator), 10, generator)
    generator = Generator().manual_seed(3)
    first, episode = unroll(rule, optimizee, start_episode(rule, optimizee, 2, generator), 5, generator)
    second, short = unroll(rule, optimizee, episode, 5, generator)
    assert torch.equal(torch.cat([first, second]), long_losses)
    assert_same_bits(short, long)
    assert long.step == 10


def test_a_record_changes_nothing(optimizee, rule):
    results = []
    for record in (None, torch.empty(5, 2, optimizee.layout.size)):
        generator = Generator().manual_seed(4)
        episode = start_episode(rule, optimizee, 2, generator)
        results.append(unroll(rule, optimizee, episode, 4, generator, record=record))
    assert torch.equal(results[0][0], results[1][0])
    assert_same_bits(results[0][1], results[1][1])


def test_the_seed_decides_every_bit(optimizee, rule):
    def run(seed):
        torch.randn(3)  # the global generator moves on; an episode does not read it
        generator = Generator().manual_seed(seed)
        return unroll(rule, optimizee, start_episode(rule, optimizee, 2, generator), 4, generator)

    (losses, episode), (same_losses, same), (other_losses, _) = run(5), run(5), run(6)
    assert torch.equal(losses, same_losses) and not torch.equal(losses, other_losses)
    assert_same_bits(episode, same)


def test_the_episode_given_is_left_alone(optimizee, rule):
    generator = Generator().manual_seed(6)
    episode = start_episode(rule, optimizee, 2, generator)
    copy = episode._replace(
        theta=episode.theta.clone(),
        loss=episode.loss.clone(),
        grad=episode.grad.clone(),
        state={key: value.clone() for key, value in episode.state.items()},
        task={key: value.clone() for key, value in episode.task.items()},
    )
    unroll(rule, optimizee, episode, 3, generator)
    assert_same_bits(episode, copy)


def test_an_episode_moves_to_a_device_as_a_whole(optimizee, rule):
    episode = start_episode(rule, optimizee, 2, Generator().manual_seed(0))
    assert_same_bits(episode.to("cpu"), episode)
    moved = episode.to("meta")
    tensors = [moved.theta, moved.loss, moved.grad, *moved.state.values(), *moved.task.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.state.keys() == episode.state.keys() and moved.task.keys() == episode.task.keys()


def test_nothing_requires_grad(optimizee, rule):
    generator = Generator().manual_seed(7)
    losses, after = unroll(rule, optimizee, start_episode(rule, optimizee, 2, generator), 3, generator)
    tensors = [losses, after.theta, after.loss, after.grad, *after.state.values(), *after.task.values()]
    assert not any(tensor.requires_grad or tensor.grad_fn for tensor in tensors)
    assert torch.is_grad_enabled()


def test_sgd_contracts_a_parabola_by_a_known_factor():
    """f(θ) = θ² has θ_{t+1} = (1 − 2 lr) θ_t."""
    optimizee, generator = Quadratic(1), Generator()
    theta = torch.tensor([[2.0]])
    task = {"W": torch.ones(1, 1, 1), "y": torch.zeros(1, 1)}
    loss, grad = optimizee.loss_and_grad(theta, task)
    episode = start_episode(SGD(0.1), optimizee, 1, generator)._replace(task=task, theta=theta, loss=loss, grad=grad)
    losses, _ = unroll(SGD(0.1), optimizee, episode, 8, generator)
    assert_close(losses[:, 0], 4 * 0.64 ** torch.arange(1.0, 9.0), rtol=1e-13, atol=0)
