"""How runs of train.py end: what they leave, what they say, and with which status."""

import json
import re
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from programs import Run, Server

from l2o.deploy.export import read_checkpoint

OLDER = Path(__file__).parents[1] / "golden/before_folders/last.ckpt"


def card(folder: Path) -> dict[str, Any]:
    """The card of the exported rule; every JSON file of the run is strict JSON."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
    return json.loads((folder / "best/config.json").read_text())["card"]


def errors(run: Run) -> list[str]:
    return [line for line in run.output.splitlines() if line.startswith("error:")]


@pytest.mark.parametrize(
    "limits",
    [
        ("trainer.check_val_every_n_epoch=5", "trainer.max_epochs=3"),
        ("+trainer.max_steps=1",),
        pytest.param(("+trainer.val_check_interval=4",), marks=pytest.mark.slow),
        pytest.param(("+trainer.limit_train_batches=4",), marks=pytest.mark.slow),
        pytest.param(("+trainer.overfit_batches=2",), marks=pytest.mark.slow),
        pytest.param(("+trainer.fast_dev_run=true",), marks=pytest.mark.slow),
        pytest.param(("+trainer.max_time='00:00:00:01'", "trainer.max_epochs=999999"), marks=pytest.mark.slow),
        pytest.param(("early_stopping=1", "learner.meta_optimizer.lr=1e-9"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_whatever_ends_training_a_validated_rule_is_exported(
    programs: Server, tmp_path: Path, limits: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    run = programs.finish(tmp_path, *limits, f"hydra.run.dir={folder}")
    saved = read_checkpoint(folder / "last.ckpt")["l2o"]
    assert card(folder)["validation_loss"] == saved["best_loss"] > 0
    assert card(folder)["results"]["num_tasks"] == 2 and "python train.py" in card(folder)["command"]
    assert saved["validated_at"] == saved["windows"] > 0
    lines = run.output.splitlines()
    assert lines[0] == f"this run's folder: {folder}"
    assert any(line.startswith("epoch 1") for line in lines) and "never validated" not in run.output


def test_a_rule_that_was_never_validated_says_so(programs: Server, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = programs.finish(tmp_path, "+trainer.limit_val_batches=0", f"hydra.run.dir={folder}")
    assert card(folder)["validation_loss"] is None
    assert read_checkpoint(folder / "last.ckpt")["l2o"]["windows"] == 24
    (line,) = [line for line in run.output.splitlines() if "never validated" in line]
    assert "limit_val_batches" in line


@pytest.mark.parametrize("limit", ["trainer.max_epochs=0", "+trainer.max_steps=0", "+trainer.limit_train_batches=0"])
def test_a_run_that_would_train_nothing_is_refused(programs: Server, tmp_path: Path, limit: str) -> None:
    run = programs.finish(tmp_path, limit, f"hydra.run.dir={tmp_path / 'run'}", status=1)
    (line,) = errors(run)
    assert limit.lstrip("+").partition("=")[0] in line and "must be" in line and line.endswith("got 0")
    assert not (tmp_path / "run/best").exists() and not (tmp_path / "run/last.ckpt").exists()


def test_one_problem_has_no_error_to_show(programs: Server, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = programs.finish(tmp_path, "evaluation.num_tasks=1", "+trainer.max_steps=1", f"hydra.run.dir={folder}")
    table = run.output.partition("final loss")[2]
    assert "nan" not in table and "±" not in table and "one fresh problem" in table
    for row in card(folder)["results"]["optimizers"].values():
        assert row["standard_error"] is None and row["relative_standard_error"] is None
        assert row["final_loss"] > 0 and row["relative_to_best_baseline"] > 0
    assert not re.search(r"\bnan\b", (folder / "best/README.md").read_text())


@pytest.mark.parametrize("name", ["lst.ckpt", "curves.csv"])
def test_a_mistyped_checkpoint_is_refused(programs: Server, tmp_path: Path, name: str) -> None:
    """Although there is a good `previous.ckpt` beside it."""
    for existing in ("previous.ckpt", "last.ckpt"):
        (tmp_path / existing).write_bytes(OLDER.read_bytes())
    (tmp_path / "curves.csv").write_text("optimizer,step")
    (line,) = errors(programs.finish(tmp_path, f"ckpt_path={name}", status=1))
    assert name in line and "no checkpoint" in line


def test_ctrl_c_saves_and_says_how_to_go_on(programs: Server, tmp_path: Path) -> None:
    folder, endless = tmp_path / "run", ("checkpoint_minutes=0", "trainer.max_epochs=9999")
    run = programs.start(tmp_path, *endless, f"hydra.run.dir={folder}")
    run.wait_for(folder / "previous.ckpt")
    run.kill(signal.SIGINT)
    assert run.wait() == 130, run.output
    windows = read_checkpoint(folder / "last.ckpt")["l2o"]["windows"]
    (command,) = re.findall(rf"stopped by Ctrl-C after window {windows}; to go on: python \S*train.py (.+)", run.output)
    own = shlex.split(command)
    assert own[-1] == f"ckpt_path={folder / 'last.ckpt'}" and {*endless, f"hydra.run.dir={folder}"} <= {*own}
    assert "Traceback" not in run.output
    more = ("trainer.max_epochs=9999", f"+trainer.max_steps={windows + 2}")
    again = programs.finish(tmp_path, *more, f"hydra.run.dir={folder}", "ckpt_path=auto")
    assert f"going on from window {windows} of '{folder / 'last.ckpt'}'" in again.output
    assert read_checkpoint(folder / "last.ckpt")["l2o"]["windows"] == windows + 2


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once(programs: Server, tmp_path: Path) -> None:
    """Here within a window that would take minutes."""
    long = ("learner.horizon=200000", "learner.window=200000", "trainer.max_epochs=9999")
    run = programs.start(tmp_path, *long, f"hydra.run.dir={tmp_path / 'run'}")
    run.wait_for(tmp_path / "run/logs/hparams.yaml")
    time.sleep(3)
    run.kill(signal.SIGINT)
    time.sleep(1)
    assert run.poll() is None and "once more Ctrl-C" in run.output
    run.kill(signal.SIGINT)
    assert run.wait(10) == -signal.SIGINT
