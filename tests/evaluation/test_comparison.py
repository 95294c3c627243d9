"""What a comparison says, against numpy and by hand.

Shapes: B tasks, T steps.
"""

import csv
import io
import json
import math
import os

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.testing import assert_close

from l2o.evaluation.comparison import Comparison, Entry, final_loss

INF, NAN = math.inf, math.nan


def entry(losses, baseline=True, **arguments):
    return Entry(torch.as_tensor(losses, dtype=torch.float32), arguments.pop("metrics", {}), baseline, **arguments)


def curve(*means):
    """Two tasks, 0.5 around each mean."""
    return torch.tensor(means)[:, None] + torch.tensor([-0.5, 0.5])


def broken(value):
    """(12, 5): task 3 breaks down at step 8."""
    losses = torch.rand(12, 5, generator=torch.Generator().manual_seed(0)) + 1
    losses[7:, 3] = value
    return losses


# -------------------------------------------------------------------------------------------------------- final loss


def test_final_loss_is_the_mean_of_the_last_six_steps():
    losses = torch.arange(20.0)[:, None] * torch.tensor([1.0, 10.0])
    assert final_loss(losses).tolist() == [16.5, 165.0]


@pytest.mark.parametrize("steps", [1, 3])
def test_final_loss_of_a_short_episode_is_the_mean_of_what_there_is(steps):
    assert final_loss(torch.arange(1.0, steps + 1)[:, None]).tolist() == [(steps + 1) / 2]


@pytest.mark.parametrize("value", [NAN, INF])
def test_final_loss_of_a_task_that_broke_down_is_infinite(value):
    final = final_loss(broken(value))
    assert final[3] == INF
    assert_close(final[[0, 1, 2, 4]], broken(value)[6:, [0, 1, 2, 4]].mean(0), rtol=1e-6, atol=0)


# -------------------------------------------------------------------------------------------------------------- band


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 5, 8, 11, 32])
@pytest.mark.parametrize("value", [None, NAN, INF])
def test_band_equals_numpy_s(num_tasks, value):
    losses = torch.rand(9, num_tasks)
    if value is not None:
        losses[4:, num_tasks // 2] = value
    band = entry(losses).band()
    counted = np.where(np.isnan(losses.numpy()), np.inf, losses.numpy()).astype(np.float64)
    for name, expected in {
        "mean": counted.mean(1),
        "median": np.quantile(counted, 0.5, axis=1, method="nearest"),
        "p10": np.quantile(counted, 0.1, axis=1, method="nearest"),
        "p90": np.quantile(counted, 0.9, axis=1, method="nearest"),
    }.items():
        np.testing.assert_allclose(band[name].numpy(), expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("value", [NAN, INF])
def test_one_broken_task_leaves_the_quantiles_finite(value):
    band = entry(broken(value)).band()
    assert band["median"].isfinite().all() and band["p10"].isfinite().all()
    assert band["mean"].isfinite().tolist() == [True] * 7 + [False] * 5
    assert (band["mean"][7:] == INF).all()


# ---------------------------------------------------------------------------------------------------------- steps_to


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_best_baseline_reaches_its_own_final_loss(dtype):
    """Whatever the order in which its losses are added up rounds to: at the last step at the latest."""
    for seed in range(50):
        drawn = torch.rand(9, 1024, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        falling = drawn * torch.logspace(0, -1, 9, dtype=dtype)[:, None]
        row = Comparison({"Adam": entry(falling)}).summary()["optimizers"]["Adam"]
        assert row["steps_to_best_baseline"] == 9


@pytest.mark.parametrize(
    ("means", "target", "step"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 6.5, 6),  # mean of the first six
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 5.5, 7),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 3.5, 9),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 3.4, None),
        ([9, 9, 9, 0, 9, 9, 9, 9, 9], 1.0, None),  # one lucky step is not enough
        ([1, 1, 1, 1, 1, 1, 9, 9, 9], 1.0, 6),  # the first time counts
        ([3, 1], 2.0, 2),  # shorter than six steps
        ([NAN, 1, 1, 1, 1, 1, 1], 1.0, 7),
        ([1, 1, 1, 1, 1, INF, INF], 100.0, None),
    ],
)
def test_steps_to_is_the_first_step_whose_last_six_reach_the_target(means, target, step):
    assert entry(torch.tensor(means)[:, None].float().expand(-1, 3)).steps_to(target) == step


def test_steps_to_averages_over_tasks():
    assert entry(torch.tensor([[0.0, 4.0]] * 6)).steps_to(2.0) == 6
    assert entry(torch.tensor([[0.0, 4.0]] * 6)).steps_to(1.9) is None


# ----------------------------------------------------------------------------------------------------------- summary


