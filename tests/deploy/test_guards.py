"""A rule that knows its limits: what it says of itself, beyond its horizon, and where a training goes wrong."""

import json
import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import l2o
from l2o import LearnedOptimizer
from l2o.deploy import hub
from l2o.deploy.divergence import Diverged
from l2o.deploy.listing import HEADINGS, table
from l2o.optimizers import LSTM, SGD, Celo, LogAndSign, RNNProp
from l2o.optimizers.card import horizon_of, in_words, initialisation_of, task_of

PREFACE = """
import torch, l2o
torch.manual_seed(0)
weight = torch.nn.Parameter(torch.ones(4))
def steps(optimizer, number, grad=1.0, **told):
    for _ in range(number):
        weight.grad = torch.full((4,), grad)
        optimizer.step(**told)
"""


def said_by(code):
    """What a fresh process warns of, one line each, as a user sees it."""
    done = subprocess.run(
        [sys.executable, "-c", PREFACE + code], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "Warning: " in line]


# -------------------------------------------------------------------------------------------------- in fresh processes


def test_a_rule_that_is_run_past_its_horizon_warns_once_at_the_users_line():
    code = "optimizer = l2o.LearnedOptimizer([weight], l2o.from_pretrained('quadratic'))\n"
    (line,) = said_by(code + "steps(optimizer, 103)")
    assert line.startswith("<string>:8: UserWarning: the rule 'quadratic' was trained for 100 steps, and this is step ")
    assert "step 101: nobody knows what it does from here on" in line and "learner.horizon=200" in line


def test_nan_in_a_gradient_is_reported_with_the_parameters_name():
    code = "optimizer = l2o.LearnedOptimizer([('head.weight', weight)], l2o.from_pretrained('digits'))\n"
    (line,) = said_by(code + "steps(optimizer, 2)\nsteps(optimizer, 3, float('nan'))")
    assert "the gradient of 'head.weight' was nan or infinite at 1 step: the rule is given it as it is" in line


def test_a_loss_that_runs_away_is_reported():
    code = "optimizer = l2o.LearnedOptimizer([weight], l2o.from_pretrained('digits'))\n"
    (line,) = said_by(code + "for t in range(20): steps(optimizer, 1, loss=2.3 * 2 ** t)")
    assert "the loss was 2.3 at the start and is " in line and "the training has diverged. Take a smaller lr" in line


# ------------------------------------------------------------------------------------------------------------ horizons


def stepped(optimizer, number, grad=0.5, **told):
    for _ in range(number):
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.full_like(param, grad)
        optimizer.step(**told)


def param(*shape):
    return nn.Parameter(torch.ones(*(shape or (3,))))


def with_card(rule, **card):
    rule.card = card
    return rule


def test_the_horizon_that_was_given_is_watched_for_any_rule():
    optimizer = LearnedOptimizer([param()], Celo(), horizon=5)
    stepped(optimizer, 5, loss=1.0)
    with pytest.warns(UserWarning, match=r"takes 5 steps \(horizon=5\), and this is step 6: .* LearnedOptimizer\(…, h"):
        stepped(optimizer, 1, loss=1.0)
    stepped(optimizer, 3, loss=1.0)  # said once


def test_a_rule_that_does_not_plan_by_the_horizon_may_go_beyond_it():
    stepped(LearnedOptimizer([param()], SGD(0.1), horizon=2), 5)


def test_each_rule_of_several_groups_is_told_of_by_itself():
    rules = [with_card(SGD(0.1), name=name, horizon=horizon) for name, horizon in (("one", 2), ("two", [1, 4]))]
    optimizer = LearnedOptimizer([{"params": [param()], "rule": rule} for rule in rules], rules[0])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        stepped(optimizer, 8)
    assert [str(w.message).partition(",")[0] for w in found] == [
        "the rule 'one' was trained for 2 steps", "the rule 'two' was trained for 4 steps",
    ]  # fmt: skip


def test_steps_before_a_resume_count():
    rule = with_card(SGD(0.1), name="mine", horizon=3)
    first, second = LearnedOptimizer([param()], rule), LearnedOptimizer([param()], rule)
    stepped(first, 3)
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="'mine' was trained for 3 steps, and this is step 4"):
        stepped(second, 1)


@pytest.mark.parametrize(
    ("horizon", "known"),
    [(100, 100), ([100, 2000], 2000), ({"shortest": 100, "longest": 500.0}, 500), (None, None), ("long", None),
     (True, None), (0, None), ({"a": {"b": [3]}}, 3), (float("inf"), None)],
)  # fmt: skip
def test_any_card_has_a_horizon_or_none(horizon, known):
    assert horizon_of({"horizon": horizon}) == known


# ---------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("rule", [SGD(0.0), LSTM(LogAndSign(10), 3), RNNProp(3, 1)], ids=lambda rule: rule.label)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_raise_stops_before_anything_moves_and_names_the_parameter(rule, value):
    good, bad = param(2), param(2, 2)
    optimizer = LearnedOptimizer([("good", good), ("bad", bad)], rule, on_divergence="raise")
    stepped(optimizer, 2)
    before, state = [p.detach().clone() for p in (good, bad)], pickle.dumps(optimizer.state_dict())
    good.grad, bad.grad = torch.ones(2), torch.tensor([[0.0, 0.0], [value, 0.0]])
    with pytest.raises(Diverged, match="the gradient of 'bad' was nan or infinite at 1 step: "):
        optimizer.step()
    assert all(torch.equal(*pair) for pair in zip((good, bad), before, strict=True))
    assert pickle.dumps(optimizer.state_dict()) == state and optimizer.nonfinite_gradients() == {"bad": 1}
    stepped(optimizer, 1)  # whoever catches it may go on
    with pytest.raises(Diverged):
        stepped(optimizer, 1, value)


