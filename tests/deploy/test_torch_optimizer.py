"""What torch expects of an optimizer, for every rule and dtype; and that it moves θ as `unroll` does."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Generator, nn
from torch.testing import assert_close

from l2o import LearnedOptimizer
from l2o.deploy.resting import KEY
from l2o.optimizees import Classifier, mlp
from l2o.optimizers import (
    GAC,
    LSTM,
    NTMBFGS,
    SGD,
    Adam,
    Axis,
    LogAndSign,
    Momentum,
    Partitioned,
    RMSprop,
    RNNProp,
    Scope,
    UpdateRule,
)
from l2o.unroll import start_episode, unroll

RULES = {
    "lstm": lambda: LSTM(LogAndSign(10), hidden_size=5, output_scale=0.1),
    "linear": lambda: LSTM(num_layers=0, output_scale=0.1),
    "sgd": lambda: SGD(0.1),
    "nesterov": lambda: Momentum(0.1, nesterov=True),
    "rmsprop": lambda: RMSprop(0.01),
    "adam": lambda: Adam(0.01),
    "rnnprop": lambda: RNNProp(hidden_size=3, output_scale=0.1),
    "partitioned": lambda: Partitioned(
        {"a": LSTM(hidden_size=3, output_scale=0.1), "b": Adam(0.01)},
        {"a": ".*weight|gain|[024]", "b": ".*bias|unused|[135]"},
    ),
    "gac": lambda: GAC(LogAndSign(10), hidden_size=3, averaging_cells=1, output_scale=0.1),
    "ntm": lambda: NTMBFGS(LogAndSign(10), hidden_size=3, averaging_cells=1, output_scale=0.1),
    "normalized": lambda: NormalizedMomentum(0.1),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class NormalizedMomentum(UpdateRule):
    """b ← b/2 + ∇, g = −rate b/‖b‖: it reads all coordinates. It remembers the number of parts."""

    scope = Scope.ALL

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def init_state(self, theta, layout):
        return {"buffer": torch.zeros_like(theta), "parts": theta.new_tensor([[len(layout.shapes)]])}

    def state_axes(self):
        return {"buffer": Axis.COORDINATES, "parts": Axis.SHARED}

    def forward(self, seen, state, layout):
        buffer = state["buffer"] / 2 + seen.grad
        return -self.rate * buffer / buffer.norm(), state | {"buffer": buffer}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def network(dtype=torch.float32):
    """Weights, a transposed weight, a scalar, and one that gets no gradient."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].weight = nn.Parameter(torch.randn(4, 3).T)
    model.register_parameter("gain", nn.Parameter(torch.tensor(1.5)))
    model.register_parameter("unused", nn.Parameter(torch.ones(7)))
    return model.to(dtype)


def backward(model, step=0):
    x = torch.randn(8, 4, generator=Generator().manual_seed(step)).to(model.gain.dtype)
    loss = (model(x) * model.gain - 1).square().mean()
    loss.backward()
    return loss.detach()


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    return model


def assert_same(model, other):
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


# -------------------------------------------------------------------------------------------------- the same as unroll


def beside_unroll(rule, dataset, steps=20):
    """θ after some steps of `unroll`, and of the optimizer on the network itself, with the same minibatches."""
    optimizee = Classifier(mlp(16, [3], 3), dataset, batch_size=8, init_std=0.5)
    episode = start_episode(rule, optimizee, 1, Generator().manual_seed(3))
    _, after = unroll(rule, optimizee, episode, steps, stream := Generator().manual_seed(4))
    model = mlp(16, [3], 3)
    nn.utils.vector_to_parameters(episode.theta[0], model.parameters())
    for parameter, grad in zip(model.parameters(), optimizee.layout.unravel(episode.grad[0]).values(), strict=True):
        parameter.grad = grad.clone()
    optimizer = LearnedOptimizer(model.named_parameters(), rule)
    stream.manual_seed(4)
    for _ in range(steps):
        optimizer.step()
        optimizer.zero_grad()
        batch = optimizee.sample_batch({}, 1, stream)
        nn.functional.cross_entropy(model(batch["x"][0]), batch["y"][0]).backward()
    return after.theta[0], nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("name", RULES)
def test_the_same_as_unroll_to_the_last_bit(float64, path, dataset, name, monkeypatch):
    monkeypatch.setattr(Classifier, "_compiled", lambda *_: None)  # the model's own gradients come from autograd
    expected, actual = beside_unroll(RULES[name](), dataset)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", RULES)
