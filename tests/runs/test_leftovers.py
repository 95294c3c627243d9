"""A run that is refused before its work begins leaves nothing, and takes nothing away that it did not make."""

import logging
from pathlib import Path

import pytest
from programs import ROOT

from l2o.runs import leftovers
from l2o.runs.leftovers import nothing_left_if_refused, remember_what_is_there

PRETRAINED = ROOT / "src/l2o/deploy/pretrained"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_made", [])


def begun(folder: Path) -> Path:
    """A run's folder as Hydra makes it."""
    (folder / ".hydra").mkdir(parents=True)
    for name in ("config", "hydra", "overrides"):
        (folder / f".hydra/{name}.yaml").write_text("{}")
    (folder / ".lock").touch()
    (folder / ".lock-holder").touch()
    return folder


def refused(folder: Path, error: Exception | None = None) -> None:
    error = error or ValueError("a file that is not there")
    with pytest.raises(type(error)), nothing_left_if_refused(folder):
        raise error


def test_a_refused_run_s_folder_goes_with_the_folders_that_were_made_for_it(tmp_path):
    remember_what_is_there(tmp_path / "outputs/train/digits/date")
    refused(begun(tmp_path / "outputs/train/digits/date"))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path):
    (tmp_path / "outputs/train").mkdir(parents=True)
    remember_what_is_there(tmp_path / "outputs/train/digits/date")
    refused(begun(tmp_path / "outputs/train/digits/date"))
    assert (tmp_path / "outputs/train").is_dir() and not (tmp_path / "outputs/train/digits").exists()


def test_a_folder_that_the_user_had_made_stays_empty(tmp_path):
    (tmp_path / "run").mkdir()
    remember_what_is_there(tmp_path / "run")
    refused(begun(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []


def test_other_runs_beside_it_stay(tmp_path):
    remember_what_is_there(tmp_path / "outputs/a")
    (tmp_path / "outputs/b").mkdir(parents=True)
    refused(begun(tmp_path / "outputs/a"))
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["last.ckpt", "scoreboard.json", ".hydra/own.yaml", "logs/metrics.csv", "another.log"])
def test_a_folder_with_results_stays_as_it_is(tmp_path, name):
    remember_what_is_there(tmp_path / "run")
    folder = begun(tmp_path / "run")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("results")
    before = sorted(folder.rglob("*"))
    refused(folder)
    assert sorted(folder.rglob("*")) == before


def test_the_log_of_the_run_goes_with_it(tmp_path):
    remember_what_is_there(tmp_path / "run")
    folder = begun(tmp_path / "run")
    handler = logging.FileHandler(folder / "train.log")
    logging.root.addHandler(handler)
    try:
        refused(folder)
    finally:
        logging.root.removeHandler(handler)
        handler.close()
    assert not folder.exists()


def test_a_sweep_of_one_refused_job_goes_as_a_whole(tmp_path):
    remember_what_is_there(tmp_path / "multirun/date")
    folder = begun(tmp_path / "multirun/date/0")
    (tmp_path / "multirun/date/multirun.yaml").touch()
    refused(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_bug_keeps_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "one_line", lambda error: None)  # as for what arises in this package
    remember_what_is_there(tmp_path / "run")
    folder = begun(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), nothing_left_if_refused(folder):
        raise ZeroDivisionError
    assert (folder / ".hydra/config.yaml").is_file()


REFUSED = [
    ("train.py", ["dataset=npz", "dataset.path=nowhere.npz"], "nowhere.npz"),
    ("train.py", ["optimizee.network.out_features=3"], "labels go up to 9"),
    ("train.py", ["ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
    ("train.py", ["learner.warm_start=nowhere.ckpt"], "learner.warm_start"),
    ("train.py", ["imports=[no_such_module]"], "no module 'no_such_module'"),
    ("train.py", ["trainer=gpu", "trainer.devices=97"], ""),
    ("evaluate.py", ["learned.X=nowhere"], "no trained optimizer 'nowhere'"),
    ("evaluate.py", ["learned.X=digits", "device=banana"], "device=banana"),
    ("evaluate.py", ["suite=tiny", "learned.X=nowhere"], "no trained optimizer 'nowhere'"),
    ("evaluate.py", ["suite=tiny", "learned.X={folder: quadratic, dircetion: adam}"], "learned.X.dircetion"),
    ("evaluate.py", ["suite=tiny", "adam_envelopes=none.json"], "none.json"),
    ("evaluate.py", ["suite=small", "suite.images=none.npz"], "none.npz"),
    ("evaluate.py", ["suite=mnist_columns"], "suite.images has no value yet"),
    ("evaluate.py", ["map=mlp", "learned.X=nowhere"], "no trained optimizer 'nowhere'"),
]
"""Command lines that are refused at several stages: before the run's folder is made, and while its parts are built."""


@pytest.mark.slow
def test_a_refused_command_leaves_nothing(tmp_path, programs):
    folders = [tmp_path / str(number) for number in range(len(REFUSED))]
    runs = []
    for folder, (program, words, _) in zip(folders, REFUSED, strict=True):
        folder.mkdir()
        runs.append(programs.script(program, folder, *words, "logger=csv"))
    for folder, run, (_, words, message) in zip(folders, runs, REFUSED, strict=True):
        assert run.wait() == 1, (words, run.output)
        last = run.output.strip().splitlines()[-1]
        assert last.startswith("error: ") and message in last, (words, run.output)
        left = [path.name for path in folder.iterdir() if not path.name.startswith("output")]
        assert left == [] and not (folder / "outputs").exists(), (words, left)
