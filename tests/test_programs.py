"""train.py and evaluate.py as people start them: every option of every group, documented commands, every mistake."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from l2o import load
from l2o.__main__ import main as commands
from l2o.data import images
from l2o.figures import layers_by_units

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
SMALL = [
    "learner.horizon=4",
    "learner.window=2",
    "learner.num_tasks=2",
    "learner.episodes_per_epoch=1",
    "learner.validation_tasks=2",
    "learner.validation_horizons=null",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
]
FEW = [
    "evaluation.num_tasks=2",
    "evaluation.num_steps=2",
    "evaluation.tuning_tasks=1",
    "evaluation.tuning_steps=2",
    "evaluation.rates_count=2",
]

Program = Callable[..., Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Runs a program of the repository in this process, two steps long, and returns its output folder."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, *overrides: str) -> Path:
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        defaults = [*(SMALL if script == "train.py" else []), *FEW, "logger=csv", f"hydra.run.dir={folder}"]
        given = {override.split("=")[0] for override in overrides}
        chosen = [override for override in defaults if override.split("=")[0] not in given]
        monkeypatch.setattr(sys, "argv", [script, *chosen, *overrides])
        runpy.run_path(str(ROOT / script), run_name="__main__")
        return folder

    return run


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes an .npz of a few random images in the given shape."""

    def write(*shape: int, name: str = "data.npz", **changes: np.ndarray) -> Path:
        draw = np.random.default_rng(0).integers
        arrays = {f"x_{split}": draw(0, 256, (20, *shape), dtype=np.uint8) for split in ("train", "test")}
        arrays |= {f"y_{split}": np.arange(20) % 10 for split in ("train", "test")}
        np.savez(tmp_path / name, **arrays | changes)
        return tmp_path / name

    return write


def small_data(npz: Callable[..., Path], name: str) -> list[str]:
    """Overrides that put a few random images in the place of the data that an optimizee or experiment is meant for."""
    if "cifar" in name:
        side = 16 if name.startswith("cifar_small") else 8
        small = [f"optimizee.network.image_size={side}", "optimizee.batch_size=4"]
        return ["dataset=npz", f"dataset.path={npz(side, side, 3)}", *small]
    if name in ("general_images", "fast_velo_images"):
        grey = "dataset.path" if name == "general_images" else "images"
        return [f"{grey}={npz(28, 28)}", f"colour_images={npz(32, 32, 3, name='colours.npz')}"]
    if name == "neural_art_picture":
        return [f"optimizee.content={images.sample_photograph('china.jpg')}", "optimizee.content_side=40"]
    if name.startswith("char"):
        return ["dataset=text"]
    return ["dataset=npz", f"dataset.path={npz(28, 28)}"] if "mnist" in name else []


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def refused(run: Callable[[], object]) -> str:
    """The one line that a refused run leaves."""
    with pytest.raises(SystemExit) as exit_:
        run()
    line = str(exit_.value)
    assert line.startswith("error: ")
    assert "\n" not in line
    return line


# ------------------------------------------------------------------------------------------------- what is shipped


def test_train_leaves_everything_that_the_readme_names(program: Program) -> None:
    folder = program("train.py", "logger=wandb")
    for name in ("curves.png", "curves.csv", "summary.json", "best/config.json", "best/model.safetensors", "last.ckpt"):
        assert (folder / name).stat().st_size > 0, name
    assert "train/loss" in (folder / "logs/metrics.csv").read_text().splitlines()[0]
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
    summary = json.loads((folder / "summary.json").read_text())
    assert list(summary["optimizers"]) == ["LSTM", "SGD", "NAG", "RMSprop", "ADAM"]
    assert summary["optimizers"]["LSTM"]["metrics"].keys() == {"test_loss", "test_accuracy"}
    assert summary["provenance"].keys() == {"version", "commit", "date", "command"}
    assert summary["provenance"]["command"].startswith("python train.py ")
    assert json.loads((folder / "best/config.json").read_text())["card"]["provenance"] == summary["provenance"]