def test_the_same_as_unroll_in_float32(path, dataset, name):
    expected, actual = beside_unroll(RULES[name](), dataset)
    assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "lr", "decay", "oracle"),
    [
        (SGD(1.0), 0.1, 0.0, lambda p: torch.optim.SGD(p, 0.1)),
        (Momentum(0.1, nesterov=True), 1.0, 0.0, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
        (RMSprop(0.01), 1.0, 0.0, lambda p: torch.optim.RMSprop(p, 0.01)),
        (Adam(1.0), 0.01, 0.0, lambda p: torch.optim.Adam(p, 0.01)),
        (Adam(1.0), 0.01, 0.3, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3)),
    ],
    ids=["sgd", "nesterov", "rmsprop", "adam", "adamw"],
)
def test_the_same_as_torch_also_where_gradients_come_and_go(rule, lr, decay, oracle):
    """A parameter without gradient stays as it is, and its own count of steps stands still."""
    models = [network(torch.float64) for _ in range(2)]
    ours, theirs = LearnedOptimizer(models[0].parameters(), rule, lr, decay), oracle(models[1].parameters())
    for step in range(12):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            optimizer.zero_grad()
            model[0].weight.requires_grad_(step % 3 != 0)
            model.gain.requires_grad_(step > 4)
            backward(model, step)
            optimizer.step()
    assert torch.equal(models[0].unused, torch.ones(7, dtype=torch.float64))
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert_close(a, b, rtol=1e-11, atol=1e-12)


# ----------------------------------------------------------------------------------------- what torch expects, for all


def test_it_moves_any_dtype_and_keeps_its_state_in_float32_at_least(rule, dtype):
    """The first update is the one in float64, up to the parameters' rounding."""
    model, exact = network(dtype), network(dtype).double()
    for parameter, other in zip(model.parameters(), exact.parameters(), strict=True):
        parameter.grad = torch.linspace(-0.5, 0.9, parameter.numel()).view(parameter.shape).to(dtype)
        other.grad = parameter.grad.double()
    optimizer = LearnedOptimizer(model.parameters(), rule)
    optimizer.step()
    LearnedOptimizer(exact.parameters(), copy.deepcopy(rule).double()).step()
    for parameter, other in zip(model.parameters(), exact.parameters(), strict=True):
        assert parameter.dtype == dtype
        assert_close(parameter.double(), other, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)
    own = torch.float32 if list(rule.parameters()) else torch.promote_types(dtype, torch.float32)
    for entry in optimizer.state.values():
        assert {value.dtype for key, value in entry.items() if key != KEY} <= {own, torch.promote_types(dtype, own)}


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
def test_resumed_it_goes_on_to_the_last_bit(rule, dtype, how):
    model = network(dtype)
    optimizer = LearnedOptimizer(model.parameters(), rule, lr=0.9, weight_decay=0.01)
    train(model, optimizer, range(3))
    if how == "state_dict":
        torch.save((model, optimizer.state_dict()), file := io.BytesIO())
        file.seek(0)
        other = copy.deepcopy(model)
        resumed = LearnedOptimizer(other.parameters(), rule, lr=7.0)
        resumed.load_state_dict(torch.load(file, weights_only=False)[1])
    else:
        pair = model, optimizer
        other, resumed = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert_same(train(model, optimizer, range(3, 6)), train(other, resumed, range(3, 6)))
    for entry, again in zip(optimizer.state.values(), resumed.state.values(), strict=True):
        assert all(torch.equal(entry[key], again[key]) and entry[key].dtype == again[key].dtype for key in entry)


def test_the_state_is_plain_numbers_and_tensors(rule):
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), rule)
    train(model, optimizer, range(2))
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    numbers = ["lr", "weight_decay", "chunk_size", "step", "patterns", "maximize", "resting", "horizon", "axes"]
    assert list(loaded["param_groups"][0]) == ["rule", *numbers, "params"] and loaded["param_groups"][0]["rule"] == 0
    if rule.scope is not Scope.ALL:
        for index, parameter in enumerate(model.parameters()):
            for value in loaded["state"].get(index, {}).values():
                assert value.shape[: parameter.ndim] in (parameter.shape, ())


