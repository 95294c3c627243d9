"""Training a classifier, against the same network with the same parameters loaded.

Shapes: B tasks, P parameters of the network, N images of a minibatch, C classes.
"""

import copy

import numpy as np
import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F
from torch.testing import assert_close

from l2o import optimizees
from l2o.data import Dataset
from l2o.optimizees import Classifier, mlp
from l2o.optimizees.networks import ColoursFirst

pytestmark = pytest.mark.usefixtures("float64")


def conv_net():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4)),
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


class Tied(nn.Module):
    """Two layers with one weight, which θ holds once, and a buffer, which θ does not hold."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.linspace(-1, 1, 16))

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1) + self.shift).tanh()).tanh())


class Temperature(nn.Linear):
    """A parameter without axes."""

    def __init__(self):
        super().__init__(16, 3)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x.flatten(1)) * self.temperature


NETWORKS = {
    "sigmoid": lambda: mlp(16, [5], 3),
    "relu": lambda: mlp(16, [5, 4], 3, "relu"),
    "linear": lambda: mlp(16, [], 3, "tanh"),
    "conv": conv_net,
    "paper's conv": lambda: nn.Sequential(nn.Unflatten(2, (4, 1)), optimizees.conv_net(4, 1, [2, 2], [3], 3)),
    "tied": Tied,
    "scalar": Temperature,
}


@pytest.fixture(params=NETWORKS)
def optimizee(request, dataset):
    return Classifier(NETWORKS[request.param](), dataset, batch_size=7, init_std=0.5)


def problem(optimizee, num_tasks, seed=3):
    """θ (B, P), a minibatch."""
    generator = Generator().manual_seed(seed)
    theta, task = optimizee.sample(num_tasks, generator)
    return theta, optimizee.sample_batch(task, num_tasks, generator)


def loaded(optimizee, theta):
    """The network with θ (P,) as its parameters."""
    network = copy.deepcopy(optimizee.network)
    network.load_state_dict(optimizee.layout.parameters(theta), strict=False)  # it may have buffers
    return network


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_loss_and_grad_equal_the_loaded_network_s(optimizee, num_tasks):
    theta, batch = problem(optimizee, num_tasks)
    losses, grads = optimizee.loss_and_grad(theta, batch)
    assert losses.shape == (num_tasks,) and grads.shape == theta.shape
    for b in range(num_tasks):
        network = loaded(optimizee, theta[b])
        loss = F.cross_entropy(network(batch["x"][b]), batch["y"][b])
        loss.backward()
        grad = optimizee.layout.of_parameters({name: p.grad for name, p in network.named_parameters()})
        assert_close(losses[b], loss.detach(), rtol=1e-12, atol=1e-12)
        assert_close(grads[b], grad, rtol=1e-12, atol=1e-12)


def test_gradient_equals_finite_differences(optimizee):
    theta, batch = problem(optimizee, 1)
    _, grads = optimizee.loss_and_grad(theta, batch)
    one = {key: value[0] for key, value in batch.items()}
    for i in range(optimizee.layout.size):
        step = torch.zeros_like(theta[0])
        step[i] = 1e-5
        up, down = (optimizee.loss(theta[0] + sign * step, one) for sign in (1, -1))
        assert_close(grads[0, i], (up - down) / 2e-5, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_gradient_of_the_gradient_equals_finite_differences(optimizee, num_tasks):
    theta, batch = problem(optimizee, num_tasks)
    vector = torch.randn_like(theta)
    up, down = (optimizee.loss_and_grad(theta + sign * 1e-6 * vector, batch)[1] for sign in (1, -1))
    theta.requires_grad_()
    losses, grads = optimizee.loss_and_grad(theta, batch)
    (product,) = torch.autograd.grad(grads, theta, vector, retain_graph=True)
    assert product.abs().max() > 1e-3
    assert_close(product, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)
    assert_close(torch.autograd.grad(losses.sum(), theta)[0], grads.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 2, 3, 5])
def test_how_many_tasks_go_at_once_does_not_matter(optimizee, at_once, monkeypatch):
    theta, batch = problem(optimizee, 3)
    vector = torch.randn_like(theta)

    def results():
        leaf = theta.clone().requires_grad_()
        losses, grads = optimizee.loss_and_grad(leaf, batch)
        return *optimizee.loss_and_grad(theta, batch), losses, grads, *torch.autograd.grad(grads, leaf, vector)

    monkeypatch.setattr(optimizee, "tasks_at_once", len)
    expected = results()
    monkeypatch.setattr(optimizee, "tasks_at_once", lambda theta: at_once)
    assert_close(results(), expected, rtol=1e-12, atol=1e-12)


def test_convolutions_over_many_pixels_go_task_by_task_on_a_cpu(optimizee, monkeypatch):
    theta = torch.zeros(3, optimizee.layout.size)
    convolves = any(parameter.ndim == 4 for parameter in optimizee.network.parameters())
    assert optimizee.tasks_at_once(theta) == 3
    monkeypatch.setattr("l2o.optimizees.network_loss.FEW_PIXELS", 7 * 4 * 4 - 1)  # a batch of 7 images of 4×4
    assert optimizee.tasks_at_once(theta) == (1 if convolves else 3)
    assert optimizee.tasks_at_once(theta.to("meta")) == 3


def test_task_by_task_first_order_holds_the_graph_of_one_task(dataset, monkeypatch):
    """What a task keeps for its backward is gone before the next one's forward."""
    monkeypatch.setattr("l2o.optimizees.network_loss.FEW_PIXELS", 0)
    optimizee = Classifier(conv_net(), dataset, batch_size=7)
    alive, most = 0, 0

    class Kept:
        def __init__(self, tensor):
            nonlocal alive, most
            self.tensor = tensor
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    peaks = []
    for num_tasks in (1, 4):
        most = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            optimizee.loss_and_grad(*problem(optimizee, num_tasks))
        peaks.append(most)
    assert peaks[0] == peaks[1] > 0


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_results_are_detached_unless_theta_requires_grad(optimizee, num_tasks):
    theta, batch = problem(optimizee, num_tasks)
    assert not any(result.requires_grad for result in optimizee.loss_and_grad(theta, batch))
    assert not theta.requires_grad
    assert all(result.requires_grad for result in optimizee.loss_and_grad(theta.requires_grad_(), batch))


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_same_bits_under_no_grad(optimizee, num_tasks):
    theta, batch = problem(optimizee, num_tasks)
    expected = optimizee.loss_and_grad(theta, batch)
    with torch.no_grad():
        results = optimizee.loss_and_grad(theta, batch)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_the_network_is_left_alone(optimizee):
    before = copy.deepcopy(optimizee.network.state_dict())
    theta, batch = problem(optimizee, 3)
    optimizee.loss_and_grad(theta, batch)
    optimizee.metrics(theta, {})
    assert all(torch.equal(value, before[key]) for key, value in optimizee.network.state_dict().items())
    assert all(parameter.grad is None for parameter in optimizee.network.parameters())


