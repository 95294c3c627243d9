"""The figure and the page of a scoreboard."""

import numpy as np
import pytest

from l2o.__main__ import main
from l2o.evaluation import scoreboard_files
from l2o.evaluation.cells import Cell, Cost
from l2o.evaluation.scoreboard import Scoreboard, Task, outcome
from l2o.evaluation.scoreboard_tables import page, rows
from l2o.figures.scoreboard import plot_profile


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


def test_the_page_says_it_all(board):
    text = page(board, "p.png")
    for part in ("## Related to training", "## Never seen", "| far * | 2 | 2 |", "A related one.", "(p.png)", "∞"):
        assert part in text
    assert "## Against the published envelopes of Adam" in text and "| far | 2 | – |" in text


def test_a_profile_is_drawn_whatever_diverged(board, tmp_path):
    assert plot_profile(board, tmp_path / "p.png").stat().st_size > 0
    board.tasks = [task for task in board.tasks if not task.related]
    assert plot_profile(board, tmp_path / "q.png").stat().st_size > 0


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
