"""Updates proposed along another rule's trajectory.

Shapes: P coordinates, T steps.
"""

import re

import pytest
import torch
from observations import seen
from torch import Generator
from torch.testing import assert_close

from l2o.evaluation.comparison import Comparison, Entry
from l2o.evaluation.proposals import proposals, tuned
from l2o.optimizees import Classifier, Quadratic, mlp
from l2o.optimizers import GAC, LSTM, SGD, Adam
from l2o.unroll import start_episode, unroll

T = 12

pytestmark = pytest.mark.usefixtures("float64")


def recorded(rule, optimizee, seed):
    """Gradients (T, P) and updates (T, P) of the rule's own unroll."""
    generator = Generator().manual_seed(seed)
    episode = start_episode(rule, optimizee, 1, generator)
    grads = torch.empty(T + 1, *episode.theta.shape)
    unroll(rule, optimizee, episode, T, generator, record=grads)
    state, updates = episode.state, []
    for grad in grads[:-1]:
        with torch.no_grad():
            update, state = rule(seen(grad, episode.theta), state, optimizee.layout)
        updates.append(update[0])
    return grads[:-1, 0], torch.stack(updates)


def indices(shown, layout):
    """The coordinates' places in the flat vector, from their names."""
    flat = torch.arange(layout.size)
    parts = [re.fullmatch(r"(.+)\[(.+)\]", name).groups() for name in shown.coordinates]
    return [int(layout.unravel(flat)[name][tuple(map(int, place.split(", ")))]) for name, place in parts]


@pytest.mark.parametrize("rule", [LSTM, GAC])
def test_the_first_rule_goes_its_own_way(dataset, rule):
    rule = rule(hidden_size=5, output_scale=0.1)
    optimizee = Classifier(mlp(16, [3], 3), dataset, batch_size=6, init_std=0.5)
    shown = proposals({"learned": rule, "ADAM": Adam(0.1)}, optimizee, T, 3, Generator().manual_seed(4))
    grads, updates = recorded(rule, optimizee, seed=4)
    chosen = indices(shown, optimizee.layout)
    assert_close(shown.gradients, grads[:, chosen], rtol=1e-10, atol=1e-12)
    assert_close(shown.updates["learned"], updates[:, chosen], rtol=1e-10, atol=1e-12)


def test_the_others_are_fed_its_gradients():
    """torch's own Adam and SGD on the recorded gradients."""
    rules = {"LSTM": LSTM(hidden_size=4, output_scale=0.1), "SGD": SGD(0.03), "ADAM": Adam(0.1)}
    shown = proposals(rules, Quadratic(6), T, 2, Generator().manual_seed(0))
    for name, optimizer in (("SGD", torch.optim.SGD), ("ADAM", torch.optim.Adam)):
        theta = torch.zeros(2, requires_grad=True)
        stepper, expected = optimizer([theta], lr=rules[name].lr), []
        for grad in shown.gradients:
            before, theta.grad = theta.detach().clone(), grad
            stepper.step()
            expected.append(theta.detach() - before)
        assert_close(shown.updates[name], torch.stack(expected), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_coordinates_go_from_the_largest_gradient_to_the_median(count):
    optimizee = Quadratic(9)
    shown = proposals({"SGD": SGD(0.01)}, optimizee, 1, count, Generator().manual_seed(0))
    ranks = recorded(SGD(0.01), optimizee, seed=0)[0][0].abs().argsort(descending=True)
    expected = {1: [0], 2: [0, 4], 4: [0, 1, 2, 4]}[count]
    assert indices(shown, optimizee.layout) == ranks[expected].tolist()


def test_baselines_propose_at_the_rates_that_a_comparison_found():
    lstm, losses = LSTM(), torch.ones(3, 2)
    entries = {"LSTM": Entry(losses, {}, False), "SGD": Entry(losses, {}, True, 0.5)}
    rules = tuned({"LSTM": lstm, "SGD": SGD()}, Comparison(entries))
    assert rules["LSTM"] is lstm and rules["SGD"].rate == 0.5


def test_no_coordinate_is_refused():
    with pytest.raises(ValueError, match=r"proposals\.coordinates must be at least 1, got 0"):
        proposals({"SGD": SGD(0.1)}, Quadratic(3), T, 0, Generator())
