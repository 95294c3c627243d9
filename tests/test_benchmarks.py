"""The benchmarks run, and the eager reference computes what the package computes.

Shapes: B tasks, P coordinates, K steps of a window.
"""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.testing import assert_close

from l2o import seeds
from l2o.meta_gradients import PersistentES
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM, Identity, LogAndSign
from l2o.unroll import start_episode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CONF = BENCHMARKS.parent / "conf"
PARTS: dict[str, str] = runpy.run_path(str(BENCHMARKS / "paper.py"))["RUNS"]


@pytest.mark.parametrize("p", [None, 10.0])
def test_the_eager_reference_is_the_same_window(float64, path, monkeypatch, p):
    """Ratios are between two ways to the same losses and the same meta-gradient."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import eager

    rule, reference = LSTM(LogAndSign(p) if p else Identity(), output_scale=0.01), eager.Eager(p, output_scale=0.01)
    for ours, theirs in zip(rule.parameters(), reference.parameters(), strict=True):
        theirs.data.copy_(ours)
    optimizee = Quadratic(4, init_std=1.0)
    episode = start_episode(rule, optimizee, 3, seeds.generator(0))
    losses, _, gradient, after, *_ = TruncatedBPTT()(rule, optimizee, episode, 5, seeds.generator(1))
    evaluate = lambda theta: optimizee.loss_and_grad(theta, episode.task)  # noqa: E731
    start = reference.start(episode.theta)
    expected, theta, grad, _ = eager.window(reference, evaluate, episode.theta, episode.grad, start, 5)
    assert_close(losses, expected, rtol=1e-11, atol=0)
    assert_close(after.theta, theta, rtol=1e-11, atol=1e-13)
    assert_close(after.grad, grad, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradient, reference.parameters(), strict=True):
        assert_close(ours, theirs.grad, rtol=1e-9, atol=1e-12 * float(theirs.grad.abs().max()) + 1e-15)


class Clock:
    """A clock that stands still until it is told to go on."""

    now = 0.0

    def perf_counter(self):
        return self.now


def test_a_window_s_time_is_split_into_the_optimizee_s_and_the_rule_s(monkeypatch):
    """Medians of windows that take turns, on a clock of the test's own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import jobs

    clock, turns = Clock(), []
    monkeypatch.setattr(jobs, "time", clock)

    class Slow(Quadratic):
        seconds = 0.0

        def loss_and_grad(self, theta, batch):
            clock.now += self.seconds
            return super().loss_and_grad(theta, batch)

    def window(name, optimizee, inside, outside):
        inside, outside = iter(inside), iter(outside)

        def run():
            turns.append(name)
            optimizee.inner.seconds = next(inside)
            optimizee.loss_and_grad(*optimizee.sample(1, seeds.generator(0)))
            clock.now += next(outside)

        return run

    optimizees = [jobs.Timed(Slow(2)) for _ in range(2)]
    windows = [
        window("a", optimizees[0], inside=(1.0, 4.0, 2.0), outside=(0.5, 0.25, 8.0)),
        window("b", optimizees[1], inside=(16.0, 16.0, 16.0), outside=(1.0, 1.0, 1.0)),
    ]
    assert jobs.interleaved(windows, optimizees, 3) == [(4.25, 0.5), (17.0, 1.0)]
    assert turns == ["a", "b"] * 3


