"""The examples and the tutorial, as they stand, a few steps long."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o import save_pretrained
from l2o.data import images
from l2o.optimizers import LSTM, LogAndSign

ROOT = Path(__file__).parents[1]
SHORT = [
    "learner.horizon=4", "learner.window=2", "learner.episodes_per_epoch=1", "learner.validation_tasks=2",
    "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1", "logger=csv",
    "evaluation.num_steps=2", "evaluation.tuning_tasks=1", "evaluation.rates_count=2",
]  # fmt: skip


@pytest.fixture
def rule(tmp_path):
    """A trained rule's folder; it takes small steps down."""
    rule = LSTM(LogAndSign(10), hidden_size=3, output_scale=0.01)
    return str(save_pretrained(rule, tmp_path / "rule"))


@pytest.fixture
def run(monkeypatch, capsys):
    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_plain_pytorch(run, rule):
    out = run(ROOT / "examples/plain_pytorch.py", rule, "--steps", 21)
    assert "step   20  loss" in out and "test accuracy 0." in out


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_module(run, rule):
    assert "test accuracy 0." in run(ROOT / "examples/lightning_module.py", rule, "--epochs", 1)


def test_unseen_mlp(run, rule, tmp_path):
    draw = np.random.default_rng(0).integers
    arrays = {f"x_{split}": draw(0, 256, (20, 4, 4), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "data.npz", **arrays, y_train=np.arange(20) % 3, y_test=np.arange(20) % 3)
    small = ["--steps", 3, "--hidden", 5, 4, "--seeds", 2]
    out = run(ROOT / "examples/unseen_mlp.py", tmp_path / "data.npz", tmp_path / "unseen.png", rule, "general", *small)
    lines = [line.partition(":")[0] for line in out.strip().splitlines()]
    assert [lines[0], lines[1], lines[3]] == [Path(rule).name, "general", "figure"] and "Adam, tuned" in lines[2]
    assert (tmp_path / "unseen.png").stat().st_size > 0


def test_style_transfer(run, rule, tmp_path):
    """Pictures of their own sizes; the result has the content's."""
    for name, size in (("content", (40, 48)), ("style", (56, 40))):
        images.save(torch.rand(3, *size), tmp_path / f"{name}.png")
    pictures = [tmp_path / f"{name}.png" for name in ("content", "style", "out")]
    out = run(ROOT / "examples/style_transfer.py", rule, *pictures, "--steps", 2, "--side", 32)
    assert "step    1  loss" in out
    assert images.read(tmp_path / "out.png").shape == (3, 32, 38)


@pytest.mark.parametrize("example", ["plain_pytorch", "lightning_module"])
def test_an_unknown_rule_is_answered_in_one_line(run, example):
    with pytest.raises(SystemExit, match=r"^error: no trained optimizer 'nothing'"):
        run(ROOT / f"examples/{example}.py", "nothing")


# ------------------------------------------------------------------------------------------------------- the tutorial


@pytest.mark.filterwarnings("ignore:the rule 'valleys_momentum' was trained for 4 steps")  # here alone: see SHORT
def test_the_tutorial_runs_from_beginning_to_end(run, tmp_path, monkeypatch):
    """Its files are written, its commands run, two steps long, and then its last file, on what was trained."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for language, text in blocks:
        if language in ("python", "yaml"):
            path = tmp_path / text.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    commands = [shlex.split(text) for language, text in blocks if language == "sh" and text.startswith("python train")]
    assert len(commands) == 2
    for number, (_, script, *words) in enumerate(commands):
        given = [word.replace("num_tasks=64", "num_tasks=2").replace("num_tasks=256", "num_tasks=2") for word in words]
        config = given.index("--config-dir")
        flags, overrides = given[config : config + 2], given[:config] + given[config + 2 :]
        more = [word for word in SHORT if word.split("=")[0] not in {w.split("=")[0] for w in overrides}]
        run(ROOT / script, *flags, *more, f"hydra.run.dir={tmp_path / f'run{number}'}", *overrides)
    (tmp_path / "run1/best").rename(tmp_path / "best")
    assert "optimizer=learned_momentum" in run(tmp_path / "use_it.py")
    for lines in (text.strip().splitlines() for language, text in blocks if language == "python"):
        if "class" in "".join(lines):
            assert (
                len([line for line in lines if line.strip() and not line.startswith(("#", '"""', "import", "from"))])
                <= 20
            )
