"""What a file says of a rule is looked at before memory is taken for it, and before anybody uses it."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import l2o
from l2o.deploy.description import build
from l2o.deploy.soundness import refuse_sizes
from l2o.optimizers import LSTM, NTMBFGS, SGD, AdafacMLP, Celo, Celo2, LogAndSign, MLPLOpt, Partitioned, RNNProp

RULES = {
    "lstm": lambda: LSTM(LogAndSign(10), hidden_size=3),
    "rnnprop": lambda: RNNProp(3, 1),
    "ntm": lambda: NTMBFGS(hidden_size=6, num_layers=1),
    "adafac": lambda: AdafacMLP(),
    "lopt": lambda: MLPLOpt(),
    "celo": lambda: Celo(),
    "celo2": lambda: Celo2(),
    "partitioned": lambda: Partitioned({"a": LSTM(hidden_size=2), "b": SGD(0.1)}, {"a": "a", "b": "b"}),
    "sgd": lambda: SGD(0.1),
}


def changed(folder, **arguments):
    config = json.loads((folder / "config.json").read_text())
    config["rule"] |= arguments
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", RULES)
def test_every_rule_comes_back(name, tmp_path):
    rule = RULES[name]()
    loaded = l2o.load(l2o.save(rule, tmp_path))
    assert all(torch.equal(value, rule.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("lstm", {"hidden_size": 10**9}, "its config says hidden_size=1000000000, but the file holds 184 numbers"),
        ("lstm", {"hidden_size": 10**30}, "hidden_size=1000000000000000000000000000000, but"),
        ("lstm", {"num_layers": 10**9}, "num_layers=1000000000, but the file holds 184 numbers in all"),
        ("lstm", {"hidden_size": 1000}, "a rule of 12025001 numbers, but the file holds 184 in all"),
        ("celo", {"scheduler_size": 1000}, "but the file holds"),
        ("adafac", {"hidden_size": 999}, "a rule of 1040967 numbers, but the file holds 197 in all"),
        ("celo2", {"hidden_size": 10**8}, "hidden_size=100000000, but the file holds 347 numbers"),
        ("ntm", {"read_heads": 10**8}, "read_heads=100000000, but the file holds"),
        ("rnnprop", {"hidden_size": 999}, "numbers, but the file holds"),
    ],
)
def test_a_size_that_the_weights_cannot_have_is_refused_before_memory_is_taken(name, arguments, says, tmp_path):
    folder = changed(l2o.save(RULES[name](), tmp_path / "rule"), **arguments)
    before = time.process_time()
    with pytest.raises(ValueError, match=says):
        l2o.load(folder)
    assert time.process_time() - before < 5


def test_sizes_in_a_checkpoint_and_inside_other_rules_are_looked_at():
    description = {
        "class": "Partitioned",
        "patterns": {"a": "a"},
        "rules": {"a": {"class": "LSTM", "num_layers": 9999}},
    }
    with pytest.raises(ValueError, match="num_layers=9999, but the file holds 3 numbers in all"):
        refuse_sizes(description, {"w": torch.zeros(3)}, build)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"float": "nan"}, {"float": "-inf"}])
@pytest.mark.parametrize(("name", "argument"), [("lstm", "output_scale"), ("celo", "step_mult"), ("sgd", "lr")])
def test_an_argument_that_is_not_finite_is_refused(name, argument, value, tmp_path):
    folder = changed(l2o.save(RULES[name](), tmp_path / "rule"), **{argument: value})
    with pytest.raises(ValueError, match=f"'s argument {argument} is -?(nan|inf): it must be a finite number"):
        l2o.load(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(value, tmp_path):
    rule = RULES["lstm"]()
    folder = l2o.save(rule, tmp_path / "rule")
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"] = torch.full_like(weights["head.bias"], value)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"rule' is damaged: 'head.bias' holds numbers that are nan or infinite; use "):
        l2o.load(folder)
    rule.head.bias.data.fill_(value)
    with pytest.raises(ValueError, match=r"this LSTM is not saved, .*: 'head.bias' holds numbers that are nan or inf"):
        l2o.save(rule, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("given", ["./mnist", "mnist/", "models/mnist", "../mnist", "/nowhere/mnist"])
def test_a_path_that_is_called_like_a_shipped_rule_gets_the_hint(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("l2o.deploy.hub._download", lambda *_: (_ for _ in ()).throw(ValueError("no network")))
    with pytest.raises(ValueError, match=r"the one that comes with l2o is called 'mnist', without a folder$"):
        l2o.from_pretrained(given)


def test_a_data_folder_of_that_name_gets_the_hint(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert l2o.from_pretrained("mnist").card["name"] == "mnist"
    with pytest.raises(ValueError, match=r"no trained optimizer at 'mnist': .*; the one that comes with l2o is called"):
        l2o.from_pretrained("./mnist")
