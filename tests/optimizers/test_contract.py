"""What every update rule owes its callers. A new rule is tested by being listed in `every_rule.RULES`.

Shapes: B tasks, P coordinates of one optimizee, K steps of a window.
"""

import copy
import math
from functools import partial

import pytest
import torch
from every_rule import LAYOUT, RULES
from observations import seen
from torch import Generator, nn
from torch.testing import assert_close

from l2o.deploy import export
from l2o.meta_gradients.truncated_bptt import recorded
from l2o.optimizees import Optimizee
from l2o.optimizees.layout import Axis
from l2o.optimizers import Scope
from l2o.optimizers.base import cut_state, take
from l2o.replay import replay
from l2o.unroll import start_episode, step

B, P, K = 3, LAYOUT.size, 4

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(params=RULES)
def rule(request):
    torch.manual_seed(2)
    return RULES[request.param]()


class Bowl(Optimizee):
    """f(θ) = Σ log cosh(W θ): curved, and different in every task."""

    layout = LAYOUT

    def sample(self, num_tasks, generator):
        draw = lambda *shape: torch.randn(num_tasks, *shape, generator=generator)  # noqa: E731
        return draw(P), {"W": draw(P, P)}

    def loss(self, theta, batch):
        return (batch["W"] @ theta).cosh().log().sum()


def observations(count, dtype=torch.float64):
    """Gradients, a trajectory, losses and steps as an unroll would show them."""
    generator = Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    return [seen(draw(B, P), draw(B, P), draw(B).exp(), t, 20.0) for t in range(count)]


def run(rule, observed, state=None, layout=LAYOUT):
    """The updates (K, B, P) and the last state."""
    state, updates = rule.init_state(observed[0].theta, layout) if state is None else state, []
    for one in observed:
        update, state = rule(one, state, layout)
        updates.append(update)
    return torch.stack(updates), state


def test_forward_is_pure(rule, path):
    with torch.no_grad():
        first, second = observations(2)
        _, state = rule(first, rule.init_state(first.theta, LAYOUT), LAYOUT)
        inputs = [*second, *state.values(), *rule.state_dict().values()]
        before, keys = [tensor.clone() for tensor in inputs], [*state]
        update, after = rule(second, state, LAYOUT)
        again, after_again = rule(second, state, LAYOUT)
    assert [*state] == keys
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert torch.equal(update, again) and after.keys() == after_again.keys()
    assert all(torch.equal(value, after_again[key]) for key, value in after.items())
    assert update.shape == (B, P) and update.dtype == torch.float64


def test_the_state_has_the_axes_that_it_says(rule):
    theta = torch.zeros(B, P)
    state, axes = rule.init_state(theta, LAYOUT), rule.state_axes()
    assert state.keys() <= axes.keys()
    for part in rule.parts(LAYOUT):
        for key, axis in part.rule.state_axes().items():
            if part.prefix + key in state:
                assert axis is axes[part.prefix + key]
                assert state[part.prefix + key].shape[:2] == (B, part.layout.length(axis)), key


def test_the_parts_share_every_coordinate_out_once(rule):
    spans = [span for part in rule.parts(LAYOUT) for span in part.spans]
    assert sorted(i for span in spans for i in range(span.start, span.stop)) == [*range(P)]
    for part in rule.parts(LAYOUT):
        assert sum(span.stop - span.start for span in part.spans) == part.layout.size


def test_the_scope_is_true(rule, path):
    """Another gradient at one coordinate changes what the scope allows to depend on it, and nothing else."""
    observed = observations(K)
    with torch.no_grad():
        updates, _ = run(rule, observed)
        for name, span in LAYOUT.slices.items():
            if span.start == span.stop:
                continue
            changed = copy.deepcopy(observed)
            for one in changed:
                one.grad[1, span.start] *= -1.7
            others, _ = run(rule, changed)
            moved = (others != updates).any(0)  # (B, P)
            assert not moved[0].any() and not moved[2].any(), "tasks are independent"
            assert moved[1, span.start]
            allowed = torch.zeros(P, dtype=torch.bool)
            for part in rule.parts(LAYOUT):
                inside = [s for s in part.spans if s.start <= span.start < s.stop]
                if not inside:
                    continue
                for s in {Scope.COORDINATE: [slice(span.start, span.start + 1)], Scope.TENSOR: [span]}.get(
                    part.rule.scope, part.spans
                ):
                    allowed[s] = True
            assert not (moved[1] & ~allowed).any(), name


