"""Trained rules by name: in the package, on a Hub, in a folder; and the card that each carries."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

import l2o
from l2o.deploy import export, hub
from l2o.optimizers import LSTM, SGD, LogAndSign

CARD = {"horizon": 100, "seed": 3, "optimizee": {"_target_": "l2o.Quadratic", "dim": 10}, "license": "mit"}


@pytest.fixture
def rule():
    return LSTM(LogAndSign(5), hidden_size=3)


@pytest.fixture
def shelf(tmp_path, monkeypatch, rule):
    """A package folder with two rules in it and something that is none."""
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path / "pretrained")
    export.save(rule, tmp_path / "pretrained/mine", CARD)
    export.save(SGD(0.1), tmp_path / "pretrained/an_sgd")
    (tmp_path / "pretrained/__pycache__").mkdir()
    return tmp_path / "pretrained"


def same(a, b):
    return export.describe(a) == export.describe(b) and all(
        torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items()
    )


# -------------------------------------------------------------------------------------------------- in the package


def test_names_of_the_package_are_listed_and_loaded(shelf, rule):
    assert l2o.list_pretrained() == ["an_sgd", "mine"]
    loaded = l2o.from_pretrained("mine")
    assert same(loaded, rule) and loaded.card == CARD and not loaded.training


@pytest.mark.parametrize("name", l2o.list_pretrained())
def test_what_ships_is_intact_small_and_has_a_card(name):
    rule = l2o.from_pretrained(name)
    assert rule.card["optimizee"] and rule.card["results"] and rule.card["license"] and "seed" in rule.card
    files = list((hub.PRETRAINED / name).iterdir())
    assert {file.name for file in files} == {"config.json", "model.safetensors", "README.md"}
    assert sum(file.stat().st_size for file in files) < 200_000
    assert (hub.PRETRAINED / name / "README.md").read_text().count("/home/") == 0


@pytest.mark.parametrize("name", ["nothing", "", "a b/c", "../up/and/away", "https://example.com/x"])
def test_an_unknown_name_says_what_there_is(shelf, name, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"an_sgd, mine|no trained optimizer at") as caught:
        l2o.from_pretrained(name)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- in a folder


def test_a_folder_and_a_checkpoint_are_loaded_and_come_first(shelf, tmp_path, monkeypatch, rule):
    monkeypatch.chdir(tmp_path)
    assert same(l2o.from_pretrained(shelf / "mine"), rule)
    l2o.save_pretrained(SGD(0.7), "mine")
    assert l2o.from_pretrained("mine").lr == 0.7
    torch.save({"l2o": {"rule": json.dumps(export.describe(rule)), "best_phi": rule.state_dict()}}, "last.ckpt")
    assert same(l2o.from_pretrained("last.ckpt"), rule)
    with pytest.raises(ValueError, match=r"no checkpoint at 'missing\.ckpt'"):
        l2o.from_pretrained("missing.ckpt")


# -------------------------------------------------------------------------------------------------------- on the Hub


class FakeHub:
    """A Hub that is a folder."""

    def __init__(self, root: Path):
        self.root, self.created = root, {}

    def download(self, repo_id, filename, revision=None):
        path = self.root / repo_id / (revision or "main") / filename
        if not path.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("cannot find it\nneither here nor there")
        return str(path)

    def create_repo(self, repo_id, **arguments):
        self.created[repo_id] = arguments
        return type("Address", (), {"repo_id": repo_id})

    def upload_folder(self, repo_id, folder_path, commit_message):
        for file in Path(folder_path).iterdir():
            (self.root / repo_id / "main").mkdir(parents=True, exist_ok=True)
            (self.root / repo_id / "main" / file.name).write_bytes(file.read_bytes())
        return f"https://hub/{repo_id}"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token=None: fake)
    return fake


def test_what_is_pushed_comes_back_with_its_card(fake, rule):
    rule.card = CARD
    assert l2o.push_to_hub(rule, "me/mine", private=True) == "https://hub/me/mine"
    assert fake.created == {"me/mine": {"exist_ok": True, "private": True}}
    loaded = l2o.from_pretrained("me/mine")
    assert same(loaded, rule) and loaded.card == CARD
    assert "# mine" in (fake.root / "me/mine/main/README.md").read_text()


def test_a_revision_is_passed_on(fake, rule):
    l2o.push_to_hub(rule, "me/mine")
    with pytest.raises(ValueError, match="no trained optimizer 'me/mine'"):
        l2o.from_pretrained("me/mine", revision="old")


@pytest.mark.parametrize("victim", ["config.json", "model.safetensors"])
def test_a_foreign_repository_is_refused_in_one_line(fake, rule, victim):
    l2o.push_to_hub(rule, "me/mine")
    (fake.root / "me/mine/main" / victim).write_bytes(b"\x80\x04\x95 not what you think\n")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        l2o.from_pretrained("me/mine")
    assert "\n" not in str(caught.value)


def test_without_a_network_it_says_so(shelf, monkeypatch, tmp_path):
    """The real client, told that it is offline, with an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"no network and not in the cache.*an_sgd, mine") as caught:
        l2o.from_pretrained("somebody/something")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="'me/mine' could not be uploaded") as caught:
        l2o.push_to_hub(SGD(0.1), "me/mine", token="hf_none")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- the card


RESULTS = {
    "num_steps": 100,
    "num_tasks": 32,
    "optimizers": {
        "LSTM": {"lr": None, "final_loss": 0.123456, "standard_error": 0.01},
        "ADAM": {"lr": 0.03, "final_loss": 0.2, "standard_error": None},
    },
}


def test_the_readme_says_what_the_card_says(tmp_path, rule):
    folder = export.save(rule, tmp_path / "best", CARD | {"name": "mnist", "results": RESULTS})
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\n")
    for part in ("- seed: `3`", "- horizon (steps): `100`", "| LSTM | – | 0.123 | 0.01 |", "| ADAM | 0.03 | 0.2 | – |"):
        assert part in text
    assert 'l2o.from_pretrained(".")' in text, "the name is that of a shipped rule, too"


def test_a_rule_without_a_card_has_a_readme_all_the_same(tmp_path):
    assert "SGD" in (export.save(SGD(0.1), tmp_path / "it") / "README.md").read_text()