def comparison():
    """A baseline that ends at 2, one that ends at 3, and a learned rule that is at 2 after 8 of 12 steps."""
    accuracy = {"test_accuracy": torch.tensor([0.25, 0.75])}
    return Comparison(
        {
            "SGD": entry(curve(*[4.0] * 6, *[3.0] * 6), lr=0.5, metrics=accuracy),
            "Adam": entry(curve(*[4.0] * 6, *[2.0] * 6), lr=0.25, tuning={"0.25": 2.0, "1": INF}, metrics=accuracy),
            "LSTM": entry(curve(2.5, 2.5, *[2.0] * 6, *[1.0] * 4), baseline=False, metrics=accuracy),
        },
        table_steps=(3, 7, 50),
    )


def test_summary_by_hand():
    summary = comparison().summary()
    assert (summary["best_baseline"], summary["num_tasks"], summary["num_steps"]) == ("Adam", 2, 12)
    row = summary["optimizers"]["LSTM"]
    assert row["final_loss"] == pytest.approx(8 / 6, rel=1e-6)
    assert row["standard_error"] == pytest.approx(0.5, rel=1e-6)  # std of two numbers 1 apart, over √2
    assert row["mean_loss"] == pytest.approx(21 / 12, rel=1e-6)
    assert row["relative_to_best_baseline"] == pytest.approx(4 / 6, rel=1e-6)
    # Finals 8/6 ± 1/2 beside 2 ± 1/2 on the same two problems: of 8/6 ± 1/2 − 2/3 · (2 ± 1/2) ± 1/6 is left, over 2.
    assert row["relative_standard_error"] == pytest.approx(1 / 12, rel=1e-5)
    assert row["steps_to_best_baseline"] == 8 and row["lr"] is None and row["tuning"] is None
    assert {name: row["baseline"] for name, row in summary["optimizers"].items()} == {
        "LSTM": False, "SGD": True, "Adam": True
    }  # fmt: skip
    assert row["loss_at"] == {"3": 2.0, "7": 2.0, "12": 1.0}
    assert summary["optimizers"]["Adam"]["relative_to_best_baseline"] == 1.0
    assert summary["optimizers"]["Adam"]["relative_standard_error"] == 0.0
    assert summary["optimizers"]["Adam"]["steps_to_best_baseline"] == 12
    assert summary["optimizers"]["SGD"]["steps_to_best_baseline"] is None
    assert summary["optimizers"]["SGD"]["relative_to_best_baseline"] == pytest.approx(1.5, rel=1e-6)
    assert summary["optimizers"]["Adam"]["metrics"] == {"test_accuracy": 0.5}


def test_standard_error_is_that_of_the_mean_over_tasks():
    losses = torch.rand(8, 10)
    row = Comparison({"a": entry(losses)}).summary()["optimizers"]["a"]
    final = losses[-6:].mean(0).numpy()
    assert row["standard_error"] == pytest.approx(final.std(ddof=1) / math.sqrt(10), rel=1e-5)


def test_the_best_baseline_is_the_one_with_the_lowest_end_and_never_a_learned_rule():
    entries = comparison().entries
    assert Comparison(entries).best_baseline == "Adam"
    assert Comparison({"LSTM": entries["LSTM"]}).best_baseline is None
    assert Comparison({"broken": entry(broken(NAN)), "SGD": entries["SGD"]}).best_baseline == "SGD"


def test_without_a_baseline_nothing_is_relative():
    summary = Comparison({"LSTM": comparison().entries["LSTM"]}).summary()
    assert summary["best_baseline"] is None
    row = summary["optimizers"]["LSTM"]
    assert row["relative_to_best_baseline"] is None and row["steps_to_best_baseline"] is None


# ------------------------------------------------------------------------------------------------------------- files


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def saved(folder, result):
    """summary.json as strict JSON, curves.csv as rows."""
    result.save(folder)
    with open(folder / "curves.csv", newline="") as file:
        return json.loads((folder / "summary.json").read_text(), parse_constant=refuse), list(csv.DictReader(file))


def test_files_hold_the_summary_and_the_bands(tmp_path):
    result = comparison()
    summary, rows = saved(tmp_path / "new" / "folder", result)
    assert summary == result.summary()
    assert summary["optimizers"]["Adam"]["tuning"] == {"0.25": 2.0, "1": None}  # inf
    assert list(rows[0]) == ["optimizer", "step", "mean", "median", "p10", "p90"]
    assert [(row["optimizer"], int(row["step"])) for row in rows] == [
        (name, step) for name in ("SGD", "Adam", "LSTM") for step in range(1, 13)
    ]
    for name, given in result.entries.items():
        for column, values in given.band().items():
            written = [float(row[column]) for row in rows if row["optimizer"] == name]
            np.testing.assert_allclose(written, values.numpy(), rtol=1e-5)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_broken_task_is_null_in_json_and_inf_in_csv(tmp_path, value):
    summary, rows = saved(tmp_path, Comparison({"SGD": entry(broken(value), metrics={"loss": torch.tensor([value])})}))
    row = summary["optimizers"]["SGD"]
    assert row["final_loss"] is None and row["standard_error"] is None and row["loss_at"]["12"] is None
    assert row["metrics"] == {"loss": None}
    assert row["final_median"] == pytest.approx(final_loss(broken(value)).sort().values[2].item())
    assert [float(line["mean"]) for line in rows[7:]] == [INF] * 5
    assert all(math.isfinite(float(line["median"])) for line in rows)


