"""Celo-Adam: Adam's direction, written out, at the rate of a Celo's scheduler."""

import pytest
import torch
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import Celo, CeloAdam, Observation
from l2o.optimizers.celo_adam import celo_adam


def trained(**options) -> Celo:
    torch.manual_seed(0)
    celo = Celo(scheduler_size=5, step_mult=0.01, **options).double()
    for parameter in celo.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return celo


def test_every_step_is_the_formula_s_at_the_scheduler_s_rate():
    celo, layout = trained(), Layout({"w": (2, 3), "b": (2,)})
    rule = celo_adam(celo)
    assert {parameter.dtype for parameter in rule.parameters()} == {torch.float64}
    theta = torch.randn(2, 8, dtype=torch.float64)
    state, alone = rule.init_state(theta, layout), celo.scheduler.init_state(theta)
    m = v = torch.zeros_like(theta)
    for step in range(6):
        grad = torch.randn_like(theta) * 10.0 ** (step - 3)
        loss = torch.rand(2, dtype=torch.float64)
        number, horizon = (theta.new_full((2,), float(value)) for value in (step, 20))
        seen = Observation(grad, theta, loss, number, horizon)
        update, state = rule(seen, state, layout)
        rate, alone = celo.scheduler(seen, alone)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        assert_close(update, -0.01 * rate * m / (1e-8 + (v + 1e-10).sqrt()), rtol=1e-12, atol=0)
    assert rate.std() > 0  # after some steps each task has a rate of its own, by its losses


def test_options_are_the_celo_s():
    rule = celo_adam(trained(weight_decay=0.1, warmup=0.2, schedule="cosine", final=0.3))
    assert (rule.weight_decay, rule.warmup, rule.schedule, rule.final) == (0.1, 0.2, "cosine", 0.3)
    assert rule.needs == {"loss", "horizon"}


@pytest.mark.parametrize("other", [Celo(1), CeloAdam()], ids=lambda rule: rule.label)
def test_what_has_no_scheduler_of_a_celo_is_refused(other):
    with pytest.raises(ValueError, match="Celo-Adam takes the scheduler of a Celo of phase 2, got Celo"):
        celo_adam(other)
