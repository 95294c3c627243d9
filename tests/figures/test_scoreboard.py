"""The figure and the page of a scoreboard."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from l2o.__main__ import main
from l2o.evaluation import scoreboard_files
from l2o.evaluation.cells import Cell, Cost
from l2o.evaluation.scoreboard import Scoreboard, Task, outcome
from l2o.evaluation.scoreboard_cases import case_headings, case_rows, rate_headings, rate_rows
from l2o.evaluation.scoreboard_page import page
from l2o.evaluation.scoreboard_tables import rows
from l2o.evaluation.scores import Rise
from l2o.evaluation.standings import mean_cost
from l2o.figures.scoreboard import DRAWN, _drawn, plot_profile


def cells(*finals: float) -> list[Cell]:
    return [Cell(np.array([3.0, final], np.float32), 4.0) for final in finals]


@pytest.fixture
def board() -> Scoreboard:
    """Two tasks: X halves Adam's loss on the first, and diverges on the second."""
    tasks = [Task("near", (2,), True, "A related one."), Task("far", (2,), False, published="known")]
    found = Scoreboard("s", tasks, ["Adam", "Muon"], envelopes={"known": ([0.0, 10.0], [4.0, 1.0])})
    for name, learned in {"near": cells(1.0, 1.0), "far": cells(np.inf, np.nan)}.items():
        found.outcomes[(name, 2), "Adam"] = outcome({0.1: cells(2.0, 2.0)}, 2)
        found.outcomes[(name, 2), "Muon"] = outcome({0.1: cells(1.0, 3.0)}, 2, 2.0)
        found.outcomes[(name, 2), "X"] = outcome({1.0: learned, 3.0: cells(9.0, 9.0)}, 2, 2.0)
        found.costs |= {(name, one): Cost(2.0, 500) for one in ("Adam", "Muon", "X")}
    return found


def test_a_row_s_numbers_are_those_worked_out_by_hand(board):
    related = {row[0]: row[1:] for row in rows(board, True)}
    assert related["X"] == ["0.5", "0.5–0.5", "0.5", "0.5", "0%", "1.00", "1.00", "2", "0.5"]
    never = {row[0]: row[1:] for row in rows(board, False)}
    assert never["X"][:5] == ["∞", "∞–∞", "∞", "∞", "100%"] and never["X"][5] == "0.00"
    assert never["X, best of 2"][0] == "4.5" and never["X, best of 2"][4] == "100%"  # 9 > 2 · 4
    assert [row[0] for row in rows(board, True)] == ["X", "X, best of 2", "Adam", "Muon"]


def test_the_cost_of_a_step_is_that_of_the_column_s_tasks(board):
    board.costs |= {("far", one): Cost(6.0, 1500) for one in ("Adam", "Muon", "X")}
    assert {row[0]: row[8:] for row in rows(board, True)}["X"] == ["2", "0.5"]
    assert {row[0]: row[8:] for row in rows(board, False)}["X"] == ["6", "1.5"]
    learned = board.entries()[0]
    assert mean_cost(board, learned) == (4.0, 1000.0)
    del board.costs["far", "X"]
    assert mean_cost(board, learned) is None and mean_cost(board, learned, False) is None
    assert mean_cost(board, learned, True) == (2.0, 500.0)


def test_the_rates_that_won_stand_in_the_page_and_ends_of_a_grid_are_bold(board):
    two = {0.01: cells(3.0, 3.0), 0.0316227766: cells(1.0, 1.0), 0.1: cells(2.0, 2.0)}
    board.outcomes[("near", 2), "Adam"] = outcome(two, 2)
    board.outcomes[("far", 2), "Adam"] = outcome({**two, 0.1: cells(0.5, 0.5)}, 2)
    assert rate_headings(board) == ["task", "steps", "X", "Adam"]  # Muon has one rate, which cannot win
    assert rate_rows(board) == [["near", "2", "**1**", "0.032"], ["far", "2", "**3**", "**0.1**"]]
    assert "| near | 2 | **1** | 0.032 |" in page(board)
    for name in ("Adam", "X"):
        for task in ("near", "far"):
            board.outcomes[(task, 2), name] = outcome({1.0: cells(2.0, 2.0)}, 2, 2.0)
    assert rate_rows(board) == [] and "rates that won" not in page(board)


