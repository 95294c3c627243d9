"""The coordinatewise LSTM.

Shapes: B tasks, P coordinates, F features, H hidden units, K steps.
"""

import math

import pytest
import torch
from observations import recording, seen
from torch import nn
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import LSTM, Identity, LogAndSign, Preprocessing, Scale
from l2o.optimizers.kernels import lstm_cpp
from l2o.optimizers.kernels.dispatch import donated_state
from l2o.replay import window_gradient

B, P, K = 3, 7, 6
LAYOUT = Layout({"theta": (P,)})
RULES = {
    "paper": lambda: LSTM(LogAndSign(10), output_scale=0.1),
    "identity": lambda: LSTM(hidden_size=4),
    "one layer": lambda: LSTM(Scale(3.0), hidden_size=5, num_layers=1, output_scale=-2.0),
    "three layers": lambda: LSTM(LogAndSign(5), hidden_size=3, num_layers=3, forget_bias=0.0),
}
KERNEL_PRECISION = {torch.float64: 1e-10, torch.float32: 1e-4}


@pytest.fixture(params=RULES)
def rule(request, float64):
    return RULES[request.param]()


def run(rule, grads, state=None):
    """Updates (K, B, P) and the last state."""
    theta = torch.zeros_like(grads[0])
    state = rule.init_state(theta, LAYOUT) if state is None else state
    updates = []
    for grad in grads:
        update, state = rule(seen(grad, theta), state, LAYOUT)
        updates.append(update)
    return torch.stack(updates), state


def by_hand(rule, grads):
    """Hochreiter & Schmidhuber's cell with a forget gate, coordinate by coordinate, as equations."""
    hidden = [torch.zeros(*grads.shape[1:], rule.hidden_size) for _ in range(rule.num_layers)]
    cell = [torch.zeros_like(h) for h in hidden]
    updates = []
    for grad in grads:
        x = rule.preprocessing(grad)
        for layer, module in enumerate(rule.cells):
            gates = x @ module.weight_ih.T + module.bias_ih + hidden[layer] @ module.weight_hh.T + module.bias_hh
            i, f, g, o = gates.split(rule.hidden_size, dim=-1)
            cell[layer] = torch.sigmoid(f) * cell[layer] + torch.sigmoid(i) * torch.tanh(g)
            x = hidden[layer] = torch.sigmoid(o) * torch.tanh(cell[layer])
        updates.append(rule.output_scale * (x @ rule.head.weight[0] + rule.head.bias))
    state = {f"hidden_{n}": h for n, h in enumerate(hidden)} | {f"cell_{n}": c for n, c in enumerate(cell)}
    return torch.stack(updates), state


def assert_same_state(actual, expected, **tolerance):
    assert actual.keys() == expected.keys()
    for key in expected:
        assert_close(actual[key], expected[key], **tolerance)


def test_equals_the_equations(rule, path):
    with torch.no_grad():
        grads = torch.randn(K, B, P)
        updates, state = run(rule, grads)
        expected, expected_state = by_hand(rule, grads)
        assert_close(updates, expected, rtol=1e-10, atol=1e-12)
        assert_same_state(state, expected_state, rtol=1e-10, atol=1e-12)


def test_no_layer_is_a_linear_map(float64):
    rule, grads = LSTM(Scale(2.0), num_layers=0, output_scale=0.5), torch.randn(K, B, P)
    updates, state = run(rule, grads)
    assert_close(updates, 0.5 * (rule.head.weight[0, 0] * 2 * grads + rule.head.bias), rtol=1e-14, atol=1e-14)
    assert state == {} and sum(p.numel() for p in rule.parameters()) == 2


@pytest.mark.parametrize(
    ("preprocessing", "hidden_size", "num_layers", "count"),
    [(LogAndSign(), 20, 2, 5301), (Identity(), 20, 2, 5221), (Identity(), 1, 1, 18), (LogAndSign(), 20, 0, 3)],
)
def test_number_of_parameters(preprocessing, hidden_size, num_layers, count):
    rule = LSTM(preprocessing, hidden_size, num_layers)
    for size in (1, 10, 1000):  # the same few for any optimizee
        rule.init_state(torch.zeros(1, size), Layout({"theta": (size,)}))
        assert sum(parameter.numel() for parameter in rule.parameters()) == count