def test_some_coordinates_alone_move_as_among_others(rule, path):
    """What may be cut out of θ gets its own updates: chunks and shards rely on it."""
    observed = observations(K)
    with torch.no_grad():
        updates, _ = run(rule, observed)
        for part in rule.parts(LAYOUT):
            own = [one._replace(grad=take(one.grad, part.spans), theta=take(one.theta, part.spans)) for one in observed]
            state = part.rule.init_state(own[0].theta, part.layout)
            if part.rule.scope is Scope.ALL:
                cuts = [part.layout.parts(0, len(part.layout.shapes))]
            elif part.rule.scope is Scope.TENSOR:
                cuts = [part.layout.parts(i, i + 1) for i in range(len(part.layout.shapes))]
            else:
                cuts = [part.layout.cut(i, min(i + 3, part.layout.size)) for i in range(0, part.layout.size, 3)]
            for cut in cuts:
                inner = [
                    one._replace(grad=one.grad[:, cut.coordinates], theta=one.theta[:, cut.coordinates]) for one in own
                ]
                start = state if part.rule.scope is Scope.ALL else cut_state(part.rule, state, cut)
                found, _ = run(part.rule, inner, start, cut.layout)
                expected = take(updates, part.spans)[..., cut.coordinates]
                assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("budget", [1, 5000, 2**30])
@pytest.mark.parametrize("steps_before", [0, 2])
def test_the_replay_is_the_gradient_of_autograd(rule, path, budget, steps_before):
    """Σ_t ⟨λ_t, ∂g_t/∂φ⟩ along a recorded window, from the episode's start and from its middle."""
    optimizee, generator = Bowl(), Generator().manual_seed(4)
    with torch.no_grad():
        episode = start_episode(rule, optimizee, B, generator, horizon=20.0)
        for _ in range(steps_before):
            _, episode = step(rule, optimizee, episode, generator)
    start, grads, losses, observed = episode, [], [], []
    with torch.no_grad():
        for _ in range(K):
            grads.append(episode.grad)
            observed.append(episode.seen)
            _, episode = step(rule, optimizee, episode, generator)
            losses.append(episode.loss)
    cotangents = torch.randn(K, B, P, generator=Generator().manual_seed(5))
    recording = recorded(start, torch.stack(grads), torch.stack(losses), optimizee)
    actual = replay(rule, recording, partial(take, cotangents), budget)
    parameters = list(rule.parameters())
    if not parameters:
        assert actual == []
        return
    state = rule.init_state(start.theta, LAYOUT) if steps_before == 0 else start.state
    updates, _ = run(rule, observed, state)
    objective = (updates * cotangents).sum()
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = iter(torch.autograd.grad(objective, trained, allow_unused=True, materialize_grads=True))
    expected = [next(found) if p.requires_grad else torch.zeros_like(p) for p in parameters]  # frozen ones get zeros
    scale = max(gradient.abs().max() for gradient in expected)
    assert scale > 1e-6
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, rtol=0, atol=1e-11 * scale)


def test_an_exported_rule_is_the_same_rule(rule, tmp_path):
    other = export.load(export.save(rule, tmp_path / "rule"))
    assert export.describe(other) == export.describe(rule)
    observed = observations(K)
    with torch.no_grad():
        expected, actual = run(rule, observed)[0], run(other.double(), observed)[0]
    assert_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_it_follows_to_another_device(rule):
    """The meta device stands for one: nothing that a rule makes lies elsewhere."""
    rule = rule.to("meta")
    observed = [one._make(tensor.to("meta") for tensor in one) for one in observations(2)]
    updates, state = run(rule, observed)
    assert {tensor.device.type for tensor in (updates, *state.values())} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_works_in_the_dtype_of_its_parameters_and_gradients(rule, dtype):
    rule = rule.to(dtype)
    with torch.no_grad():
        updates, state = run(rule, observations(2, dtype))
    assert updates.dtype == dtype and {value.dtype for value in state.values()} <= {dtype}
    assert updates.isfinite().all()


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_it_stays_finite_for_gradients_of_every_size(rule, size):
    with torch.no_grad():
        rule = rule.to(torch.float32)
        observed = [one._replace(grad=size * one.grad) for one in observations(K, torch.float32)]
        updates, _ = run(rule, observed)
    assert updates.isfinite().all()


def test_what_it_needs_is_known(rule):
    assert rule.needs <= {"loss", "horizon"}
    if not rule.needs:
        with torch.no_grad():
            unknown = [
                one._replace(loss=one.loss * math.nan, horizon=one.horizon * math.inf) for one in observations(2)
            ]
            assert run(rule, unknown)[0].isfinite().all()


def test_a_state_is_shared_only_where_it_depends_on_no_coordinate(rule):
    """What is SHARED may be read from any coordinate's state: another gradient leaves it as it is."""
    observed = observations(K)
    with torch.no_grad():
        _, state = run(rule, observed)
        _, other = run(rule, [one._replace(grad=-2 * one.grad, theta=3 * one.theta) for one in observed])
    for part in rule.parts(LAYOUT):
        for key, axis in part.rule.state_axes().items():
            if axis in (Axis.SHARED,) and part.rule.scope is not Scope.ALL:
                assert torch.equal(state[part.prefix + key], other[part.prefix + key])


def test_its_parameters_are_all_that_is_trained(rule):
    assert all(isinstance(parameter, nn.Parameter) for parameter in rule.parameters())
    assert {name for name, _ in rule.named_parameters()} == rule.state_dict().keys()
