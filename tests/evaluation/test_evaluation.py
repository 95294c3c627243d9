"""Comparisons: what is tuned, on which problems, and what is refused.

Shapes: B tasks, T steps.
"""

import logging
import math

import pytest
import torch
from parabola import Parabola
from torch.testing import assert_close

from l2o import seeds
from l2o.evaluation.curves import learning_curves
from l2o.evaluation.evaluation import Evaluation
from l2o.evaluation.tuning import tune
from l2o.optimizers import LSTM, SGD, Adam
from l2o.seeds import Stream

pytestmark = pytest.mark.usefixtures("float64")


class Offset(Parabola):
    """f(x) = x² + an offset by which its split is known."""

    def __init__(self, offset=0):
        self.offset = offset

    def loss(self, theta, batch):
        return super().loss(theta, batch) + self.offset

    def split(self, name):
        return Offset({"train": 0, "validation": 10, "test": 20}[name])


def small(**arguments):
    defaults = {"num_tasks": 4, "num_steps": 12, "tuning_tasks": 3, "rates_count": 6, "rates_range": (1e-4, 10.0)}
    return Evaluation(**defaults | arguments)


def test_an_entry_is_tuned_on_other_problems_and_then_run(optimizee):
    comparison = small(seed=9)({"Adam": Adam(), "SGD": SGD(0.02)}, optimizee)
    rates = torch.logspace(-4, 1, 6)
    tuning = tune(Adam(), optimizee, rates, 3, 12, seeds.generator(9, Stream.TUNING))
    expected = learning_curves(Adam(tuning.best), optimizee, 4, 12, seeds.generator(9, Stream.EVALUATION))
    entry = comparison.entries["Adam"]
    assert list(comparison.entries) == ["Adam", "SGD"]
    assert entry.lr == tuning.best and entry.baseline
    assert entry.tuning == dict(zip(["0.0001", "0.001", "0.01", "0.1", "1", "10"], tuning.scores.tolist(), strict=True))
    assert torch.equal(entry.losses, expected.losses)
    assert all(torch.equal(entry.metrics[key], expected.metrics[key]) for key in expected.metrics)
    assert comparison.entries["SGD"].tuning is None and comparison.entries["SGD"].lr == 0.02


def test_a_learned_rule_is_no_baseline_and_has_no_rate(optimizee):
    entry = small()({"LSTM": LSTM(hidden_size=3)}, optimizee).entries["LSTM"]
    assert not entry.baseline and entry.lr is None and entry.tuning is None
    assert entry.losses.shape == (12, 4) and not entry.losses.requires_grad


def test_tuning_may_take_other_steps_and_another_criterion(optimizee):
    entry = small(tuning_steps=5, select_by="sum", seed=3)({"SGD": SGD()}, optimizee).entries["SGD"]
    tuning = tune(SGD(), optimizee, torch.logspace(-4, 1, 6), 3, 5, seeds.generator(3, Stream.TUNING), "sum")
    assert entry.lr == tuning.best and list(entry.tuning.values()) == tuning.scores.tolist()
    assert entry.losses.shape == (12, 4)


def test_the_seed_decides(optimizee):
    one, again, other = (small(seed=seed)({"SGD": SGD(0.02)}, optimizee).entries["SGD"].losses for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("rates_range", "rates_count", "warned"),
    [
        ((1e-3, 0.02), 4, True),  # the best, 0.5, lies above
        ((0.8, 100.0), 4, True),  # … below
        ((0.05, 5.0), 3, False),  # … in the middle
        ((0.5, 0.5), 1, False),  # no grid
    ],
)
def test_a_best_rate_at_the_grid_s_edge_is_told(caplog, rates_range, rates_count, warned):
    evaluation = small(rates_range=rates_range, rates_count=rates_count)
    with caplog.at_level(logging.WARNING, logger="l2o.evaluation"):
        comparison = evaluation({"SGD": SGD()}, Parabola())
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warned
    if warned:
        end = "last" if rates_range[1] < 0.5 else "first"
        assert f"SGD, {comparison.entries['SGD'].lr:.4g}, is the {end} of the grid" in messages[0]
        assert "widen evaluation.rates_range" in messages[0]


def test_the_grid_is_even_on_a_logarithmic_scale():
    assert_close(small(rates_range=(1e-3, 10.0), rates_count=5).rates, 10.0 ** torch.arange(-3, 2), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["num_tasks", "num_steps", "tuning_tasks", "rates_count", "tuning_steps"])
@pytest.mark.parametrize("value", [0, -1])
def test_empty_evaluations_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"evaluation\.{name} must be at least 1, got {value}"):
        small(**{name: value})


def test_an_unknown_criterion_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"evaluation\.select_by must be final or sum, got 'best'"):
        small(select_by="best")


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        small(seed=seed)


@pytest.mark.parametrize("rates_range", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.1), (math.nan, 1.0)], ids=str)
def test_a_range_of_no_rates_is_refused(rates_range):
    with pytest.raises(ValueError, match=r"evaluation\.rates_range must be two positive learning rates"):
        small(rates_range=rates_range)


def test_baselines_are_tuned_on_the_validation_split_and_compared_on_the_test_split():
    evaluation = Evaluation(num_tasks=1, num_steps=8, tuning_tasks=1, rates_range=(0.1, 0.2), rates_count=2)
    (entry,) = evaluation({"SGD": SGD()}, Offset()).entries.values()
    x = lambda lr: (1 - 2 * lr) ** torch.arange(1.0, 9)  # noqa: E731
    assert_close(entry.losses[:, 0], 20 + x(0.2) ** 2)
    assert_close(list(entry.tuning.values()), [10 + (x(lr)[-6:] ** 2).mean().item() for lr in (0.1, 0.2)])
