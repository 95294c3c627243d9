"""The card of a run: the whole command, and no folder of the author."""

from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

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
    given = {"directory": "/home/me/work/conf", "name": "mine"}
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
