"""One step of the compiled LSTM after another: they are those of a rule that looks at everything at each step.

Shapes: B tasks, P coordinates, K steps.
"""

import functools

import pytest
import torch
from observations import seen
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook
from torch.testing import assert_close

from l2o.optimizees import Layout, Quadratic
from l2o.optimizers import LSTM, Identity, LogAndSign, RNNProp, UpdateRule
from l2o.optimizers.base import State
from l2o.optimizers.kernels import lstm_cpp
from l2o.optimizers.kernels.dispatch import without_kernels
from l2o.optimizers.phi import with_phi
from l2o.unroll import start_episode, steps, unroll

B, P, K = 3, 7, 6
LAYOUT = Layout({"theta": (P,)})


@pytest.fixture(autouse=True)
def without_a_graph():
    if not lstm_cpp.available():
        pytest.skip("no C++ compiler on this machine")
    with torch.no_grad():
        yield


def started(rule: UpdateRule, tasks: int = B) -> State:
    """Give a state that is the rule's after one step, in memory of its own."""
    theta = torch.zeros(tasks, P)
    return rule(seen(torch.randn(tasks, P), theta), rule.init_state(theta, LAYOUT), LAYOUT)[1]


def copied(state: State) -> State:
    return {key: value.clone() for key, value in state.items()}


def assert_same(rule: UpdateRule, state: State, grads: Tensor) -> None:
    """Do the same steps twice, to the same bits, and find the given state as it was."""
    before, expected, stepper = copied(state), state, rule.stepper(state, LAYOUT)
    assert stepper is not None
    for grad in grads:
        update, expected = rule(seen(grad, torch.zeros_like(grad)), expected, LAYOUT)
        assert torch.equal(stepper[0](grad), update)
        assert expected.keys() == stepper[1].keys()
        assert all(torch.equal(stepper[1][key], value) for key, value in expected.items())
    assert all(torch.equal(state[key], value) for key, value in before.items())


@pytest.mark.parametrize("preprocessing", [Identity, LogAndSign])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_steps_are_those_of_the_rule(preprocessing, layers, dtype):
    rule = LSTM(preprocessing(), hidden_size=4, num_layers=layers, output_scale=0.1).to(dtype)
    torch.set_default_dtype(dtype)
    try:
        assert_same(rule, started(rule), torch.randn(K, B, P))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", ["a column of a matrix", "transposed"])
def test_a_gradient_may_lie_anywhere(kind):
    rule = LSTM(LogAndSign(), hidden_size=4)
    grads = torch.randn(K, P, B).mT if kind == "transposed" else torch.randn(K, B, P, 2)[..., 0]
    assert_same(rule, started(rule), grads)


def test_every_task_may_have_weights_of_its_own():
    rule = LSTM(LogAndSign(), hidden_size=4)
    phi = {name: torch.randn(B, *value.shape) / 4 for name, value in rule.named_parameters()}
    with with_phi(rule, phi):
        assert_same(rule, started(rule), torch.randn(K, B, P))


@pytest.mark.parametrize(
    "grad",
    [torch.randn(B, P + 1), torch.randn(B, P, dtype=torch.float64), torch.empty(B, P, device="meta")],
    ids=["shape", "dtype", "device"],
)
def test_another_kind_of_gradient_is_refused(grad):
    rule = LSTM(Identity(), hidden_size=4)
    stepper = rule.stepper(started(rule), LAYOUT)
    assert stepper is not None
    with pytest.raises(ValueError, match=r"expected gradients \(3, 7\) of torch.float32 on the CPU, got"):
        stepper[0](grad)


class Doubled(LSTM):
    """A rule of somebody else's, which does more than the LSTM does."""

    def forward(self, seen, state, layout):
        update, state = LSTM.forward(self, seen, state, layout)
        return 2 * update, state


def hooked() -> LSTM:
    rule = LSTM()
    rule.register_forward_hook(lambda module, given, found: (2 * found[0], found[1]))
    return rule


def patched() -> LSTM:
    rule = LSTM()
    rule.forward = functools.partial(Doubled.forward, rule)  # type: ignore[method-assign]
    return rule


class Clipped(LSTM):
    """A rule of somebody else's that overrides what `forward` calls."""

    def _inputs(self, grad, hidden):
        return super()._inputs(grad.clamp(-0.1, 0.1), hidden)


