"""What a user of torch's optimizers does with them, and what must not be accepted in silence."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.testing import assert_close

import l2o
from l2o import LearnedOptimizer
from l2o.deploy.nonfinite import NonFinite
from l2o.optimizers import GAC, LSTM, SGD, Adam, LogAndSign, Momentum, Partitioned, RMSprop

RULES = {
    "lstm": lambda: LSTM(LogAndSign(10), hidden_size=3),
    "adam": lambda: Adam(0.1),
    "gac": lambda: GAC(LogAndSign(10), hidden_size=3, averaging_cells=1),
    "partitioned": lambda: Partitioned({"all": Momentum(0.1)}, {"all": ".*"}),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]()


def param(*values, dtype=None):
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def step(optimizer, *pairs):
    for parameter, grad in pairs:
        parameter.grad = torch.as_tensor(grad, dtype=parameter.dtype).expand_as(parameter).clone()
    optimizer.step()


# ----------------------------------------------------------------------------------------- groups hold plain values


def test_a_group_is_plain_and_names_its_rule_by_an_index(rule):
    other, first, second = SGD(0.1), param(1.0), param(2.0)
    groups = [{"params": [first]}, {"params": [second], "rule": other, "patterns": None}]
    optimizer = LearnedOptimizer(groups, rule)
    optimizer.add_param_group({"params": [param(3.0)], "rule": other})
    assert [optimizer.rules[group["rule"]] for group in optimizer.param_groups] == [rule, other, other]
    assert optimizer.rules == [rule, other]
    for group in optimizer.param_groups:
        plain = {name: value for name, value in group.items() if name != "params"}
        assert json.loads(json.dumps(plain)) == plain
    assert json.dumps(optimizer.state_dict()["param_groups"])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"])
def test_a_copy_has_its_rules(rule, how):
    parameter = param(1.0, 2.0)
    optimizer = LearnedOptimizer([parameter], rule)
    step(optimizer, (parameter, 0.5))
    other, another = how((optimizer, parameter))
    step(other, (another, 0.25))
    step(optimizer, (parameter, 0.25))
    assert torch.equal(parameter, another)


def test_a_rule_that_somebody_puts_into_a_group_is_used():
    parameter = param(1.0)
    optimizer = LearnedOptimizer([parameter], SGD(0.1))
    optimizer.param_groups[0]["rule"] = SGD(1.0)
    step(optimizer, (parameter, 0.5))
    assert parameter.item() == 0.5 and optimizer.param_groups[0]["rule"] == 1


@pytest.mark.parametrize("key", [1, -1, True, "0", None])
def test_what_is_no_rule_of_the_optimizer_is_refused(key):
    optimizer = LearnedOptimizer([param(1.0)], SGD(0.1))
    with pytest.raises(ValueError, match=r"rule must be an UpdateRule|is none of optimizer\.rules"):
        optimizer.add_param_group({"params": [param(1.0)], "rule": key})
    assert len(optimizer.param_groups) == 1


def test_a_refused_group_leaves_no_rule_behind():
    optimizer = LearnedOptimizer([param(1.0)], SGD(0.1))
    with pytest.raises(ValueError, match="lr and weight_decay"):
        optimizer.add_param_group({"params": [param(1.0)], "rule": SGD(0.2), "lr": -1})
    assert len(optimizer.rules) == len(optimizer.param_groups) == 1


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def training_step(self, x, _):
        return self.head(self.backbone(x)).square().mean()

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        return l2o.LearnedOptimizer(trained, l2o.from_pretrained("digits"))

    def train_dataloader(self):
        data = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        return torch.utils.data.DataLoader(data, 16)


def trainer(epochs, folder):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [BackboneFinetuning(1, backbone_initial_lr=0.1)]
    quiet |= {"enable_model_summary": False, "default_root_dir": folder, "callbacks": callbacks}
    return pl.Trainer(accelerator="cpu", max_epochs=epochs, **quiet)


def test_a_callback_that_stores_groups_resumes(tmp_path):
    """Lightning's BackboneFinetuning keeps them in its checkpoint, which is read without running code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*num_workers|.*will go beyond|.*current_epoch")
        (first := trainer(3, tmp_path)).fit(half := Net())
        first.save_checkpoint(tmp_path / "a.ckpt")
        (second := trainer(4, tmp_path)).fit(resumed := Net(), ckpt_path=tmp_path / "a.ckpt")
    before, after = first.optimizers[0], second.optimizers[0]
    assert second.current_epoch == 4 and len(after.param_groups) == 2 and len(after.rules) == 1
    for group, former in zip(after.param_groups, before.param_groups, strict=True):
        changed = {"params": None, "lr": None, "step": former["step"] + 2}  # an epoch has two steps
        assert group["rule"] == 0 and group | changed == former | changed and group["step"] == changed["step"]
    assert after.param_groups[0]["lr"] == before.param_groups[0]["lr"] == 1.0
    moved = (resumed.head.weight - half.head.weight).abs().max()
    assert 0 < moved < 1, "it goes on from the checkpoint's weights"
    for a, b in zip(resumed.backbone.parameters(), half.backbone.parameters(), strict=True):
        assert torch.equal(a, b), "Lightning leaves it frozen after a resume, with Adam, too"


