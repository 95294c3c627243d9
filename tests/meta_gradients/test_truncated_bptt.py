"""dL/dφ of a window against plain autograd and finite differences.

Shapes: B tasks, P coordinates, K steps.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from observations import recording, seen
from torch import Generator, nn
from torch.testing import assert_close

from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Classifier, Layout, Optimizee, Quadratic, mlp
from l2o.optimizees.layout import Axis
from l2o.optimizers import GAC, LSTM, NTMBFGS, SGD, Identity, LogAndSign, Partitioned, Scale, UpdateRule
from l2o.optimizers.base import Scope, take
from l2o.replay import chunks, replay
from l2o.unroll import start_episode, unroll

pytestmark = pytest.mark.usefixtures("float64")

K = 6


class DecayedMomentum(UpdateRule):
    """g = −lr (b + decay θ), b ← μ b + ∇, with lr · t^power: it reads θ, and counts steps with one number per task."""

    scope = Scope.COORDINATE

    def __init__(self):
        super().__init__()
        self.log_lr = nn.Parameter(torch.tensor(-4.0))
        self.mu = nn.Parameter(torch.tensor(0.7))
        self.decay = nn.Parameter(torch.tensor(0.5))
        self.power = nn.Parameter(torch.tensor(-0.3))

    def init_state(self, theta, layout):
        return {"buffer": torch.zeros_like(theta), "step": theta.new_zeros(len(theta), 1)}

    def state_axes(self):
        return {"buffer": Axis.COORDINATES, "step": Axis.SHARED}

    def forward(self, seen, state, layout):
        step = state["step"] + 1
        buffer = self.mu * state["buffer"] + seen.grad
        update = -self.log_lr.exp() * step**self.power * (buffer + self.decay * seen.theta)
        return update, {"buffer": buffer, "step": step}


class Shared(UpdateRule):
    """g_i = −lr (∇_i + pull · mean of tanh ∇): every coordinate reads every other one."""

    scope = Scope.ALL

    def __init__(self):
        super().__init__()
        self.log_lr, self.pull = nn.Parameter(torch.tensor(-4.0)), nn.Parameter(torch.tensor(0.8))
        self.unused = nn.Parameter(torch.ones(2))
        self.widths = []

    def init_state(self, theta, layout):
        return {"mean": theta.new_zeros(len(theta), 1)}

    def state_axes(self):
        return {"mean": Axis.SHARED}

    def forward(self, seen, state, layout):
        self.widths.append(seen.grad.shape[1])
        mean = 0.5 * state["mean"] + seen.grad.tanh().mean(1, keepdim=True)
        return -self.log_lr.exp() * (seen.grad + self.pull * mean), {"mean": mean}


class Linear(Optimizee):
    """f(θ) = ⟨c, θ⟩ on a fresh c for every evaluation: ∇f does not depend on θ."""

    layout = Layout({"theta": (4,)})

    def sample(self, num_tasks, generator):
        return torch.randn(num_tasks, 4, generator=generator), {}

    def sample_batch(self, task, num_tasks, generator):
        return {"c": torch.randn(num_tasks, 4, generator=generator)}

    def loss(self, theta, batch):
        return theta @ batch["c"]


RULES = {
    "identity": lambda: LSTM(Identity(), hidden_size=3, output_scale=0.1),
    "scale": lambda: LSTM(Scale(0.1), hidden_size=3, num_layers=1, output_scale=0.1),
    "log and sign": lambda: LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1),
    "linear map": lambda: LSTM(LogAndSign(5), num_layers=0, output_scale=0.1),
    "reads theta": DecayedMomentum,
    "shared": Shared,
    "averaging": lambda: GAC(LogAndSign(10), hidden_size=3, averaging_cells=1, output_scale=0.5),
    "memory": lambda: NTMBFGS(LogAndSign(10), LogAndSign(1), hidden_size=3, averaging_cells=1, output_scale=0.5),
    "memory window": lambda: NTMBFGS(hidden_size=3, averaging_cells=1, memory_window=3, output_scale=0.5),
    "partitioned": lambda: Partitioned(
        {"weights": LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1), "rest": DecayedMomentum()},
        {"weights": r".*weight|theta", "rest": r".*bias"},  # the quadratic has one part, theta
    ),
}


@pytest.fixture(params=["quadratic", "classifier"])
def optimizee(request, dataset):
    if request.param == "quadratic":
        return Quadratic(4, init_std=1.0)
    return Classifier(mlp(16, [3], 3), dataset, batch_size=6, init_std=0.5)


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


@dataclass
class Window:
    """A window that can be run again and again: an episode and the generator's state at its start."""

    rule: UpdateRule
    optimizee: Optimizee
    episode: tuple
    stream: torch.Tensor

    def generator(self):
        generator = Generator()
        generator.set_state(self.stream)
        return generator

    def run(self, estimator, num_steps=K):
        """The losses, the gradient and the episode after the window."""
        found = estimator(self.rule, self.optimizee, self.episode, num_steps, self.generator())
        return found.losses, found.gradient, found.carry

    def unroll(self, num_steps=K):
        return unroll(self.rule, self.optimizee, self.episode, num_steps, self.generator())