@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
def test_chunks_change_nothing(rule, path, chunk_size):
    whole, chunked = network(torch.float64), network(torch.float64)
    train(whole, LearnedOptimizer(whole.parameters(), rule.double()), range(4))
    train(chunked, LearnedOptimizer(chunked.parameters(), rule.double(), chunk_size=chunk_size), range(4))
    for a, b in zip(whole.parameters(), chunked.parameters(), strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_one_parameter_at_a_time_gives_the_same(path):
    """A group in one batched call equals a loop over its parameters."""
    rule, together, alone = LSTM(LogAndSign(10), hidden_size=5).double(), network(torch.float64), network(torch.float64)
    train(together, LearnedOptimizer(together.parameters(), rule), range(4))
    train(alone, LearnedOptimizer([{"params": [p]} for p in alone.parameters()], rule), range(4))
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_learning_rate_scales_the_update_and_the_decay_is_decoupled(rule):
    plain, scaled = network(torch.float64), network(torch.float64)
    start = [p.detach().clone() for p in plain.parameters()]
    train(plain, LearnedOptimizer(plain.parameters(), rule), range(1))
    train(scaled, LearnedOptimizer(scaled.parameters(), rule, lr=0.5, weight_decay=0.2), range(1))
    for theta, a, b in zip(start, plain.parameters(), scaled.parameters(), strict=True):
        assert_close(b, theta if b.grad is None else 0.9 * theta + 0.5 * (a - theta))


def test_a_closure_is_evaluated_with_a_graph_and_its_loss_returned(rule):
    models = network(), network()
    optimizers = [LearnedOptimizer(model.parameters(), rule) for model in models]
    train(models[0], optimizers[0], range(3))
    for step in range(3):

        def closure(step=step):
            optimizers[1].zero_grad()
            return backward(models[1], step)

        with torch.no_grad():
            assert optimizers[1].step(closure) > 0
    assert optimizers[0].step() is None
    optimizers[1].step()
    assert_same(*models)


def test_a_scheduler_sets_the_learning_rate(rule):
    scheduled, by_hand = network(), network()
    optimizer = LearnedOptimizer(scheduled.parameters(), rule)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    other = LearnedOptimizer(by_hand.parameters(), rule)
    for step in range(4):
        train(scheduled, optimizer, [step])
        scheduler.step()
        other.param_groups[0]["lr"] = 0.5**step
        train(by_hand, other, [step])
    assert_same(scheduled, by_hand)


def test_a_learning_rate_may_be_a_tensor(rule):
    models = network(), network()
    train(models[0], LearnedOptimizer(models[0].parameters(), rule, lr=0.5, weight_decay=0.1), range(3))
    train(models[1], LearnedOptimizer(models[1].parameters(), rule, lr=torch.tensor(0.5), weight_decay=0.1), range(3))
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert_close(a, b)


def test_groups_have_their_own_numbers_and_rules():
    """Each group moves as it would alone; one is added later."""
    lstm, adam = LSTM(LogAndSign(10), hidden_size=5, output_scale=0.1), Adam(0.01)
    model, alone = network(), [network() for _ in range(3)]
    groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": [model.gain], "rule": adam, "weight_decay": 0.1}]
    optimizer = LearnedOptimizer(groups, lstm)
    optimizer.add_param_group({"params": model[2].parameters(), "rule": SGD(0.1), "chunk_size": 3})
    backward(model)
    optimizer.step()
    for other in alone:
        backward(other)
    LearnedOptimizer(alone[0][0].parameters(), lstm, lr=0.5).step()
    LearnedOptimizer([alone[1].gain], adam, weight_decay=0.1).step()
    LearnedOptimizer(alone[2][2].parameters(), SGD(0.1)).step()
    assert_same(model[0], alone[0][0])
    assert torch.equal(model.gain, alone[1].gain)
    assert_same(model[2], alone[2][2])
    restored = LearnedOptimizer(
        [{"params": model[0].parameters()}, {"params": [model.gain], "rule": adam}, {"params": model[2].parameters()}],
        lstm,
    )
    restored.param_groups[2]["rule"] = optimizer.rules[optimizer.param_groups[2]["rule"]]
    restored.load_state_dict(optimizer.state_dict())
    restored.step()
    assert [restored.rules[group["rule"]] for group in restored.param_groups] == optimizer.rules
    assert [group["lr"] for group in restored.param_groups] == [0.5, 1.0, 1.0]


def test_a_gradient_scaler_undoes_its_scale_and_skips_what_overflowed(rule):
    plain, scaled = network(), network()
    optimizers = [LearnedOptimizer(model.parameters(), rule) for model in (plain, scaled)]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(4):
        optimizers[1].zero_grad()
        with torch.autocast("cpu", enabled=False):
            loss = (scaled(torch.ones(8, 4) * (torch.inf if step == 2 else 1)) * scaled.gain - 1).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizers[1])
        nn.utils.clip_grad_norm_(scaled.parameters(), 0.1, error_if_nonfinite=False)
        scaler.step(optimizers[1])
        scaler.update()
        if step != 2:
            optimizers[0].zero_grad()
            (plain(torch.ones(8, 4)) * plain.gain - 1).square().mean().backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
            optimizers[0].step()
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_autocast_gives_gradients_that_it_takes(rule):
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), rule)
    before = model[0].weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    assert model[0].weight.dtype == torch.float32 and not torch.equal(before, model[0].weight)