# ---------------------------------------------------------------------------------------------------------- maximize


@pytest.mark.parametrize(
    ("rule", "oracle"),
    [
        (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1, maximize=True)),
        (Momentum(0.1), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, maximize=True)),
        (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, 0.01, maximize=True)),
        (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01, maximize=True)),
    ],
    ids=["sgd", "momentum", "rmsprop", "adam"],
)
def test_to_maximize_is_what_torch_s_optimizers_do(rule, oracle):
    ours, theirs = param(1.0, -2.0, dtype=torch.float64), param(1.0, -2.0, dtype=torch.float64)
    optimizers = LearnedOptimizer([ours], rule, maximize=True), oracle([theirs])
    for grad in ([0.5, -1.0], [0.25, 2.0], [-1.0, 0.5]):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            step(optimizer, (parameter, grad))
    assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_to_maximize_f_is_to_minimize_minus_f(rule):
    up, down = param(1.0, -2.0), param(1.0, -2.0)
    optimizers = (
        LearnedOptimizer([up], rule, maximize=True, weight_decay=0.1),
        LearnedOptimizer([down], rule, weight_decay=0.1),
    )
    for grad in ([0.5, -1.0], [0.25, 2.0]):
        step(optimizers[0], (up, grad))
        step(optimizers[1], (down, [-g for g in grad]))
    assert torch.equal(up, down)


# -------------------------------------------------------------------------------- parameters that are not as they were


def test_a_parameter_of_another_shape_is_named_and_nothing_moves(rule):
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 1)
    optimizer = LearnedOptimizer([("emb", embedding.weight), *head.named_parameters()], rule)
    for rows in (10, 13):
        optimizer.zero_grad()
        if rows == 13:
            embedding.weight.data = torch.cat([embedding.weight.data, torch.zeros(3, 4)])
        before = head.weight.detach().clone()
        head(embedding(torch.arange(rows))).sum().backward()
        if rows == 13:
            for _ in range(2):  # again, it is refused again
                with pytest.raises(
                    ValueError, match=r"'emb' has changed its shape from \(10, 4\) to \(13, 4\).*make a new"
                ):
                    optimizer.step()
            assert torch.equal(head.weight, before)
        else:
            optimizer.step()
    fresh = LearnedOptimizer([("emb", embedding.weight), *head.named_parameters()], rule)
    fresh.step()
    assert not torch.equal(head.weight, before)


def test_a_parameter_whose_shape_changed_while_it_had_no_gradient_is_named():
    first, second = param(1.0, 2.0), param(1.0)
    optimizer = LearnedOptimizer([first, second], Momentum(0.1))
    step(optimizer, (first, 1.0), (second, 1.0))
    first.grad = None
    step(optimizer, (second, 1.0))
    first.data = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'0' has changed its shape from \(2,\) to \(3,\)"):
        step(optimizer, (first, 1.0))