def window(rule, optimizee, num_tasks, steps_before=0, seed=11):
    """The window that starts after `steps_before` steps: from the rule's first state, or from one carried over."""
    generator = Generator().manual_seed(seed)
    episode = start_episode(rule, optimizee, num_tasks, generator)
    if steps_before:
        _, episode = unroll(rule, optimizee, episode, steps_before, generator)
    return Window(rule, optimizee, episode, generator.get_state())


def reference(window, second_order=False, last_step_only=False):
    """The window unrolled with a graph, its losses summed, one call of autograd. First order: what the rule reads is
    detached. Losses task by task, from `loss` alone."""
    rule, optimizee, generator = window.rule, window.optimizee, window.generator()
    task, theta, _, grad, state, *_ = window.episode
    losses = []
    for _ in range(K):
        update, state = rule(seen(grad, theta if second_order else theta.detach()), state, optimizee.layout)
        theta = theta + update
        batch = optimizee.sample_batch(task, len(theta), generator)
        each = [optimizee.loss(theta[b], {k: v[b] for k, v in batch.items()}) for b in range(len(theta))]
        losses.append(torch.stack(each))
        (grad,) = torch.autograd.grad(losses[-1].sum(), theta, create_graph=True)
        grad = grad if second_order else grad.detach()
    total = (losses[-1] if last_step_only else torch.stack(losses).sum(0)).mean()
    gradient = torch.autograd.grad(total, list(rule.parameters()), allow_unused=True, materialize_grads=True)
    return torch.stack(losses).detach(), gradient


def assert_gradients_close(actual, expected, tolerance=1e-12):
    """Relative to the whole gradient's size: that is what rounding is relative to."""
    scale = max(e.abs().max().item() for e in expected)
    assert scale > 1e-6
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and not a.requires_grad
        assert_close(a, e, rtol=0, atol=tolerance * scale)


def slopes(window, loss, step=1e-5, count=6):
    """∂loss()/∂φ along some random directions, by central differences; `loss` reads the rule's parameters."""
    parameters = list(window.rule.parameters())
    phi = nn.utils.parameters_to_vector(parameters).detach()
    directions = torch.randn(count, len(phi), generator=Generator().manual_seed(0))
    values = []
    for direction in directions:
        for sign in (1, -1):
            nn.utils.vector_to_parameters(phi + sign * step * direction, parameters)
            values.append(loss())
    nn.utils.vector_to_parameters(phi, parameters)
    up, down = torch.stack(values).view(count, 2).unbind(1)
    return directions, (up - down) / (2 * step)


def window_loss(window, last_step_only):
    losses, _ = window.unroll()
    return (losses[-1] if last_step_only else losses.sum(0)).mean()


def error(gradient, directions, expected):
    """How far the gradient's slopes are from the expected ones, relative to the largest."""
    actual = directions @ nn.utils.parameters_to_vector(gradient)
    return ((actual - expected).abs().max() / expected.abs().max()).item()


# ---------------------------------------------------------------------------------------------------- first order


@pytest.mark.parametrize("last_step_only", [False, True], ids=["every step", "last step"])
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_first_order_equals_autograd(rule, optimizee, num_tasks, last_step_only, path):
    case = window(rule, optimizee, num_tasks)
    losses, gradient, _ = case.run(TruncatedBPTT(last_step_only=last_step_only))
    expected_losses, expected = reference(case, last_step_only=last_step_only)
    assert_close(losses, expected_losses, rtol=1e-11, atol=1e-12)
    assert_gradients_close(gradient, expected)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_first_order_equals_autograd_from_a_carried_state(rule, optimizee, num_tasks, path):
    case = window(rule, optimizee, num_tasks, steps_before=4)
    assert all(value.any() for value in case.episode.state.values())
    _, gradient, after = case.run(TruncatedBPTT())
    assert_gradients_close(gradient, reference(case)[1])
    assert after.step == 4 + K