def test_hooks_are_called(rule):
    model, seen = network(), []
    optimizer = LearnedOptimizer(model.parameters(), rule)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before step"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after step"))
    optimizer.register_state_dict_post_hook(lambda *_: seen.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("before load"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("loaded"))
    train(model, optimizer, range(1))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["before step", "after step", "saved", "before load", "loaded"]


def test_state_that_is_cleared_starts_again(rule):
    models = network(), network()
    optimizers = [LearnedOptimizer(model.parameters(), rule) for model in models]
    train(models[0], optimizers[0], range(3))
    optimizers[0].state.clear()
    models[1].load_state_dict(models[0].state_dict())
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, range(3, 6))
    assert_same(*models)


def test_state_that_somebody_else_replaces_is_what_the_rule_reads():
    """Lightning moves it to the device, entry by entry."""
    models, rule = (network(), network()), Momentum(0.1)
    optimizers = [LearnedOptimizer(model.parameters(), rule) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, range(2))
        for entry in optimizer.state.values():
            entry["buffer"] = 2 * entry["buffer"] if optimizer is optimizers[0] else entry["buffer"].mul_(2)
        train(model, optimizer, range(2, 4))
        assert all(entry["buffer"]._base is not None for entry in optimizer.state.values())
    assert_same(*models)


def test_a_rule_s_parameters_are_left_alone(rule):
    model, before = network(), copy.deepcopy(rule.state_dict())
    train(model, LearnedOptimizer(model.parameters(), rule), range(2))
    assert all(torch.equal(value, before[key]) for key, value in rule.state_dict().items())
    assert all(parameter.grad is None for parameter in rule.parameters())


def test_a_float32_rule_serves_float64_parameters_without_rounding_them():
    model = network(torch.float64)
    start = [p.detach().clone() for p in model.parameters()]
    train(model, LearnedOptimizer(model.parameters(), LSTM(num_layers=0), lr=0.0), range(2))
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


# ---------------------------------------------------------------------------- rules that see all parameters at once


class FirstPartOnly(UpdateRule):
    """It moves the part named `moved` only: it needs names."""

    scope = Scope.ALL

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return layout.ravel({k: -v * (k == "0.bias") for k, v in layout.unravel(seen.grad).items()}), state


def test_a_rule_knows_the_parts_by_their_names():
    model = network()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, LearnedOptimizer(model.named_parameters(), FirstPartOnly()), range(1))
    assert {name for name, p in model.named_parameters() if not torch.equal(p, start[name])} == {"0.bias"}


def test_it_refuses_that_its_problem_changes():
    model = network()
    optimizer = LearnedOptimizer(model.named_parameters(), NormalizedMomentum(0.1))
    train(model, optimizer, range(2))
    model.gain.requires_grad_(False)
    with pytest.raises(ValueError, match=r"sees all parameters .* of the same parameters.*: gain"):
        train(model, optimizer, range(2, 3))


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"rule": "lstm"}, "rule must be an UpdateRule"),
        ({"rule": SGD(0.1), "lr": -1.0}, "lr and weight_decay must be >= 0"),
        ({"rule": SGD(0.1), "weight_decay": -1.0}, "lr and weight_decay must be >= 0"),
        ({"rule": SGD(0.1), "lr": float("nan")}, "lr and weight_decay must be >= 0"),
        ({"rule": SGD(0.1), "chunk_size": 0}, "chunk_size must be at least 1"),
        ({"rule": SGD(0.1), "chunk_size": True}, "chunk_size must be at least 1"),
        ({"rule": SGD}, "rule must be an UpdateRule.*got the class SGD"),
        ({"rule": SGD(0.1), "lr": torch.ones(2)}, "lr and weight_decay must be >= 0"),
        ({"rule": SGD(0.1), "maximize": "no"}, "maximize must be True or False, got 'no'"),
        ({"rule": SGD(0.1), "resting": None}, "resting must be True or False, got None"),
    ],
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], **arguments)


