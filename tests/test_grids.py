"""Grids end with a table, a figure and the best job: by a toy program in this process, and through every launcher."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from omegaconf import DictConfig

from l2o.runs.errors import in_one_line
from l2o.training.safeguards import Diverged

ROOT = Path(__file__).parents[1]
GRIDS = "{grids: {_target_: l2o.runs.command_line.grids.Grids}}"
TOY = f"""
defaults: [{{colour: red}}, {{launcher: null}}, _self_]
x: 1.0
seed: 0
name: toy
ckpt_path: null
hydra: {{callbacks: {GRIDS}, sweep: {{dir: out}}}}
"""

Task = Callable[[DictConfig], Any]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs a grid over a task function and returns its folder; also keeps every figure drawn, in `grid.drawn`."""
    for name, text in {"toy": TOY, "colour/red": "shade: 1", "colour/blue": "shade: 2"}.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    savefig, drawn = Figure.savefig, []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k)))

    def run(task: Task, *overrides: str) -> Path:
        monkeypatch.setattr(sys, "argv", ["train.py", "-m", *overrides])
        GlobalHydra.instance().clear()
        hydra.main(version_base="1.3", config_path=str(tmp_path / "conf"), config_name="toy")(task)()
        return tmp_path / "out"

    run.drawn = drawn  # type: ignore[attr-defined]
    return run


def parabola(cfg: DictConfig) -> float:
    return (cfg.x - 2) ** 2 + 0.1 * cfg.seed


def table(folder: Path) -> list[list[str]]:
    """The cells of the first table."""
    text = (folder / "sweep.txt").read_text().split("\n\n")[0]
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip() and "─" not in line]


def test_a_grid_ends_with_a_table_a_figure_and_the_best(grid, capsys) -> None:
    folder = grid(parabola, "x=1,1.5,3,20", "seed=0")
    rows = table(folder)
    assert rows[0] == ["job", "x", "validation loss"]
    assert rows[1:] == [["1", "1.5", "0.25"], ["0", "1", "1"], ["2", "3", "1"], ["3", "20", "324"]]
    said = capsys.readouterr().out
    assert "the best job: 1 (x=1.5), validation loss 0.25\n" in said
    assert f"figure: {folder / 'sweep.png'}\n" in said and f"table: {folder / 'sweep.txt'}\n" in said
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    (axes,) = grid.drawn[0].axes
    assert (axes.get_xlabel(), axes.get_xscale(), axes.get_yscale()) == ("x", "log", "log")
    assert sorted(p.name for p in (folder / "outcomes").iterdir()) == ["0.json", "1.json", "2.json", "3.json"]


def test_best_yaml_gives_the_best_job_again(grid, monkeypatch, tmp_path) -> None:
    grid(lambda cfg: cfg.colour.shade + cfg.x, "colour=blue,red", "x=3,2")
    again: list[DictConfig] = []
    monkeypatch.setattr(sys, "argv", ["train.py", "-cd", "out", "-cn", "best", "hydra.run.dir=again"])
    GlobalHydra.instance().clear()
    hydra.main(version_base="1.3", config_path=str(tmp_path / "conf"), config_name="toy")(again.append)()
    assert (again[0].colour.shade, again[0].x) == (1, 2)


def test_seeds_are_averaged_beside_the_table(grid, capsys) -> None:
    """The best job may owe it to its seed: the best setting over seeds is named, too."""
    losses = {(1, 0): 0.1, (1, 1): 0.9, (2, 0): 0.3, (2, 1): 0.5, (3, 0): math.nan, (3, 1): 0.2}
    folder = grid(lambda cfg: losses[int(cfg.x), cfg.seed], "x=1,2,3", "seed=0,1")
    said = capsys.readouterr().out
    assert "the best job: 0 (x=1 seed=0), validation loss 0.1\n" in said
    assert "the best over seeds: x=2, 0.4 ± 0.1 (2 seeds)\n" in said
    means = (folder / "sweep.txt").read_text().split("mean over seeds")[1]
    assert re.findall(r"^ +(\d) +(.*)$", means, re.M) == [
        ("2", "0.4 ± 0.1 (2 seeds)"), ("1", "0.5 ± 0.4 (2 seeds)"),
        ("3", "0.2 (1 seed, without 1 that came to no loss)")]  # fmt: skip
    (axes,) = grid.drawn[0].axes
    assert axes.get_xlabel() == "x", "the seed has no panel beside another key"