def test_metrics_equal_a_computation_by_hand(optimizee, dataset):
    theta = 6 * problem(optimizee, 3)[0]  # far enough from 0 for predictions that differ
    images, labels = dataset.x_test.double() / 255, dataset.y_test.numpy()
    losses, accuracies = [], []
    for b in range(3):
        with torch.no_grad():
            logits = loaded(optimizee, theta[b])(images).numpy()
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        losses.append(-np.log(probabilities[np.arange(len(labels)), labels]).mean())
        accuracies.append((logits.argmax(1) == labels).mean())
    metrics = optimizee.metrics(theta, {})
    assert set(metrics) == {"test_loss", "test_accuracy"}
    assert_close(metrics["test_loss"], torch.tensor(losses), rtol=1e-12, atol=1e-12)
    assert_close(metrics["test_accuracy"].double(), torch.tensor(accuracies), rtol=1e-7, atol=1e-7)
    assert len(set(accuracies)) > 1  # one number for all tasks would prove little


def test_a_large_test_split_is_measured_in_pieces(dataset, monkeypatch):
    """Where the network has no batch norm, the pieces do not show."""
    optimizee = Classifier(mlp(16, [5], 3), dataset, init_std=2.0)
    theta, _ = problem(optimizee, 2)
    whole = optimizee.metrics(theta, {})
    monkeypatch.setattr("l2o.optimizees.classifier.TEST_IMAGES", 7)  # 24 images: 4 pieces of 6
    assert_close(optimizee.metrics(theta, {}), whole, rtol=1e-12, atol=1e-12)