def test_ratios_to_chosen_baselines_are_shown_task_by_task(board, tmp_path):
    assert case_rows(board) == []
    board.compare_with = ["Adam", "Muon"]
    lines = case_rows(board)
    assert case_headings(board) == ["task", "steps", "optimizer", "loss", "/ Adam", "/ Muon"]
    assert lines[0] == ["near", "2", "X", "1", "0.5 ± 0", "0.5 ± 0.2"]  # (1 + 1) / (1 + 3); ±0.25
    assert lines[2] == ["near", "2", "Adam", "2", "1 ± 0", "1 ± 0.5"]
    assert ["far", "2", "X", "∞", "∞", "∞"] in lines
    board.beyond, board.beyond_factor = (
        {(("near", 2), "X"): Rise(1.05, 1.25), (("far", 2), "X"): Rise(np.inf, np.inf)},
        3.0,
    )
    lines = case_rows(board)
    assert case_headings(board)[-1] == "at 3 × the steps"
    assert [line[-1] for line in lines if line[2] == "X"] == ["1.05 (1.25)", "∞ (∞)"]
    assert {line[-1] for line in lines if line[2] != "X"} == {"–"}  # nothing else was run beyond its horizon
    scoreboard_files.save(board, tmp_path / "scoreboard.json")
    read, _ = scoreboard_files.load(tmp_path / "scoreboard.json")
    assert (read.beyond, read.beyond_factor, read.compare_with) == (board.beyond, 3.0, ["Adam", "Muon"])
    assert "## Task by task" in page(read) and "went on to 3 times as many steps" in page(read)


def test_the_page_explains_its_words_and_how_to_make_it_again(board):
    text = page(board, record={"seeds": 2, "device": "cpu", "torch": "2.0", "rules": {"Adam": {"rates": [1, 2, 3]}}})
    for word in ("IQM", "Ratio", "Related to training", "Never seen", "Interval", "Diverged", "Speed-up"):
        assert f"**{word}**" in text
    assert "python evaluate.py suite=s workers=2 learned.X=… hydra.run.dir=outputs/scoreboard" in text
    assert "with 2 seeds" in text and "at 3 learning rates" in text and "cpu with PyTorch 2.0" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))


def test_the_page_says_it_all(board):
    text = page(board, "p.png")
    for part in ("## Related to training", "## Never seen", "| far * | 2 | 2 |", "A related one.", "(p.png)", "∞"):
        assert part in text
    assert "## Against the published envelopes of Adam" in text and "| far | 2 | – |" in text


def test_a_profile_is_drawn_whatever_diverged(board, tmp_path):
    assert plot_profile(board, tmp_path / "p.png").stat().st_size > 0
    board.tasks = [task for task in board.tasks if not task.related]
    assert plot_profile(board, tmp_path / "q.png").stat().st_size > 0


def test_both_panels_show_the_same_losses(board, tmp_path, monkeypatch):
    board.outcomes[("far", 2), "Muon"] = outcome({0.1: cells(2.0, 2.0)}, 2, 2.0)  # nothing below Adam's 2 on this one
    ends = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: ends.extend(a.get_xlim() for a in figure.axes))
    plot_profile(board, tmp_path / "p.png")
    assert len(ends) == 2 and ends[0] == ends[1]
    assert ends[0] == pytest.approx((0.5 / 1.2, 4.5 * 1.2)), "the least ratio is 1 / 2, and the largest 9 / 2"


def test_one_command_writes_the_page_and_the_baselines(board, tmp_path, capsys):
    also = {"device": "cpu", "seeds": 2, "torch": "2", "rules": {}}
    scoreboard_files.save(board, tmp_path / "scoreboard.json", also)
    (tmp_path / "docs/figures").mkdir(parents=True)
    kept = tmp_path / "new/s.json"
    main(["scoreboard", str(tmp_path), str(tmp_path / "docs/board.md"), "--baselines", str(kept)])
    assert "(figures/board_profile.png)" in (tmp_path / "docs/board.md").read_text()
    assert (tmp_path / "docs/figures/board_profile.png").stat().st_size > 0
    baselines, read = scoreboard_files.load(kept)
    assert {name for _, name in baselines.outcomes} == {"Adam", "Muon"} and not baselines.costs
    assert {key: read[key] for key in also} == also
    with pytest.raises(SystemExit, match=r"is no scoreboard\.json"):
        main(["scoreboard", str(tmp_path / "docs/board.md"), str(tmp_path / "x.md")])


def test_of_many_learned_optimizers_the_best_are_drawn(board, tmp_path):
    for case in (("near", 2), ("far", 2)):
        for number in range(DRAWN + 3):
            board.outcomes[case, f"L{number}"] = outcome({1.0: cells(1.0 + number, 1.0 + number)}, 2)
    assert _drawn(board) == [f"L{number}" for number in range(DRAWN)] + ["Adam", "Muon"]  # X diverges
    assert plot_profile(board, tmp_path / "figure.png").stat().st_size > 10_000
