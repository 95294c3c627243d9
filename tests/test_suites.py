"""The suites of the scoreboard as they are shipped: every task is built, and what it says of itself is true."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Generator

from l2o.optimizees import Optimizee
from l2o.optimizees.held_out import held_out_for
from l2o.runs.suites import open_baselines, rates_around

CONF = Path(__file__).parents[1] / "conf"

SUITES = sorted(path.stem for path in (CONF / "suite").glob("*.yaml") if path.stem not in ("held_out", "tiny"))


OWN_HORIZONS = {
    "ordinary": {"relu_mlp": [1000], "residual": [500], "char_transformer": [1000], "least_squares": [1000]},
    "mnist_columns": {"sigmoid_20": [100, 200, 1000, 2000], "relu_20": [100], "sigmoid_40": [100], "two_layers": [200]},
}
"""The horizons of suites that have not just a short, a middle and a long one for every task."""


def configured(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=[*overrides])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A few random images and a text, for the suites that ask for files."""
    draw = np.random.default_rng(0).integers
    for name, shape in {"grey": (28, 28), "colour": (32, 32, 3)}.items():
        x, y = draw(0, 256, (40, *shape), dtype=np.uint8), np.arange(40) % 10
        np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 40)
    return [
        f"suite.images={tmp_path}/grey.npz",
        f"suite.text={tmp_path}/text.txt",
        f"+suite.colour_images={tmp_path}/colour.npz",
    ]


def built(task: DictConfig) -> Optimizee:
    torch.manual_seed(0)
    return instantiate(OmegaConf.create(OmegaConf.to_yaml(task.optimizee, resolve=True)))


def suite(name: str, files: list[str]) -> DictConfig:
    keys = configured(f"+suite={name}").suite
    missing = [file for file in files if OmegaConf.is_missing(keys, file.split("=")[0].removeprefix("+").split(".")[1])]
    return configured(f"+suite={name}", *(file.removeprefix("+") for file in missing)).suite


@pytest.mark.parametrize("name", SUITES)
def test_every_task_is_built_and_has_a_gradient(name: str, files: list[str]) -> None:
    tasks = suite(name, files).tasks
    assert len(tasks) >= (13 if name in ("small", "large") else 2)
    for key, task in tasks.items():
        optimizee = built(task)
        generator = Generator().manual_seed(0)
        theta, drawn = optimizee.sample(2, generator)
        losses, grads = optimizee.loss_and_grad(theta, optimizee.sample_batch(drawn, 2, generator))
        assert losses.isfinite().all() and (grads.abs().sum(1) > 0).all(), key


@pytest.mark.parametrize("name", SUITES)
def test_related_means_not_held_out(name: str, files: list[str]) -> None:
    """The column of a task follows from what the optimizee is made of, and both columns are there."""
    cfg = suite(name, files)
    related = {key: held_out_for(built(task), cfg.held_out) == [] for key, task in cfg.tasks.items()}
    assert related == {key: task.related for key, task in cfg.tasks.items()}


@pytest.mark.parametrize("name", SUITES)
def test_tasks_say_what_they_are_and_have_three_horizons(name: str) -> None:
    for key, task in configured(f"+suite={name}").suite.tasks.items():
        assert task.description.endswith(".")
        if name in OWN_HORIZONS:
            assert [*task.horizons] == OWN_HORIZONS[name][key]
        else:
            assert len(task.horizons) == 3 and sorted(set(task.horizons)) == [*task.horizons]
            assert task.horizons[0] == 100 <= task.horizons[-1] <= 2000


@pytest.mark.parametrize(
    ("name", "count", "seeds", "per_decade", "beyond"), [("ordinary", 5, 5, 2, 3), ("mnist_columns", 15, 32, 4, None)]
)
def test_suites_of_single_models_tune_adam_with_and_without_a_cosine(name, count, seeds, per_decade, beyond) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [f"suite={name}"])
    baselines = open_baselines(cfg)
    assert list(baselines) == ["Adam", "Adam-cosine"] == [*cfg.suite.compare_with]
    assert [vars(one.rule)["schedule"] for one in baselines.values()] == ["constant", "cosine"]
    for one in baselines.values():
        assert one.rates == rates_around(one.rates[count // 2], count, per_decade) and len(one.rates) == count
    assert cfg.scoreboard.seeds == seeds and cfg.suite.get("beyond") == beyond and 1.0 in cfg.scoreboard.scales


def test_the_small_suite_has_both_columns() -> None:
    tasks = configured("+suite=small").suite.tasks.values()
    assert sum(task.related for task in tasks) >= 5 <= sum(not task.related for task in tasks)


def test_large_images_make_the_small_suite_s_image_tasks_held_out(files: list[str]) -> None:
    cfg = configured("+suite=small", files[0], "suite.side=28").suite
    assert held_out_for(built(cfg.tasks.relu_mlp), cfg.held_out) == ["images above 14×14"]
