"""The sweeper by toy programs, run in this process; train.py in a sweep: test_programs."""

import errno
import json
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import optuna
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.l2o_sweeper._outcomes import HUGE
from hydra_plugins.l2o_sweeper._search import Search, distribution
from hydra_plugins.l2o_sweeper._study import Study
from l2o.runs import locks
from l2o.runs.errors import in_one_line
from l2o.training.safeguards import Diverged

ROOT = Path(__file__).parents[1]
TOY = """
defaults: [{sweep: null}, {colour: red}, _self_]
x: 1.0
k: 1
seed: 3
ckpt_path: null
name: toy
group: {y: 2}
"""
SEARCH = """
defaults:
  - sampler: random
  - override /hydra/sweeper@_global_.hydra.sweeper: search
n_trials: 4
space: {x: "tag(log, interval(1e-4, 1e1))"}
"""

Task = Callable[[DictConfig], Any]
PLACE = r"(\S*test_sweeps\.py:\d+: \w+: )?"
"""Where in this file, which is the user's own code, an error arose that a program tells in one line."""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[optuna.trial.FrozenTrial]]:
    """Sweeps over a task function, in the folder `sweep` unless told otherwise; returns all its trials."""
    for name, text in {"toy": TOY, "sweep/toy": SEARCH, "colour/red": "shade: 1", "colour/blue": "shade: 2"}.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(task: Task, *overrides: str, folder: str = "sweep") -> list[optuna.trial.FrozenTrial]:
        flags = [f"hydra.searchpath=[file://{ROOT / 'conf'}]", f"hydra.sweep.dir={folder}", "sweep=toy"]
        monkeypatch.setattr(sys, "argv", ["toy.py", "-m", *flags, *overrides])
        GlobalHydra.instance().clear()
        hydra.main(version_base="1.3", config_path=str(tmp_path / "conf"), config_name="toy")(task)()
        return trials(tmp_path / folder)

    return run


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'trials.db'}").trials


