"""What clusters do to a run: it ends as if nothing had happened, or with a line that says what to do."""

import csv
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from programs import Run, Server
from torch import Tensor

from l2o.deploy.export import read_checkpoint
from l2o.runs import locks

ONE = ("checkpoint_minutes=0", "trainer.max_epochs=20")  # a checkpoint after every window
TWO = (*ONE, "trainer=ddp_cpu", "trainer.strategy.start_method=fork")
FAMILIES = (
    *(word for word in TWO if word not in ONE),
    *("checkpoint_minutes=0", "trainer.max_epochs=6"),
    *("+family@learner.families.digits=digits", "+family@learner.families.quadratics=quadratics", "meta_gradient=pes"),
    *(
        "learner.ema_decay=0.9",
        "learner.families.digits.horizon={_target_: l2o.training.horizons.Uniform, low: 4, high: 24}",
    ),
)
RANKS = pytest.mark.parametrize("ranks", [ONE, TWO], ids=["one", "two"])
STOPPED = 75


@pytest.fixture(scope="module")
def undisturbed(programs: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Folders of runs that were left alone."""
    folders = {}
    for ranks in (ONE, TWO):
        cwd = tmp_path_factory.mktemp("undisturbed")
        programs.finish(cwd, *ranks, f"hydra.run.dir={cwd / 'run'}")
        folders[ranks] = cwd / "run"
    return folders


def content(folder: Path) -> dict[str, object]:
    """All that a run must end with: the last checkpoint, the best φ, curves."""
    checkpoint = read_checkpoint(folder / "last.ckpt")
    kept: dict[str, object] = {
        key: checkpoint[key] for key in ("state_dict", "l2o", "optimizer_states", "lr_schedulers", "loops")
    }
    files: dict[str, object] = {n: (folder / n).read_bytes() for n in ("curves.csv", "best/model.safetensors")}
    summary = json.loads((folder / "summary.json").read_text())
    del summary["provenance"]  # it says when the file was written
    return kept | files | {"summary.json": summary}


def log(folder: Path) -> list[tuple[str, ...]]:
    """Windows and losses of metrics.csv."""
    with open(folder / "logs/metrics.csv") as file:
        rows = [(row["meta_steps"], row["train/loss"], row["val/final_loss"]) for row in csv.DictReader(file)]
    return sorted(rows)


def same(one: object, other: object) -> bool:
    """To the last bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same(folder: Path, expected: Path, stopped: bool = False) -> None:
    """Where a run was not told to stop but killed, rows of windows after which it had saved may be lacking."""
    ours, theirs = content(folder), content(expected)
    for key, value in theirs.items():
        assert same(ours[key], value), (key, ours[key], value)
    assert len(set(log(folder))) == len(log(folder)), "windows logged twice"
    assert set(log(folder)) <= set(log(expected))
    assert len(log(folder)) > (0.999 if stopped else 0.7) * len(log(expected))


def stop(programs: Server, cwd: Path, ranks: tuple[str, ...], number: int = signal.SIGTERM, **options: str) -> Run:
    """A run that is told to stop as soon as it has saved something twice."""
    run = programs.start(cwd, *ranks, f"hydra.run.dir={cwd / 'run'}", **options)
    run.wait_for(cwd / "run/previous.ckpt")
    run.kill(number)
    return run


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def errors(run: Run) -> list[str]:
    return [line for line in run.output.splitlines() if line.startswith("error:")]


# ---------------------------------------------------------------------------------------------------------- killed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("ranks", "kills"), [(ONE, 20), (TWO, 5)], ids=["one", "two"])
def test_killed_at_random_moments_a_run_ends_as_if_left_alone(
    programs: Server, tmp_path: Path, undisturbed: dict[tuple[str, ...], Path], ranks: tuple[str, ...], kills: int
) -> None:
    """Every run goes on where the killed one has left its checkpoint: its end shows that every resume was exact."""
    kill_and_compare(programs, tmp_path, undisturbed[ranks], ranks, kills)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_in_the_midst_of_episodes_a_run_on_families_ends_as_if_left_alone(
    programs: Server, tmp_path: Path
) -> None:
    """PES on two ranks, in slots that are out of step."""
    programs.finish(tmp_path, *FAMILIES, f"hydra.run.dir={tmp_path / 'whole'}")
    kill_and_compare(programs, tmp_path, tmp_path / "whole", FAMILIES, kills=4)


def kill_and_compare(programs: Server, tmp_path: Path, whole: Path, ranks: tuple[str, ...], kills: int) -> None:
    """Kill runs at random moments until `kills` were killed, and compare what they end with, with a whole run's."""
    folder, rng, killed, starts = tmp_path / "run", random.Random(0), 0, 0
    start = time.monotonic()
    programs.finish(tmp_path, *ranks, f"hydra.run.dir={tmp_path / 'timed'}")
    duration = time.monotonic() - start
    while True:
        run = programs.start(tmp_path, *ranks, f"hydra.run.dir={folder}", "ckpt_path=auto")
        starts += 1
        if killed < kills:
            time.sleep(rng.uniform(0.1, 1) * duration)
            if run.poll() is None:
                killed += 1
            else:  # sooner than the one that was timed, on a machine that had more to do then
                duration *= 0.7
            run.kill()
            run.wait()
            run.kill_all()
        if run.wait() == 0:
            assert_same(folder, whole)
            shutil.rmtree(folder)
            if killed >= kills:
                break
        else:
            assert run.status == -signal.SIGKILL, run.output[-2000:]


@pytest.mark.slow
@RANKS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_told_to_stop_a_run_saves_and_says_how_to_go_on(
    programs: Server, tmp_path: Path, undisturbed: dict[tuple[str, ...], Path], ranks: tuple[str, ...], number: int
) -> None:
    """Its status, 75, is the one to requeue on; the resumed run ends as if nothing had happened."""
    run = stop(programs, tmp_path, ranks, number)
    assert run.wait() == STOPPED, run.output[-2000:]
    assert f"stopped by {signal.Signals(number).name}" in run.output
    windows = read_checkpoint(tmp_path / "run/last.ckpt")["l2o"]["windows"]
    assert f"after window {windows};" in run.output
    programs.finish(tmp_path, *ranks, f"hydra.run.dir={tmp_path / 'run'}", "ckpt_path=auto")
    assert_same(tmp_path / "run", undisturbed[ranks], stopped=True)


@pytest.mark.slow
def test_ranks_that_lightning_starts_by_command_stop_and_go_on(
    programs: Server, tmp_path: Path, undisturbed: dict[tuple[str, ...], Path]
) -> None:
    """As `trainer=ddp` does."""
    ranks = (*ONE, "trainer=ddp_cpu")
    run = stop(programs, tmp_path, ranks)
    assert run.wait() == STOPPED, run.output[-2000:]
    again = stop(programs, tmp_path, (*ranks, "ckpt_path=auto"))
    assert again.wait() == STOPPED, again.output[-2000:]
    programs.finish(tmp_path, *TWO, f"hydra.run.dir={tmp_path / 'run'}", "ckpt_path=auto")
    assert_same(tmp_path / "run", undisturbed[TWO], stopped=True)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "popen"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_ends_the_other_within_a_minute(
    programs: Server, tmp_path: Path, start_method: str, lost: int
) -> None:
    ranks = (*ONE, "trainer=ddp_cpu", f"trainer.strategy.start_method={start_method}")
    run = programs.start(tmp_path, *ranks, "trainer.max_epochs=9999", f"hydra.run.dir={tmp_path / 'run'}")
    run.wait_for(tmp_path / "run/last.ckpt")
    others = children(run.pid)
    pids = others[-2:] if start_method == "fork" else [run.pid, *others[-1:]]
    os.kill(pids[lost], signal.SIGKILL)
    assert run.wait(60) != 0
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0]
    except OSError:
        return "Z"


