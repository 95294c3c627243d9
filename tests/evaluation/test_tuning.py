"""Tuned learning rates, against separate runs.

Shapes: B tasks, T steps, R learning rates.
"""

import math

import pytest
import torch
from parabola import Parabola
from torch import Generator
from torch.testing import assert_close

from l2o.evaluation.comparison import final_loss
from l2o.evaluation.curves import learning_curves
from l2o.evaluation.tuning import tune
from l2o.optimizees import Quadratic
from l2o.optimizers import SGD, Adam, Momentum, RMSprop

pytestmark = pytest.mark.usefixtures("float64")

RATES = torch.logspace(-4, 1, 11, dtype=torch.float64)


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


def test_a_tuned_baseline_is_at_least_as_good_as_any_rate_of_its_grid_on_its_problems(optimizee):
    tuning = tune(Adam(), optimizee, RATES, 3, 15, Generator().manual_seed(8))
    best = learning_curves(Adam(tuning.best), optimizee, 3, 15, Generator().manual_seed(8))
    assert_close(final_loss(best.losses).mean(), tuning.scores.min(), rtol=1e-12, atol=0)
