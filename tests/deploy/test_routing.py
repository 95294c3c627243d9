"""Every shipped rule serves models that it has never seen, whatever their parameters are called."""

import copy

import pytest
import torch
from observations import seen
from torch import nn
from torchvision.models import resnet18

import l2o
from l2o import LearnedOptimizer
from l2o.evaluation.curves import learning_curves
from l2o.optimizees import Classifier, Layout
from l2o.optimizers import LSTM, SGD, Adam, Partitioned
from l2o.optimizers.routing import by_kind, group_of

CONV_FC = (("conv", r"conv_\d+\.weight"), ("fc", r"linear_\d+\.(weight|bias)|conv_\d+\.bias|norm_\d+\.shift"))
PARTITIONED = [name for name in l2o.list_pretrained() if isinstance(l2o.from_pretrained(name), Partitioned)]


def nested(model):
    return nn.ModuleDict({"net": nn.ModuleDict({"backbone": model})})


WRAPPED = {
    "bare": lambda model: model,
    "nested": nested,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "parallel": nn.DataParallel,
    "all": lambda model: nn.DataParallel(torch.compile(nested(model), backend="eager")),
}


def two_rules():
    conv, fc = SGD(1.0), SGD(10.0)
    return Partitioned({"conv": conv, "fc": fc}, dict(CONV_FC))


def with_gradients(model, names=("conv1.", "bn1.", "fc.")):
    """Gradients for a few parameters alone: the state of eleven million would take long to make."""
    for name, parameter in model.named_parameters():
        if any(name.startswith(n) or f".{n}" in name for n in names) and "layer" not in name:
            parameter.grad = torch.ones_like(parameter)
    return model


@pytest.fixture(scope="module")
def resnet():
    return resnet18(num_classes=10)


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("name", l2o.list_pretrained())
def test_every_shipped_rule_steps_a_resnet(resnet, name, wrapped, named):
    model = with_gradients(WRAPPED[wrapped](resnet))
    given = list(model.named_parameters())
    start = {n: p.detach().clone() for n, p in given if p.grad is not None}
    LearnedOptimizer(given if named else [p for _, p in given], l2o.from_pretrained(name), horizon=100).step()
    for n, p in given:
        if p.grad is not None:
            assert p.isfinite().all() and not torch.equal(p, start[n]), n


@pytest.mark.parametrize("name", l2o.list_pretrained())
def test_every_shipped_rule_trains_a_resnet(name):
    """Backpropagated gradients; the layers with most of its eleven million weights are frozen, to save memory."""
    model = resnet18(num_classes=10)
    for layer in (model.layer2, model.layer3, model.layer4):
        layer.requires_grad_(False)
    optimizer = LearnedOptimizer(model.named_parameters(), l2o.from_pretrained(name), horizon=100)
    start = copy.deepcopy(model.state_dict())
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    optimizer.step()
    for n, p in model.named_parameters():
        assert torch.equal(p, start[n]) != p.requires_grad and p.isfinite().all(), n


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_kernels_go_to_the_convolutional_rule_and_all_else_to_the_other(wrapped):
    model = WRAPPED[wrapped](nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv1d(2, 1, 1), nn.Linear(3, 3)))
    for parameter in model.parameters():
        parameter.data.zero_()
        parameter.grad = torch.ones_like(parameter)
    for given in (list(model.named_parameters()), list(model.parameters())):
        LearnedOptimizer(given, two_rules()).step()
    for parameter in model.parameters():
        assert (parameter == (-2 if parameter.ndim >= 3 else -20)).all()


@pytest.mark.parametrize("prefix", ["", "net.", "_orig_mod.", "module.", "module._orig_mod.net.0."])
@pytest.mark.parametrize(
    ("part", "axes", "group"),
    [
        ("conv_1.weight", 4, "conv"),
        ("conv_12.weight", 2, "conv"),  # the name decides, not the kind
        ("conv_1.bias", 1, "fc"),
        ("linear_1.weight", 4, "fc"),
        ("norm_2.shift", 1, "fc"),
        ("features.0.weight", 4, "conv"),
        ("features.0.weight", 3, "conv"),
        ("classifier.weight", 2, "fc"),
        ("scale", 0, "fc"),
    ],
)
def test_the_name_decides_behind_any_prefix_and_else_the_kind(prefix, part, axes, group):
    assert group_of(prefix + part, axes, CONV_FC) == group


@pytest.mark.parametrize(
    ("patterns", "kernels", "others"),
    [
        ([("a", r"conv_\d+\..*"), ("b", "head.*")], ["a"], ["b"]),
        ([("a", "features.*"), ("b", r"linear_\d\.weight")], ["a"], ["b"]),
        ([("a", r"conv_\d\.weight"), ("b", r"linear_.*"), ("c", "norm.*")], ["a"], ["b"]),
        ([("a", ".*")], ["a"], ["a"]),
        ([("a", "x"), ("b", "y")], [], []),
    ],
)
def test_a_group_s_kind_is_what_it_does_for_the_networks_of_this_project(patterns, kernels, others):
    assert by_kind(4, patterns) == kernels and by_kind(2, patterns) == others