@pytest.mark.parametrize("value", [NAN, INF])
def test_where_everything_diverged_nothing_is_best_and_nothing_is_relative(tmp_path, value):
    losses = torch.full((8, 3), value)
    summary, _ = saved(tmp_path, Comparison({"SGD": entry(losses, lr=0.1), "LSTM": entry(losses, baseline=False)}))
    assert summary["best_baseline"] is None
    for row in summary["optimizers"].values():
        assert row["final_loss"] is None and row["mean_loss"] is None and row["standard_error"] is None
        assert row["steps_to_best_baseline"] is None and row["relative_to_best_baseline"] is None
        assert row["relative_standard_error"] is None and row["loss_at"] == {"8": None}


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_learned_rule_that_diverged_has_no_ratio_to_a_baseline_that_did_not(tmp_path, value):
    entries = {"SGD": entry(torch.ones(8, 5)), "LSTM": entry(broken(value)[:8], baseline=False)}
    summary, _ = saved(tmp_path, Comparison(entries))
    row = summary["optimizers"]["LSTM"]
    assert summary["best_baseline"] == "SGD"
    assert row["relative_to_best_baseline"] is None and row["relative_standard_error"] is None


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_one_task_has_no_standard_error_anywhere(tmp_path, steps):
    entries = {"SGD": entry(torch.ones(steps, 1)), "LSTM": entry(torch.full((steps, 1), 0.5), baseline=False)}
    summary, rows = saved(tmp_path, Comparison(entries))
    row = summary["optimizers"]["LSTM"]
    assert row["final_loss"] == 0.5 and row["relative_to_best_baseline"] == 0.5
    assert row["standard_error"] is None and row["relative_standard_error"] is None
    assert [row["p10"] for row in rows] == ["1"] * steps + ["0.5"] * steps
    text = rendered(Comparison(entries))
    assert "nan" not in text and "±" not in text and "on one fresh problem" in text
    assert cells(text, "LSTM")[-2:] == ["0.5", str(min(steps, 6))]


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    """A disk that is full when the file is flushed leaves what was there before."""
    comparison().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Comparison({"SGD": entry(torch.ones(3, 2))}).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ------------------------------------------------------------------------------------------------------------- table


def rendered(result):
    console = Console(file=io.StringIO(), width=200)
    console.print(result.table())
    return console.file.getvalue()


def cells(text, name):
    """The row that starts with `name`, as words."""
    (row,) = [line.split() for line in text.splitlines() if line.split()[:1] == [name]]
    return row


def test_table_shows_the_numbers():
    text = rendered(comparison())
    assert cells(text, "LSTM") == ["LSTM", "–", "2", "2", "1", "1.33", "±", "0.5", "8", "0.5"]
    assert cells(text, "Adam") == ["Adam", "0.25", "4", "2", "2", "2", "±", "0.5", "12", "0.5"]
    assert cells(text, "SGD") == ["SGD", "0.5", "4", "3", "3", "3", "±", "0.5", "–", "0.5"]
    header = text.partition("SGD")[0]
    assert "steps to" in header and "Adam" in header
    said = " ".join(text.split())
    assert (
        "mean over 2 fresh problems; final loss: mean of the last 6 steps, ± its standard error; steps to Adam: "
        in said
    )


@pytest.mark.parametrize(
    "result",
    [
        Comparison({"LSTM": entry(torch.ones(3, 1), baseline=False)}),
        Comparison({"SGD": entry(broken(NAN), lr=0.1)}),
        Comparison({"SGD": entry(torch.full((8, 3), NAN))}),
        Comparison({"SGD": entry(torch.zeros(8, 3)), "LSTM": entry(torch.ones(8, 3), baseline=False)}),
    ],
    ids=["no baseline", "one task broken", "all broken", "a perfect baseline"],
)
def test_every_comparison_has_a_table_with_a_row_for_each(result):
    text = rendered(result)
    assert all(cells(text, name) for name in result.entries)


def test_what_diverged_is_shown_with_a_word():
    entries = {
        "SGD": entry(broken(NAN), lr=0.1),
        "Adam": entry(torch.ones(12, 5), metrics={"test_loss": torch.tensor([NAN])}),
        "LSTM": entry(torch.full((12, 5), INF), baseline=False),
    }
    text = rendered(Comparison(entries, table_steps=(7, 12)))
    assert "nan" not in text and "inf" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["LSTM", "–", "∞", "∞", "∞", "–", "–"] in rows
    assert ["Adam", "–", "1", "1", "1", "±", "0", "6", "∞"] in rows
    said = " ".join(text.split())
    assert said.partition("mean over 5 fresh problems; ")[2].endswith(
        "; ∞: diverged, SGD on 1, LSTM on 5 of the problems"
    )
