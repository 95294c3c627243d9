"""A coordinate rests until its first gradient that is not exactly 0, whatever happens to the optimizer in between."""

import copy
import io
import pickle

import pytest
import torch
from torch import Generator, nn
from torch.nn.utils import prune
from torch.testing import assert_close

import l2o
from l2o import LearnedOptimizer
from l2o.deploy.resting import KEY, Resting, is_due
from l2o.optimizers import GAC, LSTM, SGD, Axis, LogAndSign, Partitioned, RNNProp, Scope, UpdateRule


class Drift(UpdateRule):
    """g = 1 + ∇, also where ∇ = 0: it moves everything. It counts the steps."""

    scope = Scope.COORDINATE

    def init_state(self, theta, layout):
        return {"count": torch.zeros_like(theta)}

    def state_axes(self):
        return {"count": Axis.COORDINATES}

    def forward(self, seen, state, layout):
        return 1 + seen.grad, {"count": state["count"] + 1}


class WholeDrift(Drift):
    """The same, declared to be of one piece."""

    scope = Scope.ALL


RULES = {"coordinatewise": Drift, "whole": WholeDrift}
LEARNED = {
    "lstm": lambda: LSTM(LogAndSign(10), hidden_size=3),
    "rnnprop": lambda: RNNProp(hidden_size=3),
    "gac": lambda: GAC(LogAndSign(10), hidden_size=3, averaging_cells=1),
    "partitioned": lambda: Partitioned({"a": LSTM(hidden_size=3)}, {"a": ".*"}),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


def give(param, *values):
    param.grad = torch.tensor(values).view(param.shape).to(param.dtype)


def stepped(optimizer, param, *grads):
    for grad in grads:
        give(param, *grad)
        optimizer.step()
    return param.detach().flatten().tolist()


def test_it_moves_from_the_first_gradient_on_that_is_not_zero(rule):
    param = nn.Parameter(torch.zeros(2, 2))
    optimizer = LearnedOptimizer([param], rule)
    assert stepped(optimizer, param, [0.0, -0.0, 0.5, 0.0]) == [0, 0, 1.5, 0]
    assert stepped(optimizer, param, [0.0, 1e-30, 0.0, 0.0]) == [0, 1, 2.5, 0], "awake, it moves without a gradient"
    assert stepped(optimizer, param, [0.0] * 4) == [0, 2, 3.5, 0]


def test_only_the_update_is_masked(rule):
    """What the rule remembers of a resting coordinate is what it would remember anyway."""
    param = nn.Parameter(torch.zeros(2))
    optimizer = LearnedOptimizer([param], rule)
    stepped(optimizer, param, [0.0, 1.0], [0.0, 1.0], [0.0, 1.0])
    assert optimizer.state[param]["count"].flatten().tolist() == [3, 3]


def test_it_can_be_switched_off(rule):
    param = nn.Parameter(torch.zeros(2))
    optimizer = LearnedOptimizer([param], rule, resting=False)
    assert stepped(optimizer, param, [0.0, 1.0]) == [1, 2]
    assert KEY not in optimizer.state[param]


def test_weight_decay_acts_on_what_rests_as_adamw_s_does(rule):
    ours, theirs = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([ours], rule, lr=0.5, weight_decay=0.1)
    give(theirs, 0.0, 0.0)
    torch.optim.AdamW([theirs], lr=0.5, weight_decay=0.1).step()
    assert_close(torch.tensor(stepped(optimizer, ours, [0.0, 0.0])), theirs.detach())


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_chunks_wake_their_own(chunk_size):
    param = nn.Parameter(torch.zeros(5))
    optimizer = LearnedOptimizer([param], Drift(), chunk_size=chunk_size)
    assert stepped(optimizer, param, [0.0, 0, 1, 0, 1], [1.0, 0, 0, 0, 0]) == [2, 0, 3, 0, 3]


@pytest.mark.parametrize("how", ["state_dict", "file", "deepcopy", "pickle"])
def test_who_is_awake_is_kept(rule, how):
    param = nn.Parameter(torch.zeros(3))
    optimizer = LearnedOptimizer([param], rule)
    stepped(optimizer, param, [0.0, 1.0, 0.0])
    if how in ("state_dict", "file"):
        saved = optimizer.state_dict()
        if how == "file":
            torch.save(saved, file := io.BytesIO())
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        other = nn.Parameter(param.detach().clone())
        resumed = LearnedOptimizer([other], rule)
        resumed.load_state_dict(saved)
    else:
        pair = optimizer, param
        resumed, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert stepped(resumed, other, [0.0, 0.0, 0.0]) == [0, 3, 0]
    assert stepped(resumed, other, [2.0, 0.0, 0.0]) == [3, 4, 0]


def test_a_state_of_an_earlier_version_has_moved_everything(rule):
    """It does not say which coordinates rest: all of them had been moved."""
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    optimizer = LearnedOptimizer(params, rule)
    for param in params:
        give(param, *[1.0] * param.numel())
    optimizer.step()
    saved = optimizer.state_dict()
    for entry in saved["state"].values():
        del entry[KEY]
    for group in saved["param_groups"]:
        for name in ("resting", "maximize", "patterns"):
            del group[name]
    resumed = LearnedOptimizer(params, rule)
    resumed.load_state_dict(saved)
    for param in params:
        give(param, *[0.0] * param.numel())
    resumed.step()
    assert [param.tolist() for param in params] == [[3, 3], [3]]


def test_parameters_that_come_and_go_keep_who_is_awake():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = LearnedOptimizer([first, second], Drift())
    stepped(optimizer, first, [1.0, 0.0])
    give(second, 0.0, 1.0)
    assert stepped(optimizer, first, [0.0, 0.0]) == [3, 0]
    first.grad = None
    assert stepped(optimizer, second, [0.0, 0.0]) == [0, 3]
    assert first.tolist() == [3, 0]


@pytest.mark.parametrize("name", [*LEARNED, *l2o.list_pretrained()])
def test_an_embedding_s_unused_rows_stay_where_they_are(name):
    rule = LEARNED[name]() if name in LEARNED else l2o.from_pretrained(name)
    torch.manual_seed(0)
    embedding, head = nn.Embedding(30, 4, padding_idx=0), nn.Linear(4, 1)
    optimizer = LearnedOptimizer([*embedding.parameters(), *head.parameters()], rule, horizon=100)
    start, words = embedding.weight.detach().clone(), Generator().manual_seed(0)
    for _ in range(20):
        optimizer.zero_grad()
        used = torch.randint(1, 10, (8, 5), generator=words)
        (head(embedding(used)) - 1).square().mean().backward()
        optimizer.step()
    moved = (embedding.weight - start).abs()
    assert moved[0].max() == 0 and moved[10:].max() == 0 and (moved[1:10] > 0).all()


def test_pruned_and_frozen_weights_stay_where_they_are():
    torch.manual_seed(0)
    layer, frozen = nn.Linear(6, 2), nn.Linear(2, 2)
    start = copy.deepcopy(frozen.state_dict())
    prune.random_unstructured(layer, "weight", 0.5)
    pruned = layer.weight_mask == 0
    before = layer.weight_orig.detach().clone()
    optimizer = LearnedOptimizer([*layer.parameters(), *frozen.parameters()], l2o.from_pretrained("digits"))
    for _ in range(5):
        optimizer.zero_grad(set_to_none=False)
        for parameter in frozen.parameters():
            parameter.grad = torch.zeros_like(parameter)
        layer(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    assert torch.equal(layer.weight_orig[pruned], before[pruned])
    assert (layer.weight_orig[~pruned] != before[~pruned]).all()
    assert all(torch.equal(value, start[name]) for name, value in frozen.state_dict().items())


def test_all_awake_nothing_is_masked_any_more():
    resting, update = Resting(3, torch.device("cpu")), torch.ones(1, 3)
    assert resting.masked(update, torch.tensor([[1.0, 0.0, 1.0]]), slice(None)).tolist() == [[1, 0, 1]]
    resting.look()
    assert not resting.all_awake
    assert resting.masked(update, torch.tensor([[0.0, 1.0, 0.0]]), slice(None)).tolist() == [[1, 1, 1]]
    resting.look()
    assert resting.all_awake and resting.masked(update, torch.zeros(1, 3), slice(None)) is update


def test_nan_and_infinite_gradients_wake():
    resting = Resting(3, torch.device("cpu"))
    grad = torch.tensor([[torch.nan, torch.inf, 0.0]])
    assert resting.masked(torch.ones(1, 3), grad, slice(None)).tolist() == [[1, 1, 0]]
    assert resting.masked(torch.full((1, 3), torch.nan), grad, slice(None))[0, 2] == 0, "nan is masked, too"


def test_a_device_is_looked_at_often_at_first_and_regularly_later():
    assert [step for step in range(1, 400) if is_due(step)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 384]


def test_a_gradient_descent_is_not_changed():
    """A rule that answers 0 with 0 moves as it would without."""
    params = [nn.Parameter(torch.ones(4)) for _ in range(2)]
    for param, resting in zip(params, (True, False), strict=True):
        stepped(LearnedOptimizer([param], SGD(0.1), resting=resting), param, [0.0, 1, 0, 2], [1.0, 0, 0, 0])
    assert torch.equal(*params)