def parabola(cfg: DictConfig) -> float:
    return (math.log10(cfg.x) + 2) ** 2


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Studies of log-uniform x, each in a folder of its own."""
    search = Search.of(OverridesParser.create().parse_overrides(["x=tag(log,interval(1e-4,1e1))"]))

    def start(sampler: str, seed: int, **settings: Any) -> Study:
        config = OmegaConf.merge(OmegaConf.load(ROOT / f"conf/sweep/sampler/{sampler}.yaml").sampler, settings)
        return Study(tmp_path / str(len(list(tmp_path.iterdir()))), search, config, seed)

    return start


def run(study: Study, n_trials: int, size: int | None = None, minimum: float = -2) -> np.ndarray:
    """log10 x of all trials of a study over (log10 x - minimum)²."""
    while batch := study.next_batch(n_trials, size):
        for trial in batch:
            study.optuna.tell(trial.number, (math.log10(trial.params["x"]) - minimum) ** 2)
    return np.log10([trial.params["x"] for trial in study.optuna.trials])


class Interrupted(BaseException):
    """As Ctrl-C, or the end of the process."""


def interrupted_at(job: int, task: Task = parabola) -> Task:
    def run(cfg: DictConfig) -> Any:
        if HydraConfig.get().job.num == job:
            raise Interrupted
        return task(cfg)

    return run


# ------------------------------------------------------------------------------------------------------- the search


def test_trials_are_log_uniform_and_depend_on_the_seed_alone(study: Callable[..., Study]) -> None:
    values = run(study("random", seed=3), 24)
    assert len(set(values)) == 24
    assert values.min() >= -4 and values.max() <= 1
    assert abs(values.mean() + 1.5) < 3 * 5 / math.sqrt(12 * 24), "uniform on [-4, 1] has mean -1.5"
    assert np.array_equal(run(study("random", seed=3), 3, size=2), values[:3]), "in whatever batches"
    assert not set(run(study("random", seed=4), 3)) & set(values)


def test_tpe_learns_from_the_trials_before(study: Callable[..., Study]) -> None:
    """The same start; then it goes to where each function has its minimum, -4 and 1."""
    left, right = (run(study("tpe", seed=0, n_startup_trials=6), 14, size=1, minimum=x) for x in (-4, 1))
    assert np.array_equal(left[:6], right[:6])
    assert left[6:].mean() < left[:6].mean() < right[6:].mean()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=interval(1,5)", optuna.distributions.FloatDistribution(1, 5)),
        ("x=tag(log,interval(1e-3,1))", optuna.distributions.FloatDistribution(1e-3, 1, log=True)),
        ("x=int(interval(1,5))", optuna.distributions.IntDistribution(1, 5)),
        ("x=range(1,7,2)", optuna.distributions.CategoricalDistribution(["1", "3", "5"])),
        ("x=a,b", optuna.distributions.CategoricalDistribution(["a", "b"])),
        ("x=choice([1,2],[3])", optuna.distributions.CategoricalDistribution(["[1,2]", "[3]"])),
    ],
)
def test_hydras_sweeps_become_distributions(text: str, expected: optuna.distributions.BaseDistribution) -> None:
    assert distribution(OverridesParser.create().parse_overrides([text])[0]) == expected


@pytest.mark.parametrize("text", ["x=interval(2,1)", "x=tag(log,interval(0,1))"])
def test_an_impossible_interval_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an interval goes up"):
        distribution(OverridesParser.create().parse_overrides([text])[0])


def test_the_command_line_adds_keys_replaces_and_fixes_them(sweep) -> None:
    seen = []
    task = lambda cfg: seen.append((cfg.x, cfg.k, cfg.shade if "shade" in cfg else cfg.colour.shade)) or 0.0  # noqa: E731
    sweep(task, "x=interval(5,6)", "k=choice(7,8)", "colour=red,blue", "sweep.n_trials=6", folder="added")
    assert all(5 <= x <= 6 and k in (7, 8) for x, k, _ in seen)
    assert {shade for *_, shade in seen} == {1, 2}
    seen.clear()
    sweep(task, "x=0.5", "k=1,2,3", "sweep.n_trials=3", folder="fixed")
    assert {x for x, *_ in seen} == {0.5}
    with pytest.raises(ValueError, match="nothing to search"):
        sweep(task, "x=0.5", folder="nothing")
    assert not Path("nothing").exists()


def test_batches_go_to_the_launcher_in_one_piece(sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_launcher.BasicLauncher"]
    batches, launch = [], launcher.launch

    def spy(self: Launcher, jobs: list[list[str]], initial_job_idx: int) -> Any:
        batches.append((initial_job_idx, len(jobs)))
        return launch(self, jobs, initial_job_idx)

    monkeypatch.setattr(launcher, "launch", spy)
    sweep(parabola, "sweep.batch_size=3")
    sweep(parabola, folder="all")
    assert batches == [(0, 3), (3, 1), (0, 4)]


# -------------------------------------------------------------------------------------------------- what goes wrong


def diverge() -> None:
    """As a rank that is a process of its own hands it on."""
    try:
        raise RuntimeError("a rank raised something")
    except RuntimeError as error:
        raise Diverged("too many windows") from error


def full_disk() -> None:
    """While a run that has diverged takes leave."""
    try:
        raise Diverged("too many windows")
    except Diverged as error:
        raise OSError(errno.ENOSPC, "No space left on device") from error


def lost_rank() -> None:
    raise ChildProcessError("a rank was lost: ckpt_path goes on from the last checkpoint")


def out_of_memory() -> None:
    try:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
    finally:
        raise RuntimeError("in the window")


def impossible() -> None:
    raise ValueError("a window must divide the horizon")


def test_trials_that_diverge_are_marked_and_the_sweep_goes_on(sweep) -> None:
    def task(cfg: DictConfig) -> float:
        number = HydraConfig.get().job.num
        if number == 1:
            raise Diverged("too many\nwindows")
        if number == 2:
            in_one_line(diverge)()
        return {3: math.nan, 4: math.inf, 5: -math.inf, 6: 1e30}.get(number, parabola(cfg))

    found = sweep(task, "sweep.n_trials=8")
    assert [t.value == HUGE for t in found] == [False, True, True, True, True, True, True, False]
    reasons = {t.number: t.user_attrs.get("diverged") for t in found}
    assert reasons == {
        0: None, 1: "Diverged: too many windows", 2: "too many windows", 3: "a loss of nan", 4: "a loss of inf",
        5: "a loss of -inf", 6: "a loss of 1e+30", 7: None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (full_disk, "OSError: [Errno 28] No space left on device"),
        (in_one_line(full_disk), "No space left on device"),
        (in_one_line(lost_rank), "a rank was lost: ckpt_path goes on from the last checkpoint"),
        (out_of_memory, "RuntimeError: in the window"),
        (in_one_line(impossible), "a window must divide the horizon"),
    ],
)
def test_a_trial_that_the_machine_ended_is_run_again(
    sweep, fault: Callable[[], None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others of its batch are run all the same; then the sweep ends with one line."""
    ran = []

    def fails(cfg: DictConfig) -> float:
        ran.append(HydraConfig.get().job.num)
        if ran[-1] in (1, 2):
            fault()
        return parabola(cfg)

    whole = sweep(parabola, folder="whole")
    with pytest.raises(
        ValueError, match=rf"without an outcome: trial 1, 2 \({PLACE}{re.escape(says)}( \(L2O_TRACEBACK=1 .*\))?\)"
    ) as error:
        sweep(fails)
    assert "hydra.sweep.dir=" in str(error.value) and "\n" not in str(error.value)
    assert not capsys.readouterr().err
    assert [t.state.name for t in trials(Path("sweep"))] == ["COMPLETE", "RUNNING", "RUNNING", "COMPLETE"]
    repaired = lambda cfg: ran.append(HydraConfig.get().job.num) or parabola(cfg)  # noqa: E731
    found = sweep(repaired)
    assert ran == [0, 1, 2, 3, 1, 2]
    assert [(t.params, t.value) for t in found] == [(t.params, t.value) for t in whole]