def test_state_starts_at_zero_with_one_per_coordinate(rule):
    state = rule.init_state(torch.randn(B, P), LAYOUT)
    names = {f"{part}_{layer}" for part in ("hidden", "cell") for layer in range(rule.num_layers)}
    assert set(state) == names
    assert all(value.shape == (B, P, rule.hidden_size) and not value.any() for value in state.values())


def test_equivariant_to_permutations_of_coordinates(rule, path):
    order = torch.randperm(P)
    with torch.no_grad():
        grads = torch.randn(K, B, P)
        updates, state = run(rule, grads)
        permuted, permuted_state = run(rule, grads[..., order])
    assert not torch.equal(order, torch.arange(P))
    assert_close(permuted, updates[..., order], rtol=1e-12, atol=1e-14)
    assert_same_state(permuted_state, {k: v[:, order] for k, v in state.items()}, rtol=1e-12, atol=1e-14)


def test_equivariant_to_permutations_of_tasks(rule, path):
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        grads = torch.randn(K, B, P)
        updates, state = run(rule, grads)
        permuted, permuted_state = run(rule, grads[:, order])
    assert_close(permuted, updates[:, order], rtol=1e-12, atol=1e-14)
    assert_same_state(permuted_state, {k: v[order] for k, v in state.items()}, rtol=1e-12, atol=1e-14)


def test_a_task_of_a_batch_equals_it_alone(rule, path):
    with torch.no_grad():
        grads = torch.randn(K, B, P)
        updates, state = run(rule, grads)
        alone, alone_state = run(rule, grads[:, 1:2])
    assert_close(alone, updates[:, 1:2], rtol=1e-12, atol=1e-14)
    assert_same_state(alone_state, {k: v[1:2] for k, v in state.items()}, rtol=1e-12, atol=1e-14)


def test_theta_is_not_read(rule):
    grads = torch.randn(B, P)
    state = rule.init_state(grads, LAYOUT)
    assert torch.equal(
        rule(seen(grads, torch.zeros(B, P)), state, LAYOUT)[0], rule(seen(grads, 1e9 * grads), state, LAYOUT)[0]
    )


@pytest.mark.parametrize("forget_bias", [None, 0.0, 1.0, -2.5])
def test_the_forget_gate_s_bias_starts_where_asked(forget_bias):
    rule = LSTM(hidden_size=4, num_layers=2) if forget_bias is None else LSTM(hidden_size=4, forget_bias=forget_bias)
    for cell in rule.cells:
        forget = (cell.bias_ih + cell.bias_hh)[4:8]  # gates i, f, g, o
        assert forget.tolist() == [1.0 if forget_bias is None else forget_bias] * 4
        others = torch.cat([(cell.bias_ih + cell.bias_hh)[:4], (cell.bias_ih + cell.bias_hh)[8:]])
        assert (others != 0).all() and (others.abs() <= 2 * 4**-0.5).all()


def test_timescales_from_the_forget_bias_s_to_the_longest_unit_by_unit(float64):
    """Without weights a unit is a running mean over n = 1 + e^b steps: c_t = tanh(b_g) (1 − (1 − 1/n)^t)."""
    rule = LSTM(hidden_size=4, num_layers=2, max_timescale=99.0, forget_bias=1.0)
    averages = 1 + math.e * (99.0 / math.e) ** (torch.arange(4) / 3)
    for cell in rule.cells:
        cell.weight_ih.data.zero_()
        cell.weight_hh.data.zero_()
        drive = (cell.bias_ih + cell.bias_hh)[8:12].tanh()
        c = torch.zeros(1, 4)
        for _ in range(7):
            _, c = cell(torch.zeros(1, cell.input_size), (torch.zeros(1, 4), c))
        assert_close(c[0], drive * (1 - (1 - 1 / averages) ** 7), rtol=1e-12, atol=0)


def test_the_longest_timescale_is_no_shorter_than_the_forget_bias_s():
    with pytest.raises(ValueError, match=r"max_timescale must be at least e\^forget_bias = 2.72 steps"):
        LSTM(max_timescale=2.0)


@pytest.mark.parametrize("head_init", [0.0, 0.5, 2.0])
def test_the_head_starts_at_a_multiple_of_torch_s_default(head_init):
    torch.manual_seed(3)
    plain = LSTM(hidden_size=4)
    torch.manual_seed(3)
    rule = LSTM(hidden_size=4, head_init=head_init)
    for name, parameter in rule.named_parameters():
        factor = head_init if name.startswith("head") else 1.0
        assert torch.equal(parameter, factor * plain.get_parameter(name))


