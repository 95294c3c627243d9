"""Finished runs drawn together: what is read, what is averaged, what is refused."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from l2o.runs.alike import groups_of, trained_alike
from l2o.runs.command_line.modes import refuse_other_mode
from l2o.runs.command_line.null_groups import leave_out_null_groups
from l2o.runs.drawing import draw_runs
from l2o.runs.finished import read_runs

T = 30
CONFIG = {
    "name": "digits",
    "seed": 0,
    "optimizee": {"_target_": "l2o.optimizees.Quadratic", "dim": 3},
    "evaluation_optimizee": {},
    "evaluation": {"num_steps": T, "seed": "${seed}"},
    "learner": {"window": 5, "horizon": 20, "meta_optimizer": {"lr": 0.001}},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    "ckpt_path": None,
    "output_dir": "${hydra:runtime.output_dir}",
}


def falling(factor: float, steps: int = T) -> np.ndarray:
    return factor * np.logspace(0, -2, steps)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a run as the programs leave it: its settings, curves of LSTM and ADAM, and validations."""
    monkeypatch.chdir(tmp_path)

    def made(name: str, lstm=1.0, adam=2.0, steps=T, curves=True, trained=True, **changes) -> str:
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        config = OmegaConf.merge(CONFIG, OmegaConf.from_dotlist([f"{key}={value}" for key, value in changes.items()]))
        OmegaConf.save(config, folder / ".hydra/config.yaml")
        if curves:
            with open(folder / "curves.csv", "w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["optimizer", "step", "mean", "median", "p10", "p90"])
                for optimizer, factor in {"LSTM": lstm, "ADAM": adam}.items():
                    rows.writerows([optimizer, t, v, v, v / 2, 2 * v] for t, v in enumerate(falling(factor, steps), 1))
            said = {"LSTM": {"baseline": False, "lr": None, "horizon": 20}, "ADAM": {"baseline": True, "lr": 0.01}}
            (folder / "summary.json").write_text(json.dumps({"optimizers": said}))
        if trained:
            (folder / "logs").mkdir()
            rows = ["4,5,50,", "9,10,100,", f"9,,,{3 * lstm}", "14,15,150,", "19,20,200,", f"19,,,{2 * lstm}"]
            text = "\n".join(["step,meta_steps,inner_steps,val/final_loss", *rows])
            (folder / "logs/metrics.csv").write_text(text)
        return str(folder)

    return made


@pytest.fixture
def drawn(monkeypatch):
    """A function that draws runs and returns the figures by their files' names."""
    found, savefig = {}, Figure.savefig
    keep = lambda self, path, **k: (found.update({Path(path).name: self}), savefig(self, path, **k))  # noqa: E731
    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(*folders: str) -> dict[str, Figure]:
        draw_runs(OmegaConf.create({"runs": list(folders), "output_dir": "out", "name": "runs", "logger": {}}))
        return found

    return draw


def label_of(line) -> str:
    return str(line.get_label())


# ------------------------------------------------------------------------------------------------------------ figures


def test_runs_that_differ_in_the_seed_are_averaged(write, drawn) -> None:
    """The mean, and a band of one standard error; the learned optimizer keeps its colour."""
    folders = [write(str(seed), lstm, 2.0 + seed, seed=seed) for seed, lstm in enumerate((1.0, 2.0, 3.0))]
    figures = drawn(*folders)
    axes = figures["curves.png"].axes[0]
    lstm, adam = axes.lines[:2]
    assert (label_of(lstm), label_of(adam)) == ("LSTM (3 seeds)", "ADAM (lr 0.01)")
    np.testing.assert_allclose(lstm.get_ydata(), falling(2.0), rtol=1e-6)
    np.testing.assert_allclose(adam.get_ydata(), falling(3.0), rtol=1e-6)
    assert lstm.get_color() == "#000000" and adam.get_linestyle() == "--"
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx(2 + 1 / 3**0.5) and axes.get_title() == "Random quadratics in 3 dimensions"
    assert axes.figure.legends[0].get_title().get_text() == "band: ± 1 standard error over seeds"
    assert [text.get_text() for text in axes.texts] == ["trained for 20 steps"]
    over_updates, over_steps = figures["validations.png"].axes
    assert over_updates.lines[0].get_xdata().tolist() == [10, 20]
    assert over_steps.lines[0].get_xdata().tolist() == [100, 200]
    np.testing.assert_allclose(over_updates.lines[0].get_ydata(), [6.0, 4.0])
    row = next(csv.DictReader(Path("out/curves.csv").read_text().splitlines()))
    assert float(row["mean"]) == pytest.approx(2.0)
    assert float(row["standard_error"]) == pytest.approx(1 / 3**0.5, rel=1e-4)


def test_other_settings_make_other_lines_and_baselines_are_drawn_once(write, drawn) -> None:
    folders = []
    for window, where in ((5, "cpu"), (10, "gpu")):
        changes = {"learner.window": window, "trainer.accelerator": where}
        folders += [write(f"{window}{seed}", window, 2.0 + seed, seed=seed, **changes) for seed in (0, 1)]
    axes = drawn(*folders)["curves.png"].axes[0]
    assert [label_of(line) for line in axes.lines[:3]] == [
        "LSTM, window=5 (2 seeds)", "LSTM, window=10 (2 seeds)", "ADAM (lr 0.01)"]  # fmt: skip
    np.testing.assert_allclose(axes.lines[2].get_ydata(), falling(2.5), rtol=1e-6)
    assert axes.lines[0].get_color() != axes.lines[1].get_color()


def test_a_baseline_that_differs_between_runs_is_drawn_for_each(write, drawn) -> None:
    """As where it was tuned for another number of steps."""
    folders = [write("a", steps=T), write("b", adam=5.0, steps=2 * T, **{"evaluation.num_steps": 2 * T})]
    axes = drawn(*folders)["curves.png"].axes[0]
    labels = [label_of(line) for line in axes.lines]
    assert labels[2:4] == ["ADAM (lr 0.01), num_steps=30", "ADAM (lr 0.01), num_steps=60"]
    assert len(axes.lines[1].get_xdata()) == 2 * T


def test_one_run_is_drawn_as_it_was(write, drawn) -> None:
    axes = drawn(write("a"))["curves.png"].axes[0]
    assert [label_of(line) for line in axes.lines[:2]] == ["LSTM", "ADAM (lr 0.01)"]
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx(2.0) and edges.min() == pytest.approx(0.005)


def test_equal_runs_are_no_independent_seeds(write) -> None:
    groups = groups_of(read_runs([write("a/1"), write("b/2"), write("c/3", seed=1)]))
    assert [(group.label, len(group.runs)) for group in groups] == [("a/1", 1), ("b/2", 1), ("c/3", 1)]


def test_validations_after_other_horizons_are_not_drawn_together(write, drawn, capsys) -> None:
    folders = [write("a"), write("b", **{"learner.horizon": 40})]
    assert not trained_alike(read_runs(folders))
    assert set(drawn(*folders)) == {"curves.png"}
    assert "validations.png is left out" in capsys.readouterr().out


def test_runs_without_a_comparison_show_their_validations(write, drawn) -> None:
    assert set(drawn(write("a", curves=False), write("b", curves=False, seed=1))) == {"validations.png"}


# ------------------------------------------------------------------------------------------------------------ reading


def test_a_multirun_gives_its_jobs_in_order_without_those_that_left_nothing(write, caplog) -> None:
    for number in (0, 2, 10):
        write(f"grid/{number}", seed=number)
    write("grid/1", curves=False, trained=False)
    runs = read_runs(["grid", "grid/2"])
    assert [run.folder.name for run in runs] == ["0", "2", "10"], "and each once"
    assert "left out: 'grid/1' has no curves yet" in caplog.text


def test_validations_of_a_run_that_goes_on_from_another_are_counted_on(write) -> None:
    folder = Path(write("a"))
    text = "step,meta_steps,inner_steps,val/final_loss\n4,105,1050,\n7,,,2.0\n9,110,1100,\n19,,,1.0\n"
    (folder / "logs/metrics.csv").write_text(text)
    (run,) = read_runs(str(folder))
    assert run.validations is not None
    assert run.validations.meta_steps.tolist() == [108, 120]
    np.testing.assert_allclose(run.validations.inner_steps, [1080, 1200])


def refused(*folders: object) -> str:
    with pytest.raises(ValueError, match="runs") as error:
        groups_of(read_runs(list(folders)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_cannot_be_drawn_are_refused_in_one_line(write, tmp_path) -> None:
    assert "'nowhere' does not exist" in refused("nowhere") and "outputs/train/NAME/DATE" in refused("nowhere")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert "'file' is no folder" in refused("file")
    assert "is the folder of no run" in refused("empty")
    assert "names no folder" in refused()
    assert "must be folders, got 3" in refused(3)
    young = Path(write("young", curves=False, trained=False))
    assert "has no curves yet" in refused(str(young))
    (young / "last.ckpt").touch()
    assert "ckpt_path=auto" in refused(str(young))
    (young / "scoreboard.json").touch()
    assert "is a run on a suite" in refused(str(young))
    assert "no job of the multirun" in refused(str(Path(write("grid/0", curves=False, trained=False)).parent))


@pytest.mark.parametrize("name", ["curves.csv", "summary.json", "logs/metrics.csv", ".hydra/config.yaml"])
def test_a_broken_file_is_named_with_its_folder(write, name) -> None:
    folder = Path(write("a"))
    (folder / name).write_text("optimizer,step,mean,p10,p90,val/final_loss\nLSTM,1,x,1,1,x\n[")
    assert "cannot be read" in refused(str(folder)) and "leave it out" in refused(str(folder))


def test_runs_on_different_problems_are_refused_with_the_key(write) -> None:
    said = refused(write("a"), write("b", **{"optimizee.dim": 4}))
    assert "optimizee.dim is 3" in said and "and 4 in" in said and "one problem" in said
    assert "optimizee.dim is 3" in refused("a", write("c", **{"evaluation_optimizee.dim": 5}))


# ------------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    "word", ["learned.X=digits", "suite=small", "evaluation.num_steps=3", "experiment=mnist", "seed=1"]
)
def test_what_has_no_effect_beside_runs_is_refused(word) -> None:
    cfg = OmegaConf.create({"runs": ["a"], "suite": None})
    with pytest.raises(ValueError, match=f"{re.escape(word)} has no effect beside runs"):
        refuse_other_mode(cfg, ["runs=[a]", word])
    refuse_other_mode(cfg, ["runs=[a]", "name=mine", "logger=csv", "hydra.run.dir=x"])


@pytest.mark.parametrize(
    ("words", "rewritten"),
    [
        (["runs=[a]", "-m"], ["-m", "runs=[a]", "name=runs"]),
        (["name=x", "runs=[a]"], ["name=x", "runs=[a]"]),
        (["seed=1"], ["seed=1"]),
    ],
)  # fmt: skip
def test_drawn_runs_go_into_a_folder_of_their_own(monkeypatch, tmp_path, words, rewritten) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    leave_out_null_groups(tmp_path)
    assert sys.argv[1:] == rewritten
