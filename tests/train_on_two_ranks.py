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
from l2o.optimizers import LSTM, Adam, LogAndSign, Scope, UpdateRule

STEPS = 6


def network() -> nn.Module:
    """Sizes that two ranks cannot share evenly, and one with fewer rows than ranks."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def batch(step: int) -> torch.Tensor:
    """The last input is constantly 0: the gradient of its weights is, too."""
    inputs = torch.randn(8, 4, generator=Generator().manual_seed(step), dtype=torch.float64)
    inputs[:, 3] = 0
    return inputs


def train(model: nn.Module, optimizer: LearnedOptimizer, steps: range, rows: slice) -> None:
    for step in steps:
        optimizer.zero_grad()
        (model(batch(step)[rows]) - 1).square().mean().backward()
        optimizer.step()


class WholeNorm(UpdateRule):
    """g = −∇ / ‖∇‖: no shard knows the norm."""

    scope = Scope.ALL

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return -seen.grad / seen.grad.norm(), state


def sharded(rule: UpdateRule, rows: slice) -> dict[str, torch.Tensor]:
    """Trained on shards, with the whole state saved and loaded half way."""
    model = network()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = LearnedOptimizer(model.named_parameters(), rule)
    train(model, optimizer, range(STEPS // 2), rows)
    options = StateDictOptions(full_state_dict=True)
    optimizer.zero_grad()  # torch makes a new optimizer's state only where no gradient is in the way
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    for key, value in saved["state"]["0.weight"].items():
        assert key == "step" or value.shape[:2] == (5, 4), key
    resumed = LearnedOptimizer(model.named_parameters(), rule)
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
    model = network()
    train(nn.parallel.DistributedDataParallel(model), LearnedOptimizer(model.parameters(), rule), range(STEPS), rows)
    return dict(model.named_parameters())


def main(strategy: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(2)
    for rule in (LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1).double(), Adam(0.01)):
        alone = network()
        train(alone, LearnedOptimizer(alone.parameters(), rule), range(STEPS), slice(None))
        found = {"ddp": replicated, "fsdp": sharded}[strategy](rule, slice(4 * rank, 4 * rank + 4))
        assert torch.equal(found["0.weight"][:, 3], network()[0].weight[:, 3]), "without a gradient it rests"
        for name, parameter in alone.named_parameters():
            assert_close(found[name], parameter, rtol=1e-9, atol=1e-10)
    print("the same")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
