"""The modern rules in the hands of a user of torch: the loss and the horizon reach them, wherever training happens."""

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Generator, Tensor, nn
from torch.testing import assert_close

from l2o import LearnedOptimizer
from l2o.optimizees.layout import Axis
from l2o.optimizers import AdafacMLP, Celo, Celo2, Hierarchical, MLPLOpt, Partitioned, UpdateRule

HORIZON = 20
RULES: dict[str, Callable[[], UpdateRule]] = {
    "adafac_mlp": lambda: AdafacMLP(),
    "mlp_lopt": lambda: MLPLOpt(6),
    "celo phase 1": lambda: Celo(1),
    "celo": lambda: Celo(2, scheduler_size=5),
    "celo2": lambda: Celo2(),
    "celo2 base": lambda: Celo2(orthogonal=False, adam_vectors=False, adam_pattern=None),
    "hierarchical": lambda: Hierarchical(5, 6, 2),
    "hierarchical and orthogonal": lambda: Hierarchical(5, 6, 2, orthogonal=True, iterations=3),
}


def made(name: str) -> UpdateRule:
    """The rule with φ that is not at its start: learned initial states, too."""
    torch.manual_seed(3)
    rule = RULES[name]()
    for parameter in rule.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return rule


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> UpdateRule:
    return made(request.param)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def batch(step: int, rows: slice = slice(None)) -> Tensor:
    return torch.randn(8, 4, generator=Generator().manual_seed(step))[rows]


def loss_of(model: nn.Module, step: int, rows: slice = slice(None)) -> Tensor:
    x = batch(step, rows).to(next(model.parameters()).dtype)
    return (model(x) - 1).square().mean()


def made_optimizer(model: nn.Module, rule: UpdateRule, **options: Any) -> LearnedOptimizer:
    return LearnedOptimizer(model.named_parameters(), rule, **{"horizon": HORIZON} | options)


def train(model: nn.Module, optimizer: LearnedOptimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step(loss=loss)


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def shared_state(optimizer: LearnedOptimizer) -> list[dict[str, Tensor]]:
    """What the scheduler remembers, as it lies under each parameter that has a state."""
    names = [key for key, axis in Celo(2).state_axes().items() if axis is Axis.SHARED]
    return [{name: entry[name] for name in names} for entry in optimizer.state.values()]


def assert_not_forked(optimizer: LearnedOptimizer, seen: int) -> None:
    """Under every parameter there is the same scheduler, which has seen so many losses."""
    first, *others = shared_state(optimizer)
    assert first["losses_seen"] == seen
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


# ------------------------------------------------------------------------------------------- how the loss is given


@pytest.mark.parametrize("give", ["number", "tensor", "tensor of one", "closure", "closure of a number"])
def test_the_loss_may_be_given_in_several_ways(rule: UpdateRule, give: str) -> None:
    one, other = network(), network()
    optimizers = made_optimizer(one, rule), made_optimizer(other, rule)
    train(one, optimizers[0], range(5))
    for step in range(5):

        def closure(step: int = step) -> Tensor | float:
            optimizers[1].zero_grad()
            loss = loss_of(other, step)
            loss.backward()
            return loss.item() if give == "closure of a number" else loss

        if give.startswith("closure"):
            expected = loss_of(other, step).item()
            assert float(torch.as_tensor(optimizers[1].step(closure)).detach()) == expected
        else:
            loss = closure()
            assert isinstance(loss, Tensor)
            optimizers[1].step(loss={"number": loss.item(), "tensor": loss, "tensor of one": loss.view(1, 1)}[give])
    assert_equal(one, other)


def test_another_loss_makes_another_step_only_where_the_rule_reads_it(rule: UpdateRule) -> None:
    models = network(), network()
    for model, factor in zip(models, (1.0, -3.0), strict=True):
        optimizer = made_optimizer(model, rule)
        for step in range(6):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            optimizer.step(loss=loss.item() + factor * step)
    same = all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models), strict=True))
    assert same is not ("loss" in rule.needs or getattr(rule, "reads_loss", False))


