"""Tunings that are kept on disk: found again where everything is the same, and only there."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from programs import SMALL

from l2o.evaluation import Evaluation
from l2o.evaluation import evaluation as module
from l2o.optimizees import NeuralArt, Quadratic
from l2o.optimizers import SGD, Adam, HandDesigned
from l2o.runs.tunings import remember_tunings

SETTINGS = {"num_tasks": 2, "num_steps": 3, "tuning_tasks": 2, "rates_range": (1e-3, 1.0), "rates_count": 3}
QUADRATIC = OmegaConf.create({"_target_": "l2o.optimizees.Quadratic", "dim": 4})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/l2o/tuning"


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rules that have really been tuned, in order."""
    names: list[str] = []
    really = module.tune

    def tune(rule: HandDesigned, *args, **kwargs):
        names.append(type(rule).__name__)
        return really(rule, *args, **kwargs)

    monkeypatch.setattr(module, "tune", tune)
    return names


def compared(config: DictConfig = QUADRATIC, rules=None, cache: bool = True, **settings):
    evaluation = Evaluation(**{**SETTINGS, **settings}, cache=cache)
    optimizee = instantiate(config)
    remember = remember_tunings(evaluation, config, optimizee, "cpu")
    return evaluation(rules or {"SGD": SGD(), "ADAM": Adam()}, optimizee, "cpu", remember)


def test_a_second_comparison_tunes_nothing_and_is_bit_equal(tuned):
    first, second = compared(), compared()
    assert tuned == ["SGD", "Adam"]
    assert second.summary() == first.summary()
    assert all(torch.equal(second.entries[n].losses, first.entries[n].losses) for n in first.entries)
    assert first.summary() == compared(cache=False).summary()


def test_scores_that_are_infinite_are_kept(tuned):
    first, second = (compared(rates_range=(1e-2, 1e30)) for _ in range(2))
    assert len(tuned) == 2
    assert first.entries["SGD"].tuning == second.entries["SGD"].tuning
    assert torch.inf in (second.entries["SGD"].tuning or {}).values()


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"tuning_tasks": 3},
        {"tuning_steps": 2},
        {"rates_count": 4},
        {"select_by": "sum"},
        {"config": OmegaConf.create({**QUADRATIC, "dim": 5})},
        {"rules": {"SGD": SGD(warmup=0.5), "ADAM": Adam(beta1=0.8)}},
    ],
)
def test_what_tuning_depends_on_is_tuned_anew(tuned, changed):
    compared()
    compared(**changed)
    assert tuned == ["SGD", "Adam"] * 2


def test_what_tuning_does_not_depend_on_is_not_tuned_anew(tuned):
    compared()
    compared(num_tasks=5, table_steps=(1, 2))
    assert tuned == ["SGD", "Adam"]


def test_a_rule_s_name_does_not_matter(tuned):
    compared()
    compared(rules={"gradient descent": SGD()})
    assert tuned == ["SGD", "Adam"]


def test_another_dtype_is_tuned_anew(tuned):
    compared()
    torch.set_default_dtype(torch.float64)
    try:
        compared()
    finally:
        torch.set_default_dtype(torch.float32)
    assert tuned == ["SGD", "Adam"] * 2


def test_a_file_with_other_data_under_the_same_name_is_tuned_anew(tuned, tmp_path):
    network = {"_target_": "l2o.optimizees.mlp", "in_features": 4, "hidden": [2], "out_features": 2}
    data = {"_target_": "l2o.data.from_npz", "path": str(tmp_path / "d.npz")}
    config = OmegaConf.create({"_target_": "l2o.optimizees.Classifier", "network": network, "dataset": data})
    y = np.arange(6) % 2
    for scale in (1.0, 1.0, 2.0):
        x = np.arange(24, dtype=np.float32).reshape(6, 4) * np.float32(scale)
        np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
        compared(config, {"SGD": SGD()})
    assert tuned == ["SGD", "SGD"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"dtype": "float32", "scores": ["0x1p0"]}', "\0", "[" * 10**5])
def test_a_damaged_entry_is_tuned_anew_and_mended(tuned, cache, text):
    compared()
    for path in cache.iterdir():
        path.write_text(text)
    compared()
    compared()
    assert tuned == ["SGD", "Adam"] * 2


def test_nothing_is_kept_where_it_is_turned_off_nor_by_the_library(tuned, cache):
    compared(cache=False)
    Evaluation(**SETTINGS)({"SGD": SGD()}, Quadratic(4))
    assert len(tuned) == 3 and not cache.exists()


class Own(Quadratic):
    """A problem of a user's own: what its code depends on cannot be told."""


class OwnRule(SGD):
    """A rule of a user's own."""


def test_nothing_is_kept_of_a_user_s_own_code(tuned, cache):
    compared(OmegaConf.create({"_target_": f"{__name__}.Own", "dim": 4}))
    compared(rules={"own": OwnRule()})
    assert len(tuned) == 3 and not cache.exists()


def test_a_cache_that_cannot_be_written_costs_a_line(tuned, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert compared().summary() == compared(cache=False).summary()
    assert "will be tuned again" in caplog.text


def test_every_optimizee_of_ours_can_be_kept():
    art = NeuralArt(["fire4"], ["conv1_1"], size=32, content_side=40, style_side=32)
    for optimizee in (Quadratic(3), art):
        evaluation = Evaluation(cache=True)
        assert remember_tunings(evaluation, QUADRATIC, optimizee, "cpu") is not None


@pytest.mark.slow
def test_the_jobs_of_a_grid_tune_once(tmp_path, cache, programs):
    words = ["-m", "learner.meta_optimizer.lr=1e-3,2e-3", "hydra.sweep.dir=grid", "evaluation.cache=true"]
    run = programs.finish(tmp_path, *words, "trainer.max_epochs=1", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert run.output.count("tuned before") == 4  # the second job's four baselines
    assert len(list(cache.glob("*.json"))) == 4
    rows = []
    for job in ("0", "1"):
        with open(tmp_path / "grid" / job / "curves.csv") as file:
            rows.append([row for row in csv.reader(file) if row[0] in ("SGD", "NAG", "RMSprop", "ADAM")])
    assert rows[0] == rows[1] and len(rows[0]) > 4
    first, second = (json.loads((tmp_path / "grid" / job / "summary.json").read_text()) for job in ("0", "1"))
    assert [first["optimizers"][n]["tuning"] for n in ("SGD", "ADAM")] == [
        second["optimizers"][n]["tuning"] for n in ("SGD", "ADAM")
    ]
    assert "evaluation.cache=false" in SMALL