@pytest.mark.parametrize("name", ["identity", "log and sign", "linear map", "reads theta", "partitioned"])
@pytest.mark.parametrize("size", [1, 20_000, 60_000, 2**30], ids=lambda size: f"{size} bytes")
def test_chunks_do_not_matter(optimizee, name, size, path):
    case = window(RULES[name](), optimizee, 3, steps_before=2)
    _, gradient, after = case.run(TruncatedBPTT(max_replay_bytes=size))
    assert_gradients_close(gradient, reference(case)[1])
    assert torch.equal(after.theta, case.run(TruncatedBPTT())[2].theta)


@pytest.mark.parametrize(("size", "count"), [(1, 63), (2**30, 1)])
def test_a_byte_means_a_coordinate_at_a_time(dataset, size, count):
    optimizee = Classifier(mlp(16, [3], 3), dataset, batch_size=6)
    case = window(RULES["identity"](), optimizee, 3)
    assert optimizee.layout.size == 63
    episode = case.episode
    recorded = recording(torch.zeros(K, 3, 63), episode.state, optimizee.layout)
    (part,) = case.rule.parts(optimizee.layout)
    found = [*chunks(part, recorded, size)]
    assert len(found) == count
    covered = [i for chunk in found for i in range(63)[chunk.cut.coordinates]]
    assert covered == list(range(63))


@pytest.mark.parametrize("name", ["log and sign", "partitioned"])
def test_only_a_chunk_s_cotangents_are_made(optimizee, name):
    """Beyond the recorded gradients nothing grows with K times P."""
    case, made = window(RULES[name](), optimizee, 3), []
    recorded = recording(torch.randn(K, 3, optimizee.layout.size), case.episode.state, optimizee.layout)

    def cotangents(spans):
        made.append(sum(span.stop - span.start for span in spans))
        return take(recorded.grads, spans)

    replay(case.rule, recorded, cotangents, 1)
    assert made == [1] * optimizee.layout.size


@pytest.mark.parametrize("size", [1, 2**30])
def test_a_rule_that_is_not_coordinatewise_is_replayed_whole(optimizee, size):
    case = window(Shared(), optimizee, 3)
    case.rule.widths.clear()
    _, gradient, _ = case.run(TruncatedBPTT(max_replay_bytes=size))
    assert case.rule.widths == [optimizee.layout.size] * 2 * K  # once to move on, once to replay
    assert_gradients_close(gradient, reference(case)[1])


def test_first_order_is_the_gradient_with_frozen_gradients(path):
    """By central differences: L(φ) = Σ_t ⟨∇f(θ_t), θ_t(φ)⟩ along gradients that were recorded once."""
    case = window(RULES["log and sign"](), Quadratic(4, init_std=1.0), 2)
    _, gradient, _ = case.run(TruncatedBPTT())
    record = torch.empty(K + 1, *case.episode.theta.shape)
    unroll(case.rule, case.optimizee, case.episode, K, case.generator(), record=record)

    @torch.no_grad()
    def surrogate():
        state, moved, total = case.episode.state, torch.zeros_like(case.episode.theta), 0.0
        for t in range(K):
            update, state = case.rule(seen(record[t], case.episode.theta), state, case.optimizee.layout)
            moved = moved + update
            total = total + (record[t + 1] * moved).sum(1).mean()
        return total

    assert error(gradient, *slopes(case, surrogate)) < 1e-8


@pytest.mark.parametrize("last_step_only", [False, True], ids=["every step", "last step"])
@pytest.mark.parametrize("name", ["identity", "log and sign", "linear map", "shared"])
def test_both_orders_are_the_true_gradient_where_f_is_linear(name, last_step_only):
    case = window(RULES[name](), Linear(), 3)
    first, second = (
        case.run(TruncatedBPTT(second_order=order, last_step_only=last_step_only))[1] for order in (False, True)
    )
    assert_gradients_close(first, second)
    assert error(first, *slopes(case, lambda: window_loss(case, last_step_only))) < 1e-7


def test_first_order_lets_no_gradient_through_theta():
    """Not even where f is linear: a rule reads θ detached, so that a replay is exact."""
    case = window(DecayedMomentum(), Linear(), 3)
    first, second = (case.run(TruncatedBPTT(second_order=order))[1] for order in (False, True))
    assert_gradients_close(first, reference(case)[1])
    assert (first[2] - second[2]).abs() > 1e-3 * second[2].abs()


