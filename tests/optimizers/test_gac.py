"""The LSTM with global averaging cells.

Shapes: B tasks, P coordinates, A averaging cells, K steps.
"""

import pytest
import torch
from observations import seen
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import GAC, LSTM, LogAndSign

B, P, K = 3, 7, 6
LAYOUT = Layout({"theta": (P,)})

pytestmark = pytest.mark.usefixtures("float64")


def run(rule, grads):
    """Updates (K, B, P) and the last state."""
    theta = torch.zeros_like(grads[0])
    state, updates = rule.init_state(theta, LAYOUT), []
    for grad in grads:
        update, state = rule(seen(grad, theta), state, LAYOUT)
        updates.append(update)
    return torch.stack(updates), state


def by_hand(rule, grads, averaged):
    """The equations, task by task, coordinate by coordinate, cell by cell."""
    updates = torch.zeros_like(grads)
    for b in range(B):
        hidden = torch.zeros(rule.num_layers, P, rule.hidden_size)
        cell = torch.zeros_like(hidden)
        for t in range(K):
            x = rule.preprocessing(grads[t, b])
            for n, layer in enumerate(rule.network.cells):
                new = torch.empty(P, rule.hidden_size)
                for p in range(P):
                    before = hidden[n, p]
                    gates = layer.weight_ih @ x[p] + layer.bias_ih + layer.weight_hh @ before + layer.bias_hh
                    i, f, g, o = gates.split(rule.hidden_size)
                    cell[n, p] = torch.sigmoid(f) * cell[n, p] + torch.sigmoid(i) * torch.tanh(g)
                    new[p] = torch.sigmoid(o) * torch.tanh(cell[n, p])
                for a in range(averaged):
                    new[:, a] = sum(new[p, a] for p in range(P)) / P
                x = hidden[n] = new
            updates[t, b] = rule.output_scale * (x @ rule.network.head.weight[0] + rule.network.head.bias)
    return updates


@pytest.mark.parametrize(("averaged", "layers"), [(0, 2), (2, 1), (2, 2), (4, 2), (3, 3)])
def test_equals_the_equations(averaged, layers):
    rule = GAC(LogAndSign(10), hidden_size=4, num_layers=layers, averaging_cells=averaged, output_scale=0.3)
    grads = torch.randn(K, B, P)
    with torch.no_grad():
        assert_close(run(rule, grads)[0], by_hand(rule, grads, averaged), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_without_averaging_it_is_the_lstm(monkeypatch, layers):
    """From the same seed, in every bit."""
    monkeypatch.setenv("L2O_KERNEL", "0")
    arguments = {"hidden_size": 5, "num_layers": layers, "output_scale": 0.1, "forget_bias": 0.5, "head_init": 0.7}
    torch.manual_seed(1)
    lstm = LSTM(LogAndSign(10), **arguments)
    torch.manual_seed(1)
    gac = GAC(LogAndSign(10), averaging_cells=0, **arguments)
    grads = torch.randn(K, B, P)
    expected, expected_state = run(lstm, grads)
    updates, state = run(gac, grads)
    assert_close(updates, expected, rtol=0, atol=1e-16)
    assert state.keys() == expected_state.keys()
    for key in state:
        assert torch.equal(state[key], expected_state[key])


@pytest.mark.parametrize("averaged", [1, 3])
def test_coordinates_that_see_the_same_are_the_lstm_too(averaged):
    """The mean of equal activations is each of them."""
    torch.manual_seed(1)
    lstm = LSTM(hidden_size=4)
    torch.manual_seed(1)
    gac = GAC(hidden_size=4, averaging_cells=averaged)
    grads = torch.randn(K, B, 1).expand(K, B, P)
    assert_close(run(gac, grads)[0], run(lstm, grads)[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("averaged", [0, 2])
def test_only_averaging_lets_one_coordinate_see_another(averaged):
    rule, grads = GAC(hidden_size=4, averaging_cells=averaged), torch.randn(K, B, P, requires_grad=True)
    updates, _ = run(rule, grads)
    (sensitivity,) = torch.autograd.grad(updates[-1, 1, 2], grads)
    assert sensitivity[:, 1, 2].abs().min() > 0
    others = torch.arange(P) != 2
    assert bool(sensitivity[:, 1, others].any()) == (averaged > 0)
    assert not sensitivity[:, [0, 2]].any(), "tasks never see each other"


def test_averaged_activations_are_one_number_per_task_and_their_cells_are_not():
    _, state = run(GAC(hidden_size=4, averaging_cells=2), torch.randn(K, B, P))
    for layer in range(2):
        hidden, cell = state[f"hidden_{layer}"], state[f"cell_{layer}"]
        assert_close(hidden[..., :2], hidden[:, :1, :2].expand(-1, P, -1), rtol=0, atol=0)
        assert (hidden[..., 2:].std(1) > 1e-6).all() and (cell.std(1) > 1e-6).all()
        assert (hidden[:, 0, :2].std(0) > 1e-6).all(), "each task has its own mean"


def test_equivariant_to_permutations_of_coordinates():
    rule, order = GAC(LogAndSign(10), hidden_size=4, averaging_cells=2), torch.randperm(P)
    grads = torch.randn(K, B, P)
    updates, state = run(rule, grads)
    permuted, permuted_state = run(rule, grads[..., order])
    assert not torch.equal(order, torch.arange(P))
    assert_close(permuted, updates[..., order], rtol=1e-12, atol=1e-14)
    for key in state:
        assert_close(permuted_state[key], state[key][:, order], rtol=1e-12, atol=1e-14)


def test_a_task_of_a_batch_equals_it_alone():
    rule, grads = GAC(LogAndSign(10), hidden_size=4, averaging_cells=2), torch.randn(K, B, P)
    assert_close(run(rule, grads[:, 1:2])[0], run(rule, grads)[0][:, 1:2], rtol=1e-12, atol=1e-14)


def test_can_measure_the_gradient_s_norm():
    """The paper: averaging suffices for clipping by the norm, if a coordinate can square its own gradient. Here one
    averaging cell whose activation is about ε ∇² makes every update depend on ‖∇‖² alone."""
    rule = GAC(hidden_size=2, num_layers=1, averaging_cells=1, head_init=0.0)
    (cell,), head, small = rule.network.cells, rule.network.head, 1e-3
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.zero_()
        # i = σ(s∇) and tanh(s∇): their product's even part is s²∇²/4, its odd part cancels over ∇ and −∇
        cell.weight_ih[0], cell.weight_ih[4] = small, small
        head.weight[0, 0] = 16 / small**2  # the output gate is 1/2, tanh(c) ≈ c
        grads = torch.randn(1, B, P)
        grads = torch.cat((grads, -grads), -1)
        updates, _ = run(rule, grads)
    expected = 2 * grads.square().mean(-1, keepdim=True).expand_as(grads)
    assert_close(updates, expected, rtol=1e-5, atol=1e-6)


def test_a_head_at_zero_stands_still():
    assert not run(GAC(LogAndSign(10), head_init=0.0), torch.randn(K, B, P))[0].any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"hidden_size": 0}, "hidden_size must be >= 1"),
        ({"num_layers": -1}, "num_layers >= 0"),
        ({"averaging_cells": -1}, "averaging_cells must lie between 0 and hidden_size=20, got -1"),
        ({"averaging_cells": 21}, "averaging_cells must lie between 0 and hidden_size=20, got 21"),
    ],
)
def test_bad_sizes_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        GAC(**arguments)
