"""Learning curves and tuned baselines, against separate runs.

Shapes: B tasks, T steps, R learning rates.
"""

import logging
import math

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from l2o import seeds
from l2o.evaluation.comparison import final_loss
from l2o.evaluation.evaluation import Evaluation, learning_curves, tune
from l2o.optimizees import Classifier, Layout, Optimizee, Quadratic, mlp
from l2o.optimizers import LSTM, SGD, Adam, LogAndSign, Momentum, RMSprop
from l2o.seeds import Stream
from l2o.unroll import start_episode, unroll

pytestmark = pytest.mark.usefixtures("float64")

RATES = torch.logspace(-4, 1, 11, dtype=torch.float64)


@pytest.fixture(params=["quadratic", "classifier"])
def optimizee(request, dataset):
    return Quadratic(3) if request.param == "quadratic" else Classifier(mlp(16, [3], 3), dataset, batch_size=6)


class Parabola(Optimizee):
    """f(x) = x², x_0 = 1: SGD's loss after t steps is (1 − 2 lr)^(2t)."""

    layout = Layout({"x": (1,)})

    def sample(self, num_tasks, generator):
        return torch.ones(num_tasks, 1), {}

    def loss(self, theta, batch):
        return theta.square().sum()


class Offset(Parabola):
    """f(x) = x² + an offset by which its split is known."""

    def __init__(self, offset=0):
        self.offset = offset

    def loss(self, theta, batch):
        return super().loss(theta, batch) + self.offset

    def split(self, name):
        return Offset({"train": 0, "validation": 10, "test": 20}[name])


# -------------------------------------------------------------------------------------------------- learning curves


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


# ------------------------------------------------------------------------------------------------------------ tuning


@pytest.mark.parametrize("select_by", ["final", "sum"])
@pytest.mark.parametrize("rule", [SGD(), Momentum(), RMSprop(), Adam()], ids=lambda rule: type(rule).__name__)
def test_tuning_equals_a_loop_over_single_runs(optimizee, rule, select_by):
    tuning = tune(rule, optimizee, RATES, 3, 20, Generator().manual_seed(4), select_by)
    scores = []
    for rate in RATES.tolist():
        losses = learning_curves(rule.with_lr(rate), optimizee, 3, 20, Generator().manual_seed(4)).losses
        scores.append((losses[-6:] if select_by == "final" else losses).mean().item())
    finite = [score if math.isfinite(score) else math.inf for score in scores]
    assert_close(tuning.scores, torch.tensor(finite), rtol=1e-9, atol=0)
    assert tuning.best == RATES[finite.index(min(finite))].item()
    assert torch.equal(tuning.rates, RATES) and rule.lr is None


def test_the_best_sum_need_not_be_the_best_end():
    picks = [
        tune(RMSprop(), Quadratic(3), RATES, 3, 20, Generator().manual_seed(1), by).best for by in ("sum", "final")
    ]
    assert_close(torch.tensor(picks), torch.tensor([0.1, 1.0]), rtol=1e-9, atol=0)  # fast at first; far in the end


def test_scores_on_a_parabola_are_known():
    rates = torch.tensor([0.1, 0.5, 0.8, 2.0])
    tuning = tune(SGD(), Parabola(), rates, 2, 10, Generator(), "sum")
    factors = (1 - 2 * rates) ** 2
    expected = torch.stack([(factor ** torch.arange(1.0, 11.0)).mean() for factor in factors])
    assert_close(tuning.scores, expected, rtol=1e-12, atol=1e-30)
    assert tuning.best == 0.5  # it is Newton's step


@pytest.mark.parametrize("select_by", ["final", "sum"])
@pytest.mark.parametrize("bad", [1e6, 1e300, math.inf, math.nan])
def test_a_diverging_rate_never_wins(optimizee, select_by, bad):
    for rates in ([bad, 1e-5], [1e-5, bad], [bad, 1e-5, bad]):
        tuning = tune(SGD(), Quadratic(3), torch.tensor(rates), 3, 40, Generator().manual_seed(5), select_by)
        assert tuning.best == 1e-5
        assert not tuning.scores.isnan().any()


def test_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="select_by must be final or sum, got 'best'"):
        tune(SGD(), Parabola(), RATES, 2, 3, Generator(), "best")


def test_a_single_rate_is_taken():
    tuning = tune(SGD(), Parabola(), torch.tensor([0.25]), 2, 3, Generator())
    assert tuning.best == 0.25 and tuning.scores.shape == (1,)


# -------------------------------------------------------------------------------------------------------- evaluation


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


def test_a_tuned_baseline_is_at_least_as_good_as_any_rate_of_its_grid_on_its_problems(optimizee):
    tuning = tune(Adam(), optimizee, RATES, 3, 15, Generator().manual_seed(8))
    best = learning_curves(Adam(tuning.best), optimizee, 3, 15, Generator().manual_seed(8))
    assert_close(final_loss(best.losses).mean(), tuning.scores.min(), rtol=1e-12, atol=0)


def test_baselines_are_tuned_on_the_validation_split_and_compared_on_the_test_split():
    evaluation = Evaluation(num_tasks=1, num_steps=8, tuning_tasks=1, rates_range=(0.1, 0.2), rates_count=2)
    (entry,) = evaluation({"SGD": SGD()}, Offset()).entries.values()
    x = lambda lr: (1 - 2 * lr) ** torch.arange(1.0, 9)  # noqa: E731
    assert_close(entry.losses[:, 0], 20 + x(0.2) ** 2)
    assert_close(list(entry.tuning.values()), [10 + (x(lr)[-6:] ** 2).mean().item() for lr in (0.1, 0.2)])