def test_a_quick_benchmark_reports_every_job(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "--quick", "--jobs", "Q", "M1", "--json"]
    result = subprocess.run([*command, str(tmp_path / "speed.json")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["provenance"].keys() == {"version", "commit", "date"}
    assert set(report["jobs"]) == {"Q", "M1"} and report["threads"] == torch.get_num_threads()
    assert [job["coordinates"] for job in report["jobs"].values()] == [1280, 15910]
    shown = [line.split() for line in result.stdout.splitlines()]
    for name, job in report["jobs"].items():
        cells = next(line for line in shown if line[:1] == [name] and "per" not in line)[1:]
        ratios = [job[f"reference_{key}"] / job[key] for key in ("ms_per_step", "rule_ms_per_step")]
        assert cells[:2] == [f"{job[key]:.2f}" for key in ("ms_per_step", "rule_ms_per_step")]
        assert cells[3:5] == [f"{ratio:.2f}" for ratio in ratios], "the table shows what the file says"
    graph = 15_910 * 2 * 1000 / 2**20  # the eager way keeps more than 1000 bytes for each coordinate and step
    assert report["jobs"]["M1"]["reference_peak_mb"] > graph > report["jobs"]["M1"]["peak_mb"]


def test_the_modern_rules_benchmark_reports_every_rule():
    command = [sys.executable, str(BENCHMARKS / "modern_rules.py"), "--rounds", "1", "--processor-time"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name in runpy.run_path(str(BENCHMARKS / "modern_rules.py"))["RULES"]:
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(name)]
        assert float(re.findall(r"([\d.]+) bytes", line)[0]) <= (32 if "MLPLOpt" in name else 24)


@pytest.mark.slow
def test_a_quick_scaling_draws_its_figure(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "scaling.py"), "--quick", "--figure", str(tmp_path / "scaling.png")]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", PARTS)
def test_every_part_of_the_paper_is_a_command_that_composes(name: str) -> None:
    """With the first of a sweep's values; and what it starts from is a part that was run before it.

    The program takes evaluation=null itself, which bare Hydra does not where an experiment chooses an evaluation.
    """
    given = dict.fromkeys(re.findall(r"{(\w+)}", PARTS[name]), "somewhere")
    script, *overrides = shlex.split(PARTS[name].format(**given))
    first = [override.split(",")[0] if re.match(r"optimizer=\w+,", override) else override for override in overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(script.removesuffix(".py"), [word for word in first if word not in ("-m", "evaluation=null")])
    assert cfg.optimizee._target_.startswith("l2o.")
    before = list(PARTS)[: list(PARTS).index(name)]
    assert set(re.findall(r"{out}/(\w+)/", PARTS[name])) <= set(before)


@pytest.mark.parametrize(("stage", "epochs"), [("first", 5), ("second", 6), ("third", 3)])
def test_every_stage_of_general_is_a_run_that_composes(stage: str, epochs: int) -> None:
    files = Path("mnist, grey (1).npz"), Path("cifar10=all.npz")
    overrides = runpy.run_path(str(BENCHMARKS / "train_general.py"))["overrides"]
    given = overrides(stage, *files, 1, None if stage == "first" else Path("a, {b} 'c'"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", given)
    assert cfg.trainer.max_epochs == epochs and cfg.seed == 1 and "regression" not in cfg.learner.validation
    assert cfg.optimizer._target_ == ("l2o.optimizers.Hierarchical" if stage == "first" else "l2o.from_pretrained")
    assert (cfg.dataset.path, cfg.colour_images) == tuple(str(file.absolute()) for file in files)
    assert stage == "first" or cfg.optimizer.name == "a, {b} 'c'"
    assert cfg.learner.meta_scheduler.T_max > cfg.trainer.max_epochs * 200


def test_general_stops_where_a_stage_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        started.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["train_general.py", "mnist.npz", "cifar10.npz", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(BENCHMARKS / "train_general.py"), run_name="__main__")
    assert end.value.code == 3 and len(started) == 1


@pytest.mark.parametrize("window", [0, 1])
def test_the_plain_persistent_es_is_the_same_window(float64, path, monkeypatch, window):
    """In an episode's first window and in its second, in which ε is drawn anew and ξ is a sum."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import persistent_es

    rule, optimizee = persistent_es.job(4)
    optimizee.dataset = optimizee.dataset._replace(
        x_train=optimizee.dataset.x_train.double(), x_test=optimizee.dataset.x_test.double()
    )
    estimator, plain = PersistentES(sigma=0.01, cap=None), persistent_es.Plain(rule, optimizee, 0.01)
    pairs = estimator.start(rule, optimizee, 2, persistent_es.HORIZON, seeds.generator(0))
    if window:
        pairs = estimator(rule, optimizee, pairs, 3, seeds.generator(2)).carry
    expected = estimator(rule, optimizee, pairs, 3, seeds.generator(1))
    with torch.no_grad():
        losses, gradient, after = plain.window(pairs, 3, seeds.generator(1))
    assert_close(losses, expected.losses, rtol=1e-11, atol=0)
    assert_close(after, expected.carry, rtol=1e-9, atol=1e-12)
    ours = torch.cat([part.flatten() for part in expected.gradient])
    assert_close(gradient, ours, rtol=0, atol=1e-7 * float(ours.abs().max()))


def test_a_published_envelope_is_smoothed_lowest_and_never_rises() -> None:
    """Two seeds, three steps, two rates: by hand. A rate that breaks down leaves the envelope alone."""
    envelope = runpy.run_path(str(BENCHMARKS / "published_envelope.py"))["envelope"]
    curves = np.array([[[1.0, 2.0], [3.0, 1.0], [np.nan, 0.0]], [[3.0, 2.0], [1.0, 1.0], [1.0, 0.0]]])
    # means: (2, 2), (2, 1), (inf, 0); smoothed: (2, 2), (2, 1.95), (inf, 1.8525)
    np.testing.assert_allclose(envelope(curves), [2.0, 1.95, 1.8525])
    np.testing.assert_allclose(envelope(np.array([[[1.0], [2.0]]])), [1.0, 1.0])
