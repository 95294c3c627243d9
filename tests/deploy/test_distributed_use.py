"""An optimizer of sharded parameters, in one process that is a group of its own; two processes are slow tests."""

import copy
import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, distribute_tensor

from l2o import LearnedOptimizer
from l2o.optimizers import LSTM, AdafacMLP, Adam, Hierarchical, LogAndSign, UpdateRule


@pytest.fixture
def mesh(tmp_path):
    """A group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def rule(kind: str) -> UpdateRule:
    torch.manual_seed(3)
    kinds = {"LSTM": lambda: LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1), "AdafacMLP": AdafacMLP}
    return kinds[kind]()


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def step(model: nn.Module, optimizer: LearnedOptimizer) -> None:
    optimizer.zero_grad()
    loss = (model(torch.linspace(-1, 1, 20).view(5, 4)) - 1).square().mean()
    loss.backward()
    optimizer.step(loss=loss)


@pytest.mark.parametrize("way", ["saved", "copied"])
@pytest.mark.parametrize("kind", ["LSTM", "AdafacMLP"])
def test_the_state_of_shards_can_be_saved_and_copied(kind: str, way: str, mesh: DeviceMesh) -> None:
    """It goes on as it would have, and as whole parameters do."""
    models = [network() for _ in range(3)]
    for model in models[:2]:
        fully_shard(model, mesh=mesh)
    sharded, resumed, whole = (LearnedOptimizer(m.named_parameters(), rule(kind), horizon=9) for m in models)
    for _ in range(3):
        step(models[0], sharded)
        step(models[2], whole)
    if way == "saved":
        torch.save(sharded.state_dict(), buffer := io.BytesIO())
        buffer.seek(0)
        state = torch.load(buffer, weights_only=False)
    else:
        state = copy.deepcopy(sharded.state_dict())
    models[1].load_state_dict(models[0].state_dict())
    resumed.load_state_dict(state)
    for model, optimizer in zip(models, (sharded, resumed, whole), strict=True):
        step(model, optimizer)
    for own, other, alone in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(own.full_tensor(), other.full_tensor())
        torch.testing.assert_close(own.full_tensor(), alone)


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")  # as there is one process
def test_flat_pieces_of_tensors_are_refused_by_rules_that_need_their_shapes(mesh: DeviceMesh) -> None:
    for use_orig_params in (True, False):
        model = FullyShardedDataParallel(network(), use_orig_params=use_orig_params, device_id=torch.device("cpu"))
        for needs_shapes in (AdafacMLP(), Hierarchical(5, 6, 2, orthogonal=True)):
            with pytest.raises(ValueError, match=r"flattened by FullyShardedDataParallel.*fully_shard"):
                LearnedOptimizer(model.named_parameters(), needs_shapes, horizon=9)
        step(model, LearnedOptimizer(model.named_parameters(), Adam(0.1)))


def test_a_loss_may_be_sharded_itself(mesh: DeviceMesh) -> None:
    """As tensor parallelism's `loss_parallel` gives it."""
    plain, other = (LearnedOptimizer([torch.nn.Parameter(torch.ones(3))], rule("LSTM")) for _ in range(2))
    for optimizer, loss in ((plain, 2.5), (other, distribute_tensor(torch.tensor(2.5), mesh, [Replicate()]))):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        optimizer.step(loss=loss)
    assert torch.equal(plain.param_groups[0]["params"][0], other.param_groups[0]["params"][0])