def test_a_grid_of_seeds_alone_is_drawn_over_them(grid, capsys) -> None:
    grid(parabola, "seed=0,1,2")
    (axes,) = grid.drawn[0].axes
    assert axes.get_xlabel() == "seed" and [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2"]
    assert len(axes.lines) == 2, "the jobs and the best: no line leads from seed to seed"
    assert "over seeds" not in capsys.readouterr().out


def test_choices_that_are_no_numbers_stand_side_by_side(grid) -> None:
    grid(lambda cfg: cfg.colour.shade, "colour=red,blue", "+y=[1],[2,3],null")
    colour, y = grid.drawn[0].axes
    assert [label.get_text() for label in colour.get_xticklabels()] == ["red", "blue"]
    assert [label.get_text() for label in y.get_xticklabels()] == ["[1]", "[2,3]", "null"]
    assert (colour.get_xlabel(), y.get_xlabel()) == ("colour", "y")


def test_a_single_job_without_any_choice_is_a_grid_too(grid) -> None:
    folder = grid(parabola, "x=1")
    assert table(folder) == [["job", "validation loss"], ["0", "1"]]
    assert grid.drawn[0].axes[0].get_xlabel() == "job"


def impossible(cfg: DictConfig) -> float:
    raise ValueError("a window must divide the horizon")


def diverge(cfg: DictConfig) -> float:
    raise Diverged("20 windows in a row were not finite")


def disk(cfg: DictConfig) -> float:
    raise OSError(28, "No space left on device")


def bug(cfg: DictConfig) -> float:
    return [][1]


FAILURES = {impossible: "a window must divide the horizon", disk: "No space left", bug: "IndexError: list index out of"}


@pytest.mark.parametrize("fault", FAILURES)
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_a_failed_job_is_listed_and_the_others_run(grid, fault, batch, capsys) -> None:
    ran = []

    def task(cfg: DictConfig) -> float:
        ran.append(HydraConfig.get().job.num)
        return in_one_line(fault)(cfg) if ran[-1] == 1 else parabola(cfg)

    words = [f"hydra.sweeper.max_batch_size={batch}"] if batch else []
    with pytest.raises(ValueError, match=r"^1 of 4 jobs failed: job 1: ") as error:
        grid(task, "x=1,2,3,4", *words)
    assert FAILURES[fault] in str(error.value) and "\n" not in str(error.value)
    assert ran == [0, 1, 2, 3]
    rows = table(Path("out"))
    assert [row[0] for row in rows[1:]] == ["0", "2", "3", "1"] and len(rows) == 5
    assert rows[-1][-1].startswith("failed: ") and FAILURES[fault] in rows[-1][-1]
    assert "the best job: 0 (x=1), validation loss 1\n" in capsys.readouterr().out
    assert Path("out/best.yaml").exists() and Path("out/sweep.png").exists()


def test_a_diverged_job_is_a_result(grid) -> None:
    """It is listed as such, and no failure: the grid ends well."""
    folder = grid(lambda cfg: in_one_line(diverge)(cfg) if cfg.x == 1 else math.inf if cfg.x == 2 else 7.0, "x=1,2,3")
    assert [row[0] for row in table(folder)[1:]] == ["2", "0", "1"]
    assert table(folder)[2][-1] == "diverged: 20 windows in a row were not finite"
    assert table(folder)[3][-1] == "diverged: a loss of inf"


def test_a_grid_in_which_every_job_failed_says_so_in_one_line(grid) -> None:
    with pytest.raises(ValueError, match=r"5 of 5 jobs failed: job 0: .*; job 1: .*; job 2: [^;]*; and 2 more$"):
        grid(in_one_line(impossible), "x=1,2,3,4,5")
    assert len(table(Path("out"))) == 6
    assert not Path("out/sweep.png").exists() and not Path("out/best.yaml").exists()


def test_the_traceback_of_a_failed_job_can_be_seen(grid, monkeypatch) -> None:
    monkeypatch.setenv("L2O_TRACEBACK", "1")
    with pytest.raises(IndexError):
        grid(bug, "x=1,2")
    assert len(table(Path("out"))) == 3


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, lambda: SystemExit(143)])
def test_an_interruption_ends_the_grid(grid, exit_) -> None:
    ran = []

    def task(cfg: DictConfig) -> float:
        ran.append(cfg.x)
        raise exit_()

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        grid(task, "x=1,2")
    assert ran == [1]


def test_a_mistake_in_a_later_batch_is_found_before_anything_is_written(grid) -> None:
    with pytest.raises(Exception, match="green"):
        grid(parabola, "colour=red,green", "hydra.sweeper.max_batch_size=1")
    assert not Path("out").exists()


def test_a_table_shows_what_the_comparisons_found(grid) -> None:
    def task(cfg: DictConfig) -> float:
        row = {
            "final_loss": cfg.x,
            "standard_error": 0.5,
            "relative_to_best_baseline": 0.71,
            "relative_standard_error": 0.03,
        }
        found = {"SGD": row | {"baseline": True, "final_loss": 9.0}, "LSTM": row | {"baseline": False}}
        folder = Path(HydraConfig.get().runtime.output_dir)
        if cfg.x != 3:
            (folder / "summary.json").write_text(json.dumps({"optimizers": found}))
        return cfg.x

    rows = table(grid(task, "x=1,2,3"))
    assert rows[0] == ["job", "x", "validation loss", "final loss", "relative to best baseline"]
    assert rows[1] == ["0", "1", "1", "1 ± 0.5", "0.71 ± 0.03"] and rows[3] == ["2", "3", "3", "–", "–"]


def test_a_grid_needs_no_optuna(grid, monkeypatch) -> None:
    """Only searches do: it comes with an extra of its own."""
    for name in [name for name in sys.modules if name.startswith(("optuna", "hydra_plugins.l2o_sweeper._"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert len(table(grid(parabola, "x=1,2"))) == 3


PROGRAM = """
import hydra
@hydra.main(version_base="1.3", config_path="conf", config_name="toy")
def main(cfg):
    if cfg.x == 2:
        raise ValueError("two is refused")
    return cfg.x
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_grid_reports_through_every_launcher(tmp_path: Path, launcher: str) -> None:
    for name, text in {"train.py": PROGRAM, "conf/toy.yaml": TOY, "conf/colour/red.yaml": "shade: 1"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "train.py", "-m", "x=3,2,1", f"launcher={launcher}"]
    command.append(f"hydra.searchpath=[file://{ROOT / 'conf'}]")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 1 and "1 of 3 jobs failed: job 1: ValueError: two is refused" in done.stderr
    assert [row[0] for row in table(tmp_path / "out")[1:]] == ["2", "0", "1"]
    assert "the best job: 2 (x=1), validation loss 1\n" in done.stdout