def moved_by(optimizer, params):
    """Which group's rule moved each parameter: θ − 1 or θ − 10."""
    for parameter in params.values():
        parameter.data.zero_()
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {name: {-1: "conv", -10: "fc"}[parameter.flatten()[0].item()] for name, parameter in params.items()}


def test_given_patterns_decide_first():
    params = {name: nn.Parameter(torch.zeros(2, 2)) for name in ("conv_1.weight", "up.proj", "module.gate", "down")}
    patterns = {"conv": r"up\..*|gate", "fc": r"conv_1\..*"}
    optimizer = LearnedOptimizer(list(params.items()), two_rules(), patterns=patterns)
    assert moved_by(optimizer, params) == {
        "conv_1.weight": "fc", "up.proj": "conv", "module.gate": "conv", "down": "fc"
    }  # fmt: skip


def test_a_group_may_have_patterns_of_its_own():
    params = {name: nn.Parameter(torch.zeros(2)) for name in ("a", "b")}
    groups = [{"params": [("a", params["a"])], "patterns": {"conv": "a"}}, {"params": [("b", params["b"])]}]
    assert moved_by(LearnedOptimizer(groups, two_rules()), params) == {"a": "conv", "b": "fc"}


def test_a_group_called_after_convolutions_takes_them():
    rule = Partitioned({"conv": SGD(1.0), "rest": SGD(10.0)}, {"conv": "features.*", "rest": "classifier.*"})
    params = {"stem": nn.Parameter(torch.zeros(1, 1, 3, 3)), "top": nn.Parameter(torch.zeros(2, 2))}
    assert moved_by(LearnedOptimizer(list(params.items()), rule), params) == {"stem": "conv", "top": "fc"}


@pytest.mark.parametrize(
    ("rule", "patterns", "says"),
    [
        (Partitioned({"a": SGD(0.1), "b": SGD(0.1)}, {"a": "x", "b": "y"}), None, r"'w' belongs to none.*patterns=\{"),
        (two_rules(), {"conv": "w", "fc": "w"}, "'w' belongs to conv and fc by the patterns given"),
        (two_rules(), {"other": "w"}, "for groups of conv, fc"),
        (two_rules(), {"conv": "("}, "no regular expression"),
        (two_rules(), {"conv": 3}, "a regular expression for groups of conv, fc"),
        (two_rules(), "conv", "a regular expression for groups of conv, fc"),
        (SGD(0.1), {"conv": "w"}, "SGD has none"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_with_the_remedy(rule, patterns, says):
    with pytest.raises(ValueError, match=says) as caught:
        LearnedOptimizer([("w", nn.Parameter(torch.zeros(2)))], rule, patterns=patterns)
    assert "\n" not in str(caught.value)


def test_groups_within_groups_are_shared_out_alike():
    inner = Partitioned({"conv": SGD(1.0), "fc": SGD(10.0)}, dict(CONV_FC))
    rule = Partitioned({"all": inner, "none": Adam(0.1)}, {"all": ".*", "none": "nothing"})
    params = {"stem": nn.Parameter(torch.zeros(1, 1, 3, 3)), "top": nn.Parameter(torch.zeros(2, 2))}
    assert moved_by(LearnedOptimizer(list(params.items()), rule), params) == {"stem": "conv", "top": "fc"}


@pytest.mark.parametrize("name", PARTITIONED)
def test_a_shipped_rule_is_evaluated_on_a_network_of_other_names(name, dataset):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.top = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2, 3)

        def forward(self, x):
            return self.top(self.stem(x.reshape(-1, 1, 4, 4)).mean((2, 3)))

    optimizee = Classifier(Other(), dataset, batch_size=4)
    curves = learning_curves(l2o.from_pretrained(name), optimizee, 2, 3, torch.Generator().manual_seed(0))
    assert curves.losses.isfinite().all()


def test_a_partitioned_rule_is_unrolled_as_it_is_used():
    """`unroll` and the optimizer share parameters out alike."""
    rule = Partitioned({"conv": LSTM(hidden_size=2), "fc": LSTM(hidden_size=2)}, dict(CONV_FC))
    layout = Layout({"stem": (2, 1, 2, 2), "top": (3,)})
    grad, theta = torch.randn(1, layout.size), torch.zeros(1, layout.size)
    with torch.no_grad():
        update, _ = rule(seen(grad, theta), rule.init_state(theta, layout), layout)
    params = {name: nn.Parameter(torch.zeros(shape)) for name, shape in layout.shapes.items()}
    for parameter, part in zip(params.values(), layout.unravel(grad[0]).values(), strict=True):
        parameter.grad = part.clone()
    LearnedOptimizer(list(params.items()), rule).step()
    assert torch.equal(torch.cat([p.detach().flatten() for p in params.values()]), update[0])


def test_no_patterns_are_as_an_empty_mapping_of_them_and_a_partition_needs_a_group():
    model = nn.Linear(2, 1)
    optimizer = LearnedOptimizer(model.named_parameters(), two_rules(), patterns={})
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    LearnedOptimizer(model.named_parameters(), SGD(1.0), patterns={}).step()
    with pytest.raises(ValueError, match="every group"):
        Partitioned({}, {})
