"""The compiled loss and gradient of chains of linear layers against autograd, for random networks.

Shapes: B tasks, P coordinates, N examples of a minibatch.
"""

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from l2o.data import Dataset
from l2o.optimizees import Autoencoder, Classifier, Layout, LogisticRegression, Optimizee, mlp
from l2o.optimizees.kernels import chain, chain_cpp
from l2o.optimizees.kernels.chain import Activation, Loss, chain_of
from l2o.optimizees.networks import image_autoencoder
from l2o.optimizees.networks.mlp import ACTIVATIONS

needs_compiler = pytest.mark.skipif(not chain_cpp.available(), reason="no C++ compiler on this machine")

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
PRECISIONS = tuple(TOLERANCE)


@pytest.fixture(params=PRECISIONS, ids=str)
def dtype(request: pytest.FixtureRequest):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def images(side: int, classes: int, generator: torch.Generator) -> Dataset:
    x, y = torch.rand(30, side, side, generator=generator), torch.randint(classes, (30,), generator=generator)
    y[0] = classes - 1
    return Dataset(x, y, x[:4], y[:4])


def drawn(seed: int) -> tuple[Optimizee, int]:
    """An optimizee of a random architecture, and a number of tasks. 0 hidden layers, B = 1 and N = 1 are among them."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    side, tasks, batch_size = draw.randint(1, 9), draw.choice((1, 1, 2, 5)), draw.choice((1, 1, 2, 7, 32, 57, 64))
    hidden = [draw.choice((1, 2, 8, 15, 16, 17, 33, 40, 64, 100)) for _ in range(draw.randrange(5))]
    activation, classes = draw.choice([*ACTIVATIONS]), draw.choice((2, 3, 10, 16, 33))
    if draw.random() < 0.3:
        network: nn.Module = image_autoencoder(side, hidden, activation)
        return Autoencoder(network, images(side, classes, generator), batch_size), tasks
    network = mlp(side * side, hidden, classes, activation)
    return Classifier(network, images(side, classes, generator), batch_size, init="torch"), tasks


def both(optimizee: Optimizee, theta: Tensor, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What the kernel gives, which must not have refused, and what autograd gives."""
    chosen = optimizee.loss_and_grad(theta, batch)
    compiled = optimizee._compiled(theta, batch) if hasattr(optimizee, "_compiled") else chosen  # type: ignore[attr-defined]
    assert compiled is not None
    assert_close(chosen, compiled, rtol=0, atol=0, equal_nan=True)  # the kernel is what is used
    return [compiled, Optimizee._loss_and_grad(optimizee, theta, batch)]


def agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Every loss, and the gradient of every task relative to its norm."""
    tolerance = TOLERANCE[found[0].dtype]
    assert_close(found[0], expected[0], rtol=tolerance, atol=0)
    assert found[1].shape == expected[1].shape and not found[1].requires_grad
    assert ((found[1] - expected[1]).norm(dim=1) <= tolerance * expected[1].norm(dim=1)).all()


@needs_compiler
@pytest.mark.parametrize("seed", range(60))
def test_random_networks(dtype: torch.dtype, seed: int) -> None:
    optimizee, tasks = drawn(seed)
    generator = torch.Generator().manual_seed(seed)
    theta, task = optimizee.sample(tasks, generator)
    agree(*both(optimizee, theta, optimizee.sample_batch(task, tasks, generator)))


@needs_compiler
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_where_it_bends(dtype: torch.dtype, activation: str) -> None:
    """From 0, the bend of a ReLU, to far beyond where an activation is flat, both ways; the logits stay moderate."""
    generator = torch.Generator().manual_seed(0)
    optimizee = Classifier(mlp(16, [24, 9], 4, activation), images(4, 4, generator), 16)
    theta = 0.1 * torch.randn(4, optimizee.layout.size, generator=generator)
    theta[:, : 24 * 17] *= torch.tensor([0, 0.1, 10, 100])[:, None]  # the first layer
    agree(*both(optimizee, theta, optimizee.sample_batch({}, 4, generator)))


@needs_compiler
@pytest.mark.parametrize(("dim", "classes", "batch_size"), [(4, 2, 16), (20, 4, 1), (64, 10, 128)])
def test_logistic_regression(dtype: torch.dtype, dim: int, classes: int, batch_size: int) -> None:
    """With weight decay, of which the biases are free."""
    optimizee = LogisticRegression(dim, classes, batch_size=batch_size, weight_decay=0.3, init_std=1.0)
    generator = torch.Generator().manual_seed(1)
    theta, task = optimizee.sample(3, generator)
    batch = optimizee.sample_batch(task, 3, generator)
    compiled = chain.loss_and_grad(optimizee.chain, Loss.CROSS_ENTROPY, theta, batch["x"], batch["y"], 0.3)
    assert compiled is not None
    agree(compiled, Optimizee._loss_and_grad(optimizee, theta, batch))
    agree(optimizee.loss_and_grad(theta, batch), compiled)


@needs_compiler
def test_memory_in_any_order(dtype: torch.dtype) -> None:
    """θ, images and labels that are every second row, transposed, or one row for all tasks; nothing is changed."""
    generator = torch.Generator().manual_seed(2)
    optimizee = Classifier(mlp(16, [5], 3), images(4, 3, generator), 6, init_std=1.0)
    theta = torch.randn(optimizee.layout.size, 8, generator=generator).T[::2]
    batch = optimizee.sample_batch({}, 4, generator)
    turned = {"x": batch["x"].transpose(2, 3), "y": torch.stack([batch["y"]] * 2, 2)[..., 1]}
    before = theta.clone()
    agree(*both(optimizee, theta, turned))
    agree(*both(optimizee, theta, {"x": batch["x"].flip(1), "y": batch["y"].mT.contiguous().mT}))
    agree(*both(optimizee, theta[:1].expand(4, -1), {key: value[:1].expand_as(value) for key, value in batch.items()}))
    assert torch.equal(theta, before)


@needs_compiler
def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizee, _ = drawn(3)
    generator = torch.Generator().manual_seed(3)
    theta, task = optimizee.sample(7, generator)
    batch = optimizee.sample_batch(task, 7, generator)
    one = optimizee.loss_and_grad(theta, batch)
    monkeypatch.setattr(chain_cpp, "_threads", lambda work: 3)
    assert all(torch.equal(a, b) for a, b in zip(one, optimizee.loss_and_grad(theta, batch), strict=True))


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_with_its_task(dtype: torch.dtype, bad: float) -> None:
    generator = torch.Generator().manual_seed(4)
    optimizee = Classifier(mlp(16, [5], 3, "tanh"), images(4, 3, generator), 6, init_std=1.0)
    theta, task = optimizee.sample(3, generator)
    theta[1] = bad
    found, expected = both(optimizee, theta, optimizee.sample_batch(task, 3, generator))
    assert found[0].isfinite().tolist() == expected[0].isfinite().tolist() == [True, False, True]
    assert found[1].isfinite().all(1).tolist() == [True, False, True]
    agree((found[0][::2], found[1][::2]), (expected[0][::2], expected[1][::2]))


def test_what_a_chain_is() -> None:
    network = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(4, 3, bias=False), nn.Identity()), nn.SiLU(), nn.Linear(3, 2)
    )
    first, last = chain_of(network, Layout.of_module(network)) or ()
    assert first == chain.Link(4, 3, weight=0, bias=-1, activation=Activation.SILU)
    assert last == chain.Link(3, 2, weight=12, bias=18)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def shared() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    network[0].register_forward_hook(lambda module, given, output: 2 * output)
    return network


def parametrised() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))


def patched() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    network.forward = lambda x: 2 * x  # type: ignore[method-assign]
    return network


OTHERS = {
    "another class": lambda: nn.Sequential(Doubled(4, 4)),
    "two activations": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Tanh()),
    "an activation first": lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 4)),
    "an activation that is not known": lambda: nn.Sequential(nn.Linear(4, 4), nn.Softplus()),
    "tanh's approximation": lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(approximate="tanh")),
    "flattened late": lambda: nn.Sequential(nn.Linear(4, 4), nn.Flatten()),
    "a norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
    "nothing": nn.Sequential,
    "the same layer twice": lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2),
    "a shared weight": shared,
    "a hook": hooked,
    "a parametrisation": parametrised,
    "another forward": patched,
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_left_to_torch(name: str) -> None:
    network = OTHERS[name]()
    assert chain_of(network, Layout.of_module(network)) is None


@needs_compiler
def test_what_the_kernel_leaves_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(6)
    optimizee = Classifier(mlp(16, [5], 3), images(4, 3, generator), 6, init_std=1.0)
    theta, task = optimizee.sample(2, generator)
    batch = optimizee.sample_batch(task, 2, generator)
    served = lambda theta=theta, **changed: optimizee._compiled(theta, {**batch, **changed}) is not None  # noqa: E731
    assert served() and not served(theta=theta.clone().requires_grad_())
    assert not served(theta=theta.double()) and not served(x=batch["x"].double()) and not served(theta=theta.half())
    assert not served(y=batch["y"].int()) and not served(x=batch["x"][:, :, :3]) and not served(x=batch["x"][:1])
    assert not served(y=batch["y"].where(batch["y"] != 0, -100))  # torch leaves such examples out
    with torch.autocast("cpu"):
        assert not served()
    monkeypatch.setattr(chain, "LARGE", 100)
    assert served()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)  # more than twice as many as tasks
    assert not served()
    monkeypatch.undo()
    assert served()
    monkeypatch.setenv("L2O_KERNEL", "0")
    assert not served()


def test_a_label_that_is_no_class_is_refused_as_torch_refuses_it() -> None:
    generator = torch.Generator().manual_seed(7)
    optimizee = Classifier(mlp(16, [5], 3), images(4, 3, generator), 6)
    theta, task = optimizee.sample(2, generator)
    batch = optimizee.sample_batch(task, 2, generator)
    with pytest.raises((IndexError, RuntimeError), match="3 is out of bounds"):
        optimizee.loss_and_grad(theta, {**batch, "y": torch.full_like(batch["y"], 3)})


class Smoothed(Classifier):
    """A user's own loss of the same network."""

    def loss(self, theta: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self._output(theta, batch["x"]), batch["y"], label_smoothing=0.5)