def test_confident_right_answers_give_no_loss_and_full_accuracy():
    """Each image is its label's basis vector, the network 100 times the identity."""
    x, y = torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4)
    optimizee = Classifier(nn.Linear(3, 3), Dataset(x, y, x, y), batch_size=5)
    theta = optimizee.layout.ravel({"weight": 100 * torch.eye(3), "bias": torch.zeros(3)})[None]
    losses, grads = optimizee.loss_and_grad(theta, optimizee.sample_batch({}, 1, Generator().manual_seed(0)))
    assert_close(losses, torch.zeros(1), rtol=0, atol=1e-40)
    assert_close(grads, torch.zeros_like(grads), rtol=0, atol=1e-40)
    assert optimizee.metrics(theta, {})["test_accuracy"].tolist() == [1.0]
    assert optimizee.metrics(-theta, {})["test_accuracy"].tolist() == [0.0]


def test_equal_logits_lose_log_of_the_number_of_classes(dataset):
    optimizee = Classifier(mlp(16, [5], 3), dataset, batch_size=7, init_std=0)
    theta, batch = problem(optimizee, 2)
    assert_close(optimizee.losses(theta, batch), torch.full((2,), 3.0).log(), rtol=1e-15, atol=0)


# ------------------------------------------------------------------------------------------------------- sampling


def test_theta_is_normal_with_init_std(dataset):
    optimizee = Classifier(mlp(16, [5], 3), dataset, init_std=0.01)
    theta, task = optimizee.sample(2000, Generator().manual_seed(0))
    n = theta.numel()
    assert task == {} and theta.shape == (2000, 16 * 5 + 5 + 5 * 3 + 3)
    assert abs(theta.mean().item()) < 4 * 0.01 / n**0.5
    assert abs(theta.std().item() / 0.01 - 1) < 4 / (2 * n) ** 0.5
    assert (theta.std(0) / 0.01 - 1).abs().max() < 5 / 4000**0.5  # weights and biases alike


def numbered(count):
    """Image i of the train split holds i, and its label is i mod 3; a test image holds −1."""
    x = torch.arange(float(count))[:, None]
    return Dataset(x, torch.arange(count) % 3, torch.full((4, 1), -1.0), torch.zeros(4, dtype=torch.long))


def test_minibatches_are_uniform_over_the_train_split_alone():
    optimizee = Classifier(nn.Linear(1, 3), numbered(12), batch_size=50)
    batch = optimizee.sample_batch({}, 240, Generator().manual_seed(0))
    counts = torch.bincount(batch["x"].flatten().long(), minlength=12)
    assert batch["x"].shape == (240, 50, 1) and batch["y"].shape == (240, 50)
    assert batch["x"].min() >= 0 and len(counts) == 12
    assert ((counts - 1000.0).square() / 1000).sum() < 31.3  # χ² of 11 degrees of freedom, 0.1 %
    assert torch.equal(batch["y"], batch["x"][..., 0].long() % 3)


def test_every_call_and_every_task_has_its_own_minibatch():
    optimizee = Classifier(nn.Linear(1, 3), numbered(1000), batch_size=20)
    generator = Generator().manual_seed(0)
    drawn = torch.cat([optimizee.sample_batch({}, 3, generator)["x"][..., 0] for _ in range(4)])
    assert len({tuple(row.tolist()) for row in drawn}) == 12


def test_noise_is_drawn_anew_for_every_number_of_every_image():
    x = torch.full((4, 30), 0.5)
    noisy = Classifier(nn.Linear(30, 3), Dataset(x, torch.arange(4) % 3, x, torch.arange(4) % 3), 20, noise=0.2)
    generator = Generator().manual_seed(0)
    for draw in (noisy.sample_batch, noisy.sample_test_batch):
        moved = torch.stack([draw({}, 3, generator)["x"] for _ in range(2)]) - 0.5
        assert abs(moved.std() / 0.2 - 1) < 0.03 and abs(moved.mean()) < 0.02
        assert len(moved.unique()) == moved.numel()
    theta = torch.zeros(1, noisy.layout.size)
    assert_close(noisy.metrics(theta, {})["test_loss"], torch.full((1,), 3.0).log())


