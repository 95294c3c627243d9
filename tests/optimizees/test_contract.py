"""What every optimizee, and every view of one, must hold. A new one is tested by being listed.

Shapes: B tasks, P coordinates of one optimizee.
"""

import inspect
import random

import numpy as np
import pytest
import torch
from torch import Generator, nn
from torch.testing import assert_close

from l2o.data import Dataset, Text
from l2o.optimizees import (
    Autoencoder,
    CharGRU,
    CharTransformer,
    Classifier,
    LanguageModel,
    Layout,
    LeastSquares,
    LogisticRegression,
    LossScaled,
    MatrixFactorisation,
    Mixer,
    NeuralArt,
    NoisyGradients,
    NoisyQuadratic,
    Optimizee,
    Quadratic,
    Reparametrised,
    Repeated,
    Subset,
    Untold,
    VisionTransformer,
    conv_net,
    mlp,
    res_net,
)
from l2o.optimizees.checks import check
from l2o.optimizees.views import View

pytestmark = pytest.mark.usefixtures("float64")

B = 4


def data(shape: tuple[int, ...]) -> Dataset:
    generator = Generator().manual_seed(5)
    x, y = torch.rand(40, *shape, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    return Dataset(x[:24], y[:24], x[24:], y[24:])


class Valleys(Optimizee):
    """The optimizee of a user who gives no more than they must."""

    def __init__(self):
        self.layout = Layout({"x": (), "y": ()})

    def sample(self, num_tasks, generator):
        return torch.randn(num_tasks, 2, generator=generator), {"a": torch.rand(num_tasks, generator=generator)}

    def loss(self, theta, batch):
        x, y = theta
        return (batch["a"] - x) ** 2 + 3 * (y - x**2) ** 2


def words() -> Text:
    letters = torch.randint(0, 9, (60,), generator=Generator().manual_seed(5))
    return Text(letters[:40], letters[40:])


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, data((4, 4)), batch_size=5, init="torch")


LAYERS = {"content_layers": ["fire2"], "style_layers": ["conv1_1"]}
OPTIMIZEES = {
    "quadratic": lambda: Quadratic(5, init_std=1.0),
    "classifier": lambda: Classifier(mlp(16, [4], 3), data((4, 4)), batch_size=6, init_std=0.5),
    "noisy images": lambda: Classifier(mlp(16, [4], 3, "relu"), data((4, 4)), 6, [0.1, 1.0], noise=0.3),
    "linear classifier": lambda: Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), data((4, 4)), batch_size=6, init_std=0.5
    ),
    "convolutions": lambda: Classifier(conv_net(4, 1, [2], [3], 3), data((4, 4)), batch_size=6, init_std=0.5),
    "residual": lambda: classifier(res_net(1, [2, 3], 3)),
    "vision transformer": lambda: classifier(VisionTransformer(4, 2, 1, width=4, layers=1, heads=2, out_features=3)),
    "mixer": lambda: classifier(Mixer(4, 2, 1, width=4, layers=1, out_features=3)),
    "autoencoder": lambda: Autoencoder(mlp(16, [3], 16, "relu"), data((4, 4)), batch_size=5, init="truncated_normal"),
    "recurrent": lambda: LanguageModel(CharGRU(4, 3, letters=9), words(), batch_size=3, length=4),
    "transformer": lambda: LanguageModel(CharTransformer(4, 1, 2, 4, letters=9), words(), batch_size=3, length=4),
    "noisy quadratic": lambda: NoisyQuadratic(5, condition=[1.0, 100.0], noise=[0.1, 1.0]),
    "quadratic without noise": lambda: NoisyQuadratic(5),
    "least squares": lambda: LeastSquares(5, condition=10.0, batch_size=4),
    "logistic regression": lambda: LogisticRegression(4, 3, num_points=12, batch_size=5),
    "matrix factorisation": lambda: MatrixFactorisation(5, 4, 2),
    "neural art": lambda: NeuralArt(**LAYERS, size=12, content_side=24, style_side=16),
    "a user's": Valleys,
}
VIEWS = {
    "itself": lambda optimizee: optimizee,
    "view": View,
    "all of it": lambda optimizee: Subset(optimizee, slice(None)),
    "first half": lambda optimizee: Subset(optimizee, slice(0, 2)),
    "last task": lambda optimizee: Subset(optimizee, slice(3, 4)),
    "twice": lambda optimizee: Repeated(optimizee, 2),
    "half of twice": lambda optimizee: Subset(Repeated(optimizee, 2), slice(1, 3)),
    "twice a half": lambda optimizee: Repeated(Subset(optimizee, slice(0, 1)), 2),
}