def test_what_a_rule_must_know_is_asked_for_with_the_remedy() -> None:
    model = network()
    with pytest.raises(ValueError, match=re.escape("Celo must know how many steps the training will take: Learned")):
        LearnedOptimizer(model.parameters(), made("celo"))
    optimizer = made_optimizer(model, made("celo"))
    loss_of(model, 0).backward()
    before = copy.deepcopy(model)
    for wrong in (None, lambda: None):
        with pytest.raises(ValueError, match=re.escape("Celo reads the loss at every step: optimizer.step(loss=loss)")):
            optimizer.step(wrong)
    for bad in (torch.ones(2), "three", {"loss": 1.0}, torch.tensor(True), torch.tensor(1j)):
        with pytest.raises(ValueError, match="the loss must be one number"):
            optimizer.step(loss=bad)  # type: ignore[arg-type]
    assert_equal(model, before)
    assert optimizer.param_groups[0]["step"] == 0 and not optimizer.state


@pytest.mark.parametrize("returned", [None, {"loss": 1.0}, (1.0, "text"), torch.ones(3), "fine"], ids=str)
def test_a_closure_returns_what_it_likes_where_no_rule_asks_for_the_loss(returned: Any) -> None:
    """As with torch's optimizers."""
    model, other = network(), network()
    optimizer = made_optimizer(model, made("adafac_mlp"))

    def closure() -> Any:
        loss_of(model, 0).backward()
        return returned

    assert optimizer.step(closure) is returned
    train(other, made_optimizer(other, made("adafac_mlp")), range(1))
    assert_equal(model, other)


def test_an_inner_rule_s_needs_are_asked_for(rule: UpdateRule) -> None:
    both = Partitioned({"a": rule, "b": made("mlp_lopt")}, {"a": ".*weight", "b": ".*bias"})
    model = network()
    optimizer = made_optimizer(model, both)
    loss_of(model, 0).backward()
    if "loss" in rule.needs:
        with pytest.raises(ValueError, match="Partitioned reads the loss"):
            optimizer.step()
    optimizer.step(loss=1.0)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# -------------------------------------------------------------------------------------------- habits of training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_within_autocast_is_the_step_outside(rule: UpdateRule, dtype: torch.dtype) -> None:
    """Arithmetic is in float32 at least, whatever precision somebody has chosen for the model around the step."""
    models = [network(), network()]
    optimizers = [LearnedOptimizer(model.named_parameters(), rule, horizon=HORIZON) for model in models]
    for step in range(3):
        for model, optimizer, inside in zip(models, optimizers, (False, True), strict=True):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            with torch.autocast("cpu", dtype, enabled=inside):
                optimizer.step(loss=loss)
    for outside, within in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(outside, within)


def test_accumulated_gradients_are_one_batch_s(rule: UpdateRule) -> None:
    """Two halves of a batch, one step, given the mean of their losses."""
    rule = rule.double()
    whole, halves = network(torch.float64), network(torch.float64)
    train(whole, made_optimizer(whole, rule), range(5))
    optimizer = made_optimizer(halves, rule)
    for step in range(5):
        optimizer.zero_grad()
        losses = [loss_of(halves, step, rows) / 2 for rows in (slice(4), slice(4, 8))]
        for loss in losses:
            loss.backward()
        optimizer.step(loss=sum(loss.item() for loss in losses))
    assert optimizer.param_groups[0]["step"] == 5
    turned = isinstance(rule, Hierarchical) and rule.orthogonal
    magnified = 1e3 if turned else 1.0  # rounding, where singular values are small
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert_close(a, b, rtol=1e-9 * magnified, atol=1e-11 * magnified)


def test_a_step_that_a_scaler_skips_counts_for_nothing(rule: UpdateRule) -> None:
    """Neither t nor the scheduler moves; the loss that the rule is told is the one before scaling."""
    plain, scaled = network(), network()
    optimizers = made_optimizer(plain, rule), made_optimizer(scaled, rule)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(6):
        optimizers[1].zero_grad()
        loss = loss_of(scaled, step)
        scaler.scale(loss).backward()
        if step in (0, 3):
            scaled[0].weight.grad[0, 0] = torch.inf  # type: ignore[index]
        scaler.step(optimizers[1], loss=loss)
        scaler.update()
        if step not in (0, 3):
            train(plain, optimizers[0], range(step, step + 1))
    assert [optimizer.param_groups[0]["step"] for optimizer in optimizers] == [4, 4]
    assert_equal(plain, scaled)  # powers of two scale without rounding
    if "loss" in rule.needs:
        assert_not_forked(optimizers[1], seen=4)


