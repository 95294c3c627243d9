"""The trained optimizers of evaluate.py: as they are, and with an argument of their constructor changed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from l2o.deploy import export
from l2o.deploy.description import changed, describe
from l2o.deploy.hub import from_pretrained
from l2o.optimizers import Adam, Hierarchical
from l2o.runs.learned import open_baselines, open_learned, refuse_same_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained optimizer: its φ is drawn at random."""
    torch.manual_seed(0)
    rule = Hierarchical(5, 6, 2, step_mult=0.02)
    for parameter in rule.parameters():
        parameter.data += torch.randn_like(parameter)
    return export.save(rule, tmp_path / "trained", {"horizon": 200})


def opened(**learned: Any) -> dict[str, Any]:
    return open_learned(OmegaConf.create({"learned": learned}))


def test_controls_have_the_same_phi_and_one_argument_of_their_own(folder):
    path = str(folder)
    rules = opened(
        general=path,
        adam={"folder": path, "direction": "adam"},
        other=None,
        cosine={"folder": path, "schedule": "cosine"},
    )
    assert list(rules) == ["general", "adam", "cosine"]
    general = rules["general"]
    for name, changes in {"adam": {"direction": "adam"}, "cosine": {"schedule": "cosine"}}.items():
        rule = rules[name]
        assert describe(rule) == {**describe(general), **changes}
        assert rule.card == general.card and not rule.training
        for (key, value), (other, own) in zip(general.state_dict().items(), rule.state_dict().items(), strict=True):
            assert key == other and torch.equal(value, own) and value.data_ptr() != own.data_ptr()


def test_a_table_with_a_folder_alone_is_the_optimizer_itself(folder):
    rules = opened(a=str(folder), b={"folder": str(folder)})
    assert describe(rules["a"]) == describe(rules["b"])


def test_changed_keeps_the_dtype_of_the_weights():
    rule = changed(Hierarchical(5, 6, 2).double(), {"step_mult": 0.1})
    assert isinstance(rule, Hierarchical) and rule.step_mult == 0.1 and next(rule.parameters()).dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directoin": "adam"}, r"unknown key learned\.X\.directoin: did you mean learned\.X\.direction"),
        ({"direction": "sgd"}, "direction must be learned or adam, got 'sgd'"),
        ({"step_mult": "much"}, r"learned\.X\.step_mult must be a number, got 'much'"),
        ({"hidden_size": 9}, "trained weights of Hierarchical do not fit it with hidden_size=9"),
        ({"class": "Adam"}, r"unknown key learned\.X\.class"),
        ({"folder": None}, r"learned\.X\.folder is missing"),
        ({"folder": "nowhere"}, "no trained optimizer 'nowhere'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        opened(X={"folder": str(folder), **changes})


def test_what_is_neither_a_path_nor_a_table_is_refused():
    with pytest.raises(ValueError, match="no trained optimizer 3"):
        opened(X=3)
    with pytest.raises(ValueError, match="learned must be a table of optimizers by name"):
        open_learned(OmegaConf.create({"learned": ["a"]}))


def test_a_training_goes_on_from_a_trained_rule_with_changed_arguments(folder, tmp_path):
    node = {"_target_": "l2o.from_pretrained", "name": str(folder), "changes": {"step_mult": 0.1, "orthogonal": True}}
    rule = instantiate(OmegaConf.create(node))
    assert describe(rule) == {**describe(export.load(folder)), "step_mult": 0.1, "orthogonal": True}
    node["changes"] = {"momentum_decays": [0.8, 0.9, 0.99]}  # a list of the configuration
    assert describe(instantiate(OmegaConf.create(node)))["momentum_decays"] == [0.8, 0.9, 0.99]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"step": 0.1}, "Hierarchical has no argument step: it takes hidden_size"), ("step_mult", "a table of arguments")],
)
def test_changes_that_make_no_sense_are_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder, changes=changes)


# --------------------------------------------------------------------------------------------------------- baselines


def test_a_baseline_that_is_null_is_left_out():
    adam = {"_target_": "l2o.optimizers.Adam", "lr": 0.1}
    assert open_baselines(OmegaConf.create({"baselines": None})) == {} == open_baselines(OmegaConf.create({}))
    found = open_baselines(OmegaConf.create({"baselines": {"ADAM": adam, "SGD": None}}))
    assert list(found) == ["ADAM"] and isinstance(found["ADAM"], Adam) and found["ADAM"].lr == 0.1


@pytest.mark.parametrize("given", [3, "adam", {"lr": 0.1}, ["a"], {"_target_": "torch.nn.Linear", "_args_": [1, 1]}])
def test_what_is_no_baseline_is_refused(given):
    with pytest.raises(ValueError, match=r"^baselines.Mine must be an update rule, as .*, got "):
        open_baselines(OmegaConf.create({"baselines": {"Mine": given}}))


def test_one_name_is_not_for_two_optimizers():
    refuse_same_names(["LSTM"], ["SGD", "ADAM"])
    with pytest.raises(ValueError, match=r"learned\.SGD has the name of a baseline: give it another one"):
        refuse_same_names(["LSTM", "SGD"], ["SGD", "ADAM"])