@pytest.mark.slow
def test_a_run_that_has_stopped_early_does_not_go_on(programs: Server, tmp_path: Path) -> None:
    """Resumed after its end, it only compares once more."""
    options = ("early_stopping=1", "learner.meta_optimizer.lr=1e-9", f"hydra.run.dir={tmp_path / 'run'}")
    programs.finish(tmp_path, *options)
    before = read_checkpoint(tmp_path / "run/last.ckpt")
    assert before["l2o"]["windows"] < 24
    programs.finish(tmp_path, *options, "ckpt_path=auto")
    assert same(read_checkpoint(tmp_path / "run/last.ckpt")["l2o"], before["l2o"])


# --------------------------------------------------------------------------------------------------------- damaged


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    programs: Server, tmp_path: Path, undisturbed: dict[tuple[str, ...], Path], damage: str
) -> None:
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    run = stop(programs, tmp_path, ONE)
    assert run.wait() == STOPPED
    path = tmp_path / "run/last.ckpt"
    data = bytearray(path.read_bytes())
    if damage == "flipped":  # a bit of a weight
        weight = read_checkpoint(path)["state_dict"]["rule.head.weight"].numpy().tobytes()
        data[data.index(weight)] ^= 16
    path.write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
    resumed = programs.finish(tmp_path, *ONE, folder, "ckpt_path=auto")
    (line,) = [line for line in resumed.output.splitlines() if "going on from" in line]
    assert "previous.ckpt" in line
    assert_same(tmp_path / "run", undisturbed[ONE])


