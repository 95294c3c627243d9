"""Figure 6 from the folder of a multirun."""

import json
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from l2o.__main__ import main as commands
from l2o.figures import layers_by_units


@pytest.fixture
def multirun(tmp_path: Path):
    """Writes runs as evaluate.py leaves them: hidden sizes and the final losses of LSTM and ADAM."""

    def write(*runs) -> Path:
        for number, (hidden, lstm, adam) in enumerate(runs):
            folder = tmp_path / str(number)
            (folder / ".hydra").mkdir(parents=True)
            (folder / ".hydra/config.yaml").write_text(f"optimizee:\n  network:\n    hidden: {hidden}\n")
            rows = {"LSTM": {"final_loss": lstm, "lr": None}, "ADAM": {"final_loss": adam, "lr": 0.01}}
            (folder / "summary.json").write_text(json.dumps({"optimizers": rows}))
        return tmp_path

    return write


GRID = [([20, 20], 0.5, 0.6), ([40], 0.2, 0.3), ([20], 0.25, 0.35), ([40, 40], None, 0.7)]


def test_collects_the_runs_in_order(multirun):
    folder = multirun(*GRID)
    (folder / "4").mkdir()  # a run that did not finish
    points = layers_by_units.collect(folder)
    assert [point[:2] for point in points] == [(1, 20), (1, 40), (2, 20), (2, 40)]
    assert [point.losses["ADAM"] for point in points] == [0.35, 0.3, 0.6, 0.7]
    assert points[0].losses["LSTM"] == 0.25 and math.isnan(points[3].losses["LSTM"])
    assert all(point.baselines == {"ADAM"} for point in points)


def test_a_panel_for_each_number_of_layers(multirun, monkeypatch, capsys):
    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k)))
    folder = multirun(*GRID)
    commands(["figure6", str(folder)])
    assert capsys.readouterr().out == f"figure: {folder / 'figure6.png'}\n"
    assert (folder / "figure6.png").read_bytes()[:4] == b"\x89PNG"
    one, two = drawn[0].axes
    assert (one.get_title(), two.get_title()) == ("1 layer", "2 layers")
    lstm, adam, trained, level = one.lines
    assert list(lstm.get_xdata()) == [20, 40] and list(lstm.get_ydata()) == [0.25, 0.2]
    assert list(adam.get_ydata()) == [0.35, 0.3]
    assert (lstm.get_linestyle(), adam.get_linestyle()) == ("-", "--")
    assert trained.get_xdata()[0] == 20 and level.get_ydata()[0] == 0.25
    assert two.lines[-1].get_ydata()[0] == 0.25, "the horizontal line runs through all panels"


def test_a_grid_without_the_trained_network_has_no_mark(multirun, monkeypatch):
    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k)))
    commands(["figure6", str(multirun(*GRID)), "--trained", "3", "20"])
    assert [len(axes.lines) for axes in drawn[0].axes] == [2, 2]


@pytest.mark.parametrize(
    ("runs", "says"), [([], "give the folder of a multirun"), ([([20, 40], 1.0, 1.0)], "the same number of units")]
)
def test_another_folder_is_answered_in_one_line(multirun, runs, says):
    with pytest.raises(SystemExit) as exit_:
        commands(["figure6", str(multirun(*runs))])
    line = exit_.value.code
    assert isinstance(line, str) and line.startswith("error: ") and says in line and "\n" not in line


@pytest.mark.parametrize("lr", [0.01, None])
def test_a_run_says_which_optimizers_are_baselines(multirun, lr):
    """A baseline without a learning rate is one, and a learned rule with one is none."""
    folder = multirun(([20], 0.5, 0.6))
    path = folder / "0" / "summary.json"
    summary = json.loads(path.read_text())
    summary["optimizers"]["LSTM"] |= {"lr": 0.01, "baseline": False}
    summary["optimizers"]["ADAM"] |= {"lr": lr, "baseline": True}
    path.write_text(json.dumps(summary))
    assert layers_by_units.collect(folder)[0].baselines == {"ADAM"}
