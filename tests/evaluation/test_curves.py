"""Learning curves, against an unroll.

Shapes: B tasks, T steps.
"""

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from l2o.evaluation.curves import learning_curves
from l2o.optimizers import LSTM, SGD, Adam, LogAndSign, Momentum
from l2o.unroll import start_episode, unroll

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_curves_are_those_of_an_unroll(optimizee, num_tasks):
    rule = Adam(0.05)
    curves = learning_curves(rule, optimizee, num_tasks, 7, Generator().manual_seed(1))
    generator = Generator().manual_seed(1)
    episode = start_episode(rule, optimizee, num_tasks, generator)
    losses, after = unroll(rule, optimizee, episode, 7, generator)
    expected = optimizee.metrics(after.theta, after.task)
    assert torch.equal(curves.initial, episode.loss) and torch.equal(curves.losses, losses)
    assert curves.metrics.keys() == expected.keys()
    assert all(torch.equal(curves.metrics[key], expected[key]) for key in expected)


def test_equal_seeds_mean_equal_problems_and_minibatches_for_every_rule(optimizee, path):
    """θ_0 and its loss are the same; and rules that do the same get the same curves."""
    lstm = LSTM(LogAndSign(10), hidden_size=3)
    rules = [SGD(0.0), Adam(0.0), lstm, SGD(0.02), Momentum(0.02, momentum=0.0)]
    curves = [learning_curves(rule, optimizee, 3, 5, Generator().manual_seed(2)) for rule in rules]
    assert all(torch.equal(curve.initial, curves[0].initial) for curve in curves)
    assert torch.equal(curves[0].losses, curves[1].losses)  # two that stand still
    assert_close(curves[3].losses, curves[4].losses, rtol=1e-12, atol=0)
    assert not torch.equal(curves[0].losses, curves[3].losses)
    other = learning_curves(SGD(0.0), optimizee, 3, 5, Generator().manual_seed(3))
    assert not torch.equal(other.initial, curves[0].initial)
