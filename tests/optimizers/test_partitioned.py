"""Partitioned against its rules by themselves, each on its own part of θ.

Shapes: B tasks, P coordinates, K steps.
"""

import copy
import re
from functools import partial

import pytest
import torch
from observations import recording, seen
from torch import Generator
from torch.testing import assert_close

from l2o.data import Dataset
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Classifier, Layout, conv_net
from l2o.optimizers import GAC, LSTM, SGD, Adam, LogAndSign, Partitioned, Scope
from l2o.optimizers.base import spans_within, take
from l2o.optimizers.kernels import lstm_cpp
from l2o.replay import replay
from l2o.unroll import start_episode

pytestmark = pytest.mark.usefixtures("float64")

LAYOUT = Layout({"conv.weight": (2, 3), "conv.bias": (2,), "linear.weight": (4, 2), "linear.bias": (4,)})
PATTERNS = {"conv": r"conv\.weight", "rest": r"conv\.bias|linear\..*"}
B, P = 3, LAYOUT.size
COLUMNS = {"conv": list(range(6)), "rest": list(range(6, P))}


def lstm(seed):
    torch.manual_seed(seed)
    return LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1)


def two_lstms():
    return Partitioned({"conv": lstm(1), "rest": lstm(2)}, PATTERNS)


@pytest.mark.parametrize(
    "rest", [lambda: lstm(2), lambda: Adam(0.1), lambda: GAC(hidden_size=5)], ids=["lstm", "adam", "gac"]
)
def test_each_group_moves_as_its_rule_alone(rest, path):
    rules = {"conv": lstm(1), "rest": rest()}
    rule = Partitioned(rules, PATTERNS)
    theta = torch.randn(B, P)
    state = rule.init_state(theta, LAYOUT)
    layouts = {part.prefix.rstrip("."): part.layout for part in rule.parts(LAYOUT)}
    alone = {name: rules[name].init_state(theta[:, COLUMNS[name]], layouts[name]) for name in rules}
    with torch.no_grad():
        for _ in range(3):
            grad = torch.randn(B, P)
            update, state = rule(seen(grad, theta), state, LAYOUT)
            for name, columns in COLUMNS.items():
                own, alone[name] = rules[name](seen(grad[:, columns], theta[:, columns]), alone[name], layouts[name])
                assert_close(update[:, columns], own, rtol=1e-12, atol=1e-14)
                for key, value in alone[name].items():
                    assert_close(state[f"{name}.{key}"], value, rtol=1e-12, atol=1e-14)
    assert len(state) == sum(map(len, alone.values()))


def test_groups_may_alternate_over_theta():
    """The weights by one rule, the biases by another: updates return to their places."""
    rule = Partitioned({"weights": SGD(1.0), "biases": SGD(10.0)}, {"weights": ".*weight", "biases": ".*bias"})
    grad = torch.randn(B, P)
    update, _ = rule(seen(grad, grad), {}, LAYOUT)
    parts = {name: (-1 if "weight" in name else -10) * part for name, part in LAYOUT.unravel(grad).items()}
    assert torch.equal(update, LAYOUT.ravel(parts))