def test_test_minibatches_come_from_the_test_split_alone():
    optimizee = Classifier(nn.Linear(1, 3), numbered(12), batch_size=50)
    assert (optimizee.sample_test_batch({}, 2, Generator().manual_seed(0))["x"] == -1).all()


def test_the_generator_alone_decides(optimizee):
    torch.manual_seed(1)
    theta, batch = problem(optimizee, 3, seed=7)
    torch.manual_seed(2)
    same_theta, same = problem(optimizee, 3, seed=7)
    other_theta, other = problem(optimizee, 3, seed=8)
    assert torch.equal(theta, same_theta) and all(torch.equal(batch[key], same[key]) for key in ("x", "y"))
    assert not torch.equal(theta, other_theta) and not torch.equal(batch["x"], other["x"])


def test_uint8_images_arrive_in_the_unit_interval(dataset):
    batch = Classifier(mlp(16, [5], 3), dataset).sample_batch({}, 2, Generator().manual_seed(0))
    assert batch["x"].dtype == torch.float64
    assert 0 <= batch["x"].min() < 0.05 and 0.95 < batch["x"].max() <= 1
    assert_close((batch["x"] * 255) % 2, torch.zeros_like(batch["x"]), rtol=0, atol=1e-12)  # train pixels are even


def test_float32_by_default(dataset):
    torch.set_default_dtype(torch.float32)
    optimizee = Classifier(mlp(16, [3], 3), dataset, batch_size=4)
    theta, batch = problem(optimizee, 2)
    assert {t.dtype for t in (theta, batch["x"], *optimizee.loss_and_grad(theta, batch))} == {torch.float32}


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(16), nn.SyncBatchNorm(16), nn.InstanceNorm1d(16, track_running_stats=True)], ids=str
)
def test_running_statistics_are_refused(dataset, layer):
    with pytest.raises(ValueError, match=r"'1' keeps running statistics.*track_running_stats=False"):
        Classifier(nn.Sequential(nn.Flatten(), layer, nn.Linear(16, 3)), dataset)


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.AlphaDropout(0.5), nn.Dropout1d(0.2)], ids=str)
def test_active_dropout_is_refused(dataset, layer):
    network = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 3), layer))
    with pytest.raises(ValueError, match=r"'1\.1' is active dropout.*p=0 or call \.eval\(\)"):
        Classifier(network, dataset)


@pytest.mark.parametrize("layer", [nn.Dropout(0.0), nn.Dropout(0.5).eval()], ids=["p=0", "eval"])
def test_idle_dropout_is_taken(dataset, layer):
    optimizee = Classifier(nn.Sequential(nn.Flatten(), layer, nn.Linear(16, 3)), dataset, batch_size=4)
    plain = Classifier(nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(16, 3)), dataset, batch_size=4)
    theta, batch = problem(optimizee, 2)
    assert torch.equal(optimizee.losses(theta, batch), plain.losses(theta, batch))


class FunctionalDropout(nn.Linear):
    def forward(self, x):
        return super().forward(F.dropout(x.flatten(1), 0.5))


@pytest.mark.parametrize(
    "network",
    [FunctionalDropout(16, 3), nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.RReLU())],
    ids=["functional dropout", "RReLU"],
)
def test_any_draw_from_the_global_generator_is_refused(dataset, network):
    with pytest.raises(ValueError, match="generator"):
        Classifier(network, dataset)


@pytest.mark.parametrize(
    "network",
    [
        mlp(64, [5], 3),
        nn.Conv2d(1, 3, 3),
        nn.Sequential(nn.Conv2d(3, 3, 4), nn.Flatten()),
        nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(16, 3)),
    ],
    ids=["in_features", "no channels", "other channels", "batch norm"],
)
def test_a_network_for_other_images_is_refused(dataset, network):
    with pytest.raises(ValueError, match=r"shape \(4, 4\).*dataset=.*in_features"):
        Classifier(network, dataset)


@pytest.mark.parametrize("outputs", [1, 2])
def test_too_few_outputs_are_refused(dataset, outputs):
    with pytest.raises(ValueError, match=rf"\({outputs},\) outputs but labels go up to 2.*out_features"):
        Classifier(mlp(16, [5], outputs), dataset)


