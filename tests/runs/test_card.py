"""The card of a run: the whole command, and no folder of the author."""

from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from l2o.runs import card


def source(provider, path):
    return SimpleNamespace(provider=provider, path=path)


@pytest.fixture
def command(monkeypatch):
    def made(*overrides, directory=None, name="train"):
        sources = [source("hydra", "hydra.conf"), source("main", "/home/me/l2o/conf"), source("schema", "")]
        if directory:
            sources.insert(2, source("command-line", directory))
        config = SimpleNamespace(
            job=SimpleNamespace(name="train", config_name=name),
            runtime=SimpleNamespace(config_sources=sources),
            overrides=SimpleNamespace(task=list(overrides)),
        )
        monkeypatch.setattr(HydraConfig, "get", lambda: config)
        return card.command()

    return made


def test_the_command_is_whole(command):
    assert command("experiment=mnist", "seed=1") == "python train.py experiment=mnist seed=1"
    assert command("++learned.A=/home/me/best", "++b=1") == "python train.py learned.A=best ++b=1"
    given = {"directory": "/home/me/project/conf", "name": "mine"}
    assert command("a=b", **given) == "python train.py --config-dir conf --config-name mine a=b"
    assert command("x=[1,2]", "y='a b'") == """python train.py 'x=[1,2]' 'y='"'"'a b'"'"''"""


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("dataset.path=/home/me/x.npz", "dataset.path=x.npz"),
        ("dataset.path='/home/me/x.npz'", "dataset.path='x.npz'"),
        ('dataset.path="~/my data/x.npz"', 'dataset.path="x.npz"'),
        ("a=[/home/me/x,../y/z]", "a=[x,z]"),
        ("a={b:/home/me/x}", "a={b:x}"),
        ("a=~user/x", "a=x"),
        ("optimizer.name=outputs/train/best", "optimizer.name=outputs/train/best"),
        ("rate=1/2", "rate=1/2"),
        ("url=https://example.com/a/b", "url=https://example.com/a/b"),
    ],
)
def test_no_folder_of_the_author_gets_into_it(given, kept):
    assert card.without_folders(given) == kept


def test_a_folder_that_ends_in_a_slash_is_cut_too():
    assert "me" not in card.without_folders("path=/home/me/")


def test_a_card_names_no_folders():
    config = {"dataset": {"path": "/home/me/mnist.npz", "root": "~/x"}, "hidden": [20, "./a/b"], "rate": 0.1}
    assert card.without_folders(config) == {
        "dataset": {"path": "mnist.npz", "root": "x"},
        "hidden": [20, "b"],
        "rate": 0.1,
    }


def test_a_card_names_the_families_and_their_horizons():
    """A run on one optimizee tells that, as ever."""
    from l2o.optimizers.card import horizon_of, task_of

    learner = {"horizon": 20, "families": {"a": {"horizon": {"low": 10, "high": 300}}, "b": {"horizon": None}}}
    cfg = OmegaConf.create({"optimizee": {"_target_": "l2o.optimizees.Quadratic", "dim": 3}, "learner": learner})
    told = {"optimizee": card.trained_on(cfg), "horizon": card.horizons(cfg)}
    assert told["horizon"] == {"a": {"low": 10, "high": 300}, "b": 20}
    assert (task_of(told), horizon_of(told)) == ("families a, b", 300)
    cfg.learner.families = None
    told = {"optimizee": card.trained_on(cfg), "horizon": card.horizons(cfg)}
    assert told == {"optimizee": {"_target_": "l2o.optimizees.Quadratic", "dim": 3}, "horizon": 20}