@pytest.mark.parametrize("make", [Doubled, Clipped, hooked, patched, RNNProp, lambda: LSTM(num_layers=0)])
def test_what_a_rule_does_besides_is_done_at_every_step(make):
    rule = make()
    assert rule.stepper(started(rule), LAYOUT) is None
    start = start_episode(rule, Quadratic(P), B, torch.Generator().manual_seed(0))
    _, after = unroll(rule, Quadratic(P), start, 4, torch.Generator().manual_seed(1))
    theta, state, task = start.theta, start.state, start.task
    for _ in range(4):
        _, grad = Quadratic(P).loss_and_grad(theta, task)
        update, state = rule(seen(grad, theta), state, LAYOUT)
        theta = theta + update
    assert_close(after.theta, theta)


def test_a_hook_on_all_modules_sees_every_step():
    calls, rule = [], LSTM()
    hook = register_module_forward_hook(lambda module, given, found: calls.append(module))
    try:
        unroll(rule, Quadratic(P), start_episode(rule, Quadratic(P), B, torch.Generator()), K, torch.Generator())
    finally:
        hook.remove()
    assert calls.count(rule) == K


class OneTaskAtATime(LSTM):
    """A rule that leaves a φ for each task to `with_phi`, which puts another `forward` in the place of its own."""

    batched_phi = False


def test_a_phi_for_each_task_is_used_by_every_rule():
    rule, same = OneTaskAtATime(hidden_size=4), LSTM(hidden_size=4)
    same.load_state_dict(rule.state_dict())
    phi = {name: torch.randn(B, *value.shape) / 4 for name, value in rule.named_parameters()}
    start, found = start_episode(same, Quadratic(P), B, torch.Generator().manual_seed(0)), []
    for each in (rule, same):
        with with_phi(each, phi):
            found.append(unroll(each, Quadratic(P), start, 4, torch.Generator().manual_seed(1))[0])
    assert_close(*found)


def test_where_there_is_no_kernel_the_rule_does_it(monkeypatch):
    rule = LSTM()
    state = started(rule)
    with torch.enable_grad():
        assert rule.stepper(state, LAYOUT) is None
    with without_kernels():
        assert rule.stepper(state, LAYOUT) is None
    monkeypatch.setenv("L2O_KERNEL", "0")
    assert rule.stepper(state, LAYOUT) is None


@pytest.mark.parametrize("tasks", [1, B])
@pytest.mark.parametrize("memory", ["coordinate by coordinate", "a share of all coordinates"])
def test_a_state_may_lie_anywhere(tasks, memory):
    """Of a share, which the kernel could read where it lies but could not go on with, there may be no stepper."""
    rule, state = LSTM(hidden_size=4), {}
    for key, value in started(rule, tasks).items():
        whole = torch.zeros(4, tasks, 2 * P).movedim(0, -1)
        whole[:, :P] = value
        state[key] = whole[:, :P] if memory == "a share of all coordinates" else value.contiguous()
    if memory == "a share of all coordinates" and tasks == 1:
        assert rule.stepper(state, LAYOUT) is None
    else:
        assert_same(rule, state, torch.randn(K, tasks, P))


def test_a_loop_checks_one_step_and_leaves_its_start_as_it_was(monkeypatch):
    prepared, optimizee, rule = [], Quadratic(P), LSTM(LogAndSign(), hidden_size=4)
    check = lstm_cpp.prepared_step
    monkeypatch.setattr(lstm_cpp, "prepared_step", lambda *given: prepared.append(given) or check(*given))
    start = start_episode(rule, optimizee, B, torch.Generator().manual_seed(0))
    before = copied(start.state)
    seen_updates, episode = [], start
    walk = steps(rule, optimizee, start, K, torch.Generator().manual_seed(1))
    for update, after in walk:
        assert_close(after.theta, episode.theta + update, rtol=0, atol=0)
        assert after.step == episode.step + 1 and after.start_loss is start.start_loss
        seen_updates.append(update)
        episode = after
    assert len(prepared) == 1 and len({update.data_ptr() for update in seen_updates}) == K
    assert all(torch.equal(start.state[key], value) for key, value in before.items())