def test_a_second_sweep_in_the_same_folder_is_refused(sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, while the first goes on."""
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    refusals = []

    def task(cfg: DictConfig) -> float:
        if HydraConfig.get().job.num == 2:
            with (
                pytest.raises(OSError, match="another sweep is at work in") as error,
                locks.sole(Path("sweep"), "another sweep"),
            ):
                pass
            refusals.append(str(error.value))
        return parabola(cfg)

    assert [t.state.name for t in sweep(task)] == ["COMPLETE"] * 4
    (refusal,) = refusals
    assert f"process {os.getpid()} on" in refusal and "choose another folder" in refusal and "\n" not in refusal
    sweep(parabola, "sweep.n_trials=5")


def test_an_outcome_that_cannot_be_written_is_none(sweep) -> None:
    def task(cfg: DictConfig) -> float:
        Path("sweep/outcomes").touch()
        return 0.0

    with pytest.raises(ValueError, match=r"without an outcome: trial 0, 1, 2, 3 .FileExistsError"):
        sweep(task)
    Path("sweep/outcomes").unlink()
    assert len(sweep(parabola)) == 4


@pytest.mark.parametrize("traceback", ["0", "1"])
def test_a_trial_that_leaves_no_outcome_ends_the_sweep(sweep, monkeypatch: pytest.MonkeyPatch, traceback: str) -> None:
    """Launchers keep what a job raises; unseen, the same trial would come again for ever."""
    monkeypatch.setenv("L2O_TRACEBACK", traceback)
    ran = []

    def fails(cfg: DictConfig) -> float:
        ran.append(HydraConfig.get().job.num)
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError if traceback == "1" else ValueError, match="a bug"):
        sweep(fails, "sweep.batch_size=1")
    assert ran == [0]


def test_where_jobs_run_is_no_part_of_the_search() -> None:
    """A sweep may go on with another launcher."""
    overrides = ["x=interval(0,1)", "k=2", "launcher=joblib", "sweep.n_trials=3"]
    assert Search.of(OverridesParser.create().parse_overrides(overrides)).written == ["k=2", "x=interval(0,1)"]


def test_a_sweep_of_nothing_but_divergences_says_so(sweep) -> None:
    with pytest.raises(ValueError, match=r"every trial diverged.*too many windows"):
        sweep(lambda cfg: in_one_line(diverge)())


@pytest.mark.parametrize("exit_", [KeyboardInterrupt, lambda: SystemExit(143)])
def test_an_interruption_is_no_result(sweep, exit_: Callable[[], BaseException], tmp_path: Path) -> None:
    """Ctrl-C, or a job that ends itself after a signal, ends the sweep."""

    def task(cfg: DictConfig) -> float:
        if HydraConfig.get().job.num == 2:
            raise exit_()
        return 1.0

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        sweep(task)
    assert [t.state.name for t in trials(tmp_path / "sweep")] == ["RUNNING"] * 4
    assert len(sweep(lambda cfg: 1.0)) == 4


def test_a_mistake_in_an_override_is_known_before_anything_is_written(sweep) -> None:
    with pytest.raises(Exception, match="nosuchkey"):
        sweep(parabola, "nosuchkey=1")
    for key in ("n_trials", "batch_size"):
        with pytest.raises(ValueError, match=f"sweep.{key} must be at least 1"):
            sweep(parabola, f"sweep.{key}=0")
    assert not Path("sweep").exists()


# ----------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize("batch", ["null", "1", "3"])
def test_an_interrupted_sweep_ends_as_if_undisturbed(sweep, batch: str) -> None:
    whole = sweep(parabola, folder="whole")
    ran: list[int] = []
    task = lambda cfg: ran.append(HydraConfig.get().job.num) or parabola(cfg)  # noqa: E731
    for job in (1, 2):
        with pytest.raises(Interrupted):
            sweep(interrupted_at(job, task), f"sweep.batch_size={batch}")
    resumed = sweep(task, f"sweep.batch_size={batch}")
    assert ran == [0, 1, 2, 3], "every trial once, job numbers go on"
    assert [(t.params, t.value) for t in resumed] == [(t.params, t.value) for t in whole]
    assert sorted(path.name for path in Path("sweep").glob("[0-9]*")) == list("0123")


def test_trials_that_died_out_of_order_are_taken_up_under_their_numbers(sweep) -> None:
    """As several processes leave them: 0, 2 and 5 have ended, 1, 3, 4 have not."""
    with pytest.raises(Interrupted):
        sweep(interrupted_at(0), "sweep.n_trials=6")
    Path("sweep/outcomes").mkdir()
    for number in (0, 2, 5):
        Path(f"sweep/outcomes/{number}.json").write_text(json.dumps({"loss": number}))
    ran = {}
    task = lambda cfg: ran.update({HydraConfig.get().job.num: cfg.x}) or 7.0  # noqa: E731
    found = sweep(task)
    assert [t.value for t in found] == [0, 7, 2, 7, 7, 5]
    assert ran == {t.number: t.params["x"] for t in found if t.number in (1, 3, 4)}


def test_a_finished_sweep_runs_nothing_again_and_can_be_prolonged(sweep) -> None:
    sweep(parabola)
    before = Path("sweep/best.yaml").read_text()
    Path("sweep/best.yaml").unlink()
    sweep(interrupted_at(0))
    assert Path("sweep/best.yaml").read_text() == before
    assert [t.number for t in sweep(interrupted_at(3), "sweep.n_trials=5")] == list(range(5))


def test_a_trial_that_was_killed_while_it_was_asked_for_leaves_a_gap(sweep) -> None:
    with pytest.raises(Interrupted):
        sweep(interrupted_at(1), "sweep.batch_size=1", "sweep.n_trials=3")
    study = optuna.load_study(study_name="sweep", storage="sqlite:///sweep/trials.db")
    study.ask()  # without parameters
    found = sweep(parabola, "sweep.batch_size=1", "sweep.n_trials=3")
    assert [t.state.name for t in found] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["x=interval(1,2)"], r"x=interval\(1,2\) here"),
        (["k=1,2"], "nothing more there, k=1,2 here"),
        (["group.y=3"], "group.y=3 here"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(sweep, overrides: list[str], says: str) -> None:
    sweep(parabola, "sweep.n_trials=1")
    with pytest.raises(ValueError, match=says) as error:
        sweep(parabola, *overrides)
    assert "\n" not in str(error.value)
    assert len(sweep(parabola, "sweep.n_trials=2", "sweep.batch_size=1")) == 2, "how much and how may change"


def test_a_folder_of_other_runs_is_refused(sweep) -> None:
    Path("sweep/0").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"choose another hydra\.sweep\.dir"):
        sweep(parabola)


# ------------------------------------------------------------------------------------------------------- the report


def test_the_table_has_the_best_first_and_the_figure_is_drawn(sweep, capsys: pytest.CaptureFixture[str]) -> None:
    found = sweep(lambda cfg: math.nan if HydraConfig.get().job.num == 1 else parabola(cfg), "sweep.n_trials=4")
    rows = re.findall(r"^ +(\d) +[\d.e-]+ +(.+?) *$", capsys.readouterr().out, re.M)
    order = sorted(found, key=lambda t: t.value)
    assert [int(number) for number, _ in rows] == [t.number for t in order]
    assert rows[-1][1] == "diverged: a loss of nan"
    assert Path("sweep/sweep.png").stat().st_size > 10_000


def test_best_yaml_gives_the_best_trial_again(sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Groups, added groups and keys, texts and lists: the very config of the trial, and open to further overrides."""
    configs = {}
    task = lambda cfg: configs.update({HydraConfig.get().job.num: cfg}) or parabola(cfg)  # noqa: E731
    given = ["colour=red,blue", "+colour@other=blue", "group.y='a b'", "+new.z=[1,{a: null}]", "k=-3"]
    best = min(sweep(task, *given), key=lambda t: t.value)
    again = []
    arguments = ["toy.py", "-cd", "sweep", "-cn", "best", "hydra.run.dir=again"]
    for further in ([], ["colour=red", "k=5"]):
        monkeypatch.setattr(sys, "argv", [*arguments, *further])
        GlobalHydra.instance().clear()
        hydra.main(version_base="1.3", config_path=str(tmp_path / "conf"), config_name="toy")(again.append)()
    trial, repeated = (OmegaConf.to_container(config) for config in (configs[best.number], again[0]))
    assert (trial.pop("ckpt_path"), repeated.pop("ckpt_path")) == ("auto", None)
    assert repeated == {key: trial[key] for key in repeated}
    assert trial.keys() - repeated.keys() == {"sweep"}
    assert (again[1].colour.shade, again[1].k, again[1].x) == (1, 5, best.params["x"])
