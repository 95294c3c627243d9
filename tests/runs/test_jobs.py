"""Jobs that share a machine: threads, GPUs, and the launchers for real."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from l2o.runs.jobs import Share

GPUS = "CUDA_VISIBLE_DEVICES"
ROOT = Path(__file__).parents[2]
TOY = """
import json, os, sys
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path="conf", config_name="toy")
def main(cfg):
    job = HydraConfig.get()
    if job.job.num == cfg.killed and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), 9)
    torch = sys.modules.get("torch")  # there with a launcher that shares the machine
    threads = torch and torch.get_num_threads()
    shown = dict(x=cfg.x, pid=os.getpid(), threads=threads, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
    with open(f"ran{job.job.num}", "a") as file:
        print(json.dumps(shown), file=file)
    return cfg.x

main()
"""
CONF = f"""
defaults: [{{launcher: null}}, {{sweep: null}}, _self_]
x: 1.0
killed: null
ckpt_path: null
seed: 0
name: toy
hydra: {{searchpath: ["file://{ROOT / "conf"}"], sweep: {{dir: out}}}}
"""
SEARCH = """
defaults:
  - sampler: random
  - override /hydra/sweeper@_global_.hydra.sweeper: search
n_trials: 3
space: {x: "interval(0,1)"}
"""


def toy(folder: Path, *overrides: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], int]:
    """A sweep of a small program in a process of its own: how it ended, and its process's id."""
    for name, text in {"toy.py": TOY, "conf/toy.yaml": CONF, "conf/sweep/toy.yaml": SEARCH}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "toy.py", "-m", "sweep=toy", *overrides]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=os.environ | environment, **pipes) as program:
        out, err = program.communicate(timeout=280)
    return subprocess.CompletedProcess(command, program.returncode, out, err), program.pid


def ran(folder: Path) -> dict[str, list[dict]]:
    """What each job wrote, each time that it ran to its end."""
    return {p.name: [json.loads(line) for line in p.read_text().splitlines()] for p in sorted(folder.glob("ran*"))}


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        (None, 0, [None, None, None]),
        (None, 2, ["0", "1", "0"]),
        ("5,3,7", 3, ["5", "3", "7"]),
        ("GPU-8f", 1, ["GPU-8f"] * 3),
        ("", 0, ["", "", ""]),
    ],
)
def test_each_job_has_one_gpu_by_its_number(
    monkeypatch: pytest.MonkeyPatch, given: str | None, count: int, expected: list[str | None]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    share, seen = Share(), []
    for number in range(3):
        share.on_job_start(OmegaConf.create({"hydra": {"job": {"num": number}}}))
        seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        share.on_job_end(OmegaConf.create(), None)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == given
    assert seen == expected


def test_each_job_has_its_threads() -> None:
    for threads in (2, 1):
        Share(threads=threads).on_job_start(OmegaConf.create({"hydra": {"job": {"num": 0}}}))
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("launcher", "target"),
    [
        ("joblib", "hydra_joblib_launcher.joblib_launcher.JoblibLauncher"),
        ("submitit_local", "hydra_submitit_launcher.submitit_launcher.LocalLauncher"),
        ("slurm", "hydra_submitit_launcher.submitit_launcher.SlurmLauncher"),
        ("ray", "hydra_ray_launcher.ray_launcher.RayLauncher"),
    ],
)
def test_every_launcher_is_composed(launcher: str, target: str) -> None:
    if launcher == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"launcher={launcher}", "sweep=meta_lr"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_ == f"hydra_plugins.{target}"
    assert cfg.hydra.sweeper._target_ == "hydra_plugins.l2o_sweeper.sweeper.OptunaSweeper"


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    """kill -9: hydra finds the plugin in a fresh process, trial 0 is not repeated, 1 is run anew, 2 follows."""
    assert toy(tmp_path, "killed=1")[0].returncode == -9
    assert list(ran(tmp_path)) == ["ran0"]
    done, _ = toy(tmp_path, "killed=1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {name: len(lines) for name, lines in ran(tmp_path).items()} == {"ran0": 1, "ran1": 1, "ran2": 1}
    assert (tmp_path / "out/best.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "given", "gpus"),
    [
        ("joblib", [], ["5", "3", "5"]),
        ("submitit_local", ["hydra.launcher.gpus_per_node=2"], ["0", "1", "0"]),  # submitit numbers them by itself
    ],
)
def test_launchers_run_jobs_in_processes_of_their_own(
    tmp_path: Path, launcher: str, given: list[str], gpus: list[str]
) -> None:
    """Each job has one of the GPUs that the sweep was given, by its number, and one thread; the program has neither."""
    done, program = toy(tmp_path, f"launcher={launcher}", *given, OMP_NUM_THREADS="2", **{GPUS: "5,3"})
    assert done.returncode == 0, done.stderr[-2000:]
    jobs = {name: lines[0] for name, lines in ran(tmp_path).items()}
    assert list(jobs) == ["ran0", "ran1", "ran2"]
    assert [job["gpus"] for job in jobs.values()] == gpus
    assert [job["threads"] for job in jobs.values()] == [1, 1, 1]
    pids = {job["pid"] for job in jobs.values()}
    assert program not in pids
    assert len(pids) == 3 or launcher == "joblib"  # whose workers take several jobs
    assert f"{min(job['x'] for job in jobs.values()):.6g}" in done.stdout
