"""Two gloo ranks, each with its half of every batch, against one process with the whole: `… train_on_two_ranks.py ddp`.

Run by `torch.distributed.run`. With `fsdp` each rank holds its shard of every parameter and of the state; the state is
also saved whole and given back to a new optimizer half way.
"""

import sys

import torch
import torch.distributed as dist
from torch import Generator, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from l2o import LearnedOptimizer
from l2o.optimizees.layout import Axis
from l2o.optimizers import LSTM, AdafacMLP, Adam, Celo, Celo2, Hierarchical, LogAndSign, MLPLOpt, Scope, UpdateRule

STEPS, LONG, HORIZON = 6, 50, 60


def network() -> nn.Module:
    """Sizes that two ranks cannot share evenly, and one with fewer rows than ranks."""
    torch.manual_seed(1)
    image = nn.Unflatten(1, (1, 2, 3))
    layers = nn.Linear(4, 6), nn.Tanh(), image, nn.Conv2d(1, 3, (1, 2)), nn.Flatten(), nn.Linear(12, 5), nn.Tanh()
    return nn.Sequential(*layers, nn.Linear(5, 1)).double()


def batch(step: int) -> torch.Tensor:
    """The last input is constantly 0: the gradient of its weights is, too."""
    inputs = torch.randn(8, 4, generator=Generator().manual_seed(step), dtype=torch.float64)
    inputs[:, 3] = 0
    return inputs


def train(model: nn.Module, optimizer: LearnedOptimizer, steps: range, rows: slice) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss = (model(batch(step)[rows]) - 1).square().mean()
        loss.backward()
        optimizer.step(loss=loss)  # of these rows: each rank gives its own


class WholeNorm(UpdateRule):
    """g = −∇ / ‖∇‖: no shard knows the norm."""

    scope = Scope.ALL

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return -seen.grad / seen.grad.norm(), state


class ReadsLoss(UpdateRule):
    """g = −0.1 f ∇: it reads the loss where there is one, and declares no need of it."""

    scope = Scope.COORDINATE

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return -0.1 * seen.loss.nan_to_num(1.0)[:, None] * seen.grad, state


def sharded(rule: UpdateRule, rows: slice) -> dict[str, torch.Tensor]:
    """Trained on shards, with the whole state saved and loaded half way."""
    model = network()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = LearnedOptimizer(model.named_parameters(), rule, horizon=HORIZON)
    train(model, optimizer, range(STEPS // 2), rows)
    options = StateDictOptions(full_state_dict=True)
    optimizer.zero_grad()  # torch makes a new optimizer's state only where no gradient is in the way
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    axes = rule.state_axes() | {"resting.awake": Axis.COORDINATES}
    if saved["state"]:  # rank 0 alone has it whole
        for name, shape in (("0.weight", (6, 4)), ("3.weight", (3, 1, 1, 2))):
            seen = shape if len(shape) < 3 or rule.scope is Scope.COORDINATE else (*shape[2:], shape[1], shape[0])
            for key, value in saved["state"][name].items():
                own = shape if axes[key] is Axis.COORDINATES else axes[key].shape(seen)
                assert value.shape[: len(own)] == own, key
    resumed = LearnedOptimizer(model.named_parameters(), rule, horizon=HORIZON)
    set_optimizer_state_dict(model, resumed, saved, options=options)
    train(model, resumed, range(STEPS // 2, STEPS), rows)
    try:
        LearnedOptimizer(model.named_parameters(), WholeNorm())
    except ValueError as error:
        assert "is sharded, but WholeNorm sees all parameters at once" in str(error)
    else:
        raise AssertionError("WholeNorm was taken")
    return {name: parameter.full_tensor() for name, parameter in model.named_parameters()}


def replicated(rule: UpdateRule, rows: slice) -> dict[str, torch.Tensor]:
    """Trained on replicas, in the second of two groups: the first is empty, as one for weights that decay may be."""
    model = network()
    groups = [{"params": [], "param_names": []}, {"params": [*model.named_parameters()]}]
    optimizer = LearnedOptimizer(groups, rule, horizon=HORIZON)
    train(nn.parallel.DistributedDataParallel(model), optimizer, range(LONG), rows)
    for parameter in model.parameters():
        both = [torch.empty_like(parameter) for _ in range(2)]
        dist.all_gather(both, parameter.detach())
        assert torch.equal(*both), "the replicas have drifted apart"
    return dict(model.named_parameters())


def rules() -> list[UpdateRule]:
    """Rules of every scope that shards allow; φ is random, where it would start at 0, too."""
    torch.manual_seed(2)
    lstm = LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1)
    found = [lstm, Adam(0.01), AdafacMLP(), MLPLOpt(6), Celo(1), Celo(2, scheduler_size=5), Celo2()]
    found += [Hierarchical(5, 6, 2, orthogonal=True), ReadsLoss()]
    for rule in found[2:]:
        for parameter in rule.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return [rule.double() for rule in found]


def main(strategy: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for rule in rules():
        alone = network()
        optimizer = LearnedOptimizer(alone.named_parameters(), rule, horizon=HORIZON)
        train(alone, optimizer, range({"ddp": LONG, "fsdp": STEPS}[strategy]), slice(None))
        found = {"ddp": replicated, "fsdp": sharded}[strategy](rule, slice(4 * rank, 4 * rank + 4))
        assert torch.equal(found["0.weight"][:, 3], network()[0].weight[:, 3]), "without a gradient it rests"
        for name, parameter in alone.named_parameters():
            message = lambda text, rule=rule, name=name: f"{type(rule).__name__}, {name}: {text}"  # noqa: E731
            assert_close(found[name], parameter, rtol=1e-9, atol=1e-10, msg=message)
    print("the same")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