def test_evaluate_repeats_what_train_found(program: Program) -> None:
    """Same seed, same problems: from the exported folder and from the checkpoint, to the last digit."""
    trained = program("train.py")
    for path in (trained / "best", trained / "last.ckpt"):
        assert (program("evaluate.py", f"learned.LSTM={path}") / "curves.csv").read_text() == (
            trained / "curves.csv"
        ).read_text()


def test_a_picture_of_ones_own_is_stylised_at_its_full_size(program: Program, tmp_path: Path) -> None:
    """Content, style, the trained optimizer's and the baselines' pictures as PNGs, and the panels of them."""
    trained = program("train.py", "experiment=neural_art", "optimizee.size=32")
    assert (trained / "panels.png").stat().st_size > 0
    Image.new("RGB", (70, 50), "teal").save(tmp_path / "my.png")
    art = ["optimizee=neural_art_picture", "evaluation=one_picture", f"optimizee.content={tmp_path / 'my.png'}"]
    folder = program("evaluate.py", f"learned.LSTM={trained / 'best'}", *art, "evaluation.num_tasks=1")
    names = ("content", "style", "start", "LSTM", "SGD", "NAG", "RMSprop", "ADAM")
    assert {path.name for path in (folder / "pictures").iterdir()} == {f"0_{name}.png" for name in names}
    assert images.read(folder / "pictures/0_LSTM.png").shape == (3, 50, 70)
    assert "no picture at 'missing.png'" in refused(
        lambda: program("evaluate.py", *art[:2], "optimizee.content=missing.png")
    )


def test_a_resumed_run_ends_with_the_same_optimizer(program: Program) -> None:
    """An interrupted run of two epochs: stopped after one, then resumed, equals the run that was left alone."""
    whole = program("train.py", "trainer.max_epochs=2", "learner.final_lr_fraction=1")
    half = program("train.py", "trainer.max_epochs=1", "learner.final_lr_fraction=1")
    resumed = program(
        "train.py", "trainer.max_epochs=2", "learner.final_lr_fraction=1", f"ckpt_path={half / 'last.ckpt'}"
    )
    assert (resumed / "curves.csv").read_bytes() == (whole / "curves.csv").read_bytes()
    assert (resumed / "best/model.safetensors").read_bytes() == (whole / "best/model.safetensors").read_bytes()


def test_meta_training_goes_on_from_a_trained_optimizer(program: Program, npz: Callable[..., Path]) -> None:
    """With a meta learning rate of 0 the φ that comes out is the one that went in: alone, or in a group of two."""
    still = "learner.meta_optimizer.lr=0"
    trained = program("train.py") / "best"
    weights = load_file(trained / "model.safetensors")
    again = program("train.py", "optimizer=pretrained", f"optimizer.name={trained}", still) / "best"
    torch.testing.assert_close(load_file(again / "model.safetensors"), weights, rtol=0, atol=0)
    fc = ["optimizer=lstm_conv_fc", "optimizer@optimizer.rules.fc=pretrained", f"optimizer.rules.fc.name={trained}"]
    both = program("train.py", "optimizee=cifar_conv", *small_data(npz, "cifar_conv"), *fc, still) / "best"
    found = load_file(both / "model.safetensors")
    parts = {name.removeprefix("rules.fc."): part for name, part in found.items() if name.startswith("rules.fc.")}
    torch.testing.assert_close(parts, weights, rtol=0, atol=0)
    assert len(found) == 2 * len(weights) and load(both).rules["fc"].hidden_size == 20


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_runs_and_serves_both_programs(
    program: Program, npz: Callable[..., Path], experiment: str
) -> None:
    """evaluate.py finds what train.py found, to the last digit."""
    overrides = [f"experiment={experiment}", *small_data(npz, experiment)]
    trained = program("train.py", *overrides)
    learned = next(iter(json.loads((trained / "summary.json").read_text())["optimizers"]))
    key = f"learned.{learned}" if learned == "LSTM" else f"+learned.{learned}"
    again = program("evaluate.py", *overrides, f"{key}={trained / 'best'}")
    assert (again / "curves.csv").read_text() == (trained / "curves.csv").read_text()