@pytest.mark.parametrize("weights", [r"conv\.weight", r".*weight"], ids=["one run", "alternating"])
@pytest.mark.parametrize("size", [1, 3000, 2**30], ids=lambda size: f"{size} bytes")
def test_runs_give_the_bits_of_gathered_coordinates(weights, size, path):
    """Updates, states and gradients: each group's rule on its own coordinates, gathered one by one."""
    rules = {"weights": lstm(1), "rest": lstm(2)}
    rule = Partitioned(rules, {"weights": weights, "rest": f"(?!{weights}).*"})
    inside = {name: bool(re.fullmatch(weights, name)) for name in LAYOUT.shapes}
    chosen = LAYOUT.ravel({name: torch.full(shape, inside[name]) for name, shape in LAYOUT.shapes.items()})
    columns = {"weights": chosen, "rest": ~chosen}
    grad, record, cotangents = torch.randn(B, P), torch.randn(4, B, P), torch.randn(4, B, P)
    state, gradient = rule.init_state(grad, LAYOUT), []
    with torch.no_grad():
        update, after = rule(seen(grad, grad), state, LAYOUT)
        for name, own in columns.items():
            alone, theta = rules[name], grad[:, own]
            start = alone.init_state(theta, LAYOUT)
            expected, moved = alone(seen(theta, theta), start, LAYOUT)
            assert torch.equal(update[:, own], expected)
            assert all(torch.equal(after[f"{name}.{key}"], value) for key, value in moved.items())
            layout = Layout({"all": (int(own.sum()),)})
            window = recording(record[..., own], start, layout, theta)
            gradient += replay(alone, window, partial(take, cotangents[..., own]), size)
    actual = replay(rule, recording(record, state, LAYOUT, grad), partial(take, cotangents), size)
    assert all(torch.equal(a, b) for a, b in zip(actual, gradient, strict=True))


def test_a_replay_asks_for_no_more_than_a_chunk():
    """Of a group that alternates with another: the coordinates of a chunk at a time."""
    rule = Partitioned({"weights": lstm(1), "rest": SGD(0.1)}, {"weights": ".*weight", "rest": ".*bias"})
    theta, record, asked = torch.randn(B, P), torch.randn(4, B, P), []

    def cotangents(spans):
        asked.extend(i for span in spans for i in range(span.start, span.stop))
        sizes.append(sum(span.stop - span.start for span in spans))
        return take(record, spans)

    sizes = []
    replay(rule, recording(record, rule.init_state(theta, LAYOUT), LAYOUT, theta), cotangents, 1)
    assert sizes == [1] * P and sorted(asked) == list(range(P))


