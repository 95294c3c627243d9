"""Signals, in whatever moment and thread."""

import csv
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
import pytorch_lightning as pl
from hydra.core.override_parser.overrides_parser import OverridesParser
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from training_runs import learner, trainer

from l2o.deploy.export import read_checkpoint
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM
from l2o.runs import preemption
from l2o.runs.checkpoints import Checkpoints
from l2o.runs.loggers import continue_csv
from l2o.runs.preemption import SIGNALS, STATUS, StopRequest, resumable
from l2o.runs.ranks import as_one
from l2o.training.learner import MetaLearner

EVERY = (*SIGNALS, signal.SIGINT)
EACH = pytest.mark.parametrize("number", EVERY, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """Ctrl-C as in a terminal: where the tests run in a shell's background it would be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def expected(number: int) -> int:
    return 130 if number == signal.SIGINT else 75


@EACH
@pytest.mark.parametrize("saved", [False, True])
def test_where_there_is_nothing_to_save_a_signal_ends_the_run(
    number: signal.Signals, saved: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And says how to go on."""
    if saved:
        (tmp_path / "last.ckpt").touch()
    before = [signal.getsignal(n) for n in EVERY]
    with pytest.raises(SystemExit) as end:
        resumable(lambda cfg: os.kill(os.getpid(), number))(SimpleNamespace(output_dir=str(tmp_path)))
    assert end.value.code == expected(number)
    assert [signal.getsignal(n) for n in EVERY] == before
    said = capfd.readouterr().err
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    assert f"stopped by {name}" in said
    assert (f"ckpt_path={tmp_path / 'last.ckpt'} goes on" if saved else "start it anew") in said


@EACH
def test_a_signal_during_the_imports_ends_a_program_with_its_status(number: signal.Signals) -> None:
    """In a process of its own, which has imported nothing heavy by then."""
    code = f"""
import os, runpy, sys
here = runpy.run_path({preemption.__file__!r})
heavy = [name for name in ("torch", "pytorch_lightning", "hydra", "numpy") if name in sys.modules]
assert not heavy, heavy
here["listen_while_importing"]()
os.kill(os.getpid(), {int(number)})
print("not reached")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (expected(number), "", "")


def test_what_is_ignored_or_listened_to_stays_so_during_the_imports() -> None:
    """As Ctrl-C in a shell's background job, and as the signal that submitit waits for."""
    mine = lambda number, frame: None  # noqa: E731
    before = {number: signal.getsignal(number) for number in EVERY}
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, mine)
        preemption.listen_while_importing()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN and signal.getsignal(signal.SIGUSR2) is mine
        StopRequest().listen()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        preemption.restore(before)


def test_a_second_ctrl_c_is_the_systems_own(capfd: pytest.CaptureFixture[str]) -> None:
    """It ends the process at once, even within a kernel that takes minutes."""
    request, before = StopRequest(), signal.getsignal(signal.SIGINT)
    others = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        request.listen()
        os.kill(os.getpid(), signal.SIGINT)
        assert request.received == "Ctrl-C"
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)  # handed on from the process that waits for the ranks
        assert request.received == "Ctrl-C"
    finally:
        preemption.restore(others | {signal.SIGINT: before})
    assert "once more Ctrl-C stops it at once" in capfd.readouterr().err


def test_in_another_thread_nothing_is_installed() -> None:
    """As with joblib's threads, or in a notebook: the run is as it would be without."""
    launcher = _MultiProcessingLauncher.__new__(_MultiProcessingLauncher)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    before, ended = [signal.getsignal(n) for n in SIGNALS], []

    @resumable
    def main() -> None:
        StopRequest().listen()
        with as_one(trainer):
            ended.append([signal.getsignal(n) for n in SIGNALS])

    thread = Thread(target=main)
    thread.start()
    thread.join()
    assert ended == [before]


class Submitit:
    """As submitit's handlers in one of its jobs: it requeues on its own signal, and exits."""

    def __init__(self) -> None:
        self.requeued = 0

    def checkpoint_and_try_requeue(self, number: int, frame: Any) -> None:
        self.requeued += 1
        sys.exit(-1)


@pytest.mark.parametrize(("number", "status", "requeued"), [(signal.SIGUSR2, -1, 1), (signal.SIGTERM, STATUS, 0)])
def test_submitit_requeues_after_the_run_has_ended_by_its_signal(
    number: signal.Signals, status: int, requeued: int
) -> None:
    """Not at once, as it would by itself; and by no other signal: scancel sends SIGTERM."""
    submitit, saved = Submitit(), []

    def main() -> None:
        request = StopRequest()
        request.listen()
        os.kill(os.getpid(), number)
        saved.append((request.received, submitit.requeued))
        sys.exit(STATUS)

    before = signal.signal(signal.SIGUSR2, submitit.checkpoint_and_try_requeue)
    try:
        with pytest.raises(SystemExit) as end:
            resumable(main)()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved == [(number.name, 0)]
    assert (end.value.code, submitit.requeued) == (status, requeued)


