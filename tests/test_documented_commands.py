"""The commands of the documentation as a user types them: in an own folder, each in a fresh process.

Commands that would take minutes get smaller sizes as further overrides; nothing else is changed.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT

README, RUNNING, TUTORIAL = ROOT / "README.md", ROOT / "docs/running.md", ROOT / "docs/tutorial.md"
SIZES = [
    *("logger=csv", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "learner.horizon=4"),
    *("learner.window=2", "learner.num_tasks=2", "learner.episodes_per_epoch=1", "learner.validation_tasks=2"),
    "learner.validation_horizons=null",
    *("evaluation.num_tasks=2", "evaluation.num_steps=4", "evaluation.tuning_tasks=1", "evaluation.rates_count=2"),
]


def commands(page: Path) -> list[str]:
    """The lines of a page's sh blocks that start one of the two programs, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
    lines = (line.partition("  #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if re.match(r"python (train|evaluate)\.py ", line)]


def typed(command: str, folder: Path, sizes: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a documented command in a process of its own, with the programs of this clone and small sizes."""
    _, script, *words = shlex.split(command)
    small = [
        size for size in SIZES if sizes and not (script == "evaluate.py" and size.startswith(("trainer", "learner")))
    ]
    line = [sys.executable, str(ROOT / script), *words, *small]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=280, check=False, env=environment())


def environment() -> dict[str, str]:
    """The environment of a user: what is installed, nothing of the tests' own folders."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | {"PYTHONPATH": str(ROOT / "src"), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def write_files(page: Path, folder: Path) -> None:
    """The files that a page shows, under the names in their first lines."""
    for body in re.findall(r"```(?:python|yaml)\n(.*?)```", page.read_text(), re.S):
        if name := re.match(r"# ([\w/]+\.(?:py|yaml))\n", body):
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(body)


def best_of(folder: Path, name: str) -> Path:
    return next((folder / "outputs/train" / name).glob("*/best"))


def run_script(name: str, folder: Path, warns_of: str | None = None) -> None:
    """Run a page's script, which may warn once of what the small sizes of the commands bring about."""
    run = [sys.executable, name]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False, env=environment())
    warned = [line for line in done.stderr.splitlines() if "Warning: " in line]
    assert done.returncode == 0 and len(warned) == bool(done.stderr) == (warns_of is not None), done.stderr[-2000:]
    assert warns_of is None or warns_of in warned[0]


def test_the_lines_of_the_readme_run_as_typed(tmp_path: Path) -> None:
    """From an empty folder: a shipped optimizer trains a network that it was not trained on."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    run = [sys.executable, "-c", f"import torch; torch.manual_seed(0)\n{example}"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    assert 0 < float(done.stdout) < 0.02


def test_the_targets_of_the_readme_are_there() -> None:
    """Each `make TARGET` of the documentation is a target of the Makefile."""
    pages = [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    blocks = [block for page in pages for block in re.findall(r"```sh\n(.*?)```|`([^`\n]+)`", page.read_text(), re.S)]
    named = {name for block in blocks for name in re.findall(r"^make ([a-z][\w-]*)", "\n".join(block), re.M)}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"train", "test", "docs", "paper"} <= named <= targets


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_first_steps_of_the_page_on_running_run_as_typed(tmp_path: Path) -> None:
    """Help, a training, an evaluation of what it left, and the two examples in Python."""
    shown = commands(RUNNING)
    help_, train = shown[0], next(line for line in shown if "experiment=quadratic" in line)
    evaluate = next(line for line in shown if line.startswith("python evaluate.py learned.LSTM=best"))
    answer = typed(help_, tmp_path, sizes=False)
    assert answer.returncode == 0 and "Meta-train an optimizer" in answer.stdout, answer.stderr
    answer = typed(train, tmp_path)
    assert answer.returncode == 0 and "trained optimizer:" in answer.stdout, answer.stderr[-2000:]
    best_of(tmp_path, "quadratic").rename(tmp_path / "best")
    answer = typed(f"{evaluate} experiment=quadratic", tmp_path)
    assert answer.returncode == 0 and "LSTM" in answer.stdout, answer.stderr[-2000:]
    examples = re.findall(r"```python\n(.*?)```", RUNNING.read_text(), re.S)
    run = [sys.executable, "-c", "\n".join(examples)]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0 and done.stdout.startswith("tensor(["), done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_runs_as_typed(tmp_path: Path) -> None:
    """Its files, its commands in their order, and its script, in a folder outside the clone."""
    write_files(TUTORIAL, tmp_path)
    shown = commands(TUTORIAL)
    assert len(shown) == 4
    for command in shown:
        answer = typed(command, tmp_path)
        assert answer.returncode == 0, (command, answer.stderr[-2000:])
        if "name=valleys_momentum" in command:
            best_of(tmp_path, "valleys_momentum").rename(tmp_path / "best")
    run_script("use_it.py", tmp_path, warns_of="was trained for 4 steps, and this is step 5")


def test_the_script_on_rules_that_need_more_runs_as_typed(tmp_path: Path) -> None:
    write_files(TUTORIAL, tmp_path)
    run_script("a_rule_that_needs_more.py", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_own_code_reaches_every_job_of_a_sweep_and_its_best_trial(tmp_path: Path) -> None:
    """An own problem and an own rule, from own folders of configs: in a search, and in what it found."""
    write_files(TUTORIAL, tmp_path)
    own = "--config-dir conf optimizee=valleys optimizer=learned_momentum"
    search = f"python train.py -m {own} sweep=meta_lr sweep.n_trials=2 hydra.sweep.dir={tmp_path / 'sweep'}"
    answer = typed(search, tmp_path)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "my_rules" not in (tmp_path / "sweep/0/best/config.json").read_text()
    answer = typed("python train.py -cd sweep -cn best seed=1", tmp_path, sizes=False)
    assert answer.returncode == 0, answer.stderr[-2000:]


@pytest.mark.timeout(300)
def test_an_error_in_ones_own_code_names_its_place(tmp_path: Path) -> None:
    """In one line, with the file as seen from here; L2O_TRACEBACK=1 shows the rest."""
    write_files(TUTORIAL, tmp_path)
    file = tmp_path / "my_problems.py"
    file.write_text(file.read_text().replace("x, y = theta", "x, y, z = theta"))
    line = 1 + file.read_text().splitlines().index("        x, y, z = theta")
    answer = typed(f"{commands(TUTORIAL)[0]} experiment=digits", tmp_path)
    last = answer.stderr.strip().splitlines()[-1]
    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    assert last.startswith(f"error: my_problems.py:{line}: ValueError: not enough values to unpack")
    assert "L2O_TRACEBACK=1" in last


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_on_families_runs_as_typed(tmp_path: Path) -> None:
    """Its mixture of one's own, by the command line and by a config file, and its script."""
    page = ROOT / "docs/families.md"
    (mixture,) = (body for body in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S) if "my_mixture" in body)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/my_mixture.yaml").write_text(mixture)
    typed_one = next(line for line in commands(page) if "char_gru" in line)
    for command in (typed_one, "python train.py --config-dir conf experiment=my_mixture"):
        answer = typed(command, tmp_path)
        assert answer.returncode == 0 and "trained optimizer:" in answer.stdout, answer.stderr[-2000:]
    write_files(page, tmp_path)
    run = [sys.executable, "on_families.py"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]  # Lightning writes its notes to stderr
