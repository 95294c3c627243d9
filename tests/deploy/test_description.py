"""Rules as plain JSON: every kind of argument comes back, or is refused by its name."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from l2o.deploy import export
from l2o.deploy.description import build, describe
from l2o.optimizers import LSTM, SGD, LogAndSign, Partitioned, Preprocessing, Scope, UpdateRule, registry


class Anything(UpdateRule):
    """It keeps one argument, whatever it is."""

    scope = Scope.COORDINATE

    def __init__(self, value=None, limit: float = math.inf):
        super().__init__()
        self.value, self.limit = value, limit

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return -seen.grad, state


class Several(Anything):
    """It takes rules in a list."""

    def __init__(self, rules):
        super().__init__()
        self.rules = nn.ModuleList(rules)


class Open(Anything):
    """It takes any keywords."""

    def __init__(self, **keywords):
        super().__init__()
        self.keywords = keywords


class Hidden(nn.Module):
    """It is neither an update rule nor a preprocessing."""


def through_json(rule):
    return build(json.loads(json.dumps(describe(rule), allow_nan=False)))


# ------------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    ("value", "comes_back"),
    [
        ((1, 2), [1, 2]),
        ([1, (2, (3,))], [1, [2, [3]]]),
        ({"a": (1, 2), "b": {"c": (3,)}}, {"a": [1, 2], "b": {"c": [3]}}),
        ((), []),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (torch.tensor(0.25), 0.25),
        ((np.float64(1.5), torch.tensor(2)), [1.5, 2]),
        (Path("a") / "b", "a/b"),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        ([1.0, math.inf], [1.0, math.inf]),
        (np.float32(np.inf), math.inf),
        (True, True),
        ("text", "text"),
        (None, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a partitioned rule"])
def test_an_argument_comes_back_as_plain_json_and_equals_itself(value, comes_back, inside, tmp_path):
    rule = Anything(value)
    outer = Partitioned({"all": rule, "none": SGD(0.1)}, {"all": ".*", "none": "x"}) if inside else rule
    for again in (through_json(outer), export.load(export.save(outer, tmp_path))):
        assert describe(again) == describe(outer), "what resuming compares"
        loaded = again.rules["all"] if inside else again
        assert loaded.value == comes_back and type(loaded.value) is type(comes_back) and loaded.limit == math.inf
    text = (tmp_path / "config.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_nan_comes_back():
    assert math.isnan(through_json(Anything(math.nan)).value)
    assert describe(Anything(math.nan)) == describe(Anything(math.nan))


@pytest.mark.parametrize("kind", [list, tuple])
def test_rules_in_a_list_come_back(kind):
    rule = Several(kind([LSTM(LogAndSign(3), hidden_size=2), SGD(0.1)]))
    again = through_json(rule)
    assert describe(again) == describe(rule) and isinstance(again.rules[0].preprocessing, LogAndSign)


def test_two_groups_may_share_a_rule(tmp_path):
    """Their weights lie in the same memory, which safetensors refuses; they are written for each group."""
    shared = LSTM(hidden_size=2)
    rule = Partitioned({"a": shared, "b": shared}, {"a": "x", "b": "y"})
    loaded = export.load(export.save(rule, tmp_path))
    for name in ("a", "b"):
        assert torch.equal(loaded.rules[name].head.weight, shared.head.weight)


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.ones(2), r"Anything's argument value is an array of shape \(2,\)"),
        (nn.Parameter(torch.tensor(0.25)), "Anything's argument value is learned: keep what it starts with"),
        (np.zeros((2, 3)), r"Anything's argument value is an array of shape \(2, 3\)"),
        ({"a": [1, torch.ones(1)]}, r"Anything's argument value\['a'\]\[1\] is an array of shape \(1,\)"),
        (1j, "Anything's argument value is a complex"),
        (torch.float32, "Anything's argument value is a dtype"),
        ({1, 2}, "Anything's argument value is a set"),
        (b"bytes", "Anything's argument value is a bytes"),
        pytest.param(bytearray(b"bytes"), "Anything's argument value is a bytearray", id="bytearray"),
        pytest.param(memoryview(b"bytes"), "Anything's argument value is a memoryview", id="memoryview"),
        (print, "Anything's argument value is a builtin_function_or_method"),
        (Hidden(), "Anything's argument value is a Hidden"),
        ({1: "a"}, "Anything's argument value has the key 1: keys must be text"),
        ({"class": "SGD"}, "Anything's argument value has the key 'class'"),
    ],
    ids=str,
)
def test_what_json_cannot_hold_is_refused_by_its_name(tmp_path, value, says):
    with pytest.raises(ValueError, match=says) as caught:
        export.save(Anything(value), tmp_path / "it")
    assert "\n" not in str(caught.value) and not (tmp_path / "it").exists()


def test_a_constructor_without_names_for_its_arguments_is_refused():
    with pytest.raises(ValueError, match=r"Open cannot be saved: its constructor takes \*\*keywords"):
        describe(Open(a=1))


@pytest.mark.parametrize("rule", [nn.Linear(1, 1), None, "LSTM"], ids=["module", "none", "text"])
def test_what_is_no_rule_is_refused(tmp_path, rule):
    with pytest.raises(ValueError, match="only an UpdateRule can be saved"):
        export.save(rule, tmp_path)


# ------------------------------------------------------------------------------------------------ classes by name


CELL = """
from l2o.optimizers import Scope, UpdateRule
class {name}(UpdateRule):
    scope = Scope.COORDINATE
    def __init__(self, rate=0.1):
        super().__init__()
        self.rate = rate
    def init_state(self, theta, layout):
        return {{}}
    def state_axes(self):
        return {{}}
    def forward(self, seen, state, layout):
        return -self.rate * seen.grad * {factor}, state