@pytest.mark.parametrize(
    ("experiment", "trained", "compared"),
    [
        ("cifar_small", range(5, 10), range(5, 10)),
        ("cifar10", range(10), range(10)),
        ("cifar5", range(5), range(5)),
        ("cifar2", range(2), range(2)),
        ("cifar5_sub", range(5, 10), range(5)),
        ("cifar2_sub", range(2, 10), range(2)),
    ],
)
def test_experiments_on_cifar_train_and_compare_on_the_labels_that_they_name(
    experiment: str, trained: range, compared: range
) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"experiment={experiment}", "output_dir=x"])
    changed = OmegaConf.merge(cfg.optimizee, cfg.evaluation_optimizee)
    for optimizee, labels in ((cfg.optimizee, trained), (changed, compared)):
        assert (optimizee.dataset.labels or [*range(10)]) == [*labels]
        assert optimizee.network.out_features == len(labels)
        assert optimizee.dataset.name == "CIFAR10"
    assert cfg.name == experiment


MODERN = ("adafac_mlp", "mlp_lopt", "celo", "celo2")
KINDS = ("quadratic", "digits_mlp", "cifar_conv", "neural_art")


@pytest.mark.parametrize("optimizee", KINDS)
@pytest.mark.parametrize("optimizer", MODERN)
def test_every_modern_optimizer_learns_on_every_kind_of_optimizee(
    npz: Callable[..., Path], optimizer: str, optimizee: str
) -> None:
    """Two windows of an episode: the losses are finite, and the meta-gradient reaches every output that counts."""
    size = ["optimizee.size=32"] if optimizee == "neural_art" else []
    given = [f"optimizer={optimizer}", f"optimizee={optimizee}", *small_data(npz, optimizee), *size, "output_dir=x"]
    if (optimizer, optimizee) == ("celo2", "quadratic"):  # its θ is a vector, which Adam would serve
        given.append("optimizer.adam_vectors=false")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", given)
    torch.manual_seed(0)
    rule, problem, estimator = (
        instantiate(part, _convert_="all") for part in (cfg.optimizer, cfg.optimizee, cfg.meta_gradient)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        episode = estimator.start(rule, problem, 2, 4.0, generator)
        for _ in range(2):
            losses, _, gradient, episode, *_ = estimator(rule, problem, episode, 2, generator)
            assert losses.isfinite().all()
            found = {name: part for (name, _), part in zip(rule.named_parameters(), gradient, strict=True)}
            assert all(part.isfinite().all() for part in found.values())
            last = [part for name, part in found.items() if name.startswith("mlp.")][-2]  # the last layer's weights
            assert last.ndim == 2 and last[0].abs().max() > 0
    assert episode.step == 4


@pytest.mark.parametrize(
    ("optimizer", "optimizee"),
    [("adafac_mlp", "quadratic"), ("mlp_lopt", "quadratic"), ("celo", "cifar_conv"), ("celo2", "neural_art")],
)
def test_what_was_trained_of_a_modern_optimizer_is_what_is_compared(
    program: Program, npz: Callable[..., Path], optimizer: str, optimizee: str
) -> None:
    size = ["optimizee.size=32"] if optimizee == "neural_art" else []
    problem = [f"optimizee={optimizee}", *small_data(npz, optimizee), *size]
    folder = program("train.py", *problem, f"optimizer={optimizer}")
    trained, curves = load(folder / "best"), (folder / "curves.csv").read_text()
    assert "nan" not in curves
    again = program("evaluate.py", *problem, f"+learned.{trained.label}={folder / 'best'}")
    assert (again / "curves.csv").read_text() == curves


def test_the_second_phase_of_celo_trains_its_schedule_alone(program: Program) -> None:
    """The MLP stays as the first phase has left it; the scheduler, with its initial state, moves."""
    first = program("train.py", "optimizer=celo") / "best"
    fast = "learner.meta_optimizer.lr=0.01"
    folder = program("train.py", "optimizer=celo_phase2", f"optimizer.first.name={first}", fast)
    before, after = (load_file(path / "model.safetensors") for path in (first, folder / "best"))
    assert before and all(torch.equal(after[key], value) for key, value in before.items())
    last = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    for name in ("initial_hidden", "initial_cell", "step_size_bias"):
        (moved,) = (value for key, value in last.items() if key.endswith(f"scheduler.{name}"))
        assert moved.count_nonzero() == moved.numel(), name  # all of them start at 0


@pytest.mark.parametrize("experiment", ["quadratic", "neural_art", "cifar10", "cifar_small"])
def test_experiments_take_any_optimizer(experiment: str) -> None:
    """What an experiment sets is for every optimizer that has it, and no obstacle to one that has not."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for optimizer in ("lstm", "lstm_gac", "ntm_lbfgs", "lstm_conv_fc", "pretrained", "rnnprop", "adam"):
            name = ["optimizer.name=mnist"] if optimizer == "pretrained" else []
            overrides = [f"experiment={experiment}", f"optimizer={optimizer}", *name, "output_dir=x"]
            for given, expected in ([], 1.0 if experiment == "quadratic" else 0.1), (["output_scale=0.3"], 0.3):
                rule = instantiate(compose("train", [*overrides, *given]).optimizer, _convert_="all")
                if optimizer in ("lstm", "lstm_gac", "ntm_lbfgs"):
                    assert rule.output_scale == expected
                if optimizer == "lstm_conv_fc":
                    assert [own.output_scale for own in rule.rules.values()] == [expected] * 2


CHOSEN = ("baselines", "evaluation", "logger", "meta_gradient", "objective", "optimizee", "optimizer", "preprocessing")
"""The groups of train.py of which an experiment chooses an option, and the command line may choose another."""


@pytest.mark.parametrize("experiment", options("experiment"))
def test_an_experiment_changes_nothing_within_an_option_that_a_user_may_replace(experiment: str) -> None:
    """It would be merged into the user's own choice. What an experiment needs is an option of the group instead.

    What it may set: the labels of whatever data set there is, the learner, and how long a trainer goes on.
    """
    own = OmegaConf.to_container(OmegaConf.load(CONF / f"experiment/{experiment}.yaml"))
    assert isinstance(own, dict)
    assert not set(own) & set(CHOSEN)
    assert set(own.get("dataset", {})) <= {"labels"} and set(own.get("trainer", {})) <= {"max_epochs"}


@pytest.mark.parametrize("experiment", ["general", "cifar_small_horizon"])
def test_what_is_chosen_beside_an_experiment_is_what_was_chosen(experiment: str) -> None:
    """Estimators of several kinds, and some of the other groups, as they are beside another experiment."""
    chosen = ["optimizer=adafac_mlp", "optimizee=quadratic", "evaluation=quadratic", "preprocessing=scale"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for meta_gradient in ("tbptt", "pes", "imitation", "full_bptt"):  # imitation has no objective
            given = [f"meta_gradient={meta_gradient}", "objective=last", *chosen, "output_dir=x", "output_scale=1"]
            found, expected = (compose("train", [f"experiment={name}", *given]) for name in (experiment, "digits"))
            for group in CHOSEN:
                if OmegaConf.is_config(expected[group]) and group != "logger":  # which knows the run's folder
                    own, usual = (OmegaConf.to_container(cfg[group], resolve=True) for cfg in (found, expected))
                    assert own == usual, (meta_gradient, group)


@pytest.mark.parametrize("optimizer", ["lstm_gac", "ntm_bfgs", "ntm_lbfgs"])
def test_every_architecture_is_trained_and_goes_by_its_own_name(program: Program, optimizer: str) -> None:
    """And its export is the rule that was trained."""
    trained = program("train.py", f"optimizer={optimizer}", "experiment=architectures_digits")
    name = {"lstm_gac": "GAC", "ntm_bfgs": "NTM-BFGS", "ntm_lbfgs": "NTM-L-BFGS"}[optimizer]
    compared = program("evaluate.py", f"+learned.{name}={trained / 'best'}")
    assert (compared / "curves.csv").read_text() == (trained / "curves.csv").read_text()
    assert (compared / "curves.csv").read_text().splitlines()[1].startswith(f"{name},1,")
    assert (compared / "proposals.png").stat().st_size > 0


def test_baselines_alone_are_compared(program: Program) -> None:
    folder = program("evaluate.py", "learned=null", "~baselines.SGD")
    assert list(json.loads((folder / "summary.json").read_text())["optimizers"]) == ["NAG", "RMSprop", "ADAM"]


@pytest.mark.parametrize("figure", options("figure"))
def test_every_figure_of_many_runs_is_drawn(
    program: Program, npz: Callable[..., Path], tmp_path: Path, figure: str
) -> None:
    networks = '{optimizee.network.hidden: "[2],[3],[2,2]"}'
    sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}", f"hydra.sweeper.params={networks}"]
    learned = f"learned.LSTM={program('train.py') / 'best'}"
    program("evaluate.py", f"figure={figure}", learned, *sweep, *small_data(npz, figure))
    commands(["figure6", str(tmp_path / "sweep")])
    assert (tmp_path / "sweep/figure6.png").stat().st_size > 0
    assert [point[:2] for point in layers_by_units.collect(tmp_path / "sweep")] == [(1, 2), (1, 3), (2, 2)]


@pytest.mark.parametrize("optimizee", options("optimizee"))
def test_every_optimizee_runs(program: Program, npz: Callable[..., Path], optimizee: str) -> None:
    counts = {"cifar2": 2, "cifar5": 5, "cifar_small": 5, "cifar8": 8}
    labels = [f"dataset.labels={[*range(counts[optimizee])]}"] if optimizee in counts else []
    program("train.py", f"optimizee={optimizee}", *small_data(npz, optimizee), *labels)


@pytest.mark.parametrize("preprocessing", options("preprocessing"))
def test_every_preprocessing_runs(program: Program, preprocessing: str) -> None:
    program("train.py", f"preprocessing={preprocessing}", "experiment=digits")


@pytest.mark.parametrize("meta_gradient", options("meta_gradient"))
def test_every_meta_gradient_runs(program: Program, meta_gradient: str) -> None:
    needs = {"imitation": ["meta_gradient.teacher.lr=0.1"]}.get(meta_gradient, [])
    program("train.py", f"meta_gradient={meta_gradient}", *needs)


@pytest.mark.parametrize("objective", options("objective"))
def test_every_objective_runs(program: Program, objective: str) -> None:
    """The checkpoint's losses are finite, and φ has moved."""
    folder = program("train.py", f"objective={objective}", "learner.validation_tasks=1")
    saved = torch.load(folder / "last.ckpt", weights_only=True)["l2o"]
    assert (saved["windows"], saved["skipped"], saved["updates"]) == (2, 0, 2)


@pytest.mark.parametrize("family", options("family"))
def test_every_family_runs(program: Program, family: str) -> None:
    """By itself, in a run that is otherwise on one optimizee: with its average, snapshots, and a warm start from it."""
    given = [f"+family@learner.families.mine={family}", "learner.ema_decay=0.9"]
    folder = program("train.py", *given, "learner.snapshots=[1]")
    header = (folder / "logs/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss/mine", "val/final_loss/mine", "val/average_final_loss"} <= set(header)
    assert (folder / "snapshots/window_000001_average/model.safetensors").exists()
    again = program("train.py", *given, f"learner.warm_start={folder / 'warm_start.ckpt'}")
    saved = torch.load(again / "last.ckpt", weights_only=True)["l2o"]
    assert (saved["windows"], saved["windows_before"]) == (4, 2)


def test_only_a_figure_chooses_between_one_run_and_many() -> None:
    """So that `compositions` need not look for it."""
    assert {path.parent.name for path in CONF.rglob("*.yaml") if re.search(r"\bmode:", path.read_text())} == {"figure"}


@pytest.mark.parametrize("logger", options("logger"))
def test_every_logger_runs_and_the_csv_is_always_written(program: Program, logger: str) -> None:
    folder = program("train.py", f"logger={logger}")
    assert (folder / "logs/metrics.csv").exists()


@pytest.mark.parametrize("optimizer", options("optimizer"))
def test_every_optimizer_is_evaluated(program: Program, npz: Callable[..., Path], optimizer: str) -> None:
    network = lambda: ["optimizee=cifar_conv", *small_data(npz, "cifar_conv")]  # noqa: E731
    needs = {
        "lstm_conv_fc": network,
        "pretrained_cifar_small": network,
        "scheduled_cifar_small": network,
        "scheduled": lambda: [f"baselines.other.first.name={program('train.py') / 'best'}"],
        "pretrained": lambda: [f"baselines.other.name={program('train.py') / 'best'}"],
        "celo_phase2": lambda: [f"baselines.other.first.name={program('train.py', 'optimizer=celo') / 'best'}"],
    }.get(optimizer, list)()
    folder = program("evaluate.py", f"+optimizer@baselines.other={optimizer}", *needs)
    assert "other" in json.loads((folder / "summary.json").read_text())["optimizers"]


@pytest.mark.parametrize(
    "trainer", [name for name in options("trainer") if name not in ("gpu", "ddp", "ddp_spawn", "ddp_cpu")]
)
def test_every_trainer_runs(program: Program, trainer: str) -> None:
    program("train.py", f"trainer={trainer}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("trainer", ["gpu", "ddp", "ddp_spawn"])
def test_a_trainer_for_gpus_says_that_there_is_none(program: Program, trainer: str) -> None:
    assert "accelerator" in refused(lambda: program("train.py", f"trainer={trainer}")).lower()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_end_with_one_comparison(tmp_path: Path) -> None:
    overrides = [*SMALL, *FEW, "logger=csv", "trainer=ddp_cpu", f"hydra.run.dir={tmp_path / 'ddp'}"]
    done = subprocess.run([sys.executable, ROOT / "train.py", *overrides], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained optimizer:") == 1
    assert (tmp_path / "ddp/summary.json").exists()


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_dataset_option_names_a_loader(program: Program, npz: Callable[..., Path], dataset: str) -> None:
    """Those that would download say, without a network or a file, what to use instead."""
    if dataset in ("digits", "npz"):
        path = [f"dataset.path={npz(8, 8)}"] if dataset == "npz" else []
        program("train.py", f"dataset={dataset}", *path)
    elif dataset == "text":
        assert "optimizee=char_gru" in refused(lambda: program("train.py", "dataset=text"))
        program("train.py", "dataset=text", "optimizee=char_gru")
    else:
        offline = ["dataset.download=false", "dataset.root=nowhere", "optimizee=mnist_mlp"]
        assert "dataset=npz" in refused(lambda: program("train.py", f"dataset={dataset}", *offline))


def test_a_search_over_meta_learning_rates_gives_its_best_trial_back(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    program("train.py", "sweep=meta_lr", "sweep.n_trials=2", f"hydra.sweep.dir={folder}", "logger=wandb", "-m")
    for of in ("0", "1", "."):
        assert len(list((folder / of / "wandb").glob("offline-run-*/*.wandb"))) == 1, "each trial, and what was found"
    losses = [json.loads((folder / f"outcomes/{number}.json").read_text())["loss"] for number in range(2)]
    again = program("train.py", "-cd", str(folder), "-cn", "best")
    best = folder / str(losses.index(min(losses)))
    assert losses[0] != losses[1]
    assert (again / "curves.csv").read_bytes() == (best / "curves.csv").read_bytes()


def test_a_grid_is_one_run_for_each_value(program: Program, tmp_path: Path) -> None:
    program("train.py", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'grid'}", "-m")
    first, second = (tmp_path / f"grid/{number}/curves.csv" for number in range(2))
    assert first.read_bytes() != second.read_bytes()


def running_commands() -> list[str]:
    text = (ROOT / "docs/running.md").read_text()
    return [line.split("  #")[0].strip() for line in re.findall(r"^python (?:train|evaluate)\.py.*$", text, re.M)]


@pytest.mark.parametrize("command", [command for command in running_commands() if "--help" not in command])
def test_the_commands_of_the_page_on_running_run(program: Program, npz: Callable[..., Path], command: str) -> None:
    _, script, *overrides = shlex.split(command)
    if any("last.ckpt" in word or "=best" in word for word in overrides):
        trained = program("train.py")
        overrides = [word.replace("=best", f"={trained / 'best'}").replace("=last.ckpt", f"={trained / 'last.ckpt'}")
                     for word in overrides]  # fmt: skip
    if "experiment=mnist" in overrides:  # torchvision's download is not at hand: the same on a file
        overrides = [word for word in overrides if not word.startswith("dataset")]
        overrides += ["dataset=npz", f"dataset.path={npz(28, 28, name='mnist.npz')}"]
    Image.new("RGB", (40, 50), "teal").save("my.jpg")
    long = ("trainer.max_epochs", "evaluation.num_steps")
    assert program(script, *(word for word in overrides if not word.startswith(long))).exists()


def test_the_python_examples_of_the_page_on_running_run(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    trained = program("train.py", "experiment=quadratic")
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs/running.md").read_text(), re.S)
    assert len(examples) == 2
    capsys.readouterr()
    for example in examples:
        exec(example.replace('"best"', repr(str(trained / "best"))), {})
    assert capsys.readouterr().out.startswith("tensor([")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_explains_the_keys(program: Program, capsys: pytest.CaptureFixture[str], script: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        program(script, "--help")
    assert exit_.value.code in (None, 0)
    shown = capsys.readouterr().out
    groups = {"train.py": CONF.iterdir(), "evaluate.py": [CONF / "optimizee", CONF / "dataset"]}[script]
    for name in ["seed", *(path.name for path in groups if path.is_dir())]:
        assert name in shown


# ---------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learner.windw=10"], "windw"),
        (["optimizee=nothing"], "nothing"),
        (["learner.window=3"], "3 does not divide 4"),
        (["learner.window=8"], "8 does not divide 4"),
        (["learner.num_tasks=-1"], "num_tasks must be at least 1"),
        (["optimizer.hidden_size=0"], "hidden_size must be >= 1"),
        (["optimizee.batch_size=0"], "batch_size must be >= 1"),
        (["optimizee.network.hidden=[-5]"], "at least one unit"),
        (["optimizee.network.activation=step"], "sigmoid, relu, tanh"),
        (["evaluation.num_steps=0"], "num_steps must be at least 1"),
        (["evaluation.rates_range=[0,1]"], "two positive learning rates"),
        (["evaluation.select_by=luck"], "final or sum"),
        (["preprocessing.p=0"], "p > 0"),
        (["optimizee=mnist_mlp"], "Choose dataset="),
        (["optimizer=adam"], "no parameters to train"),
        (["meta_gradient=imitation"], "set meta_gradient.teacher.lr"),
        (["meta_gradient=imitation_cifar", "meta_gradient.cooldown=50"], "between 0 and 1, got 50"),
        (["optimizer=pretrained"], "optimizer.name"),
        (["optimizer=pretrained", "optimizer.name=nowhere"], "no trained optimizer 'nowhere'"),
        (["dataset.labels=[3,10]"], "different ones of [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], got [3, 10]"),
        (["dataset=npz"], "dataset.path"),
        (["optimizee=char_gru"], "choose dataset=text"),
        (["dataset=text", "dataset.path=missing.txt"], "no text at 'missing.txt'"),
        (["optimizee=digits_vit", "optimizee.init=xavier"], "init must be one of normal, torch"),
        (["dataset=npz", "dataset.path=missing.npz"], "no dataset at"),
        (["ckpt_path=missing.ckpt"], "no checkpoint at"),
        (["seed=abc"], "seed"),
        (["+baselines.LSTM={_target_: l2o.optimizers.Adam}"], "baselines.LSTM has the name of the optimizer that is"),
        (["+baselines.Mine=3"], "baselines.Mine must be an update rule"),
        (["meta_gradient=null"], "learner.meta_gradient needs 'meta_gradient', which this command line"),
        (["preprocessing=null"], "optimizer.preprocessing needs 'preprocessing', which this command line"),
        (["learner.meta_optimizer=null"], "learner.meta_optimizer must be a class of torch.optim"),
        (["learner.meta_scheduler=cosine"], "learner.meta_scheduler must be null or a scheduler"),
        (["-m", "sweep=meta_lr", "+sweep.space.seed=interval(0,1)"], "give what is searched by its own name"),
        (["-m", "sweep=meta_lr", "sweep.space={}"], "give what is searched by its own name"),
        (["-m", "sweep=meta_lr", "sweep.seed=-1"], "sweep.seed must be from 0 to 2³² − 1, got -1"),
        (["-m", "learner.meta_optimizer.lr=interval(0.1,1)"], "an interval is for a search: add sweep=meta_lr"),
        (["-m", "seed=range(5,1)"], "seed=range(5,1) has no value to run"),
        (["-m", "optimizer=glob(zzz*)"], "optimizer=glob(zzz*) has no value to run"),
        (["-m", "learner.final_lr_fraction=range(0,1,0)"], "learner.final_lr_fraction=range(0,1,0): range() arg 3"),
    ],
)
def test_a_mistake_is_answered_in_one_line(program: Program, overrides: list[str], says: str, tmp_path: Path) -> None:
    assert says in refused(lambda: program("train.py", *overrides))
    assert not list(tmp_path.glob("run*/best")), "nothing half-written"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learned.SGD=digits"], "learned.SGD has the name of a baseline: give it another one"),
        (
            ["learned.LSTM=digits", "proposals.beside=[FOO]"],
            "proposals.beside names FOO, which is not compared: LSTM, SGD",
        ),
        (["learned.LSTM=digits", "proposals.coordinates=1000000"], "proposals.coordinates must be at most 1510"),
        (["learned.LSTM=digits", "baselines.SGD=3"], "baselines.SGD must be an update rule"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(program: Program, overrides: list[str], says: str) -> None:
    assert says in refused(lambda: program("evaluate.py", *overrides))


def test_a_baseline_that_is_null_is_not_compared(program: Program) -> None:
    folder = program("evaluate.py", "learned.LSTM=digits", "baselines.SGD=null", "proposals.beside=[SGD,ADAM]")
    assert list(json.loads((folder / "summary.json").read_text())["optimizers"]) == ["LSTM", "NAG", "RMSprop", "ADAM"]


def test_a_traceback_is_shown_on_request(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2O_TRACEBACK", "1")
    with pytest.raises(Exception, match="does not divide"):
        program("train.py", "learner.window=3")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_train": np.zeros((20,), np.uint8)}, "x_train must be"),
        ({"x_train": np.zeros((20, 8, 8), np.int64)}, "x_train must be"),
        ({"y_train": np.zeros((20,), np.float32)}, "y_train must be"),
        ({"y_train": np.zeros((19,), np.int64)}, "y_train must be"),
        ({"y_test": np.full((20,), 10)}, "labels must be"),
        ({"y_test": np.full((20,), -1)}, "labels must be"),
    ],
)
def test_a_bad_npz_is_answered_in_one_line(
    program: Program, npz: Callable[..., Path], changes: dict[str, np.ndarray], says: str
) -> None:
    path = npz(8, 8, **changes)
    assert says in refused(lambda: program("train.py", "dataset=npz", f"dataset.path={path}"))


def test_a_corrupt_npz_is_answered_in_one_line(program: Program, npz: Callable[..., Path]) -> None:
    path = npz(8, 8)
    path.write_bytes(path.read_bytes()[:1000])
    assert "no intact .npz" in refused(lambda: program("train.py", "dataset=npz", f"dataset.path={path}"))


def test_a_damaged_or_foreign_checkpoint_is_answered_in_one_line(program: Program, tmp_path: Path) -> None:
    good = (program("train.py") / "last.ckpt").read_bytes()
    damaged, foreign = tmp_path / "damaged.ckpt", tmp_path / "foreign.ckpt"
    damaged.write_bytes(good[: len(good) // 2])
    torch.save({"state_dict": {}}, foreign)
    for script, key in (("train.py", "ckpt_path"), ("evaluate.py", "learned.LSTM")):
        assert "damaged" in refused(lambda s=script, k=key: program(s, f"{k}={damaged}"))
        assert "no checkpoint of" in refused(lambda s=script, k=key: program(s, f"{k}={foreign}"))


def test_a_checkpoint_of_another_architecture_is_answered_in_one_line(program: Program) -> None:
    other = program("train.py", "optimizer.hidden_size=3") / "last.ckpt"
    assert "another optimizer" in refused(lambda: program("train.py", f"ckpt_path={other}"))


def test_an_output_folder_that_cannot_be_written_is_answered_in_one_line(program: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(lambda: program("train.py", f"hydra.run.dir={tmp_path / 'file' / 'run'}"))
    assert "file" in line and "hydra.run.dir=FOLDER" in line


def test_a_sweep_without_multirun_is_refused(program: Program) -> None:
    assert "add -m" in refused(lambda: program("train.py", "sweep=meta_lr"))