def test_outputs_that_are_no_logits_are_refused(dataset):
    with pytest.raises(ValueError, match=r"\(4, 3\) outputs"):
        Classifier(nn.Linear(4, 3), dataset)


def test_more_outputs_than_classes_are_taken(dataset):
    assert Classifier(mlp(16, [5], 7), dataset).layout.size == 16 * 5 + 5 + 5 * 7 + 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"init_std": -1.0}, "init_std must be >= 0, .* got -1.0"),
        ({"init_std": [0.1, 0.01]}, r"needs 0 < low <= high, got \[0.1, 0.01\]"),
        ({"init_std": [0.0, 0.01]}, r"needs 0 < low <= high, got \[0.0, 0.01\]"),
        ({"init_std": [0.1, 0.2, 0.3]}, "must be a number or a range"),
        ({"noise": -0.1}, "noise must be a standard deviation >= 0, got -0.1"),
        ({"init": "xavier"}, "init must be one of normal, torch, truncated_normal, orthogonal, got 'xavier'"),
    ],
    ids=str,
)
def test_bad_sizes_and_starts_are_refused(dataset, arguments, says):
    with pytest.raises(ValueError, match=says):
        Classifier(mlp(16, [5], 3), dataset, **arguments)


# ---------------------------------------------------------------------------------------------------------- colours


def coloured(*shape):
    x = torch.rand(6, *shape, generator=Generator().manual_seed(0))
    return Dataset(x, torch.arange(6) % 3, x, torch.arange(6) % 3)


@pytest.mark.parametrize(
    ("channels", "shape", "says"),
    [
        (3, (3, 8, 8), r"colours come last: (N, 8, 8, 3); yours look like colours first: x.transpose(0, 2, 3, 1)"),
        (3, (3, 8, 9), r"colours come last: (N, 8, 9, 3); yours look like colours first: x.transpose(0, 2, 3, 1)"),
        (1, (1, 8, 8), r"colours come last: (N, 8, 8, 1); yours look like colours first: x.transpose(0, 2, 3, 1)"),
        (3, (8, 8), "images (N, 8, 8) have 1 colour, and the network takes 3: set in_channels=1"),
        (3, (8, 8, 1), "images (N, 8, 8, 1) have 1 colour, and the network takes 3: set in_channels=1"),
        (1, (8, 8, 3), "images (N, 8, 8, 3) have 3 colours, and the network takes 1: set in_channels=3"),
        (3, (64,), "images must be (N, height, width, 3), got (N, 64)"),
        (3, (2, 8, 8, 3), "images must be (N, height, width, 3), got (N, 2, 8, 8, 3)"),
        (3, (16, 16, 3), "image_size and in_channels to match"),
    ],
    ids=str,
)
def test_images_that_the_conv_net_does_not_take_are_told_what_to_change(channels, shape, says):
    with pytest.raises(ValueError, match=r"the network does not take this dataset's images") as error:
        Classifier(optimizees.conv_net(8, channels, [2], [3], 3), coloured(*shape))
    message = str(error.value)
    assert says in message and "\n" not in message and "in_features" not in message


def test_images_without_an_axis_of_colours_have_one_channel():
    """The same function as with that axis."""
    network = optimizees.conv_net(8, 1, [2], [3], 3)
    flat, deep = (Classifier(network, coloured(*shape), batch_size=5, init_std=0.5) for shape in ((8, 8), (8, 8, 1)))
    theta, batch = problem(flat, 2)
    with_axis = {"x": batch["x"][..., None], "y": batch["y"]}
    assert_close(flat.loss_and_grad(theta, batch), deep.loss_and_grad(theta, with_axis), rtol=0, atol=0)
    assert flat.metrics(theta, {})["test_loss"].shape == (2,)


def test_a_network_of_one_s_own_that_wants_colours_first_is_told_how():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    with pytest.raises(ValueError, match=r"Colours come last .*l2o\.optimizees\.networks\.ColoursFirst\(channels\)"):
        Classifier(network, coloured(8, 8, 3))
    assert (
        Classifier(nn.Sequential(ColoursFirst(3), *network), coloured(8, 8, 3)).layout.size == 2 * 27 + 2 + 72 * 3 + 3
    )