def test_groups_inside_groups():
    """Runs of runs: the inner groups alternate inside an outer one that alternates, too."""
    conv, linear, rest = lstm(1), lstm(2), lstm(3)
    inner = Partitioned({"conv": conv, "linear": linear}, {"conv": "conv.*", "linear": "linear.*"})
    rule = Partitioned({"weights": inner, "rest": rest}, {"weights": ".*weight", "rest": ".*bias"})
    flat = Partitioned(
        {"a": conv, "b": linear, "c": rest},
        {"a": r"conv\.weight", "b": r"linear\.weight", "c": ".*bias"},
    )
    theta, record, cotangents = torch.randn(B, P), torch.randn(4, B, P), torch.randn(4, B, P)
    results = []
    for one in (rule, flat):
        state = one.init_state(theta, LAYOUT)
        update, _ = one(seen(theta, theta), state, LAYOUT)
        window = recording(record, state, LAYOUT, theta)
        results.append([update, *replay(one, window, partial(take, cotangents), 2**30)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("runs", [[slice(0, 10)], [slice(2, 3), slice(5, 9)], [slice(0, 1), slice(4, 4), slice(7, 10)]])
def test_a_part_of_some_runs_is_runs(runs):
    tensor = torch.arange(10)
    for start in range(11):
        for stop in range(start, 12):
            expected = take(tensor, runs)[start:stop]
            assert torch.equal(take(tensor, spans_within(runs, slice(start, stop))), expected)


def test_one_rule_in_every_group_is_that_rule():
    shared = lstm(1)
    rule, grad = Partitioned(dict.fromkeys(PATTERNS, shared), PATTERNS), torch.randn(B, P)
    update, _ = rule(seen(grad, grad), rule.init_state(grad, LAYOUT), LAYOUT)
    expected, _ = shared(seen(grad, grad), shared.init_state(grad, LAYOUT), LAYOUT)
    assert_close(update, expected, rtol=1e-12, atol=1e-14)
    record, cotangents, state = torch.randn(4, B, P), torch.randn(4, B, P), rule.init_state(grad, LAYOUT)
    actual = replay(rule, recording(record, state, LAYOUT, grad), partial(take, cotangents), 2**30)
    whole = recording(record, shared.init_state(grad, LAYOUT), LAYOUT, grad)
    expected = replay(shared, whole, partial(take, cotangents), 2**30)
    assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_a_rule_sees_its_own_layout():
    shapes = {}

    class Looks(SGD):
        def init_state(self, theta, layout):
            shapes[self.lr] = layout.shapes
            return {}

    rule = Partitioned({"conv": Looks(1.0), "rest": Looks(2.0)}, PATTERNS)
    rule.init_state(torch.zeros(B, P), LAYOUT)
    assert shapes == {
        1.0: {"conv.weight": (2, 3)},
        2.0: {"conv.bias": (2,), "linear.weight": (4, 2), "linear.bias": (4,)},
    }


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("size", [1, 20_000, 2**30], ids=lambda size: f"{size} bytes")
def test_a_window_on_the_conv_net_equals_autograd(second_order, size, path):
    """First order: a graph through both LSTMs over constant gradients; second order has no chunks."""
    optimizee = small_conv_net()
    patterns = {"conv": r"conv_\d+\.weight", "fc": r"(?!conv_\d+\.weight).*"}
    rule = Partitioned({"conv": lstm(1), "fc": lstm(2)}, patterns)
    generator = Generator().manual_seed(0)
    episode = start_episode(rule, optimizee, 2, generator)
    stream = generator.get_state()
    estimator = TruncatedBPTT(second_order, max_replay_bytes=size)
    losses, _, gradient, *_ = estimator(rule, optimizee, episode, 4, generator)

    generator.set_state(stream)
    _, theta, _, grad, state, *_ = episode
    expected_losses = []
    for _ in range(4):
        update, state = rule(seen(grad, theta if second_order else theta.detach()), state, optimizee.layout)
        theta = theta + update
        batch = optimizee.sample_batch({}, 2, generator)
        one = [optimizee.loss(theta[b], {key: value[b] for key, value in batch.items()}) for b in range(2)]
        expected_losses.append(torch.stack(one))
        (grad,) = torch.autograd.grad(expected_losses[-1].sum(), theta, create_graph=second_order, retain_graph=True)
    expected = torch.autograd.grad(torch.stack(expected_losses).sum(0).mean(), list(rule.parameters()))
    assert_close(losses, torch.stack(expected_losses).detach(), rtol=1e-10, atol=0)
    scale = max(part.abs().max().item() for part in expected)
    for actual, true in zip(gradient, expected, strict=True):
        assert_close(actual, true, rtol=0, atol=1e-9 * scale)


def small_conv_net():
    x, y = torch.rand(20, 4, 4, 1), torch.arange(20) % 2
    return Classifier(conv_net(4, 1, [2], [3], 2), Dataset(x, y, x, y), batch_size=6, init_std=0.3)


def test_the_kernel_serves_every_group(monkeypatch):
    if not lstm_cpp.available():
        pytest.skip("no C++ compiler on this machine")
    calls, original = [], lstm_cpp.window_gradient

    def counted(weights, features, *rest, scale):
        calls.append(features.shape[1])
        return original(weights, features, *rest, scale=scale)

    monkeypatch.setattr(lstm_cpp, "window_gradient", counted)
    rule, theta = two_lstms(), torch.zeros(B, P)
    record = torch.randn(2, B, P)
    window = recording(record, rule.init_state(theta, LAYOUT), LAYOUT, theta)
    replay(rule, window, partial(take, record), 2**30)
    assert calls == [B * len(columns) for columns in COLUMNS.values()]


@pytest.mark.parametrize(
    ("rest", "expected"), [(lambda: Adam(0.1), Scope.COORDINATE), (lambda: GAC(hidden_size=5), Scope.ALL)]
)
def test_its_scope_is_the_widest_of_its_rules(rest, expected):
    assert Partitioned({"conv": lstm(1), "rest": rest()}, PATTERNS).scope is expected


def test_a_group_without_a_part_rests():
    rule, layout = two_lstms(), Layout({"linear.weight": (5,)})
    theta = torch.randn(B, 5)
    state = rule.init_state(theta, layout)
    assert {key.split(".")[0] for key in state} == {"rest"}
    update, _ = rule(seen(theta, theta), state, layout)
    expected, _ = lstm(2)(seen(theta, theta), lstm(2).init_state(theta, layout), layout)
    assert_close(update, expected, rtol=1e-12, atol=1e-14)
    gradient = replay(rule, recording(theta[None], state, layout, theta), partial(take, theta[None]), 2**30)
    assert not any(part.any() for part in gradient[: len(gradient) // 2]) and gradient[-1].any()


def test_one_rule_serves_many_layouts_and_copies():
    rule = two_lstms()
    for layout in (LAYOUT, Layout({"conv.weight": (4,), "linear.bias": (1,)}), LAYOUT):
        theta = torch.randn(2, layout.size)
        for one in (rule, copy.deepcopy(rule)):
            update, _ = one(seen(theta, theta), one.init_state(theta, layout), layout)
            assert update.shape == theta.shape


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ({"conv": r"conv\.weight", "rest": r"linear\..*"}, "'conv.bias' belongs to none of the groups conv, rest"),
        ({"conv": r"conv\..*", "rest": r".*\.bias|linear.*"}, "'conv.bias' belongs to conv and rest of the groups"),
        ({"conv": "conv", "rest": r"linear\..*"}, "'conv.weight' belongs to none"),  # the whole name must match
    ],
)
def test_a_part_of_no_group_or_two_is_named(patterns, says):
    rule = Partitioned({"conv": SGD(0.1), "rest": SGD(0.1)}, patterns)
    theta = torch.zeros(B, P)
    for call in (lambda: rule.init_state(theta, LAYOUT), lambda: rule(seen(theta, theta), {}, LAYOUT)):
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize("names", [[], ["conv"], ["conv", "rest", "more"], ["conv", "fc"]], ids=str)
def test_every_group_needs_a_rule_and_a_pattern(names):
    with pytest.raises(ValueError, match="needs a rule and a pattern"):
        Partitioned({name: SGD(0.1) for name in names}, PATTERNS)


def test_a_broken_pattern_is_refused():
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        Partitioned({"all": SGD(0.1)}, {"all": "("})


def test_tables_call_it_by_its_rules():
    assert two_lstms().label == "LSTM"
    assert Partitioned({"conv": lstm(1), "rest": GAC(hidden_size=5)}, PATTERNS).label == "LSTM + GAC"


@torch.no_grad()
@pytest.mark.skipif(not lstm_cpp.available(), reason="no C++ compiler on this machine")
def test_steps_one_after_another_are_those_of_the_rule():
    """The groups alternate, and one of them has groups of its own. A rule without a stepper leaves none to the rest."""
    inner = Partitioned({"conv": lstm(1), "linear": lstm(2)}, {"conv": "conv.*", "linear": "linear.*"})
    rule = Partitioned({"weights": inner, "rest": lstm(3)}, {"weights": ".*weight", "rest": ".*bias"})
    state = rule.init_state(torch.zeros(B, P), LAYOUT)
    stepper = rule.stepper(state, LAYOUT)
    assert stepper is not None
    for grad in torch.randn(4, B, P):
        update, state = rule(seen(grad, torch.zeros(B, P)), state, LAYOUT)
        assert torch.equal(stepper[0](grad), update)
        assert stepper[1].keys() == state.keys()
        assert all(torch.equal(stepper[1][key], value) for key, value in state.items())
    other = Partitioned({"conv": lstm(1), "rest": Adam(0.1)}, PATTERNS)
    assert other.stepper(other.init_state(torch.zeros(B, P), LAYOUT), LAYOUT) is None


@torch.no_grad()
def test_what_a_hook_adds_is_added_at_every_step():
    rule = two_lstms()
    rule.register_forward_hook(lambda module, given, found: (2 * found[0], found[1]))
    assert rule.stepper(rule.init_state(torch.zeros(B, P), LAYOUT), LAYOUT) is None