@pytest.mark.parametrize("loss", [0.5, torch.tensor(0.5)])
def test_a_loss_in_the_closures_place_is_refused(loss):
    param = nn.Parameter(torch.ones(1))
    param.grad = torch.ones(1)
    optimizer = LearnedOptimizer([param], SGD(0.1))
    with pytest.raises(ValueError, match=r"step takes a closure, got .*: give a loss as step\(loss=loss\)"):
        optimizer.step(loss)
    assert param.item() == 1 and optimizer.param_groups[0]["step"] == 0


def test_complex_parameters_are_refused_and_not_added():
    optimizer = LearnedOptimizer([nn.Parameter(torch.ones(1))], SGD(0.1))
    with pytest.raises(ValueError, match=r"'0' is torch.complex64.*view_as_real"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1, dtype=torch.complex64))]})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused(rule):
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = LearnedOptimizer(embedding.named_parameters(), rule)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    with pytest.raises(ValueError, match="the gradient of 'weight' is sparse"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)


@pytest.mark.parametrize("other", [LSTM(hidden_size=4), Momentum(0.1), SGD(0.1)], ids=["size", "names", "none"])
def test_the_state_of_another_rule_is_refused_and_nothing_is_changed(other):
    model = network()
    optimizer = LearnedOptimizer(model.parameters(), other)
    train(model, optimizer, range(1))
    mine = LearnedOptimizer(model.parameters(), LSTM(hidden_size=5), lr=0.3)
    with pytest.raises(ValueError, match="the saved state of '0' is of another rule or parameter"):
        mine.load_state_dict(optimizer.state_dict())
    assert mine.param_groups[0]["lr"] == 0.3 and not mine.state


def test_the_state_of_a_torch_optimizer_is_refused_also_before_its_first_step():
    model = network()
    mine = LearnedOptimizer(model.parameters(), LSTM(hidden_size=5))
    with pytest.raises(ValueError, match=r"the saved state is of another optimizer: its groups have lr, betas"):
        mine.load_state_dict(torch.optim.Adam(model.parameters()).state_dict())
    assert mine.param_groups[0]["lr"] == 1.0


def test_a_baseline_without_learning_rate_is_refused():
    model = network()
    with pytest.raises(ValueError, match="Adam has no learning rate"):
        train(model, LearnedOptimizer(model.parameters(), Adam()), range(1))


# ---------------------------------------------------------------------------------------------- inside other machinery


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "normalized"])
def test_a_compiled_training_step_is_the_same(name):
    """The model is compiled, the rule is called from there as it is."""
    rule = RULES[name]()
    models = network(), network()
    optimizers = [LearnedOptimizer(model.parameters(), rule) for model in models]

    @torch.compile(backend="aot_eager")
    def step(x):
        optimizers[1].zero_grad()
        loss = (models[1](x) * models[1].gain - 1).square().mean()
        loss.backward()
        optimizers[1].step()

    for index in range(3):
        train(models[0], optimizers[0], [index])
        step(torch.randn(8, 4, generator=Generator().manual_seed(index)))
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert_close(a, b)


class Regression(pl.LightningModule):
    """Automatic optimization, with clipping and a scheduler."""

    def __init__(self, rule):
        super().__init__()
        self.net, self.rule_ = nn.Linear(4, 2), [rule]  # in a list: no part of the model

    def training_step(self, batch, batch_idx):
        return (self.net(batch) - 1).square().mean()

    def configure_optimizers(self):
        optimizer = LearnedOptimizer(self.net.named_parameters(), self.rule_[0])
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5), "interval": "step"}]


def fit(model, folder, max_epochs, ckpt_path=None):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=max_epochs, gradient_clip_val=0.5, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
    )  # fmt: skip
    data = torch.utils.data.DataLoader(torch.randn(24, 4, generator=Generator().manual_seed(0)), batch_size=8)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*num_workers|.*logging interval")
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def test_it_trains_in_lightning_and_resumes_from_its_checkpoint(tmp_path, rule):
    torch.manual_seed(0)
    whole = Regression(rule)
    half = copy.deepcopy(whole)
    fit(whole, tmp_path, 2)
    fit(half, tmp_path, 1).save_checkpoint(tmp_path / "half.ckpt")
    resumed = Regression(rule)
    fit(resumed, tmp_path, 2, tmp_path / "half.ckpt")
    assert_same(whole.net, resumed.net)
    assert not torch.equal(half.net.weight, resumed.net.weight)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(tmp_path, strategy):
    script = Path(__file__).parents[1] / "train_on_two_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, strategy]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("the same") == 2