def test_submitit_requeues_a_run_that_came_to_it_as_a_copy() -> None:
    """As launchers send functions of a program: pickled by value."""

    def main() -> None:
        StopRequest().listen()
        os.kill(os.getpid(), signal.SIGUSR2)
        sys.exit(STATUS)

    submitit = Submitit()
    before = signal.signal(signal.SIGUSR2, submitit.checkpoint_and_try_requeue)
    try:
        with pytest.raises(SystemExit):
            cloudpickle.loads(cloudpickle.dumps(resumable(main)))()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert submitit.requeued == 1


class Signal(pl.Callback):
    """A signal in one of Lightning's hooks, the last time that it is called."""

    def __init__(self, hook: str, epochs: int):
        self.calls, self.last = 0, epochs
        setattr(self, hook, self.call)

    def call(self, *_: Any, **__: Any) -> None:
        self.calls += 1
        if self.calls == self.last:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(("hook", "calls"), [("on_validation_end", 2), ("on_train_end", 1), ("teardown", 1)])
def test_a_signal_after_the_last_window_is_not_lost(tmp_path: Path, hook: str, calls: int) -> None:
    """Nobody asks for it any more; the run ends with the status all the same, and its checkpoint is the last one."""

    def fit(*callbacks: pl.Callback, ckpt_path: Path | None = None) -> MetaLearner:
        quadratic, rule = Quadratic(2), LSTM(hidden_size=2)
        learner = MetaLearner(rule, quadratic, horizon=2, window=2, num_tasks=1, episodes_per_epoch=1)
        off: Any = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        checks = {"num_sanity_val_steps": 0, "inference_mode": False}
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=2, callbacks=[Checkpoints(str(tmp_path)), *callbacks], **off, **checks
        )
        trainer.fit(learner, ckpt_path=ckpt_path, weights_only=True)
        return learner

    with pytest.raises(SystemExit) as end:
        resumable(partial(fit, Signal(hook, calls)))()
    assert end.value.code == STATUS
    assert fit(ckpt_path=tmp_path / "last.ckpt").state.windows == 2


class SignalAfter(pl.Callback):
    """A signal in the midst of a window, which is answered at its end."""

    def __init__(self, window: int):
        self.window = window

    def on_train_batch_start(self, trainer: pl.Trainer, module: MetaLearner, *_: Any) -> None:
        if module.state.windows + 1 == self.window:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("every", [1, 3])
def test_a_stop_loses_no_row_of_the_log(tmp_path: Path, every: int) -> None:
    """Lightning writes the row of a window after its callbacks, of which one stops the run."""

    def fit(folder: Path, *callbacks: pl.Callback) -> None:
        logger = CSVLogger(folder, name="", version="")
        last = folder / "last.ckpt"
        done = read_checkpoint(last)["l2o"]["windows"] if last.exists() else 0
        continue_csv([logger], done)
        both = [Checkpoints(str(folder)), *callbacks]
        trainer(2, *both, logger=logger, log_every_n_steps=every).fit(
            learner(), ckpt_path=last if last.exists() else None, weights_only=True
        )

    def rows(folder: Path) -> list[dict[str, str]]:
        with open(folder / "metrics.csv", newline="") as file:
            return list(csv.DictReader(file))

    fit(tmp_path / "whole")
    for window in range(1, 12):
        with pytest.raises(SystemExit):
            resumable(partial(fit, tmp_path / "stopped", SignalAfter(window)))()
    fit(tmp_path / "stopped")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    assert len(rows(tmp_path / "whole")) >= 12 // every


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train.py"], "to go on: python train.py ckpt_path=a/last.ckpt"),
        (["./train.py", "seed=1", "ckpt_path=auto"], "to go on: python ./train.py seed=1 ckpt_path=a/last.ckpt"),
        (["train.py", "name='a b'"], """to go on: python train.py 'name='"'"'a b'"'"'' ckpt_path=a/last.ckpt"""),
        (["train.py", "-m", "seed=1,2"], "ckpt_path=a/last.ckpt goes on"),
        (["train.py", "--multi", "seed=1,2"], "ckpt_path=a/last.ckpt goes on"),
        (["train.py", "hydra.mode=MULTIRUN", "seed=1,2"], "ckpt_path=a/last.ckpt goes on"),
        (["somebodys.py"], "ckpt_path=a/last.ckpt goes on"),
    ],
)
def test_a_stopped_run_says_by_which_command_it_goes_on(monkeypatch, argv: list[str], said: str) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert preemption.way_on(Path("a/last.ckpt")) == said


@pytest.mark.parametrize("folder", ["a b", "é", "日本", "~a~b", "it's", "a\\'b", "x=1,2", "plain-1.2_3"])
def test_any_folder_is_quoted_for_hydra_and_for_the_shell(monkeypatch, folder: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    (*_, word) = shlex.split(preemption.way_on(Path(folder) / "last.ckpt"))
    (override,) = OverridesParser.create().parse_overrides([word])
    value = override.value()
    assert override.key_or_group == "ckpt_path" and str(getattr(value, "text", value)) == f"{folder}/last.ckpt"


def test_a_run_that_another_command_has_launched_is_not_told_a_command(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert preemption.way_on(Path("a/last.ckpt")) == "ckpt_path=a/last.ckpt goes on"
