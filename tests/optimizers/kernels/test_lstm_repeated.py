"""Steps of the compiled LSTM that are done again on the same state: they are those of a rule that checks everything.

Shapes: B tasks, P coordinates, K steps.
"""

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from observations import seen
from torch import Tensor

from l2o import LearnedOptimizer
from l2o.optimizees import Layout
from l2o.optimizers import LSTM, Identity, LogAndSign
from l2o.optimizers.kernels import dispatch, lstm_cpp, lstm_repeated
from l2o.optimizers.kernels.dispatch import donated_state, without_kernels

B, P, K = 3, 7, 6
PREPARED = lstm_cpp.prepared_step
LAYOUT = Layout({"theta": (P,)})


@pytest.fixture(autouse=True)
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Say of every step whether it was one that is done again; no gradient is recorded."""
    if not lstm_cpp.available():
        pytest.skip("no C++ compiler on this machine")
    found: list[bool] = []
    again = dispatch.step_again

    def watched(*arguments) -> Tensor | None:
        out = again(*arguments)
        found.append(out is not None)
        return out

    monkeypatch.setattr(dispatch, "step_again", watched)
    monkeypatch.setattr(lstm_repeated, "_repeated", {})
    monkeypatch.setattr(lstm_repeated, "_met", {})
    with torch.no_grad():
        yield found


def started(rule: LSTM, tasks: int = B) -> dict[str, Tensor]:
    """Give a state that is the rule's after one step, in memory of its own."""
    theta = torch.zeros(tasks, P)
    return rule(seen(torch.randn(tasks, P), theta), rule.init_state(theta, LAYOUT), LAYOUT)[1]