@pytest.mark.slow
def test_a_full_disk_does_not_cost_the_last_good_checkpoint(
    programs: Server, tmp_path: Path, undisturbed: dict[tuple[str, ...], Path]
) -> None:
    """No file may grow beyond 12 kB: training goes on and says so; the figure ends the run. Then there is room."""
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    run = stop(programs, tmp_path, ONE)
    assert run.wait() == STOPPED
    good = (tmp_path / "run/last.ckpt").read_bytes()
    rarely = ("checkpoint_minutes=5", ONE[1], "logger={}")  # what it says goes into a file, too
    full = programs.finish(tmp_path, *rarely, folder, "ckpt_path=auto", status=1, file_size=12_000)
    assert "could not be written" in full.output
    assert len(errors(full)) == 1
    assert (tmp_path / "run/last.ckpt").read_bytes() == good
    programs.finish(tmp_path, *ONE, folder, "ckpt_path=auto")
    assert_same(tmp_path / "run", undisturbed[ONE])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.slow
def test_a_full_file_system_does_not_cost_the_last_good_checkpoint(
    programs: Server, tmp_path: Path, small_disk: Path, undisturbed: dict[tuple[str, ...], Path]
) -> None:
    folder, filling = f"hydra.run.dir={small_disk / 'run'}", small_disk / "filling"
    run = programs.start(tmp_path, *ONE, folder)
    run.wait_for(small_disk / "run/previous.ckpt")
    with open(filling, "wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass
    assert run.wait() == 1
    assert len(errors(run)) == 1 and "No space left" in errors(run)[0]
    filling.unlink()
    programs.finish(tmp_path, *ONE, folder, "ckpt_path=auto")
    assert_same(small_disk / "run", undisturbed[ONE])


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nothing in it can be made, replaced or removed; for root too."""
    if os.geteuid():
        change, back = ["chmod", "a-w"], ["chmod", "u+w"]
    else:
        change, back = ["chattr", "+i"], ["chattr", "-i"]
    if subprocess.run([*change, folder], capture_output=True).returncode:
        pytest.skip("no right to make a folder immutable here")
    try:
        yield
    finally:
        subprocess.run([*back, folder], check=True)


@pytest.mark.slow
def test_a_folder_that_becomes_unwritable_does_not_cost_the_last_good_checkpoint(
    programs: Server, tmp_path: Path, undisturbed: dict[tuple[str, ...], Path]
) -> None:
    """The run says so, and goes on to a comparison that has nowhere to go; the next one goes on from the checkpoint."""
    folder = tmp_path / "run"
    run = programs.start(tmp_path, *ONE, f"hydra.run.dir={folder}")
    run.wait_for(folder / "previous.ckpt")
    with unwritable(folder):
        good = (folder / "last.ckpt").read_bytes()
        assert run.wait() == 1
        assert "last.ckpt' could not be written" in run.output and len(errors(run)) == 1
        assert (folder / "last.ckpt").read_bytes() == good and read_checkpoint(folder / "last.ckpt")
        refused = programs.finish(tmp_path, *ONE, f"hydra.run.dir={folder}", "ckpt_path=auto", status=1)
        assert "hydra.run.dir=FOLDER" in errors(refused)[0]
    programs.finish(tmp_path, *ONE, f"hydra.run.dir={folder}", "ckpt_path=auto")
    assert_same(folder, undisturbed[ONE])


@pytest.mark.slow
def test_a_trial_that_was_killed_goes_on_from_its_checkpoint(programs: Server, tmp_path: Path) -> None:
    """The real program in a search: as if it had not been killed."""
    trials = ("-m", "sweep=meta_lr", "sweep.n_trials=2", *ONE)
    programs.finish(tmp_path, *trials, f"hydra.sweep.dir={tmp_path / 'whole'}")
    run = programs.start(tmp_path, *trials, f"hydra.sweep.dir={tmp_path / 'killed'}")
    run.wait_for(tmp_path / "killed/1/previous.ckpt")
    run.kill()
    run.wait()
    windows = read_checkpoint(tmp_path / "killed/1/last.ckpt")["l2o"]["windows"]
    assert 0 < windows < 120 and not (tmp_path / "killed/outcomes/1.json").exists()
    programs.finish(tmp_path, *trials, f"hydra.sweep.dir={tmp_path / 'killed'}")
    for trial in ("0", "1"):
        assert_same(tmp_path / "killed" / trial, tmp_path / "whole" / trial)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_of_submitit_saves_is_requeued_and_goes_on(
    programs: Server, tmp_path: Path, undisturbed: dict[tuple[str, ...], Path]
) -> None:
    """A grid; the local executor requeues as the one for Slurm does, by the same signal."""
    folder = tmp_path / "grid"
    run = programs.start(tmp_path, "-m", "launcher=submitit_local", *ONE, f"hydra.sweep.dir={folder}")
    run.wait_for(folder / "0/previous.ckpt", 500)  # every start imports everything
    (controller,) = [pid for pid in children(run.pid) if children(pid)]
    (job,) = children(controller)
    os.kill(job, signal.SIGUSR2)
    assert run.wait(600) == 0, run.output[-2000:]
    said = "".join(path.read_text() for path in (folder / ".submitit").rglob("*.err"))
    said += "".join(path.read_text() for path in (folder / ".submitit").rglob("*.out"))
    assert "stopped by SIGUSR2 after window" in said and "Requeued job" in said
    assert_same(folder / "0", undisturbed[ONE], stopped=True)


@pytest.mark.slow
def test_a_nan_in_a_loss_costs_its_window(programs: Server, tmp_path: Path) -> None:
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    programs.finish(tmp_path, folder, "optimizee._target_=faulty.NanLoss", "+optimizee.every=40")
    with open(tmp_path / "run/logs/metrics.csv") as file:
        skipped = [float(row["train/skipped"]) for row in csv.DictReader(file) if row["train/skipped"]]
    assert 0 < skipped[-1] < 24
    always = programs.finish(tmp_path, "optimizee._target_=faulty.NanLoss", "+optimizee.every=1", status=1)
    (line,) = errors(always)
    assert "20 windows in a row" in line


# ---------------------------------------------------------------------------------------------- the world around it


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run_in_wandb(programs: Server, tmp_path: Path) -> None:
    run = stop(programs, tmp_path, (*ONE, "logger=wandb"))
    assert run.wait() == STOPPED
    again = ("logger=wandb", "ckpt_path=auto")
    programs.finish(tmp_path, *ONE, *again, f"hydra.run.dir={tmp_path / 'run'}")
    names = [path.name for path in (tmp_path / "run/wandb").glob("offline-run-*")]
    assert len(names) == 2
    assert len({name.rsplit("-", 1)[1] for name in names}) == 1


@pytest.mark.slow
def test_wandb_out_of_reach_costs_one_line(programs: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    reach = {"WANDB_MODE": None, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{closed}"}
    run = programs.finish(tmp_path, "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}", **reach)
    (line,) = [line for line in run.output.splitlines() if "W&B" in line]
    assert "offline" in line and "wandb sync" in line
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_two_runs_started_at_once_have_folders_of_their_own(programs: Server, tmp_path: Path) -> None:
    both = [programs.start(tmp_path) for _ in range(2)]
    assert [run.wait() for run in both] == [0, 0]
    folders = list((tmp_path / "outputs/train/quadratic").iterdir())
    assert len(folders) == 2
    assert all((folder / "summary.json").exists() and (folder / "last.ckpt").exists() for folder in folders)


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_refused(programs: Server, tmp_path: Path) -> None:
    """As one whose sweep was given up, and started again beside it. The first goes on."""
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    first = programs.start(tmp_path, *ONE, "trainer.max_epochs=9999", folder)
    first.wait_for(tmp_path / "run/last.ckpt")
    (line,) = errors(programs.finish(tmp_path, folder, "ckpt_path=auto", status=1))
    assert f"another run is at work in '{tmp_path / 'run'}' (process {first.pid} on" in line
    first.kill(signal.SIGTERM)
    assert first.wait() == STOPPED
    with locks.sole(tmp_path / "run", "a test"):
        pass


@pytest.mark.slow
def test_a_data_folder_that_cannot_be_written_serves_what_is_in_it(
    programs: Server, tmp_path: Path, small_disk: Path
) -> None:
    """Images that are there are used; where they would have to be downloaded, a line says so."""
    raw = small_disk / "MNIST/raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 20, 28, 28) + bytes(20 * 28 * 28))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 20) + bytes(range(10)) * 2)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    mnist = ("experiment=mnist", f"dataset.root={small_disk}", "trainer.max_epochs=1", "optimizee.batch_size=4")
    programs.finish(tmp_path, *mnist)
    refused = programs.finish(tmp_path, *mnist, "dataset=fashion_mnist", status=1)
    (line,) = errors(refused)
    assert "could not be loaded" in line and "Read-only" in line