def test_a_subclass_s_own_loss_counts(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(8)
    optimizee = Smoothed(mlp(16, [5], 3), images(4, 3, generator), 6, init_std=1.0)
    theta, task = optimizee.sample(2, generator)
    batch = optimizee.sample_batch(task, 2, generator)
    each = [optimizee.loss(theta[b], {key: value[b] for key, value in batch.items()}) for b in range(2)]
    assert_close(optimizee.loss_and_grad(theta, batch)[0], torch.stack(each))


def test_second_order_still_has_a_graph(float64: None) -> None:
    """∇²f·v by the graph of ∇f against a difference of the kernel's gradients."""
    generator = torch.Generator().manual_seed(9)
    optimizee = Classifier(mlp(16, [5], 3, "tanh"), images(4, 3, generator), 6, init_std=1.0)
    theta, task = optimizee.sample(2, generator)
    batch, v = optimizee.sample_batch(task, 2, generator), torch.randn(theta.shape, generator=generator)
    watched = theta.clone().requires_grad_()
    (product,) = torch.autograd.grad((optimizee.loss_and_grad(watched, batch)[1] * v).sum(), watched)
    ahead, behind = (optimizee.loss_and_grad(theta + h * v, batch)[1] for h in (1e-6, -1e-6))
    assert_close(product, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)
