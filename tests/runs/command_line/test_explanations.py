"""What a command line may not say, and the one line that answers it. Nothing is written."""

import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import FEW_EVALUATIONS, ROOT, SMALL, Server

from l2o.runs.command_line.explanations import not_in_the_grammar
from l2o.runs.command_line.nearest import nearest

Refusal = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """The one line with which a program, run in this process, refuses a command line before it has written anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(script: str, *words: str) -> str:
        chosen = [] if any("experiment=" in word for word in words) else ["experiment=quadratic"]
        monkeypatch.setattr(sys, "argv", [script, *words, *chosen])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        line = str(end.value.code)
        assert line.startswith("error: ") and "\n" not in line
        assert not list(tmp_path.iterdir()), "nothing is written"
        return line

    return run


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train.py learner.horizn=3", "did you mean learner.horizon?"),
        ("train.py horizn=3", "did you mean learner.horizon?"),
        ("train.py learner.lr=3", "did you mean learner.meta_optimizer.lr?"),
        ("train.py optimzer=adam", "did you mean optimizer?"),
        ("train.py dataset=npz experiment=mnist", "dataset.path has no value yet: give dataset.path=VALUE"),
        ("train.py optimizer=pretrained", "optimizer.name has no value yet: give optimizer.name=VALUE"),
        ("train.py dataset.path=a,b.npz dataset=npz", "'dataset.path=\"a,b.npz\"' is one value with commas"),
        ("train.py seed=1,2", "-m (--multirun) makes a run of each"),
        ("train.py 'seed=range(1,3)'", "seed has several values: -m (--multirun) makes a run of each"),
        ("train.py =3", "'=3' names no key: write KEY=VALUE, or GROUP=OPTION"),
        ("train.py +=3", "'+=3' names no key: write KEY=VALUE, or GROUP=OPTION"),
        ("train.py =", "'=' names no key: write KEY=VALUE, or GROUP=OPTION"),
        ("train.py '~'", "'~' names no key: write KEY=VALUE, or GROUP=OPTION"),
        ("train.py @=lstm", "'@=lstm' names no key: write KEY=VALUE, or GROUP=OPTION"),
        ("evaluate.py =3 seed=1", "'=3' names no key: write KEY=VALUE, or GROUP=OPTION"),
        ("train.py optimizer=3", "there is no optimizer=3: the options are adafac_mlp, adam,"),
        ("train.py dataset=true", "there is no dataset=true: "),
        ("train.py experiment=mnits", "did you mean experiment=mnist?"),
        ("train.py optimizer=nothing_like_it", "the options are adafac_mlp, adam, adamw,"),
        ("train.py ++learner.horizn=3", "did you mean learner.horizon?"),
        ("train.py +learner.horizn=3", "did you mean learner.horizon?"),
        ("train.py +horizn=3", "did you mean learner.horizon?"),
        ("train.py +optimizer.hiden=3", "did you mean optimizer.hidden_size?"),
        ("train.py +trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("train.py +learner.meta_optimizer.beta=3", "did you mean learner.meta_optimizer.betas?"),
        ("train.py +evaluation_optimizee.init_sdt=1", "did you mean evaluation_optimizee.init_std?"),
        ("train.py trainer.max_stepz=3", "did you mean +trainer.max_steps?"),
        ("train.py 'learner.meta_optimizer={lr: 1,betas: [0,0]}'", "learner.meta_optimizer has no betas so far: add"),
        ("train.py 'learner.meta_optimizer={lr: {x: 1}, betas: [0,0]}'", "learner.meta_optimizer has no betas so far"),
        (
            "train.py +family@learner.families.a=quadratics 'learner.families={a: {num_taskz: 3}}'",
            "learner.families has no a.num_taskz so far",
        ),
        ("train.py trainer.max_steps=3", "add it with a plus, +trainer.max_steps=3"),
        ("train.py +trainer.logger=false", "the program sets it by itself"),
        ("train.py +luck=3", "train.py reads no key luck"),
        ("train.py ~optimizee.dimm", "train.py knows no key optimizee.dimm: did you mean optimizee.dim?"),
        ("train.py learned.LSTM=best", "train.py does not read learned.LSTM: evaluate.py does"),
        ("train.py +learned.LSTM=best", "evaluate.py reads learned.LSTM, train.py does not"),
        ("evaluate.py learner.horizon=3", "evaluate.py does not read learner.horizon: train.py does"),
        ("evaluate.py experiment=mnist learner.num_tasks=3", "train.py reads learner.num_tasks, evaluate.py does not"),
        ("evaluate.py optimizer=lstm", "train.py reads optimizer, evaluate.py does not"),
        ("evaluate.py +trainer.max_epochs=3", "evaluate.py does not read trainer.max_epochs: train.py does"),
        ("train.py +seed=3", "seed is set already: leave out the plus"),
        ("evaluate.py optimizers.ADAM.lr=3", "did you mean baselines.ADAM.lr?"),
        ("evaluate.py +proposals.cordinates=3", "did you mean proposals.coordinates?"),
        ("train.py optimizee._target_=l2o.optimizees.Quadratik", "did you mean l2o.optimizees.Quadratic?"),
        ("train.py optimizee._target_=nowhere.Quadratic", "there is no module 'nowhere'"),
        ("train.py ~seed", "train.py needs 'seed'"),
        ("train.py ~optimizee.dim ~optimizee.init_std optimizee._target_=l2o.optimizees.Classifier", "optimizee."),
    ],
)
def test_a_key_that_is_not_read_is_refused(refused: Refusal, command: str, says: str) -> None:
    assert says in refused(*shlex.split(command))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("-m learner.windw=2,4", "did you mean learner.window?"),
        ("-m experiment=quadratic,mnits", "did you mean experiment=mnist?"),
        ("-m +optimizer.hiden=1,2", "did you mean optimizer.hidden_size?"),
        ("-m seed=1,abc", "seed must be an integer, got 'abc'"),
        ("-m seed=1,2 learner.horizon=4,null", "learner.horizon must be an integer, got null"),
        ("-m sweep=meta_lr sweep.n_trials=abc", "sweep.n_trials must be an integer"),
        ("-m sweep=meta_lr 'learner.windw=interval(1,2)'", "did you mean learner.window?"),
        ("-m sweep=meta_lr 'output_scale=interval(-1,1)'", "output_scale must be more than 0"),
    ],
)
def test_a_sweep_is_checked_before_it_starts(refused: Refusal, command: str, says: str) -> None:
    assert says in refused("train.py", *shlex.split(command))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("learner.horizon=[1,2]", "learner.horizon must be an integer, got [1, 2]"),
        ("learner.horizon=1e2", "learner.horizon must be an integer, got 100.0"),
        ("seed=[1]", "seed must be an integer, got [1]"),
        ("seed=-1", "seed must be from 0 to"),
        ("optimizer.hidden_size=abc", "optimizer.hidden_size must be an integer, got 'abc'"),
        ("optimizer.hidden_size=true", "optimizer.hidden_size must be an integer, got true"),
        ("optimizer.hidden_size=nan", "optimizer.hidden_size must be an integer, got nan"),
        ("output_scale=nan", "output_scale must be a number, got nan"),
        ("learner.meta_optimizer.lr=[1]", "learner.meta_optimizer.lr must be a number, got [1]"),
        ("learner.final_lr_fraction=2", "learner.final_lr_fraction must be from 0 to 1, got 2"),
        ("evaluation.rates_range=3", "evaluation.rates_range must be a list of 2, each a number, got 3"),
        ("evaluation.rates_range=[1]", "evaluation.rates_range must be a list of 2"),
        ("evaluation.table_steps=[a]", "evaluation.table_steps must be a list, each item an integer"),
        ("evaluation.seed=abc", "evaluation.seed must be an integer"),
        ("optimizee.init_std=-1", "optimizee.init_std must be at least 0, got -1"),
        ("baselines.ADAM.beta1=1", "baselines.ADAM.beta1 must be in [0, 1), got 1"),
        ("early_stopping=0", "early_stopping must be at least 1, got 0"),
        ("checkpoint_minutes=abc", "checkpoint_minutes must be a number, got 'abc'"),
        ("trainer.max_epochs=0", "trainer.max_epochs must be at least 1"),
        ("trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch must be at least 1"),
        ("imports=[nowhere]", "imports: there is no module 'nowhere'"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_key(refused: Refusal, word: str, says: str) -> None:
    assert says in refused("train.py", word)


@pytest.mark.parametrize(
    "value", ["~/x.npz", "a=b.npz", "my data (1).npz", "a#b", "a&b", "a[b", "it's", "/žluť/本.npz"]
)
def test_a_value_that_wants_quotes_is_shown_with_them(value: str) -> None:
    """What is proposed is accepted, and means what was meant."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    line = not_in_the_grammar(f"dataset.path={value}")
    proposed = shlex.split(line.partition("put the value into quotes: ")[2])
    assert len(proposed) == 1
    assert OverridesParser.create().parse_override(proposed[0]).value() == value


