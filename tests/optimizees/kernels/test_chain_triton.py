"""The loss and gradient of chains of linear layers in Triton against autograd: on a GPU, else in Triton's interpreter.

Shapes: B tasks, P coordinates, N examples of a minibatch.
"""

import importlib.util
import sys

import pytest
import torch
from interpreted import quick_interpreter  # noqa: F401  (a fixture)
from torch import Tensor
from torch.testing import assert_close

from l2o.data import Dataset
from l2o.native import triton_device
from l2o.optimizees import Autoencoder, Classifier, Optimizee, mlp
from l2o.optimizees.kernels import chain, chain_triton
from l2o.optimizees.kernels.chain import chain_of
from l2o.optimizees.kernels.chain_links import Activation, Link, Loss
from l2o.optimizees.networks import image_autoencoder
from l2o.optimizees.networks.mlp import ACTIVATIONS

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture(params=TOLERANCE, ids=str)
def dtype(request: pytest.FixtureRequest):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def images(side: int, classes: int = 5) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(30, side, side, generator=generator), torch.randint(classes, (30,), generator=generator)
    y[0] = classes - 1
    return Dataset(x, y, x[:4], y[:4])


def classifier(side: int, hidden: list[int], activation: str = "relu", batch_size: int = 7) -> Classifier:
    return Classifier(mlp(side * side, hidden, 5, activation), images(side), batch_size, init="torch")


def assert_equals_autograd(optimizee: Optimizee, tasks: int = 2) -> None:
    generator = torch.Generator().manual_seed(0)
    theta, task = optimizee.sample(tasks, generator)
    batch = optimizee.sample_batch(task, tasks, generator)
    agree(found(optimizee, theta, batch), Optimizee._loss_and_grad(optimizee, theta, batch))


def found(optimizee, theta: Tensor, batch: dict[str, Tensor], decay: float = 0.0) -> tuple[Tensor, Tensor]:
    links = chain_of(optimizee.network, optimizee.layout)
    assert links is not None
    kind = Loss.CROSS_ENTROPY if "y" in batch else Loss.SIGMOID_SQUARES
    on_device = {key: value.to(DEVICE) for key, value in batch.items()}
    x, labels = on_device["x"].flatten(2), on_device.get("y")
    losses, grad = chain_triton.loss_and_grad(links, kind, theta.to(DEVICE), x, labels, decay)
    return losses.to(theta.device), grad.to(theta.device)


def agree(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    """Every loss, and the gradient of every task relative to its norm."""
    tolerance = TOLERANCE[got[0].dtype]
    assert_close(got[0], wanted[0], rtol=tolerance, atol=0)
    assert got[1].shape == wanted[1].shape and wanted[1].any()
    assert ((got[1] - wanted[1]).norm(dim=1) <= tolerance * wanted[1].norm(dim=1)).all()


@pytest.mark.parametrize("hidden", [[], [6], [20, 3], [4, 5, 6, 7]], ids=str)
def test_depths(dtype: torch.dtype, hidden: list[int]) -> None:
    assert_equals_autograd(classifier(3, hidden))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert_equals_autograd(classifier(3, [6, 5], activation))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("side", "batch_size", "hidden"), [(1, 1, [1]), (9, 64, [33]), (4, 17, [64])])
def test_sizes(side: int, batch_size: int, hidden: list[int]) -> None:
    """With 81 inputs the first layer takes them in two blocks."""
    assert_equals_autograd(classifier(side, hidden, batch_size=batch_size))


def test_layers_without_a_bias() -> None:
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(9, 4, bias=False), torch.nn.Tanh(), torch.nn.Linear(4, 5)
    )
    assert_equals_autograd(Classifier(network, images(3), 7, init="torch"))


def test_autoencoders(dtype: torch.dtype) -> None:
    assert_equals_autograd(Autoencoder(image_autoencoder(4, [6], "tanh"), images(4), 9))


def test_a_decay_counts_weights_and_no_biases(dtype: torch.dtype) -> None:
    optimizee = classifier(3, [6])
    generator = torch.Generator().manual_seed(0)
    theta, task = optimizee.sample(2, generator)
    batch = optimizee.sample_batch(task, 2, generator)
    losses, grad = Optimizee._loss_and_grad(optimizee, theta, batch)
    weight = torch.zeros_like(theta)
    for name, span in optimizee.layout.slices.items():
        weight[:, span] = theta[:, span] if name.endswith("weight") else 0
    wanted = losses + 0.5 * 0.3 * weight.square().sum(1), grad + 0.3 * weight
    agree(found(optimizee, theta, batch, decay=0.3), wanted)


def test_labels_that_do_not_count_and_labels_that_are_no_class() -> None:
    optimizee = classifier(3, [6])
    generator = torch.Generator().manual_seed(0)
    theta, task = optimizee.sample(2, generator)
    batch = optimizee.sample_batch(task, 2, generator)
    batch["y"][0, 2] = -100
    agree(found(optimizee, theta, batch), Optimizee._loss_and_grad(optimizee, theta, batch))
    for wrong in (5, -1):
        batch["y"][0, 2] = wrong
        losses, grad = found(optimizee, theta, batch)
        assert losses[0].isnan() and losses[1].isfinite() and grad[0].isnan().any() and grad[1].isfinite().all()


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_an_infinite_logit_has_the_gradient_that_it_has_in_torch(activation: str) -> None:
    optimizee = classifier(3, [6], activation)
    theta, task = optimizee.sample(1, torch.Generator().manual_seed(0))
    batch = optimizee.sample_batch(task, 1, torch.Generator().manual_seed(1))
    batch["y"][:] = 0
    last_bias = [span for name, span in optimizee.layout.slices.items() if name.endswith("bias")][-1]
    theta[0, last_bias.start + 1] = -torch.inf
    agree(found(optimizee, theta, batch), Optimizee._loss_and_grad(optimizee, theta, batch))