def test_none_says_nothing_and_counts():
    optimizer = LearnedOptimizer([("p", param())], SGD(0.1), on_divergence=None)
    stepped(optimizer, 2, torch.nan, loss=float("nan"))
    assert optimizer.nonfinite_gradients() == {"p": 2}


@pytest.mark.parametrize(
    ("losses", "wrong_at"),
    [
        ([2.3] * 30, None),
        ([2.3, 2.0, 60.0, 2.0, 1.5] * 6, None),  # single odd minibatches
        ([2.3, torch.nan], 1),
        ([torch.inf], 0),
        ([torch.nan, torch.nan], None),  # nobody knows it
        ([torch.nan, 1.0, torch.nan], 2),
        ([0.5, 50.0], 1),  # the running mean is 5.45, more than ten times 0.5
        ([0.5, 45.0], None),  # 4.95
        ([1.0, *[11.0] * 40], 22),  # it stays just above ten times the start: 1 + 10 (1 − 0.9^n) > 10
        ([1.0, *[9.9] * 40], None),
        ([-2.0, -3.0, *[15.0] * 3], None),
        ([-2.0, *[20.0] * 40], 17),  # 18 above a start of size 2: 22 (1 − 0.9^n) > 18
        ([0.0, 0.1, 0.2, 0.1], None),  # a start at 0 has no size
    ],
)
def test_a_loss_is_far_above_its_start_where_its_running_mean_is_ten_times_as_large(losses, wrong_at):
    optimizer = LearnedOptimizer([param()], SGD(0.0), on_divergence="raise")
    found = None
    for step, loss in enumerate(losses):
        try:
            stepped(optimizer, 1, loss=torch.tensor(loss))
        except Diverged:
            found = step
            break
    assert found == wrong_at


def test_a_closures_loss_is_watched():
    optimizer = LearnedOptimizer([p := param()], SGD(-3.0), on_divergence="raise")  # it ascends

    def closure():
        optimizer.zero_grad()
        (loss := p.square().sum()).backward()
        return loss

    with pytest.raises(Diverged, match="the loss was 3 at the start and is"):
        for _ in range(10):
            optimizer.step(closure)


def test_what_is_maximised_may_grow():
    stepped(LearnedOptimizer([param()], SGD(0.0), maximize=True, on_divergence="raise"), 9, loss=1e6)
    optimizer = LearnedOptimizer([param()], SGD(0.0), maximize=True, on_divergence="raise")
    for step in range(9):
        stepped(optimizer, 1, loss=10.0**step)


def test_a_copy_and_an_older_pickle_watch_too():
    optimizer = LearnedOptimizer([param()], SGD(0.0), on_divergence="raise")
    copied = pickle.loads(pickle.dumps(optimizer))
    with pytest.raises(Diverged):
        stepped(copied, 1, torch.nan)
    older = optimizer.__getstate__()
    del older["on_divergence"]
    again = LearnedOptimizer.__new__(LearnedOptimizer)
    again.__setstate__(older)
    assert again.on_divergence == "warn"


@pytest.mark.parametrize("wrong", ["stop", True, 1, ""])
def test_what_is_no_setting_is_refused(wrong):
    with pytest.raises(ValueError, match="on_divergence must be 'warn', 'raise' or None, got"):
        LearnedOptimizer([param()], SGD(0.1), on_divergence=wrong)


# ------------------------------------------------------------------------------------------ what a rule says of itself


@pytest.mark.parametrize("name", l2o.list_pretrained())
def test_every_shipped_rule_knows_its_name_task_horizon_and_initialisation(name):
    rule = l2o.from_pretrained(name)
    assert rule.card["name"] == name and horizon_of(rule.card) in (100, 128, 200, 1000, 2000)
    assert "–" not in (task_of(rule.card), initialisation_of(rule.card)) and "N(0, 0." in initialisation_of(rule.card)
    for text in (repr(rule), repr(LearnedOptimizer([param()], rule, horizon=100))):
        assert all(part in text for part in (f"name: {name}; ", "; horizon: ", task_of(rule.card), "; θ_0: "))


def test_the_names_are_a_list_that_shows_itself_as_a_table():
    names = l2o.list_pretrained()
    assert isinstance(names, list) and names == [*names] and json.loads(json.dumps(names)) == names
    assert repr(names) == str(names) == table(hub.shipped()) and repr(names).startswith(HEADINGS.name)
    assert names == sorted(path.parent.name for path in hub.PRETRAINED.glob("*/config.json"))


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (None, ""),
        ({}, ""),
        ({"source": "published weights"}, ""),
        ({"name": "mine", "task": "GPT-2", "initialisation": "torch's own", "horizon": [1, 10]},
         "name: mine; trained on: GPT-2; horizon: 10; θ_0: torch's own"),
    ],
)  # fmt: skip
def test_any_card_in_words(card, words):
    assert in_words(card) == words
    assert words in repr(with_card(SGD(0.1), **card) if card else SGD(0.1))