@pytest.mark.parametrize(("before", "after"), [(torch.float32, torch.float64), (torch.float64, torch.bfloat16)])
def test_a_parameter_may_change_its_dtype(before, after):
    """The state goes on; float64 parameters are not rounded to float32 on the way."""
    exact = [param(1.0, dtype=torch.float64), param(1 / 3, dtype=before)]
    optimizers = [LearnedOptimizer([p], Momentum(0.125)) for p in exact]
    for p, optimizer in zip(exact, optimizers, strict=True):
        step(optimizer, (p, 1.0))
    exact[1].data = (exact[1].data.double() * 0 + 1 / 3).to(after)
    exact[1].grad = None
    step(optimizers[1], (exact[1], 0.0))
    assert exact[1].dtype == after
    expected = torch.tensor(1 / 3, dtype=torch.float64) - 0.125 * 0.9
    assert_close(exact[1].detach().double()[0], expected, rtol=2 * torch.finfo(after).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rule_in_low_precision_computes_in_float32(dtype):
    low, high = param(1.0, 2.0), param(1.0, 2.0)
    rule = LSTM(LogAndSign(10), hidden_size=3).to(dtype)
    step(LearnedOptimizer([low], rule), (low, 0.5))
    step(LearnedOptimizer([high], copy.deepcopy(rule).float()), (high, 0.5))
    assert torch.equal(low, high) and next(rule.parameters()).dtype == dtype


def test_a_rule_of_mixed_dtypes_computes_in_the_widest():
    mixed, wide = param(1.0, 2.0), param(1.0, 2.0)
    rule = LSTM(LogAndSign(10), hidden_size=3)
    rule.head.double()
    step(LearnedOptimizer([mixed], rule), (mixed, 0.5))
    step(LearnedOptimizer([wide], copy.deepcopy(rule).double()), (wide, 0.5))
    assert torch.equal(mixed, wide)


def test_numbers_of_numpy_and_whole_floats_count_as_python_s_own(tmp_path):
    given = {
        "lr": np.float32(0.5),
        "weight_decay": np.float64(0.25),
        "horizon": np.ceil(4.5),
        "chunk_size": np.int64(8),
    }
    wanted = {"lr": 0.5, "weight_decay": 0.25, "horizon": 5, "chunk_size": 8}
    optimizer = LearnedOptimizer([param(1.0)], SGD(0.1), **given)
    optimizer.add_param_group({"params": [param(2.0)], "lr": np.int64(2), "horizon": 7.0})
    first, second = optimizer.param_groups
    for name, value in wanted.items():
        assert first[name] == value and type(first[name]) is type(value)
    assert (second["lr"], second["horizon"]) == (2.0, 7) and type(second["lr"]) is float
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt", weights_only=True)
    exact = 2**53 + 1  # which no float is
    assert LearnedOptimizer([param(1.0)], SGD(0.1), horizon=exact).param_groups[0]["horizon"] == exact


@pytest.mark.parametrize(
    ("parameters", "arguments", "says"),
    [
        (lambda: [param(1.0)], {"horizon": np.float64(2.5)}, r"a whole number from 1 on, got np.float64\(2.5\)"),
        (lambda: [param(1.0)], {"horizon": torch.inf}, "a whole number from 1 on, got inf"),
        (lambda: [param(1.0)], {"lr": np.float32(-0.5)}, "lr and weight_decay must be >= 0 and finite, got -0.5"),
        (lambda: [param(1.0)], {"rule": LSTM(hidden_size=2).to("meta")}, "on the device 'meta'"),
        (lambda: nn.LazyLinear(3).parameters(), {}, "'0' has no shape yet: run the model once"),
        (lambda: [("w", param(1.0)), ("w", param(2.0))], {}, "two parameters of a group are called 'w'"),
        (lambda: [param(1.0)], {"lr": "0.1"}, "lr and weight_decay must be >= 0 and finite, got '0.1'"),
        (lambda: [param(1.0)], {"lr": None}, "lr and weight_decay must be >= 0 and finite, got None"),
        (lambda: [param(1.0)], {"lr": torch.inf}, "lr and weight_decay must be >= 0 and finite, got inf"),
        (lambda: [param(1.0)], {"weight_decay": [0.1]}, "lr and weight_decay must be >= 0"),
        (lambda: [param(1.0)], {"chunk_size": 2.5}, "chunk_size must be at least 1, or None, got 2.5"),
        (lambda: [param(1.0)], {"chunk_size": "8"}, "chunk_size must be at least 1"),
        (lambda: [param(1.0)], {"maximize": 1}, "maximize must be True or False, got 1"),
        (lambda: [param(1.0)], {"axes": "numpy"}, "axes must be torch or as_given, got 'numpy'"),
        (lambda: [param(1.0)], {"horizon": 0}, "a whole number from 1 on, got 0"),
        (lambda: [param(1.0)], {"horizon": "7"}, "a whole number from 1 on, got '7'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_what_it_did_not_expect_is_refused_in_one_line(parameters, arguments, says):
    """When it is made; and a value at the next step, too, if somebody has written it into a group."""
    with pytest.raises(ValueError, match=says) as caught:
        LearnedOptimizer(parameters(), **({"rule": SGD(0.1)} | arguments))
    assert "\n" not in str(caught.value)
    if arguments and "rule" not in arguments:
        (parameter,) = parameters()
        optimizer = LearnedOptimizer([parameter], SGD(0.1))
        optimizer.param_groups[0].update(arguments)
        with pytest.raises(ValueError, match=says):
            step(optimizer, (parameter, 1.0))
        assert parameter.item() == 1.0


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("shape", [(2, 3), (300, 300)], ids=["small", "lent in place"])
def test_a_parameter_that_comes_twice_is_moved_once(rule, shape, named):
    """As tied weights do in [*encoder.parameters(), *decoder.parameters()]."""
    once, twice, other = (nn.Parameter(torch.ones(shape)) for _ in range(3))
    given = [
        (name, parameter) if named else parameter for name, parameter in (("a", twice), ("b", other), ("c", twice))
    ]
    with pytest.warns(UserWarning, match="duplicate parameters"):  # torch's own
        optimizers = LearnedOptimizer([once], rule), LearnedOptimizer(given, rule)
    for _ in range(3):
        for optimizer, parameters in zip(optimizers, ((once,), (twice, other)), strict=True):
            step(optimizer, *((parameter, 0.5) for parameter in parameters))
    assert_close(twice, once, rtol=1e-6, atol=1e-7)
    assert len(optimizers[1].param_groups[0]["params"]) == 2
    assert optimizers[1].param_groups[0].get("param_names") == (["a", "b"] if named else None)


def test_a_parameter_that_somebody_takes_out_by_hand_takes_its_name_along():
    first, second = param(1.0), param(2.0)
    optimizer = LearnedOptimizer([("a", first), ("b", second)], SGD(0.5))
    group = optimizer.param_groups[0]
    group["params"].pop()
    with pytest.raises(ValueError, match="must be as many, got 1 and 2: change group"):
        step(optimizer, (first, 1.0))
    group["param_names"].pop()
    step(optimizer, (first, 1.0), (second, 1.0))
    assert (first.item(), second.item()) == (0.5, 2.0)


# --------------------------------------------------------------------------------------- what torch has as its defaults


@pytest.mark.parametrize("name", ["general", "cifar_small_scheduled", "digits"])
def test_the_default_device_is_not_asked(name):
    """A model may be on the CPU while new tensors are made elsewhere."""
    here, there = param([1.0, 2.0], [3.0, 5.0]), param([1.0, 2.0], [3.0, 5.0])
    for parameter, device in ((here, "cpu"), (there, "meta")):
        optimizer = LearnedOptimizer([("weight", parameter)], l2o.from_pretrained(name), horizon=20)
        for count in range(2):
            parameter.grad = torch.tensor([[0.3, -0.2], [0.1, 0.7]])
            with torch.device(device):
                optimizer.step(loss=2.5 - count)
    assert torch.equal(here, there)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_loss_given_as_a_number_is_not_rounded(dtype):
    """65536 is infinite in float16, and 1.001 is 1 in bfloat16."""
    usual, other = param(1.0), param(1.0)
    for parameter, default in ((usual, torch.float32), (other, dtype)):
        optimizer = LearnedOptimizer([parameter], l2o.from_pretrained("general"), horizon=20, on_divergence="raise")
        torch.set_default_dtype(default)
        try:
            for loss in (65536.0, 1.001, np.float64(0.999), 7):
                parameter.grad = torch.ones(1, dtype=torch.float32)
                optimizer.step(loss=loss)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(usual, other)


@pytest.mark.parametrize("flat", [True, False])
def test_a_distributed_checkpoint_s_state_comes_back(rule, flat):
    torch.manual_seed(0)
    models = [nn.Linear(3, 2), nn.Linear(3, 2)]
    optimizers = [LearnedOptimizer(model.named_parameters(), rule, horizon=9) for model in models]
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def train(index):
        models[index](torch.ones(1, 3)).sum().backward()
        optimizers[index].step()
        optimizers[index].zero_grad()

    for _ in range(2):
        train(0)
    own, state = get_state_dict(models[0], optimizers[0], options=options)
    own, state = copy.deepcopy(own), copy.deepcopy(state)
    set_state_dict(models[1], optimizers[1], model_state_dict=own, optim_state_dict=state, options=options)
    assert optimizers[1].param_groups[0]["step"] == 2
    train(0)
    train(1)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)


# ---------------------------------------------------------------------------------------- gradients that are not finite


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_gradients_that_are_not_finite_are_counted_and_said_once(value):
    good, bad = param(1.0, 2.0), param(1.0, 2.0, 3.0)
    optimizer = LearnedOptimizer([("good", good), ("bad", bad)], LSTM(LogAndSign(10), hidden_size=3))
    step(optimizer, (good, 1.0), (bad, 1.0))
    assert optimizer.nonfinite_gradients() == {}
    with pytest.warns(UserWarning, match="the gradient of 'bad' was nan or infinite at 1 step:") as said:
        step(optimizer, (good, 1.0), (bad, [1.0, value, 1.0]))
    assert len(said) == 1
    step(optimizer, (good, 1.0), (bad, [value, value, 1.0]))  # a warning would be an error here
    good.grad = None
    bad.grad = torch.tensor([1.0, 1.0, value])
    optimizer.step()  # with other buffers
    assert optimizer.nonfinite_gradients() == {"bad": 3}


@pytest.mark.parametrize("name", [None, "w"])
def test_parameters_of_one_name_in_several_groups_are_counted_each(name):
    parameters = [param(1.0), param(1.0, 2.0)]
    given = [parameter if name is None else (name, parameter) for parameter in parameters]
    optimizer = LearnedOptimizer([{"params": [one]} for one in given], LSTM(LogAndSign(10), hidden_size=3))
    called = name or "0"
    with pytest.warns(UserWarning, match=rf"the gradient of '{called} \(group 1\)' was nan or infinite at 1 step:"):
        step(optimizer, (parameters[0], 1.0), (parameters[1], torch.nan))
    step(optimizer, (parameters[0], torch.nan), (parameters[1], torch.nan))
    assert optimizer.nonfinite_gradients() == {f"{called} (group 0)": 1, f"{called} (group 1)": 2}


def test_a_parameter_without_numbers_is_named():
    """One may be given to an optimizer before it has its numbers, but it cannot be moved."""
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = LearnedOptimizer([("w", parameter)], SGD(0.1))
    with pytest.raises(ValueError, match="'w' is on the device 'meta', which holds no numbers"):
        step(optimizer, (parameter, torch.zeros((), device="meta")))


def test_large_gradients_whose_sum_overflows_are_finite():
    parameter = param(1.0, 2.0)
    optimizer = LearnedOptimizer([parameter], LSTM(LogAndSign(10), hidden_size=3))
    step(optimizer, (parameter, 3e38))
    assert optimizer.nonfinite_gradients() == {}


def test_empty_parameters_are_passed_over():
    parameter, empty = param(1.0), nn.Parameter(torch.zeros(0, 3))
    optimizer = LearnedOptimizer([("p", parameter), ("empty", empty)], SGD(0.1))
    with pytest.warns(UserWarning, match="the gradient of 'p'"):
        step(optimizer, (parameter, torch.nan), (empty, 0.0))
    assert optimizer.nonfinite_gradients() == {"p": 1}


def test_several_parameters_are_counted_each():
    grads = [torch.zeros(2), torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf])]
    counting = NonFinite(["a", "b", "c"], grads)
    for _ in range(2):
        counting.add(torch.cat(grads))
    grads[2].zero_()
    counting.add(torch.cat(grads))
    assert counting.counts() == {"b": 3, "c": 2}