def test_a_task_that_is_not_finite_spoils_no_other() -> None:
    optimizee = classifier(3, [6])
    theta, task = optimizee.sample(3, torch.Generator().manual_seed(0))
    batch = optimizee.sample_batch(task, 3, torch.Generator().manual_seed(1))
    clean = found(optimizee, theta, batch)
    theta[1, 0], theta[1, 40] = float("nan"), float("inf")
    losses, grad = found(optimizee, theta, batch)
    wanted = Optimizee._loss_and_grad(optimizee, theta, batch)
    assert losses[1].isnan() and wanted[0][1].isnan()
    for task_number in (0, 2):
        assert torch.equal(losses[task_number], clean[0][task_number])
        assert torch.equal(grad[task_number], clean[1][task_number])


def test_any_strides_will_do() -> None:
    optimizee = classifier(3, [6])
    theta, task = optimizee.sample(2, torch.Generator().manual_seed(0))
    batch = optimizee.sample_batch(task, 2, torch.Generator().manual_seed(1))
    plain = found(optimizee, theta, batch)
    wide = torch.zeros(2, 2 * theta.shape[1])
    wide[:, 1::2] = theta
    x = batch["x"].flatten(2)
    other = {"x": x.mT.contiguous().mT, "y": batch["y"].t().contiguous().t()}
    for got, wanted in zip(found(optimizee, wide[:, 1::2], other), plain, strict=True):
        assert torch.equal(got, wanted)
    assert found(optimizee, theta[:0], {key: value[:0] for key, value in batch.items()})[1].shape == (0, theta.shape[1])


class TestChoice:
    SMALL = (Link(9, 4, 0, 36, Activation.RELU), Link(4, 5, 40, 60))

    @pytest.fixture(autouse=True)
    def pretend(self, monkeypatch) -> None:
        """Let the kernel be offered on this device, as on a GPU where it works."""
        monkeypatch.setattr(triton_device, "offered", lambda device: True)
        monkeypatch.setattr(chain_triton, "_works", lambda *_: True)

    @pytest.mark.parametrize(
        ("links", "examples", "served"),
        [
            (SMALL, 7, True),
            (SMALL, 129, False),
            ((Link(784, 64, 0, 0),), 128, True),
            ((Link(784, 65, 0, 0),), 8, False),
            ((Link(784, 64, 0, 0), Link(64, 10, 0, 0)), 65, False),
            ((Link(9, 9, 0, 81),) * 7, 7, False),
        ],
    )
    def test_by_size(self, links: tuple[Link, ...], examples: int, served: bool) -> None:
        x = torch.zeros(2, examples, links[0].inputs)
        assert chain_triton.serves(links, Loss.CROSS_ENTROPY, torch.zeros(2, 65), x) == served

    def test_in_single_precision(self) -> None:
        x = torch.zeros(2, 7, 9)
        assert not chain_triton.serves(self.SMALL, Loss.CROSS_ENTROPY, torch.zeros(2, 65).double(), x)

    def test_where_it_fails(self, monkeypatch) -> None:
        monkeypatch.setattr(chain_triton, "_works", lambda *_: False)
        assert not chain_triton.serves(self.SMALL, Loss.CROSS_ENTROPY, torch.zeros(2, 65), torch.zeros(2, 7, 9))


def test_on_a_gpu_the_kernel_is_chosen(monkeypatch) -> None:
    """By the device alone, which is faked: nothing is computed."""
    chosen = []
    monkeypatch.setattr(chain, "_is_plain", lambda tensors: True)
    monkeypatch.setattr(chain, "_fits", lambda *_: True)
    monkeypatch.setattr(chain_triton, "serves", lambda *_: True)
    monkeypatch.setattr(chain_triton, "loss_and_grad", lambda *given: chosen.append(given) or "result")
    fake = type("OnGpu", (), {"device": torch.device("cuda", 0), "flatten": lambda self, axis: self})
    assert chain.loss_and_grad(TestChoice.SMALL, Loss.CROSS_ENTROPY, fake(), fake(), None) == "result" and chosen


class TestTrial:
    @pytest.fixture(autouse=True)
    def pretend(self, monkeypatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    @pytest.mark.parametrize("kind", Loss)
    def test_succeeds(self, kind: Loss) -> None:
        links = TestChoice.SMALL if kind is Loss.CROSS_ENTROPY else (Link(4, 4, 0, 16),)
        assert chain_triton._works.__wrapped__(DEVICE, chain_triton._layers(links, kind, 7), 7)

    def test_where_it_fails_one_line_says_so(self, monkeypatch, caplog) -> None:
        def fail(*arguments):
            raise RuntimeError("out of resource: shared memory\nMore.")

        monkeypatch.setattr(chain_triton, "_evaluate", fail)
        layers = chain_triton._layers(TestChoice.SMALL, Loss.CROSS_ENTROPY, 7)
        assert not chain_triton._works.__wrapped__(DEVICE, layers, 7)
        start = f"the Triton kernel of linear layers is not available on {DEVICE}"
        assert caplog.messages == [f"{start}: out of resource: shared memory"]


def test_importable_without_triton(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it raises
    spec = importlib.util.spec_from_file_location("without_triton", chain_triton.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module._works(torch.device("cuda", 0), module._layers(TestChoice.SMALL, Loss.CROSS_ENTROPY, 7), 7)