AUGMENTATIONS = {
    "reparametrised": lambda optimizee: Reparametrised(optimizee, [0.1, 10.0]),
    "by parameter": lambda optimizee: Reparametrised(optimizee, [0.1, 10.0], "tensor"),
    "by coordinate": lambda optimizee: Reparametrised(optimizee, [0.1, 10.0], "coordinate"),
    "loss scaled": lambda optimizee: LossScaled(optimizee, [0.1, 10.0]),
    "all together": lambda optimizee: Repeated(LossScaled(Reparametrised(optimizee, [0.1, 10.0], "tensor")), 2),
    "of a half": lambda optimizee: LossScaled(Reparametrised(Subset(optimizee, slice(0, 2)), [0.1, 10.0])),
}
NOISY = {
    "noisy gradients": NoisyGradients,
    "untold": Untold,
    "half of noisy": lambda optimizee: Subset(NoisyGradients(Reparametrised(optimizee)), slice(0, 2)),
}
AUGMENTED = ("quadratic", "classifier", "noisy quadratic", "recurrent", "a user's")
"""The optimizees that augmentations are tried on: with and without tasks, minibatches, batched losses, scalars in θ."""

EXACT = [(view, name) for view in VIEWS for name in OPTIMIZEES]
EXACT += [(view, name) for view in AUGMENTATIONS for name in AUGMENTED]


def made(view, name):
    return (VIEWS | AUGMENTATIONS | NOISY)[view](OPTIMIZEES[name]())


@pytest.fixture(params=OPTIMIZEES)
def optimizee(request):
    return OPTIMIZEES[request.param]()


@pytest.fixture(params=[*EXACT, *((view, name) for view in NOISY for name in AUGMENTED)], ids="-".join)
def seen(request):
    return made(*request.param)


@pytest.fixture(params=EXACT, ids="-".join)
def exact(request):
    """A view whose gradient is the derivative of its loss."""
    return made(*request.param)


def problem(optimizee, seed=3, num_tasks=B):
    """θ_0, a task and two minibatches, one after the other."""
    generator = Generator().manual_seed(seed)
    theta, task = optimizee.sample(num_tasks, generator)
    return theta, task, [optimizee.sample_batch(task, num_tasks, generator) for _ in range(2)]