def test_words_that_are_no_settings_are_told_so(refused: Refusal) -> None:
    assert "put the value into quotes: 'dataset.path=\"~/x.npz\"'" in refused("train.py", "dataset.path=~/x.npz")
    assert "write KEY=VALUE" in refused("train.py", "experiment")
    assert "'learner horizon' in 'learner horizon=3' is no key" in refused("train.py", "learner horizon=3")


def test_what_is_documented_goes_on_working(programs: Server, tmp_path: Path) -> None:
    """Pluses, tildes, null groups, forced keys, references, and settings of an experiment for the other program."""
    bare = [word for word in SMALL if not word.startswith(("evaluation.", "logger"))]
    ended = programs.script(
        "train.py", tmp_path, *bare, "evaluation=null", "logger=null", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert ended.wait() == 0, ended.output[-2000:]
    assert (tmp_path / "run/best/model.safetensors").exists() and not (tmp_path / "run/curves.csv").exists()
    words = [
        "+evaluation_optimizee.init_std=0.1",
        "~baselines.SGD",
        "+scale=0.2",
        "output_scale=${scale}",
        "sweep=null",
    ]
    programs.finish(
        tmp_path, *words, "++learner.horizon=8", "+trainer.max_steps=3", "+optimizer@baselines.Other=rnnprop"
    )
    best = f"+learned.Mine={tmp_path / 'run/best'}"
    ended = programs.script("evaluate.py", tmp_path, *FEW_EVALUATIONS, best, "proposals=null")
    assert ended.wait() == 0 and "Mine" in ended.output


def test_a_tilde_in_quotes_is_the_users_home(programs: Server, tmp_path: Path) -> None:
    home: dict[str, Any] = {"HOME": str(tmp_path / "home"), "L2O_KERNEL": "0"}  # no kernels have been compiled there
    programs.finish(tmp_path, 'hydra.run.dir="~/run"', **home)
    assert (tmp_path / "home/run/last.ckpt").exists() and not (tmp_path / "~").exists()
    programs.finish(tmp_path, 'ckpt_path="~/run/last.ckpt"', "trainer.max_epochs=5", **home)
    learned = 'learned.LSTM="~/run/best"'
    assert programs.script("evaluate.py", tmp_path, learned, *FEW_EVALUATIONS, **home).wait() == 0
    for key in ("learned.LSTM", "+learned.Other"):
        ended = programs.script("evaluate.py", tmp_path, f'{key}="~/nowhere/best"', *FEW_EVALUATIONS, **home)
        assert ended.wait() == 1 and str(tmp_path / "home/nowhere/best") in ended.output


@pytest.mark.slow
def test_a_tilde_in_quotes_is_the_users_home_for_a_grid_too(programs: Server, tmp_path: Path) -> None:
    home: dict[str, Any] = {"HOME": str(tmp_path / "home")}
    programs.finish(tmp_path, "-m", 'hydra.sweep.dir="~/sweep"', "seed=0,1", "trainer.max_epochs=1", **home)
    assert (tmp_path / "home/sweep/1/last.ckpt").exists() and not (tmp_path / "~").exists()


def test_names_are_matched_by_place_and_by_last_part() -> None:
    known = ["learner.horizon", "learner.window", "learner.meta_optimizer.lr", "optimizer", "baselines.ADAM.lr"]
    found = {name: nearest(name, known) for name in ("learner.windw", "windw", "lr", "optimisr", "zzz", "learner.foo")}
    assert found["learner.windw"] == found["windw"] == "learner.window"
    assert found["lr"] in ("learner.meta_optimizer.lr", "baselines.ADAM.lr")
    assert found["optimisr"] == "optimizer" and found["zzz"] is None and found["learner.foo"] is None