def test_first_order_gradient_of_one_step_is_exact(optimizee):
    """One step from a given state has no dashed edge to drop."""
    case = window(RULES["log and sign"](), optimizee, 3, steps_before=3)
    first, second = (case.run(TruncatedBPTT(second_order=order), num_steps=1)[1] for order in (False, True))
    assert_gradients_close(first, second)
    assert error(first, *slopes(case, lambda: case.unroll(1)[0].mean())) < 1e-7


# --------------------------------------------------------------------------------------------------- second order


@pytest.mark.parametrize("last_step_only", [False, True], ids=["every step", "last step"])
@pytest.mark.parametrize("num_tasks", [1, 3])
def test_second_order_equals_autograd(rule, optimizee, num_tasks, last_step_only):
    case = window(rule, optimizee, num_tasks, steps_before=2)
    losses, gradient, _ = case.run(TruncatedBPTT(second_order=True, last_step_only=last_step_only))
    expected_losses, expected = reference(case, second_order=True, last_step_only=last_step_only)
    assert_close(losses, expected_losses, rtol=1e-11, atol=1e-12)
    assert_gradients_close(gradient, expected)


@pytest.mark.parametrize("last_step_only", [False, True], ids=["every step", "last step"])
def test_second_order_equals_finite_differences_and_first_order_does_not(rule, optimizee, last_step_only):
    case = window(rule, optimizee, 2)
    true = slopes(case, lambda: window_loss(case, last_step_only))
    first, second = (
        case.run(TruncatedBPTT(second_order=order, last_step_only=last_step_only))[1] for order in (False, True)
    )
    assert error(second, *true) < 1e-7
    assert error(first, *true) > 1e-4  # f is curved


# --------------------------------------------------------------------------------------------------- both of them


def assert_same_bits(one, other):
    """Two episodes."""
    assert one.step == other.step
    assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("theta", "loss", "grad"))
    assert one.state.keys() == other.state.keys() and one.task.keys() == other.task.keys()
    assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)
    assert all(torch.equal(one.task[key], other.task[key]) for key in one.task)


def test_first_order_moves_on_as_unroll_does(rule, optimizee, path):
    case = window(rule, optimizee, 3, steps_before=2)
    losses, _, after = case.run(TruncatedBPTT())
    expected, episode = case.unroll()
    assert torch.equal(losses, expected)
    assert_same_bits(after, episode)


def test_second_order_moves_on_as_unroll_does(rule, optimizee, monkeypatch):
    monkeypatch.setenv("L2O_KERNEL", "0")  # it records a graph, so the kernel is not in its way
    case = window(rule, optimizee, 3, steps_before=2)
    losses, _, after = case.run(TruncatedBPTT(second_order=True))
    expected, episode = case.unroll()
    assert torch.equal(losses, expected)
    assert_same_bits(after, episode)


@pytest.mark.parametrize("second_order", [False, True])
def test_the_generator_moves_on_as_in_unroll(optimizee, second_order):
    case = window(RULES["identity"](), optimizee, 2)
    generators = case.generator(), case.generator()
    TruncatedBPTT(second_order)(case.rule, optimizee, case.episode, K, generators[0])
    unroll(case.rule, optimizee, case.episode, K, generators[1])
    assert torch.equal(*(generator.get_state() for generator in generators))


@pytest.mark.parametrize("second_order", [False, True])
def test_nothing_returned_requires_grad_and_phi_has_no_grad(rule, optimizee, second_order):
    case = window(rule, optimizee, 2)
    losses, gradient, after = case.run(TruncatedBPTT(second_order))
    tensors = [losses, *gradient, after.theta, after.loss, after.grad, *after.state.values()]
    assert not any(tensor.requires_grad or tensor.grad_fn for tensor in tensors)
    assert [g.shape for g in gradient] == [p.shape for p in rule.parameters()]
    assert all(parameter.grad is None for parameter in rule.parameters())


@pytest.mark.parametrize("second_order", [False, True])
def test_under_no_grad_all_the_same(rule, optimizee, second_order):
    case = window(rule, optimizee, 2)
    expected = case.run(TruncatedBPTT(second_order))[1]
    with torch.no_grad():
        assert_gradients_close(case.run(TruncatedBPTT(second_order))[1], expected)


def only(part, b):
    """Task b of a tensor, or of a dictionary of tensors."""
    return {key: only(value, b) for key, value in part.items()} if isinstance(part, dict) else part[b : b + 1]