def both(rule: LSTM, grad: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Do a step on a state that is given away, and the same on a copy. Give the state after it and both updates."""
    theta, copy = torch.zeros_like(grad), {key: value.clone() for key, value in state.items()}
    expected, expected_state = rule(seen(grad.clone(), theta), copy, LAYOUT)
    with donated_state():
        update, state = rule(seen(grad, theta), state, LAYOUT)
    assert all(torch.equal(state[key], value) for key, value in expected_state.items())
    return state, update, expected


@pytest.mark.parametrize("preprocessing", [Identity, LogAndSign])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_steps_of_a_window_are_done_again(repeated, preprocessing, layers):
    rule = LSTM(preprocessing(), hidden_size=4, num_layers=layers, output_scale=0.1)
    state = started(rule)
    for grad in torch.randn(K, B, P):
        state, update, expected = both(rule, grad, state)
        assert torch.equal(update, expected)
    assert repeated == K * [True]


def test_a_window_is_checked_once(monkeypatch):
    """The first step makes the state that all others overwrite, and the second one checks what all others do again."""
    prepared = []
    monkeypatch.setattr(lstm_cpp, "prepared_step", lambda *given: prepared.append(given) or PREPARED(*given))
    rule, theta = LSTM(LogAndSign(), hidden_size=4), torch.zeros(B, P)
    state = started(rule)
    for grad in torch.randn(K, B, P):
        with donated_state():
            _, state = rule(seen(grad, theta), state, LAYOUT)
    assert len(prepared) == 2


def test_a_state_that_no_step_has_left_is_checked_where_it_is_met_again(repeated):
    rule = LSTM(Identity(), hidden_size=4)
    state = rule.init_state(torch.zeros(B, P), LAYOUT)
    for grad in torch.randn(3, B, P):
        state, update, expected = both(rule, grad, state)
        assert torch.equal(update, expected)
    assert repeated == [False, True, True]


def test_a_gradient_that_does_not_lie_in_one_piece_is_left_to_the_checks(repeated):
    rule = LSTM(Identity(), hidden_size=4)
    state = started(rule)
    for grad in torch.randn(3, B, 2 * P)[..., ::2]:
        state, update, expected = both(rule, grad, state)
        assert torch.equal(update, expected)
    assert repeated == 3 * [False]


def changed_in_place(rule: LSTM) -> None:
    for weight in rule.parameters():
        weight.mul_(1.5)


def put_elsewhere(rule: LSTM) -> None:
    for weight in rule.parameters():
        weight.data = 1.5 * weight.data


def made_anew(rule: LSTM) -> None:
    cell = rule.cells[0]
    assert isinstance(cell, torch.nn.LSTMCell)
    cell.weight_hh = torch.nn.Parameter(1.5 * cell.weight_hh)


def with_another_p(rule: LSTM) -> None:
    rule.preprocessing = LogAndSign(5.0)


def on_another_scale(rule: LSTM) -> None:
    rule.output_scale = 7.0


@pytest.mark.parametrize(
    "change", [changed_in_place, put_elsewhere, made_anew, with_another_p, on_another_scale], ids=lambda f: f.__name__
)
def test_a_rule_that_changes_within_a_window_is_read_as_it_is(change):
    rule = LSTM(LogAndSign(), hidden_size=4)
    state = started(rule)
    for grad in torch.randn(3, B, P):
        state, _, before = both(rule, grad, state)
    change(rule)
    grad = torch.randn(B, P)
    for _ in range(2):
        state, update, expected = both(rule, grad, state)
        assert torch.equal(update, expected) and not torch.equal(update, before)


@pytest.mark.parametrize("kind", ["a column of a matrix", "transposed", "double"])
def test_another_kind_of_gradient_is_read_as_it_is(kind):
    rule = LSTM(LogAndSign(), hidden_size=4)
    state = started(rule, P)
    for grad in torch.randn(3, P, P):
        state, *_ = both(rule, grad, state)
    if kind == "double":
        rule, state = rule.double(), {key: value.double() for key, value in state.items()}
        grads = torch.randn(3, P, P, dtype=torch.float64)
    else:
        grads = torch.randn(3, P, P).mT if kind == "transposed" else torch.randn(3, P, P, 2)[..., 0]
    for grad in grads:
        state, update, expected = both(rule, grad, state)
        assert torch.equal(update, expected)


def test_another_state_in_the_same_memory_is_another_state(repeated):
    """Views of the same numbers in another order lie in the same place, but are not what was checked."""
    rule = LSTM(Identity(), hidden_size=P)
    state = started(rule, 1)
    for grad in torch.randn(3, 1, P):
        state, *_ = both(rule, grad, state)
    state = {key: value.mT for key, value in state.items()}
    state, update, expected = both(rule, torch.randn(1, P), state)
    assert torch.equal(update, expected) and not repeated[-1]


def test_two_rules_that_share_a_state_keep_their_own_weights():
    first, second = (LSTM(Identity(), hidden_size=4) for _ in range(2))
    state = started(first)
    for grad in torch.randn(K, B, P):
        for rule in (first, second):
            state, update, expected = both(rule, grad, state)
            assert torch.equal(update, expected)


def test_a_kernel_that_is_turned_off_is_not_used(repeated, monkeypatch):
    rule = LSTM(Identity(), hidden_size=4)
    state = started(rule)
    for grad in torch.randn(3, B, P):
        state, *_ = both(rule, grad, state)
    with without_kernels():
        both(rule, torch.randn(B, P), {key: value.clone() for key, value in state.items()})
    monkeypatch.setenv("L2O_KERNEL", "0")
    both(rule, torch.randn(B, P), state)
    assert repeated[-1] is False


def test_a_gradient_that_is_not_in_memory_is_not_read(repeated):
    rule = LSTM(Identity(), hidden_size=4)
    state = started(rule)
    for grad in torch.randn(3, B, P):
        state, *_ = both(rule, grad, state)
    parts = [state[key] for key in rule._keys()]
    assert dispatch.step_again(rule._weights(), torch.empty(B, P, device="meta"), parts, None, 1.0) is None
    assert dispatch.step_again(rule._weights(), torch.empty(B, P), parts, None, 1.0) is not None


def test_what_is_never_done_again_is_not_prepared(monkeypatch):
    """`LearnedOptimizer` gives its rule new views of the state at every step; a check of them is of no use later."""
    prepared = []
    monkeypatch.setattr(lstm_cpp, "prepared_step", lambda *given: prepared.append(given) or PREPARED(*given))
    parameter = torch.nn.Parameter(torch.zeros(P))
    optimizer = LearnedOptimizer([parameter], LSTM(Identity(), hidden_size=4).requires_grad_(False))
    for grad in torch.randn(K, P):
        parameter.grad = grad
        optimizer.step()
    assert len(prepared) == K


def test_with_autograd_a_step_is_recorded(repeated):
    rule = LSTM(Identity(), hidden_size=4)
    state = started(rule)
    for grad in torch.randn(3, B, P):
        state, *_ = both(rule, grad, state)
    count = len(repeated)
    with torch.enable_grad(), donated_state():
        update, _ = rule(seen(torch.randn(B, P), torch.zeros(B, P)), state, LAYOUT)
    assert update.requires_grad and repeated[count:] == [False]


def test_no_state_is_kept_alive_and_few_are_known():
    rule = LSTM(Identity(), hidden_size=4)
    kept = []
    for _ in range(2 * lstm_repeated.MOST):
        state = started(rule)
        for grad in torch.randn(2, B, P):
            state, *_ = both(rule, grad, state)
        kept.append(state)
    assert len(lstm_repeated._repeated) == lstm_repeated.MOST
    known = [weakref.ref(value) for value in kept[-1].values()]
    del kept, state
    gc.collect()
    assert all(reference() is None for reference in known)


def test_several_threads_remember_at_one_time(monkeypatch):
    """Each of them forgets the oldest state, which another one may have forgotten already."""
    known: dict[int, int] = {}

    def keep(first: int) -> None:
        for place in range(first, first + 20_000):
            lstm_repeated._keep(known, place, place)

    interval = sys.getswitchinterval()
    monkeypatch.setattr(lstm_repeated, "MOST", 2)
    try:
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(4) as threads:
            assert [*threads.map(keep, range(0, 80_000, 20_000))] == 4 * [None]
    finally:
        sys.setswitchinterval(interval)
    lstm_repeated._keep(known, -1, -1)
    assert len(known) == 2
