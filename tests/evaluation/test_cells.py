"""Cells: rows of one unroll that are what single runs would be."""

import numpy as np
import pytest
import torch

from l2o.evaluation.cells import at_rates, measure, needs_each_horizon, run_cells
from l2o.optimizees import Classifier, Quadratic, mlp
from l2o.optimizers import LSTM, SGD, Adam, AdamW, Partitioned, Scope
from l2o.optimizers.scaled import Scaled
from l2o.unroll import start_episode, step


def test_every_rate_is_a_run_by_itself_on_the_same_problem(optimizee):
    together = run_cells(Adam(), optimizee, [1e-3, 1e-2, 0.1], 6, [4, 5])
    for seed, cells in zip([4, 5], together, strict=True):
        for rate, cell in zip([1e-3, 1e-2, 0.1], cells, strict=True):
            alone = run_cells(Adam(), optimizee, [rate], 6, [seed])[0][0]
            assert cell.start == pytest.approx(alone.start)
            np.testing.assert_allclose(cell.losses, alone.losses, rtol=2e-4)
    assert [len({cell.start for cell in cells}) for cells in together] == [1, 1]


def test_all_optimizers_meet_the_same_problem_and_another_seed_another_one(optimizee):
    starts = [run_cells(rule, optimizee, [1.0], 2, [seed])[0][0].start for rule in (SGD(), LSTM()) for seed in (0, 1)]
    assert starts[0] == starts[2] and starts[1] == starts[3] and starts[0] != starts[1]


def test_a_longer_run_begins_like_a_shorter_one_unless_the_rule_reads_the_horizon():
    short, long = (run_cells(Adam(), Quadratic(3), [0.1], steps, [0])[0][0] for steps in (5, 9))
    np.testing.assert_array_equal(short.losses, long.losses[:5])
    cosine = AdamW(schedule="cosine")
    short, long = (run_cells(cosine, Quadratic(3), [0.1], steps, [0])[0][0] for steps in (5, 9))
    assert not np.array_equal(short.losses, long.losses[:5])
    assert needs_each_horizon(cosine) and not needs_each_horizon(Adam())


def test_a_scale_multiplies_every_update_of_any_rule():
    rule, problem = LSTM(hidden_size=3), Quadratic(3)
    scaled = Scaled(rule, torch.tensor([[1.0], [3.0]]))
    episode = start_episode(rule, problem, 2, torch.Generator().manual_seed(0))
    plain, _ = step(rule, problem, episode, torch.Generator())
    tripled, _ = step(scaled, problem, episode, torch.Generator())
    torch.testing.assert_close(tripled, plain * torch.tensor([[1.0], [3.0]]))
    assert scaled.scope is Scope.COORDINATE and scaled.label == "LSTM"


def test_a_scaled_mixture_scales_every_part(dataset):
    problem = Classifier(mlp(16, [3], 3), dataset, batch_size=6)
    mixture = Partitioned({"w": Adam(0.1), "b": SGD(0.1)}, {"w": "weight", "b": "bias"})
    parts = Scaled(mixture, 2.0).parts(problem.layout)
    assert [part.prefix for part in parts] == [part.prefix for part in mixture.parts(problem.layout)]
    assert all(isinstance(part.rule, Scaled) and part.rule.scale == 2.0 for part in parts) and len(parts) == 2


def test_a_baseline_takes_the_rates_themselves():
    assert torch.equal(at_rates(Adam(), [0.1, 0.2]).rate, torch.tensor([[0.1], [0.2]]))  # type: ignore[arg-type]


def test_the_state_is_counted_in_bytes_and_a_step_takes_time():
    cost = measure(Adam(), Quadratic(3))
    moments = 2 * 3 * 4
    assert cost.milliseconds > 0 and moments <= cost.state_bytes <= moments + 16