class Regression(pl.LightningModule):
    """Automatic optimization: Lightning gives the optimizer a closure."""

    def __init__(self, rule: UpdateRule):
        super().__init__()
        self.net, self.rule_, self.told = network(), [rule], []  # in a list: no part of the model

    def training_step(self, x: Tensor, _: int) -> Tensor:
        loss = (self.net(x) - 1).square().mean()
        self.told.append(loss.item())
        return loss

    def configure_optimizers(self) -> LearnedOptimizer:
        return made_optimizer(self.net, self.rule_[0])

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.cat([batch(step) for step in range(4)]), 8)  # type: ignore[arg-type]


def fitted(module: Regression, folder: Any, epochs: int, ckpt_path: Any = None) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, enable_model_summary=False, default_root_dir=folder, **quiet
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*num_workers|.*logging interval")
        trainer.fit(module, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def test_lightning_s_automatic_optimization_gives_the_loss_and_resumes(rule: UpdateRule, tmp_path: Any) -> None:
    by_hand = network()
    optimizer = made_optimizer(by_hand, rule)
    for _ in range(2):
        train(by_hand, optimizer, range(4))
    fitted(whole := Regression(rule), tmp_path, 2)
    assert_equal(whole.net, by_hand)
    fitted(Regression(rule), tmp_path, 1).save_checkpoint(tmp_path / "half.ckpt")
    after = fitted(resumed := Regression(rule), tmp_path, 2, tmp_path / "half.ckpt").optimizers[0]
    assert_equal(resumed.net, by_hand)
    assert after.param_groups[0]["step"] == 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler looks
def test_the_model_around_it_may_be_compiled(rule: UpdateRule) -> None:
    models = network(), network()
    optimizers = [made_optimizer(model, rule) for model in models]

    @torch.compile(backend="aot_eager")
    def step(x: Tensor) -> None:
        optimizers[1].zero_grad()
        loss = (models[1](x) - 1).square().mean()
        loss.backward()
        optimizers[1].step(loss=loss)

    for index in range(4):
        train(models[0], optimizers[0], range(index, index + 1))
        step(batch(index))
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        assert_close(a, b)


# --------------------------------------------------------------------------------- what all parameters share


def fitted_shared(patterns: list[set[str]], **options: Any) -> tuple[nn.Module, LearnedOptimizer]:
    """Trained with gradients of those parameters alone that each step names."""
    model = network()
    optimizer = made_optimizer(model, made("celo"), **options)
    for step, names in enumerate(patterns):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        for name, parameter in model.named_parameters():
            if name not in names:
                parameter.grad = None
        optimizer.step(loss=1.0 / (1 + step))
    return model, optimizer


ALL = {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_parameters_without_a_gradient_do_not_fork_the_scheduler() -> None:
    _, optimizer = fitted_shared([{"0.weight"}, ALL, {"2.bias"}, {"0.weight", "2.weight"}, ALL, set(), {"0.bias"}])
    assert_not_forked(optimizer, seen=6)  # at one step there was nothing to move
    assert optimizer.param_groups[0]["step"] == 7
    assert len(optimizer.state) == 4


def grouped(model: nn.Module, rule: UpdateRule, count: int) -> LearnedOptimizer:
    named = [*model.named_parameters()]
    size = len(named) // count
    return LearnedOptimizer(
        [{"params": named[start : start + size]} for start in range(0, len(named), size)], rule, horizon=HORIZON
    )


@pytest.mark.parametrize("count", [2, 4])
def test_groups_share_one_scheduler_that_each_step_moves_once(rule: UpdateRule, count: int) -> None:
    together, apart, rule = network(torch.float64), network(torch.float64), rule.double()
    train(together, made_optimizer(together, rule), range(6))
    train(apart, optimizer := grouped(apart, rule, count), range(6))
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-12)
    if "loss" in rule.needs:
        assert_not_forked(optimizer, seen=6)


@pytest.mark.parametrize("how", ["state_dict", "file", "deepcopy", "pickle"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_copy_goes_on_as_the_original(rule: UpdateRule, how: str, count: int) -> None:
    model = network()
    optimizer = grouped(model, rule, count)
    train(model, optimizer, range(3))
    if how in ("state_dict", "file"):
        other_model = copy.deepcopy(model)
        other = grouped(other_model, rule, count)
        saved = copy.deepcopy(optimizer.state_dict())
        if how == "file":
            torch.save(saved, stream := io.BytesIO())
            saved = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
        other.load_state_dict(saved)
    elif how == "deepcopy":
        other_model, other = copy.deepcopy((model, optimizer))
    else:
        other_model, other = pickle.loads(pickle.dumps((model, optimizer)))
    for one in (0, 1):  # neither moves what the other remembers
        train(*((model, optimizer), (other_model, other))[one], range(3, 7))
    assert_equal(model, other_model)
    if "loss" in rule.needs:
        assert_not_forked(other, seen=7)
        assert_not_forked(optimizer, seen=7)


def test_a_group_that_joins_late_joins_at_the_optimizer_s_step() -> None:
    model = network()
    optimizer = LearnedOptimizer(model[0].named_parameters(prefix="0"), made("celo"), horizon=HORIZON)
    train(model, optimizer, range(3))
    optimizer.add_param_group({"params": [*model[2].named_parameters(prefix="2")]})
    train(model, optimizer, range(3, 5))
    assert [group["step"] for group in optimizer.param_groups] == [5, 5]
    assert_not_forked(optimizer, seen=5)


def test_groups_of_other_horizons_have_schedulers_of_their_own() -> None:
    model, rule = network(), made("celo")
    groups = [
        {"params": [*model[0].named_parameters(prefix="0")], "horizon": 10},
        {"params": [*model[2].named_parameters(prefix="2")], "horizon": 1000},
    ]
    optimizer = LearnedOptimizer(groups, rule)
    train(model, optimizer, range(4))
    first, _, last, _ = shared_state(optimizer)
    assert first["losses_seen"] == last["losses_seen"] == 4
    assert not torch.equal(first["hidden"], last["hidden"])


def test_a_horizon_that_is_changed_there_and_back_forks_nothing(rule: UpdateRule) -> None:
    """What parameters share is what it was at the last step, not at the last one with the same horizon."""
    model = network()
    optimizer = made_optimizer(model, rule)
    for steps, horizon in ((range(3), HORIZON), (range(3, 6), 10 * HORIZON), (range(6, 6), HORIZON)):
        optimizer.param_groups[0]["horizon"] = horizon
        train(model, optimizer, steps)
    resumed_model = copy.deepcopy(model)
    resumed = made_optimizer(resumed_model, rule)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, range(6, 9))
    train(resumed_model, resumed, range(6, 9))
    assert_equal(model, resumed_model)
    if "loss" in rule.needs:
        assert_not_forked(optimizer, seen=9)


def test_shared_state_that_is_cleared_starts_again(rule: UpdateRule) -> None:
    model = network()
    optimizer = made_optimizer(model, rule)
    train(model, optimizer, range(3))
    other_model = copy.deepcopy(model)
    optimizer.state.clear()
    other = made_optimizer(other_model, rule)
    other.param_groups[0]["step"] = 3
    train(model, optimizer, range(3, 6))
    train(other_model, other, range(3, 6))
    assert_equal(model, other_model)
    if "loss" in rule.needs:
        assert_not_forked(optimizer, seen=3)


def test_shared_state_that_somebody_replaces_is_what_the_rule_reads(rule: UpdateRule) -> None:
    """Lightning moves the state to a device entry by entry, others change it."""
    models = network(), network()
    optimizers = [made_optimizer(model, rule) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, range(3))
        shared = {key for key, axis in rule.state_axes().items() if axis is Axis.SHARED}
        for number, entry in enumerate(optimizer.state.values()):
            for key in entry.keys() - {"resting.awake"}:
                if optimizer is optimizers[0]:
                    entry[key] = 2 * entry[key]
                elif key not in shared or number == 0:  # these are the same tensor under all
                    entry[key].mul_(2)
        train(model, optimizer, range(3, 6))
    assert_equal(*models)
    if "loss" in rule.needs:
        assert_not_forked(optimizers[0], seen=9)  # 2 · 3 + 3


def test_to_look_at_a_new_optimizer_s_state_is_not_to_train(rule: UpdateRule) -> None:
    """torch.distributed.checkpoint makes a new optimizer show its state by a step of rate 0, without a loss."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    models = network(), network()
    optimizers = [made_optimizer(model, rule) for model in models]
    saved = get_optimizer_state_dict(models[1], optimizers[1])
    assert len(saved["state"]) == 4 and optimizers[1].param_groups[0]["step"] == 0
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, range(4))
    assert_equal(*models)
    if "loss" in rule.needs:
        assert_not_forked(optimizers[1], seen=4)


def test_a_first_step_of_rate_0_counts_where_there_are_gradients(rule: UpdateRule) -> None:
    """As with a schedule that begins at 0: what the rule remembers goes on, although nothing moves."""
    model = network()
    before = copy.deepcopy(model)
    optimizer = made_optimizer(model, rule, lr=0.0)
    loss_of(model, 0).backward()
    optimizer.step(loss=1.0 if "loss" in rule.needs else None)
    assert_equal(model, before)
    assert optimizer.param_groups[0]["step"] == 1
    assert all(entry["resting.awake"].any() for entry in optimizer.state.values())


# ------------------------------------------------------------------------------- what is changed on the way


def test_what_a_group_says_is_followed_from_the_next_step_on() -> None:
    """Another rule, other axes, no resting: nothing of it is remembered from the steps before."""
    model = network()
    optimizer = made_optimizer(model, made("mlp_lopt"), resting=False)
    train(model, optimizer, range(2))
    other = MLPLOpt(6, step_mult=0.0)
    optimizer.param_groups[0]["rule"] = other
    before = copy.deepcopy(model)
    train(model, optimizer, range(2, 4))
    assert_equal(model, before)
    optimizer.param_groups[0]["rule"] = 0
    optimizer.param_groups[0]["resting"] = True
    train(model, optimizer, range(4, 5))
    assert not torch.equal(model[0].weight, before[0].weight)
    assert all("resting.awake" in entry for entry in optimizer.state.values())
    optimizer.param_groups[0]["rule"] = made("adafac_mlp")
    with pytest.raises(ValueError, match="is of another rule"):
        train(model, optimizer, range(5, 6))


# ------------------------------------------------------------------------------------------ factored moments


class Kernels(nn.Module):
    """Kernels with axes of equal sizes, too."""

    def __init__(self) -> None:
        super().__init__()
        generator = Generator().manual_seed(7)
        self.shapes = [(4, 2, 3, 3), (3, 3, 3, 3), (2, 2, 5, 5), (5, 1, 1, 1), (6, 6, 2), (1, 4, 2, 2), (2, 3, 4, 5, 6)]
        self.kernels = nn.ParameterList([torch.randn(shape, generator=generator) for shape in self.shapes])


def turned(tensor: Tensor) -> Tensor:
    """(out, in, height, width) -> (height, width, in, out), in memory of its own."""
    return tensor.permute(*range(2, tensor.ndim), 1, 0).contiguous()


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_kernels_are_seen_as_the_published_rules_saw_them(rule: UpdateRule, chunk_size: int | None) -> None:
    mine = Kernels()
    theirs = copy.deepcopy(mine)
    theirs.kernels = nn.ParameterList([turned(kernel.detach()) for kernel in mine.kernels])
    one = made_optimizer(mine, rule, axes="torch", chunk_size=chunk_size)
    other = made_optimizer(theirs, rule, axes="as_given")
    generator = Generator().manual_seed(8)
    for step in range(4):
        for a, b in zip(mine.kernels, theirs.kernels, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = turned(a.grad)
        for optimizer in (one, other):
            optimizer.step(loss=1.0 / (1 + step))
    axes = rule.state_axes()
    for a, b in zip(mine.kernels, theirs.kernels, strict=True):
        if chunk_size is None:
            assert torch.equal(turned(a.detach()), b)
        else:
            assert_close(turned(a.detach()), b, rtol=1e-5, atol=1e-6)
        for key, value in one.state[a].items():
            if axes.get(key, Axis.COORDINATES) is Axis.COORDINATES:
                assert value.shape[: a.ndim] == a.shape and other.state[b][key].shape[: b.ndim] == b.shape
            else:
                assert value.shape == other.state[b][key].shape


@pytest.mark.parametrize("name", ["adafac_mlp", "celo", "celo2"])
@pytest.mark.parametrize("other", [(5, 3), (3, 5, 1, 1), (15,), (3, 6)], ids=str)
def test_factored_moments_of_another_shape_are_refused(name: str, other: tuple[int, ...]) -> None:
    def stepped(*shape: int) -> LearnedOptimizer:
        parameter = nn.Parameter(torch.ones(*shape))
        parameter.grad = torch.ones_like(parameter)
        optimizer = LearnedOptimizer([parameter], made(name), horizon=HORIZON)
        optimizer.step(loss=1.0)
        return optimizer

    saved = stepped(3, 5).state_dict()
    mine = stepped(*other)
    before = copy.deepcopy(mine.state_dict())
    with pytest.raises(ValueError, match=r"the saved state of '0' is of another rule or parameter"):
        mine.load_state_dict(saved)
    after = mine.state_dict()
    assert all(torch.equal(value, after["state"][0][key]) for key, value in before["state"][0].items())


# --------------------------------------------------------------------------------------- parameters of all kinds


def odd_parameters(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    torch.manual_seed(2)
    shapes = {"w": (4, 3), "b": (4,), "scalar": (), "empty": (0, 3), "none": (0,), "conv": (2, 3, 1, 2), "row": (1, 6)}
    return {name: nn.Parameter(torch.randn(shape).to(dtype)) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_parameters_of_every_dtype_and_kind(rule: UpdateRule, dtype: torch.dtype, chunk_size: int | None) -> None:
    params = odd_parameters(dtype)
    params["never"] = nn.Parameter(torch.ones(3, dtype=dtype))
    before = {name: param.detach().clone() for name, param in params.items()}
    groups = [{"params": [*params.items()]}, {"params": [("idle", nn.Parameter(torch.ones(2, 2, dtype=dtype)))]}]
    optimizer = LearnedOptimizer(groups, rule, lr=200.0, horizon=HORIZON, chunk_size=chunk_size)
    for step in range(4):
        generator = Generator().manual_seed(step)
        for name, param in params.items():
            if name != "never":
                param.grad = torch.randn(param.shape, generator=generator).to(dtype)
        optimizer.step(loss=2.0 - step / 10)
    for name, param in params.items():
        assert param.dtype == dtype and param.isfinite().all()
        moved = not torch.equal(param, before[name])
        assert moved is (name not in ("empty", "none", "never")), name
    assert groups[1]["params"][0] not in optimizer.state
    for entry in optimizer.state.values():
        for value in entry.values():
            assert value.dtype in (torch.float32, torch.bool)  # the rule's own


def test_a_low_precision_parameter_takes_the_step_of_its_float32_twin(rule: UpdateRule) -> None:
    low, full = odd_parameters(torch.bfloat16), odd_parameters(torch.bfloat16)
    full = {name: nn.Parameter(param.detach().float()) for name, param in full.items()}
    for params in (low, full):
        optimizer = LearnedOptimizer(params.items(), rule, horizon=HORIZON)
        for param in params.values():
            param.grad = (param.detach() / 2).to(param.dtype)
        optimizer.step(loss=1.0)
    for name, param in low.items():
        assert torch.equal(param, full[name].bfloat16()), name


def test_tied_parameters_are_one(rule: UpdateRule) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(x).tanh())

    torch.manual_seed(1)
    model = Tied()
    optimizer = made_optimizer(model, rule)
    train(model, optimizer, range(3))
    assert len(optimizer.state) == 3 and model.encode.weight is model.decode.weight


def test_unnamed_parameters_move_as_named_ones(rule: UpdateRule) -> None:
    named, unnamed = network(), network()
    train(named, made_optimizer(named, rule), range(3))
    train(unnamed, LearnedOptimizer(unnamed.parameters(), rule, horizon=HORIZON), range(3))
    assert_equal(named, unnamed)


@pytest.mark.filterwarnings("ignore:this optimizer was told that the training takes 20 steps")
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1e-3, 1e3, 1e6, 1e18])
def test_gradients_of_any_size_leave_all_finite(rule: UpdateRule, scale: float) -> None:
    params = odd_parameters(torch.float32)
    optimizer = LearnedOptimizer(params.items(), rule, horizon=HORIZON)
    for step in range(HORIZON + 2):  # beyond the horizon, too
        for param in params.values():
            param.grad = scale * torch.randn(param.shape, generator=Generator().manual_seed(step))
        optimizer.step(loss=scale * (1 + step % 3))
    everything: Iterator[Tensor] = (value for entry in optimizer.state.values() for value in entry.values())
    assert all(tensor.isfinite().all() for tensor in (*params.values(), *everything))


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("name", ["celo2", "celo2 base"])
def test_celo2_s_step_has_the_size_of_the_rate(name: str, scale: float) -> None:
    parameter = nn.Parameter(torch.randn(6, 5, generator=Generator().manual_seed(1)))
    optimizer = LearnedOptimizer([("w", parameter)], made(name), lr=0.5)
    for step in range(5):
        before = parameter.detach().clone()
        parameter.grad = scale * torch.randn(6, 5, generator=Generator().manual_seed(step))
        optimizer.step()
        size = (parameter.detach() - before).square().mean().sqrt()
        assert_close(size, torch.tensor(0.5 * 1e-3), rtol=1e-3, atol=0)
