"""The mathematics of a scoreboard, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from l2o.evaluation import scores

INF = math.inf


@pytest.mark.parametrize(("num_steps", "last"), [(1, 1), (20, 1), (21, 2), (100, 5), (101, 6), (500, 25), (2000, 100)])
def test_a_final_loss_covers_five_percent_of_the_steps_rounded_up(num_steps, last):
    assert scores.last_steps(num_steps) == last


def test_final_losses_average_the_last_steps_of_every_seed():
    losses = np.arange(100.0)[:, None] * [1, 2]  # the last five of the first: 95 … 99
    assert scores.final_losses(losses).tolist() == [97, 194]


def test_a_run_that_breaks_down_at_its_end_counts_as_infinite():
    losses = np.ones((40, 4))
    losses[39, 1] = np.nan
    losses[38, 2] = np.inf
    losses[37, 3] = np.nan  # before the last two steps: not part of the final loss
    assert scores.final_losses(losses).tolist() == [1, INF, INF, 1]


def test_a_run_diverges_where_it_ends_at_more_than_twice_its_start():
    finals, starts = [1.0, 2.0, 2.1, INF, np.nan, -0.5, -3.0, 1.5], [1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    assert scores.diverged(finals, starts).tolist() == [False, False, True, True, True, False, False, True]


def test_steps_to_a_target_count_the_mean_over_seeds_and_a_window():
    losses = np.array([[9.0, 7], [5, 5], [3, 3], [1, 3], [1, 1]] * 8)[:40]  # windows of two steps
    assert scores.steps_to(losses, 6.5) == 2  # (8 + 5) / 2
    assert scores.steps_to(losses, 4.0) == 3
    assert scores.steps_to(losses, 1.5) == 5
    assert scores.steps_to(losses, 1.49) is None
    assert scores.steps_to(losses, 1.5 * (1 - 1e-7)) == 5, "above the target by rounding alone"
    assert scores.steps_to(losses, 1.5, width=3) is None
    assert scores.steps_to(losses, 4.0, width=1) == 3
    assert scores.steps_to(np.full((40, 2), np.nan), 1.0) is None


def test_a_window_that_broke_down_does_not_hide_a_later_one():
    losses = np.ones((10, 1))
    losses[0] = np.nan
    assert scores.steps_to(losses, 1.0) == 2


def test_a_rise_compares_the_end_with_the_lowest_fifty_steps():
    falling = np.linspace(2.0, 1.0, 200)
    curves = np.stack([falling, np.concatenate((falling[::2], falling[::-2]))], 1)  # the second one climbs up again
    low, high = falling[::2][-50:].mean(), falling[::-2][-50:].mean()
    found = scores.rise(curves)
    assert found.worst == pytest.approx(high / np.convolve(curves[:, 1], np.ones(50) / 50, "valid").min())
    means = np.convolve(curves.mean(1), np.ones(50) / 50, "valid")
    assert found.mean == pytest.approx(means[-1] / means.min()) and 1 < found.mean < found.worst and low < high
    assert scores.rise(falling[:, None]) == (1.0, 1.0)
    assert scores.rise(falling[:20, None]) == (1.0, 1.0)  # fewer steps than fifty are one mean


def test_a_rise_of_a_run_that_broke_down_is_infinite():
    curves = np.ones((200, 2))
    curves[-1, 1] = np.nan
    assert scores.rise(curves) == (INF, INF)
    curves[-1, 1] = 1.0
    curves[60, 1] = np.inf  # and came back
    assert scores.rise(curves) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("loss", "steps"), [(3.0, 0.0), (2.0, 0.0), (1.5, 5.0), (1.0, 10.0), (0.75, 15.0), (0.5, 20.0), (0.4, None)]
)
def test_an_envelope_is_interpolated(loss, steps):
    assert scores.envelope_steps([0, 10, 20, 30], [2.0, 1.0, 0.5, 0.6], loss) == steps


@pytest.mark.parametrize("loss", [INF, np.nan])
def test_a_loss_that_is_not_finite_has_no_place_on_an_envelope(loss):
    assert scores.envelope_steps([0, 10], [2.0, 1.0], loss) is None


def test_an_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert scores.interquartile_mean([100.0, 1, 2, 3, 4, 5, 6, -7]) == 3.5
    assert scores.interquartile_mean([[1.0, 2], [3, INF]]) == 2.5
    assert scores.interquartile_mean([INF, INF, INF, 1]) == INF
    assert scores.interquartile_mean([2.0]) == 2.0


def test_an_interval_holds_its_estimate_and_is_empty_where_seeds_agree():
    same = scores.interval([[0.5, 0.5], [1.5, 1.5]])
    assert same == (1.0, 1.0, 1.0)
    found = scores.interval([[0.4, 0.5, 0.6], [0.9, 1.0, 1.1], [2.0, 3.0, 4.0]])
    assert found.low < found.value < found.high
    assert found == scores.interval([[0.4, 0.5, 0.6], [0.9, 1.0, 1.1], [2.0, 3.0, 4.0]])


def test_an_interval_draws_seeds_within_a_task_and_leaves_tasks_as_they_are():
    """Resampled tasks would reach from 0 to 9; seeds within tasks, which hardly differ, do not."""
    found = scores.interval([[0.0, 0.1], [3.0, 3.1], [6.0, 6.1], [9.0, 9.1]])
    assert found.low >= 4.5 and found.high <= 4.6


def test_an_interval_with_runs_that_diverged_is_a_number_or_infinite_never_nan():
    few = scores.interval([[1.0, 1.0], [1.0, 2.0], [2.0, 2.0], [INF, INF]])
    most = scores.interval([[1.0, INF], [INF, INF]])
    assert all(map(math.isfinite, few)) and most == (INF, INF, INF)


def test_an_interval_of_no_tasks_is_refused():
    with pytest.raises(ValueError, match="at least one task"):
        scores.interval([])


def test_a_profile_counts_the_runs_at_or_below_each_threshold():
    assert scores.profile([0.5, 1.0, 2.0, INF], [0.4, 0.5, 1.0, 1.9, 100]).tolist() == [0, 0.25, 0.5, 0.5, 0.75]


def test_a_paired_ratio_forgets_what_is_hard_for_both():
    """Twice another's loss on every seed is exactly 2, however the seeds differ."""
    assert scores.paired_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, 0.0)
    ratio, error = scores.paired_ratio([3.0, 1.0], [1.0, 1.0])  # residuals ±1, √2/√2 = 1
    assert ratio == 2.0 and error == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [([INF, 1.0], [1.0, 1.0], INF), ([1.0, 1.0], [INF, 1.0], 0.0), ([0.0], [0.0], 1.0), ([1.0], [0.0], INF),
     ([INF], [INF], INF)],
)  # fmt: skip
def test_ratios_without_a_finite_value_have_no_error(ours, theirs, ratio):
    assert scores.paired_ratio(ours, theirs) == (ratio, None)


def test_ratios_of_seeds_are_taken_pair_by_pair():
    assert scores.seed_ratios([1.0, INF, 3.0, 0.0], [2.0, 1.0, INF, 0.0]).tolist() == [0.5, INF, 0.0, 1.0]
