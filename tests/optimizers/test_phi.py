"""φ with a leading task axis equals a loop over the tasks, for every rule and for a user's own.

Shapes: B tasks, P coordinates, K steps.
"""

import pytest
import torch
from every_rule import LAYOUT, RULES
from observations import seen
from torch import Generator, nn
from torch.testing import assert_close

from l2o.optimizees.layout import Axis
from l2o.optimizers import (
    GAC,
    LSTM,
    Adam,
    Celo,
    LogAndSign,
    Partitioned,
    Preprocessing,
    RNNProp,
    Scale,
    Scope,
    UpdateRule,
)
from l2o.optimizers.phi import trainable, with_phi

pytestmark = pytest.mark.usefixtures("float64")

B, P, K = 3, LAYOUT.size, 4


class Mine(UpdateRule):
    """A user's 20 lines: they know of one φ alone. The initial state is learned, and one number is shared."""

    scope = Scope.ALL

    def __init__(self):
        super().__init__()
        self.rate, self.pull = nn.Parameter(torch.tensor(-2.0)), nn.Parameter(torch.tensor(0.3))
        self.start = nn.Parameter(torch.tensor([0.5]))
        self.mix = nn.Linear(2, 1)

    def init_state(self, theta, layout):
        return {"mean": self.start * torch.ones_like(theta), "count": theta.new_zeros(len(theta), 1)}

    def state_axes(self):
        return {"mean": Axis.COORDINATES, "count": Axis.SHARED}

    def forward(self, seen, state, layout):
        count = state["count"] + 1
        mean = torch.lerp(state["mean"], seen.grad, torch.sigmoid(self.pull))
        mixed = self.mix(torch.stack((mean, seen.grad), -1)).squeeze(-1)
        fraction = torch.where(seen.horizon.isfinite(), seen.step / seen.horizon, 0.0)[:, None]
        update = -self.rate.exp() * (mixed + seen.theta.mean(1, keepdim=True)) * (1 - fraction) / count
        return update + 0.01 * seen.loss[:, None], {"mean": mean, "count": count}


class Bent(Preprocessing):
    """A user's preprocessing with parameters of its own."""

    num_features = 2

    def __init__(self):
        super().__init__()
        self.bend = nn.Parameter(torch.tensor([0.5, 2.0]))

    def forward(self, grad):
        return torch.tanh(self.bend * grad[..., None])


class Outer(UpdateRule):
    """A user's rule that calls one of ours, and knows of one φ alone."""

    scope = Scope.COORDINATE

    def __init__(self):
        super().__init__()
        self.inner, self.size = LSTM(LogAndSign(), hidden_size=3, num_layers=1), nn.Parameter(torch.tensor(0.2))

    def init_state(self, theta, layout):
        return self.inner.init_state(theta, layout)

    def state_axes(self):
        return self.inner.state_axes()

    def forward(self, seen, state, layout):
        update, state = self.inner(seen, state, layout)
        return self.size * update, state


class Recurrent(UpdateRule):
    """A user's rule around one of torch's recurrent cells."""

    scope = Scope.COORDINATE

    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell(1, 3), nn.Linear(3, 1)

    def init_state(self, theta, layout):
        return {"hidden": theta.new_zeros(*theta.shape, 3), "cell": theta.new_zeros(*theta.shape, 3)}

    def state_axes(self):
        return {"hidden": Axis.COORDINATES, "cell": Axis.COORDINATES}

    def forward(self, seen, state, layout):
        hidden, cell = (state[key].flatten(0, 1) for key in ("hidden", "cell"))
        new = self.cell(seen.grad.reshape(-1, 1), (hidden, cell) if isinstance(self.cell, nn.LSTMCell) else hidden)
        hidden, cell = new if isinstance(new, tuple) else (new, cell)
        shape = seen.grad.shape
        after = {"hidden": hidden.unflatten(0, shape), "cell": cell.unflatten(0, shape)}
        return self.head(hidden).view(shape), after


def twice():
    rule = Mine()
    return Partitioned({"a": rule, "b": rule}, {"a": "matrix|scalar", "b": "(?!matrix|scalar).*"})


OWN = {
    "a user's": Mine,
    "a user's preprocessing": lambda: LSTM(Bent(), hidden_size=3, output_scale=0.1),
    "a user's around ours": Outer,
    "a user's in a partition": lambda: Partitioned(
        {"a": Mine(), "b": Adam(0.1)}, {"a": "matrix|scalar", "b": "(?!matrix|scalar).*"}
    ),
    "a user's LSTM": lambda: Recurrent(nn.LSTMCell),
    "a user's GRU": lambda: Recurrent(nn.GRUCell),
    "a user's RNN": lambda: Recurrent(nn.RNNCell),
    "a user's RNN with ReLU": lambda: Recurrent(lambda *sizes: nn.RNNCell(*sizes, bias=False, nonlinearity="relu")),
    "the same rule for two groups": twice,
    "averaging with a user's preprocessing": lambda: GAC(Bent(), hidden_size=3, averaging_cells=1),
}
EVERY = {**RULES, **OWN}


@pytest.fixture(params=EVERY)
def rule(request):
    torch.manual_seed(2)
    return EVERY[request.param]()


def drawn(rule, names=None, tasks=B):
    """φ of each task, (B, …), around the rule's own."""
    generator = Generator().manual_seed(3)
    noise = lambda p: 0.1 * torch.randn(tasks, *p.shape, generator=generator)  # noqa: E731
    return {name: p.detach() + noise(p) for name, p in rule.named_parameters() if names is None or name in names}


def observations(count):
    generator = Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return [seen(draw(B, P), draw(B, P), draw(B).exp(), t, 20.0) for t in range(count)]