"""


def run_cell(name, factor=1, module="notebook"):
    namespace = {"__name__": module}
    exec(CELL.format(name=name, factor=factor), namespace)
    return namespace[name]


@pytest.mark.parametrize("times", [2, 5])
def test_a_class_that_is_run_again_is_its_last_definition(times):
    for factor in range(times):
        last = run_cell("RunAgain", factor)
    assert all(type(build({"class": "RunAgain"})) is last for _ in range(20))


def test_one_name_in_two_modules_is_an_error_when_it_is_loaded(tmp_path):
    first = run_cell("Ambiguous", module="mine")
    folder = export.save(first(), tmp_path)
    assert type(export.load(folder)) is first
    run_cell("Ambiguous", module="yours")
    with pytest.raises(
        ValueError, match=r"'Ambiguous' means several classes, mine\.Ambiguous and yours\.Ambiguous"
    ) as it:
        export.load(folder)
    assert "\n" not in str(it.value)


def test_a_preprocessing_is_found_alike():
    class Twice(Preprocessing):
        num_features = 1

        def forward(self, grad):
            return 2 * grad[..., None]

    assert isinstance(through_json(LSTM(Twice(), hidden_size=2)).preprocessing, Twice)
    assert registry.find("Twice", Preprocessing) is Twice
    with pytest.raises(ValueError, match="unknown UpdateRule 'Twice'"):
        registry.find("Twice", UpdateRule)


def test_a_run_with_a_tuple_argument_is_resumed(tmp_path):
    """Its checkpoint holds a list, the run's own rule a tuple."""
    import pytorch_lightning as pl

    from l2o.optimizees import Quadratic
    from l2o.training.learner import MetaLearner

    def fit(epochs, **resume):
        rule = Partitioned({"all": LSTM(hidden_size=2), "none": Anything((1, {"a": (2,)}))}, {"all": ".*", "none": "x"})
        sizes = {"horizon": 4, "window": 2, "num_tasks": 2, "episodes_per_epoch": 1, "validation_tasks": 2}
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "inference_mode": False}
        trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, default_root_dir=tmp_path, **quiet)
        trainer.fit(learner := MetaLearner(rule, Quadratic(2), **sizes), **resume)
        return trainer, learner

    fit(1)[0].save_checkpoint(tmp_path / "last.ckpt")
    _, resumed = fit(2, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resumed.state.windows == 4