@pytest.mark.parametrize("second_order", [False, True])
def test_the_gradient_is_the_mean_over_tasks(rule, second_order):
    case = window(rule, Quadratic(4, init_std=1.0), 3, steps_before=2)
    each = []
    for b in range(3):
        alone = type(case.episode)(*(only(part, b) for part in case.episode[:5]), *case.episode[5:])
        each.append(Window(case.rule, case.optimizee, alone, case.stream).run(TruncatedBPTT(second_order))[1])
    expected = [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]
    assert_gradients_close(case.run(TruncatedBPTT(second_order))[1], expected)


@pytest.mark.parametrize("second_order", [False, True])
def test_permuting_coordinates_changes_nothing(rule, second_order):
    """f's coordinates are the columns of W; one φ serves them all."""
    case = window(rule, Quadratic(5, init_std=1.0), 2)
    order = torch.tensor([3, 1, 4, 0, 2])
    start = case.episode
    permuted = start._replace(
        task=start.task | {"W": start.task["W"][..., order]},
        theta=start.theta[:, order],
        grad=start.grad[:, order],
        state={key: value if value.shape[1] == 1 else value[:, order] for key, value in start.state.items()},
    )
    losses, gradient, after = case.run(TruncatedBPTT(second_order))
    other = Window(case.rule, case.optimizee, permuted, case.stream).run(TruncatedBPTT(second_order))
    assert_close(other[0], losses, rtol=1e-11, atol=0)
    assert_gradients_close(other[1], gradient)
    assert_close(other[2].theta, after.theta[:, order], rtol=1e-11, atol=1e-12)


def test_scaling_f_scales_the_gradient(path):
    """An identity rule without layers sees ∇; with 1/c before it and the loss times c, everything is times c."""
    c, plain, scaled = 4.0, LSTM(Scale(1.0), num_layers=0), LSTM(Scale(0.25), num_layers=0)
    plain.load_state_dict({"head.weight": torch.tensor([[-0.01]]), "head.bias": torch.tensor([0.001])})
    scaled.load_state_dict(plain.state_dict())
    case = window(plain, Quadratic(4, init_std=1.0), 2)
    times = {key: math.sqrt(c) * value for key, value in case.episode.task.items()}
    start = case.episode._replace(task=times, grad=c * case.episode.grad)
    other = Window(scaled, case.optimizee, start, case.stream)
    expected = [c * g for g in case.run(TruncatedBPTT())[1]]
    assert_gradients_close(other.run(TruncatedBPTT())[1], expected)


@pytest.mark.parametrize("second_order", [False, True])
def test_a_rule_without_parameters_has_no_gradient(optimizee, second_order):
    case = window(SGD(0.01), optimizee, 2)
    losses, gradient, after = case.run(TruncatedBPTT(second_order))
    assert gradient == []
    assert torch.equal(losses, case.unroll()[0]) and torch.equal(after.theta, case.unroll()[1].theta)


@pytest.mark.parametrize("second_order", [False, True])
def test_an_unused_parameter_gets_zeros(optimizee, second_order):
    _, gradient, _ = window(Shared(), optimizee, 2).run(TruncatedBPTT(second_order))
    assert gradient[2].tolist() == [0, 0] and gradient[0].abs() > 1e-6


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("name", ["log and sign", "reads theta"])
def test_a_frozen_parameter_gets_zeros_and_the_rest_its_share(name, second_order, path):
    case = window(RULES[name](), Quadratic(4, init_std=1.0), 2)
    everything = case.run(TruncatedBPTT(second_order))[1]
    for parameter in list(case.rule.parameters())[::2]:
        parameter.requires_grad_(False)
    expected = [torch.zeros_like(g) if i % 2 == 0 else g for i, g in enumerate(everything)]
    assert_gradients_close(case.run(TruncatedBPTT(second_order))[1], expected)


def test_a_gradient_that_is_not_finite_shows(optimizee, path):
    """The learner skips such a window; it must not look like a good one."""
    case = window(RULES["identity"](), optimizee, 2)
    with torch.no_grad():
        case.rule.head.bias.fill_(torch.nan)
    losses, gradient, _ = case.run(TruncatedBPTT())
    assert losses.isnan().all()
    assert any(not g.isfinite().all() for g in gradient)


@pytest.mark.parametrize("size", [0, -1])
def test_no_memory_is_refused(size):
    with pytest.raises(ValueError, match="max_replay_bytes must be positive"):
        TruncatedBPTT(max_replay_bytes=size)