def one(batch, b):
    return {key: value[b] for key, value in batch.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_theta_and_batches_have_a_row_for_each_task(seen):
    theta, task, batches = problem(seen)
    assert theta.shape == (len(theta), seen.layout.size) and theta.dtype == torch.float64
    assert all(len(value) == len(theta) for part in (task, *batches) for value in part.values())
    assert seen.tasks_at_once(theta) >= 1 and (len(theta) in (1, 2, 4))


def test_a_batch_is_the_loop_over_its_tasks(exact):
    """Loss, gradient and the gradient's derivative: each task alone, by autograd of `loss`."""
    theta, _, (batch, _) = problem(exact)
    losses, grads = exact.loss_and_grad(theta, batch)
    vector = torch.randn_like(theta)
    leaf = theta.clone().requires_grad_()
    second_losses, second_grads = exact.loss_and_grad(leaf, batch)
    (products,) = torch.autograd.grad(second_grads, leaf, vector)
    assert losses.shape == (len(theta),) and grads.shape == theta.shape
    assert_close(exact.losses(theta, batch), losses, rtol=1e-10, atol=1e-12)
    assert_close((second_losses, second_grads), (losses, grads), check_device=False, rtol=1e-10, atol=1e-12)
    for b in range(len(theta)):
        point = theta[b].clone().requires_grad_()
        loss = exact.loss(point, one(batch, b))
        (grad,) = torch.autograd.grad(loss, point, create_graph=True)
        (product,) = torch.autograd.grad(grad, point, vector[b])
        assert_close((losses[b], grads[b]), (loss.detach(), grad.detach()), rtol=1e-9, atol=1e-11)
        assert_close(products[b], product, rtol=1e-8, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences(exact):
    theta, _, (batch, _) = problem(exact)
    _, grads = exact.loss_and_grad(theta, batch)
    direction = torch.randn_like(theta)
    up, down = (exact.losses(theta + sign * 1e-6 * direction, batch) for sign in (1, -1))
    assert_close((grads * direction).sum(1), (up - down) / 2e-6, rtol=1e-4, atol=1e-7)


def test_results_are_detached_unless_theta_requires_a_gradient(seen):
    theta, _, (batch, _) = problem(seen)
    assert not any(result.requires_grad for result in seen.loss_and_grad(theta, batch))
    with torch.no_grad():
        again = seen.loss_and_grad(theta, batch)
    assert_close(again, seen.loss_and_grad(theta, batch), rtol=0, atol=0)
    assert all(result.requires_grad for result in seen.loss_and_grad(theta.requires_grad_(), batch))


def test_the_generator_alone_decides(seen):
    """Equal generators give equal draws; the global generators decide nothing and stay where they are."""
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
        draws.append(problem(seen))
        seen.loss_and_grad(draws[-1][0], draws[-1][2][0])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (str(np.random.get_state()), random.getstate()) == before[1:]  # noqa: NPY002
    (theta, task, batches), (theta_2, task_2, batches_2) = draws
    assert torch.equal(theta, theta_2) and same(task, task_2)
    assert all(same(*pair) for pair in zip(batches, batches_2, strict=True))
    assert not torch.equal(theta, problem(seen, seed=4)[0])


def test_splits_and_devices_keep_what_the_view_is(seen):
    for name in ("train", "validation", "test"):
        part = seen.split(name)
        theta, _, (batch, _) = problem(part)
        assert type(part) is type(seen) and theta.shape == problem(seen)[0].shape
        assert torch.isfinite(part.loss_and_grad(theta, batch)[0]).all()
    assert seen.to("cpu") is seen


def test_metrics_and_pictures_have_an_entry_for_each_task(seen):
    theta, task, _ = problem(seen)
    assert all(value.shape == (len(theta),) for value in seen.metrics(theta, task).values())
    assert all(len(pictures) == len(theta) for pictures in seen.pictures(theta, task).values())


def test_the_check_of_a_users_optimizee_takes_it(seen, monkeypatch):
    """Those of `l2o` are left out of the check, because they would pass it."""
    inner = seen
    while isinstance(inner, View):
        inner = inner.inner
    monkeypatch.setattr(type(inner), "__module__", "mine")
    check(seen)


# ----------------------------------------------------------------------------------------------------------- views


def public_methods():
    found = {name for name, value in vars(Optimizee).items() if inspect.isfunction(value) and name[0] != "_"}
    assert {"losses", "tasks_at_once", "metrics", "pictures", "split", "to", "sample_batch", "loss_and_grad"} < found
    return sorted(found)


@pytest.mark.parametrize("method", [name for name in public_methods() if name not in ("sample", "sample_batch")])
@pytest.mark.parametrize("view", [name for name in VIEWS if name != "itself"])
def test_a_view_overrides_every_public_method(view, method):
    """A method that `View` forgets would fall back to the default of `Optimizee`, in silence."""
    kind = type(VIEWS[view](Quadratic(2)))
    assert getattr(kind, method) is not getattr(Optimizee, method)


@pytest.mark.parametrize("view", [name for name in VIEWS if name != "itself"])
def test_a_view_hands_its_batches_to_the_optimizee_behind_it(view):
    """An optimizee that overrides everything is asked, and its answers come back as they are."""

    class Own(Quadratic):
        moved = None

        def losses(self, theta, batch):
            return super().losses(theta, batch) + 7

        def loss(self, theta, batch):
            return super().loss(theta, batch) + 5

        def loss_and_grad(self, theta, batch):
            losses, grads = super().loss_and_grad(theta, batch)
            return losses + 3, 2 * grads

        def tasks_at_once(self, theta):
            return 11

        def metrics(self, theta, task):
            return {"norm": theta.norm(dim=1) + task["y"].sum(1)}

        def pictures(self, theta, task):
            return {"theta": [torch.full((3, 1, 1), row.sum().item()) for row in theta]}

        def split(self, name):
            other = Own(3)
            other.moved = name
            return other

        def to(self, device):
            self.moved = device
            return self

    inner = Own(3)
    seen = VIEWS[view](inner)
    theta, task, (batch, _) = problem(seen)
    assert torch.equal(seen.losses(theta, batch), inner.losses(theta, batch))
    assert torch.equal(seen.loss(theta[0], one(batch, 0)), inner.loss(theta[0], one(batch, 0)))
    assert_close(seen.loss_and_grad(theta, batch), inner.loss_and_grad(theta, batch), rtol=0, atol=0)
    assert seen.tasks_at_once(theta) == 11
    assert same(seen.metrics(theta, task), inner.metrics(theta, task)) and seen.metrics(theta, task)
    assert_close(seen.pictures(theta, task), inner.pictures(theta, task), rtol=0, atol=0)
    assert seen.layout is inner.layout
    seen.to("cpu")
    assert inner.moved == "cpu"
    innermost = seen.split("test")
    while isinstance(innermost, View):
        innermost = innermost.inner
    assert innermost.moved == "test"


@pytest.mark.parametrize("chosen", [slice(0, 1), slice(1, 3), slice(2, 4), slice(0, 4)], ids=str)
def test_a_subset_is_those_tasks_of_what_one_process_draws(optimizee, chosen):
    theta, task, batches = problem(optimizee)
    part_theta, part_task, part_batches = problem(Subset(optimizee, chosen))
    assert torch.equal(part_theta, theta[chosen]) and same(
        part_task, {key: value[chosen] for key, value in task.items()}
    )
    for part, whole in zip(part_batches, batches, strict=True):
        assert same(part, {key: value[chosen] for key, value in whole.items()})


def test_copies_are_whole_and_lie_one_after_the_other(optimizee):
    """Copy-major: all tasks of the first copy, then all of the second, with the minibatches of one draw."""
    theta, task, batches = problem(optimizee, num_tasks=2)
    many_theta, many_task, many_batches = problem(Repeated(optimizee, 3), num_tasks=6)
    assert torch.equal(many_theta, torch.cat([theta] * 3))
    for many, few in zip((many_task, *many_batches), (task, *batches), strict=True):
        assert same(many, {key: torch.cat([value] * 3) for key, value in few.items()})


def test_copies_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 copies of every task make no 4 tasks: ask for a multiple"):
        Repeated(Quadratic(2), 3).sample(4, Generator())
    with pytest.raises(ValueError, match="at least one copy of every task, got copies=0"):
        Repeated(Quadratic(2), 0)