def run(rule, observed):
    state, updates = rule.init_state(observed[0].theta, LAYOUT), []
    first = state
    for one in observed:
        update, state = rule(one, state, LAYOUT)
        updates.append(update)
    return torch.stack(updates), first, state


def loop(rule, phi, observed):
    """Each task by itself, with its φ as the rule's own parameters."""
    before = {name: parameter.detach().clone() for name, parameter in rule.named_parameters()}
    results = []
    for b in range(B):
        for name, parameter in rule.named_parameters():
            parameter.data = phi[name][b] if name in phi else before[name]
        results.append(run(rule, [one._make(value[b : b + 1] for value in one) for one in observed]))
    for name, parameter in rule.named_parameters():
        parameter.data = before[name]
    updates, first, last = zip(*results, strict=True)
    join = lambda states: {key: torch.cat([state[key] for state in states]) for key in states[0]}  # noqa: E731
    return torch.cat(updates, 1), join(first), join(last)


def assert_equal_to_the_loop(rule, phi):
    observed = observations(K)
    with torch.no_grad():
        expected = loop(rule, phi, observed)
        with with_phi(rule, phi):
            actual = run(rule, observed)
    assert_close(actual, expected, rtol=1e-12, atol=1e-13)
    return actual


def test_it_equals_a_loop_over_the_tasks(rule, path):
    phi = drawn(rule)
    updates, *_ = assert_equal_to_the_loop(rule, phi)
    if phi:
        with torch.no_grad():
            assert not torch.allclose(updates, run(rule, observations(K))[0])


def test_some_parameters_may_be_the_same_for_all_tasks(rule, path):
    names = [name for name, _ in rule.named_parameters()]
    for chosen in (names[::2], names[1::2]):
        assert_equal_to_the_loop(rule, drawn(rule, chosen))


def test_the_rule_is_as_before_after_the_block(rule):
    before = [(name, parameter, parameter.clone()) for name, parameter in rule.named_parameters()]
    methods = [vars(module).keys() for module in rule.modules()]
    methods = [[*keys] for keys in methods]
    with pytest.raises(RuntimeError, match="on purpose"), torch.no_grad(), with_phi(rule, drawn(rule)):
        run(rule, observations(2))
        raise RuntimeError("on purpose")
    assert [[*vars(module)] for module in rule.modules()] == methods
    after = [*rule.named_parameters()]
    assert [name for name, _ in after] == [name for name, *_ in before]
    assert all(
        now is then and torch.equal(now, value) for (_, now), (_, then, value) in zip(after, before, strict=True)
    )


def test_gradients_flow_to_the_phi_of_each_task(rule):
    """Also where a rule goes through vmap; task b's updates depend on φ_b alone."""
    phi = {name: value.requires_grad_() for name, value in drawn(rule).items()}
    if not phi:
        return
    with with_phi(rule, phi):
        updates, *_ = run(rule, observations(2))
    gradients = torch.autograd.grad(updates[:, 1].sum(), list(phi.values()), allow_unused=True, materialize_grads=True)
    assert any(gradient[1].abs().max() > 1e-8 for gradient in gradients)
    assert all(not gradient[0].any() and not gradient[2].any() for gradient in gradients)


@pytest.mark.parametrize("name", ["celo, phase 2", "a user's"])
def test_learned_initial_states_are_the_tasks_own(name):
    rule = EVERY[name]()
    chosen = "scheduler.initial_cell" if isinstance(rule, Celo) else "start"
    phi = drawn(rule, [chosen])
    with torch.no_grad(), with_phi(rule, phi):
        state = rule.init_state(torch.zeros(B, P), LAYOUT)
    found = state["cell"][:, 0] if isinstance(rule, Celo) else state["mean"][:, :1]
    assert torch.equal(found, phi[chosen])


def test_the_compiled_kernel_takes_a_phi_of_each_task(monkeypatch):
    """The LSTM does not fall back to plain torch, and its kernel may overwrite a state there, too."""
    from l2o.optimizers.kernels import dispatch, lstm_cpp

    if not lstm_cpp.available():
        pytest.skip("no C++ compiler on this machine")
    rule = LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1)
    phi, observed, calls = drawn(rule), observations(K), []
    kernel_step = lstm_cpp.step
    monkeypatch.setattr(lstm_cpp, "step", lambda *arguments: calls.append(1) or kernel_step(*arguments))
    with torch.no_grad():
        expected, _, state = loop(rule, phi, observed)
        calls.clear()
        with with_phi(rule, phi), dispatch.donated_state():
            updates, _, after = run(rule, observed)
    assert len(calls) == K
    assert_close((updates, after), (expected, state), rtol=1e-12, atol=1e-13)


def test_frozen_parameters_are_not_trainable():
    rule = Celo(phase=2, scheduler_size=3)
    assert all(name.startswith("scheduler.") for name in trainable(rule)) and len(trainable(rule)) == 10


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ({"rate": torch.zeros(3), "speed": torch.zeros(3)}, "Mine has no parameter 'speed', it has rate, pull"),
        ({"start": torch.zeros(3)}, r"start must have the shape \('tasks', 1\), got \(3,\)"),
        ({"rate": torch.zeros(())}, r"rate must have the shape \('tasks',\), got \(\)"),
        ({"rate": torch.zeros(3), "pull": torch.zeros(2)}, r"same number of tasks, got \[2, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(phi, message):
    with pytest.raises(ValueError, match=message), with_phi(Mine(), phi):
        pass


def test_rules_that_can_declare_it():
    batched = {name for name, make in RULES.items() if make().batched_phi}
    assert {"lstm", "rnnprop", "adafac mlp", "mlp lopt", "celo, phase 1", "celo, phase 2", "celo2"} <= batched
    assert RNNProp().lstm.preprocessing.batched_phi and not Scale(1.0).batched_phi