def test_a_head_at_zero_stands_still(float64, path):
    with torch.no_grad():
        updates, _ = run(LSTM(LogAndSign(10), head_init=0.0), torch.randn(K, B, P))
    assert not updates.any()


def test_the_output_scale_multiplies_the_update(float64):
    small, large = LSTM(output_scale=0.1), LSTM(output_scale=1.0)
    large.load_state_dict(small.state_dict())
    grads = torch.randn(K, B, P)
    assert_close(run(small, grads)[0], 0.1 * run(large, grads)[0], rtol=1e-14, atol=0)


def test_forward_is_pure(rule, path):
    with torch.no_grad():
        theta, grad = torch.randn(B, P), torch.randn(B, P)
        _, state = rule(seen(grad, theta), rule.init_state(theta, LAYOUT), LAYOUT)
        inputs = [theta, grad, *state.values(), *rule.parameters()]
        before = [tensor.clone() for tensor in inputs]
        first, again = (rule(seen(grad, theta), state, LAYOUT) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert torch.equal(first[0], again[0])


@pytest.mark.parametrize("memory", ["feature by feature", "coordinate by coordinate"])
def test_a_step_may_overwrite_a_state_that_is_given_away(rule, path, memory):
    with torch.no_grad():
        theta, grads = torch.zeros(B, P), torch.randn(K, B, P)
        _, state = run(rule, grads[:2])
        expected, expected_state = run(rule, grads, state)
        given = {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
        if memory == "feature by feature":
            given = {key: value.movedim(-1, 0).contiguous().movedim(0, -1) for key, value in given.items()}
        for grad, update in zip(grads, expected, strict=True):
            with donated_state():
                actual, given = rule(seen(grad, theta), given, LAYOUT)
            assert_close(actual, update, rtol=1e-12, atol=1e-14)
    assert_same_state(given, expected_state, rtol=1e-12, atol=1e-14)


def test_a_donated_state_that_must_be_copied_moves_on(monkeypatch):
    """Some columns of several tasks' states are no rows of one matrix, so that no kernel can overwrite them."""
    rule, grads = LSTM(LogAndSign(), hidden_size=4), torch.randn(3, 2, 7)
    with torch.no_grad():
        whole = rule.init_state(torch.zeros(2, 19), LAYOUT)
        given = {key: value[:, 5:12].add_(torch.rand(2, 7, 4)) for key, value in whole.items()}
        state = {key: value.clone() for key, value in given.items()}
        theta = torch.zeros(2, 7)
        for grad in grads:
            expected, state = rule(seen(grad, theta), state, LAYOUT)
            with donated_state():
                actual, given = rule(seen(grad, theta), given, LAYOUT)
            assert torch.equal(actual, expected)
    assert_same_state(given, state, rtol=0, atol=0)


# -------------------------------------------------------------------------------------------------- the kernel's path


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel was used."""
    if not lstm_cpp.available():
        pytest.skip("no C++ compiler on this machine")
    count = {"step": 0, "window_gradient": 0}

    def counted(name):
        function = getattr(lstm_cpp, name)

        def call(*arguments, **options):
            count[name] += 1
            return function(*arguments, **options)

        return call

    for name in count:
        monkeypatch.setattr(lstm_cpp, name, counted(name))
    return count


def test_the_kernel_takes_logs_and_signs_itself(calls, monkeypatch):
    """So that a step and a window's gradient need no features in memory; torch's own path makes them as before."""
    grads, theta, made = torch.randn(K, B, P), torch.zeros(B, P), []
    forward = LogAndSign.forward
    monkeypatch.setattr(LogAndSign, "forward", lambda self, grad: made.append(1) or forward(self, grad))
    rule = LSTM(LogAndSign(10.0), hidden_size=3)
    with torch.no_grad():
        run(rule, grads)
        rule.window_gradient(recording(grads, rule.init_state(theta, LAYOUT), LAYOUT, theta), grads)
    assert calls == {"step": K, "window_gradient": 1} and not made
    run(rule, grads)
    assert len(made) == K


@pytest.fixture(params=KERNEL_PRECISION, ids=str)
def dtype(request, monkeypatch):
    monkeypatch.delenv("L2O_KERNEL", raising=False)
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", RULES)
def test_without_a_graph_the_kernel_gives_the_same_steps(dtype, calls, name):
    rule, grads = RULES[name](), torch.randn(K, B, P)
    expected, expected_state = run(rule, grads)
    assert expected.requires_grad and calls["step"] == 0
    with torch.no_grad():
        updates, state = run(rule, grads)
    assert calls["step"] == K
    tolerance = KERNEL_PRECISION[dtype]
    assert_close(updates, expected.detach(), rtol=tolerance, atol=tolerance)
    assert_same_state(state, {k: v.detach() for k, v in expected_state.items()}, rtol=tolerance, atol=tolerance)


def replay(rule):
    """The gradient of a window that starts from a state that is not 0."""
    with torch.no_grad():
        _, state = run(rule, torch.randn(2, B, P, generator=torch.Generator().manual_seed(0)))
    grads, cotangents = torch.randn(2, K, B, P, generator=torch.Generator().manual_seed(1))
    return window_gradient(rule, recording(grads, state, LAYOUT), cotangents)


def assert_gradients_close(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and not a.requires_grad
        assert (a - e).abs().max() <= tolerance * e.abs().max().clamp(min=1e-30)


@pytest.mark.parametrize("name", RULES)
def test_the_kernel_replays_the_same_gradient(dtype, calls, monkeypatch, name):
    rule = RULES[name]()
    actual = replay(rule)
    assert calls["window_gradient"] == 1
    monkeypatch.setenv("L2O_KERNEL", "0")
    expected = replay(rule)
    assert calls["window_gradient"] == 1
    assert_gradients_close(actual, expected, KERNEL_PRECISION[dtype])


@pytest.mark.parametrize("name", [*RULES, "linear"])
def test_replay_is_the_gradient_of_the_updates(float64, path, name):
    """Σ_t ⟨λ_t, g_t(φ)⟩ by central differences in φ, through `forward` alone."""
    rule = LSTM(LogAndSign(10), num_layers=0) if name == "linear" else RULES[name]()
    with torch.no_grad():
        state = rule.init_state(torch.zeros(B, P), LAYOUT)
        _, state = run(rule, torch.randn(2, B, P), state)
        grads, cotangents = torch.randn(2, K, B, P)
        actual = window_gradient(rule, recording(grads, state, LAYOUT), cotangents)
        phi = nn.utils.parameters_to_vector(rule.parameters()).clone()
        for _ in range(5):
            direction = torch.randn_like(phi)
            values = []
            for sign in (1, -1):
                nn.utils.vector_to_parameters(phi + sign * 1e-5 * direction, rule.parameters())
                values.append((run(rule, grads, state)[0] * cotangents).sum())
            nn.utils.vector_to_parameters(phi, rule.parameters())
            slope = nn.utils.parameters_to_vector(actual) @ direction
            assert_close(slope, (values[0] - values[1]) / 2e-5, rtol=1e-7, atol=1e-7)


class LearnedScale(Preprocessing):
    """A preprocessing with φ of its own."""

    num_features = 1

    def __init__(self):
        super().__init__()
        self.log_factor = nn.Parameter(torch.tensor(0.3))

    def forward(self, grad):
        return self.log_factor.exp() * grad[..., None]


def test_a_preprocessing_with_parameters_is_trained_too(float64, path):
    rule = LSTM(LearnedScale(), hidden_size=4)
    grads, cotangents = torch.randn(2, K, B, P)
    updates, _ = run(rule, grads)
    expected = torch.autograd.grad((updates * cotangents).sum(), list(rule.parameters()))
    state = rule.init_state(grads[0], LAYOUT)
    with torch.no_grad():
        actual = window_gradient(rule, recording(grads, state, LAYOUT, grads[0]), cotangents)
    assert_gradients_close(actual, expected, 1e-12)
    assert actual[[name for name, _ in rule.named_parameters()].index("preprocessing.log_factor")].abs() > 1e-3


def test_a_frozen_parameter_has_no_gradient(float64, path):
    """Fine-tuning a part of φ: the rest gets zeros, on both paths, and the part gets what it always gets."""
    rule = LSTM(LogAndSign(10), hidden_size=4)
    everything = replay(rule)
    rule.head.requires_grad_(False)
    actual = replay(rule)
    expected = [
        g if p.requires_grad else torch.zeros_like(g) for g, p in zip(everything, rule.parameters(), strict=True)
    ]
    assert_gradients_close(actual, expected, 1e-12)


@pytest.mark.parametrize("arguments", [{"hidden_size": 0}, {"num_layers": -1}, {"hidden_size": -3}], ids=str)
def test_bad_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="hidden_size must be >= 1 and num_layers >= 0"):
        LSTM(**arguments)
