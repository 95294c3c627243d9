"""The card: what it says, that its lines work where the reader is, that it is always JSON and never names a folder."""

import json
import math
import re

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import l2o
from l2o.deploy import export, hub, model_card
from l2o.optimizers import GAC, LSTM, SGD, LogAndSign, Partitioned


def readme(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def run_code(text):
    """What the card's Python lines make, with a model that the reader has."""
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"model": torch.nn.Linear(2, 1)}
    exec(code[1], names)
    return names["optimizer"], names["rule"]


# --------------------------------------------------------------------------------------------------- lines that work


def test_the_lines_work_in_the_folder_of_the_card(tmp_path, monkeypatch):
    """Also where a shipped rule is called the same."""
    folder = export.save(SGD(0.25), tmp_path / "best", {"name": "mnist"})
    monkeypatch.chdir(folder)
    optimizer, rule = run_code(readme(folder))
    assert rule.lr == 0.25 and isinstance(optimizer, l2o.LearnedOptimizer)


@pytest.mark.parametrize("name", l2o.list_pretrained())
def test_the_lines_of_a_shipped_card_work_anywhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    _, rule = run_code(readme(hub.PRETRAINED / name))
    assert rule.card["name"] == l2o.from_pretrained(name).card["name"]


@pytest.mark.parametrize("name", l2o.list_pretrained())
def test_shipped_cards_are_what_is_written_today(name):
    folder = hub.PRETRAINED / name
    config = json.loads((folder / "config.json").read_text())
    assert readme(folder) == model_card.readme(config, l2o.from_pretrained(name), name, name)


# -------------------------------------------------------------------------------------------------------- what it says


class Halves(SGD):
    """A rule that this project does not define."""


def test_it_says_which_classes_to_import_first_without_their_modules(tmp_path):
    rule = Partitioned({"a": Halves(0.1), "b": SGD(0.1)}, {"a": "x", "b": "y"})
    text = readme(export.save(rule, tmp_path))
    assert "# First import the module that defines Halves.\nrule = l2o.from_pretrained" in text
    assert "test_model_card" not in text.replace(tmp_path.name, "")
    assert "First import" not in readme(export.save(SGD(0.1), tmp_path))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (LSTM(LogAndSign(10), hidden_size=2), "serves any model, of any size, sharded or not"),
        (GAC(hidden_size=2, averaging_cells=1), "any model that is not sharded"),
        (Partitioned({"a": SGD(0.1), "b": SGD(0.1)}, {"a": "x.*", "b": "y"}), "`a` by `x.*`, `b` by `y`"),
        (Partitioned({"a": SGD(0.1), "b": SGD(0.1)}, {"a": "x.*", "b": "y"}), "patterns={group: regular expression}"),
    ],
)
def test_it_says_for_which_models_the_rule_is(tmp_path, rule, says):
    assert says in readme(export.save(rule, tmp_path))


def test_the_front_matter_is_what_the_hub_reads(tmp_path):
    text = readme(export.save(SGD(0.1), tmp_path, {"license": "mit: or not\n---\nevil: yes"}))
    data = ModelCard(text).data
    assert data.license == "mit: or not\n---\nevil: yes" and data.library_name == "l2o"
    assert data.tags == ["learned-optimizer", "pytorch"] and "evil" not in data.to_dict()


# ------------------------------------------------------------------------------------------------------ always JSON


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({"loss": math.inf}, {"loss": None}),
        ({"a": {"b": [1.0, math.nan, -math.inf]}}, {"a": {"b": [1.0, None, None]}}),
        ({"n": np.float32(0.5), "t": torch.tensor(2)}, {"n": 0.5, "t": 2}),
        ({"n": np.float64(np.inf)}, {"n": None}),
        ({"shape": (1, 2)}, {"shape": [1, 2]}),
        ({}, {}),
    ],
    ids=str,
)
def test_numbers_are_written_as_json_knows_them(tmp_path, given, written):
    folder = export.save(SGD(0.1), tmp_path, given)
    config = json.loads((folder / "config.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert config["card"] == written == export.load(folder).card


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("text", "a card is a mapping .*, got a str"),
        (["text"], "a card is a mapping .*, got a list"),
        (3, "a card is a mapping .*, got a int"),
        ({"weights": torch.ones(3)}, r"card\['weights'\] is an array of shape \(3,\)"),
        ({"a": {"b": object()}}, r"card\['a'\]\['b'\] is a object"),
        ({1: 2}, "card has the key 1"),
        ({"name": 3}, r"card\['name'\] must be text"),
        ({"license": None}, r"card\['license'\] must be text"),
    ],
)
def test_what_is_no_card_is_refused_in_one_line(tmp_path, card, says):
    with pytest.raises(ValueError, match=says) as caught:
        export.save(SGD(0.1), tmp_path / "it", card)
    assert "\n" not in str(caught.value) and not (tmp_path / "it").exists()


@pytest.mark.parametrize("results", ["good", 3, [1], {"optimizers": 3}, {"optimizers": {"a": {}}}, {"x": 1}], ids=str)
def test_results_of_any_form_are_shown(tmp_path, results):
    assert f"Results: `{json.dumps(results)}`" in readme(export.save(SGD(0.1), tmp_path, {"results": results}))


def test_the_table_says_of_which_problem_its_losses_are(tmp_path):
    row = {"lr": None, "final_loss": 1.0, "standard_error": 0.1}
    results = {"problem": "another style", "num_steps": 2, "num_tasks": 3, "optimizers": {"SGD": row}}
    text = readme(export.save(SGD(0.1), tmp_path, {"results": results}))
    assert "Mean loss after 2 steps on 3 fresh problems (another style):" in text
