"""A user's own optimizee is checked once, with two tasks, before it is used.

Shapes: B tasks, P coordinates of one optimizee.
"""

import random
import traceback

import numpy as np
import pytest
import torch
from torch import Generator

from l2o.evaluation.curves import learning_curves
from l2o.optimizees import Layout, Optimizee, Repeated, Subset
from l2o.optimizees.checks import check
from l2o.optimizers import SGD


class Good(Optimizee):
    """f(θ) = a ‖θ‖², four coordinates."""

    def __init__(self):
        self.layout = Layout({"w": (4,)})
        self.sampled = []
        self.count = 0

    def sample(self, num_tasks, generator):
        self.sampled.append(num_tasks)
        self.count += 1
        theta = torch.rand(num_tasks, 4, generator=generator, device=generator.device)
        return theta, {"a": torch.rand(num_tasks, generator=generator, device=generator.device)}

    def loss(self, theta, batch):
        return batch["a"] * theta.square().sum()


def changed(**methods):
    """A user's class `Mine` that differs from `Good` in some methods."""
    return type("Mine", (Good,), methods)()


def theta_of(change):
    def sample(self, num_tasks, generator):
        theta, task = Good.sample(self, num_tasks, generator)
        return change(theta), task

    return sample


def task_of(change):
    def sample(self, num_tasks, generator):
        theta, task = Good.sample(self, num_tasks, generator)
        return theta, change(task)

    return sample


def loss_of(function):
    return lambda self, theta, batch: function(theta)


def branch(self, theta, batch):
    return theta.square().sum() + 1 if theta[0] > 0.5 else theta.square().sum()


def in_place(self, theta, batch):
    batch["a"] += 1
    return batch["a"] * theta.sum()


BAD = {
    "wide": (
        {"sample": theta_of(lambda t: t.repeat(1, 2))},
        r"sample gives as θ a tensor \(2, 8\).* \(2, 4\)",
    ),
    "flat": ({"sample": theta_of(lambda t: t[0])}, r"sample gives as θ a tensor \(4,\).*wanted is a tensor \(2, 4\)"),
    "double": ({"sample": theta_of(torch.Tensor.double)}, r"sample gives as θ .*float64.*wanted is .*float32"),
    "array": ({"sample": theta_of(lambda t: t.numpy())}, "sample gives as θ ndarray .*wanted is a tensor"),
    "elsewhere": ({"sample": theta_of(lambda t: t.to("meta"))}, "sample gives θ on meta.*device=generator.device"),
    "theta alone": (
        {"sample": lambda self, n, generator: torch.zeros(n, 4)},
        "sample gives a tensor.*a pair",
    ),
    "nothing": ({"sample": lambda self, n, generator: None}, "sample gives nothing; wanted is a pair"),
    "task is a list": ({"sample": task_of(lambda task: [task])}, "sample gives list .*wanted is a dict of tensors"),
    "a number": (
        {"sample": task_of(lambda task: {"a": 3.0})},
        "sample gives 'a': float 3.0; wanted is a dict",
    ),
    "no axis": (
        {"sample": task_of(lambda task: {"a": torch.ones(())})},
        r"'a' of shape \(\); wanted is a lead",
    ),
    "leading axis": (
        {"sample": task_of(lambda task: {"a": torch.ones(3)})},
        r"'a' of shape \(3,\); wanted is a lead",
    ),
    "task elsewhere": ({"sample": task_of(lambda task: {"a": task["a"].to("meta")})}, "gives 'a' on meta; wanted is"),
    "no batch": (
        {"sample_batch": lambda self, task, n, generator: None},
        "sample_batch gives nothing; wanted",
    ),
    "short batch": (
        {"sample_batch": lambda self, task, n, generator: {"a": torch.ones(1)}},
        r"sample_batch gives 'a' of shape \(1,\); wanted is a leading axis of 2",
    ),
    "key": (
        {"sample_batch": lambda self, task, n, generator: {"b": task["a"]}},
        "loss reads 'a'; wanted is one of what sample_batch gives, or by default sample: b",
    ),
    "global torch": (
        {"sample": theta_of(lambda t: t + torch.rand(4))},
        "sample or sample_batch draws from the global generator of torch; wanted is every random number from the",
    ),
    "global numpy": ({"sample": theta_of(lambda t: t + np.random.rand())}, "global generator of numpy"),  # noqa: NPY002
    "global Python": ({"sample": theta_of(lambda t: t + random.random())}, "global generator of Python"),
    "fresh numpy": (
        {"sample": theta_of(lambda t: t + np.random.default_rng().random())},
        "gives two results for equal generators and equal data",
    ),
    "vector": ({"loss": loss_of(lambda t: t**2)}, r"loss gives a tensor \(4,\).*wanted is one"),
    "one element": ({"loss": loss_of(lambda t: t.sum()[None])}, r"loss gives a tensor \(1,\).*shape \(\)"),
    "float": ({"loss": loss_of(lambda t: 3.0)}, "loss gives float 3.0 for one task; wanted is one"),
    "double loss": (
        {"loss": lambda self, t, batch: t.double().sum()},
        "number of torch.float64; wanted is one of",
    ),
    "noise": (
        {"loss": lambda self, t, batch: (t - torch.rand(4)).sum()},
        "loss draws from the global",
    ),
    "item": (
        {"loss": lambda self, t, batch: torch.tensor(t.sum().item())},
        "without a gradient; wanted",
    ),
    "without θ": ({"loss": lambda self, theta, batch: batch["a"].clone().requires_grad_()}, "without a gradient"),
    "branch": ({"loss": branch}, "works for one task and not for two at once; wanted is .*torch.where"),
    "in place": ({"loss": in_place}, "loss changes 'a' in place; wanted is one that leaves"),
    "θ in place": (
        {"loss": loss_of(lambda t: t.sub_(1).square().sum())},
        "loss changes 'θ' in place; wanted",
    ),
    "a part of θ in place": (
        {"loss": loss_of(lambda t: t.clone().square().sum() + t[1:].clamp_(0.99).sum())},
        "loss changes 'θ' in place",
    ),
    "θ's data": ({"loss": loss_of(lambda t: t.square().sum() + 0 * t.data.mul_(2).sum())}, "loss changes 'θ' in place"),
    "the task in place": (
        {"sample_batch": lambda self, task, n, generator: {"a": task["a"].add_(1)}},
        "sample_batch changes the task's 'a' in place",
    ),
    "the task's keys": (
        {"sample_batch": lambda self, task, n, generator: {"a": task.pop("a")}},
        "sample_batch changes the task's 'a' in place",
    ),
    "losses": (
        {"losses": lambda self, t, batch: t.square().sum(1)},
        "losses gives .*wanted is what loss",
    ),
    "one loss": ({"losses": lambda self, t, batch: t.square().sum()}, r"gives losses \(\) .*wanted is \(2,\)"),
}


@pytest.mark.parametrize("num_tasks", [1, 2])
@pytest.mark.parametrize("case", BAD)
def test_what_breaks_the_contract_is_named_in_one_line(case, num_tasks):
    """With one task as with more: trying an optimizee with one task shows the same mistakes."""
    methods, says = BAD[case]
    with pytest.raises(ValueError, match=says) as caught:
        learning_curves(SGD(0.1), changed(**methods), num_tasks, 2, Generator().manual_seed(0))
    message = str(caught.value)
    assert "\n" not in message and message.startswith("Mine.") and "L2O_TRACEBACK=1" in message


def test_an_optimizee_without_a_layout_is_named():
    optimizee = Good()
    del optimizee.layout
    with pytest.raises(ValueError, match=r"Good\.layout is nothing; wanted is a Layout"):
        check(optimizee)


@pytest.mark.parametrize("kind", [ValueError, TypeError, RuntimeError, KeyError, ZeroDivisionError])
@pytest.mark.parametrize("method", ["sample", "sample_batch", "loss"])
def test_a_users_own_exception_keeps_its_kind_message_and_place(kind, method):
    def fails(self, *given):
        raise kind("my own reason")

    with pytest.raises(kind, match="my own reason") as caught:
        check(changed(**{method: fails}))
    assert caught.type is kind
    last = traceback.extract_tb(caught.tb)[-1]
    assert last.filename == __file__ and last.line == 'raise kind("my own reason")'


def test_the_parts_of_theta_unpacked_by_mistake_are_found_where_they_are():
    def loss(self, theta, batch):
        w, b = theta
        return w + b

    with pytest.raises(ValueError, match=r"too many values to unpack \(expected 2") as caught:
        check(changed(loss=loss))
    assert traceback.extract_tb(caught.tb)[-1].line == "w, b = theta"


def test_a_good_optimizee_is_checked_once_and_nobody_s_generator_moves():
    optimizee, generator = Good(), Generator().manual_seed(4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    expected = Good().sample(3, Generator().manual_seed(4))
    check(optimizee)
    assert set(optimizee.sampled) == {2} and optimizee.count == 0, "what it counts itself does not see the check"
    sampled = [*optimizee.sampled]
    check(optimizee)
    check(Repeated(Subset(optimizee, slice(0, 1)), 2))
    assert optimizee.sampled == sampled
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(optimizee.sample(3, generator)[0], expected[0])


def test_the_curves_of_a_checked_optimizee_are_those_of_one_that_was_not():
    curves = [learning_curves(SGD(0.1), optimizee, 2, 3, Generator().manual_seed(0)) for optimizee in (Good(), Good())]
    checked_before = Good()
    check(checked_before)
    again = learning_curves(SGD(0.1), checked_before, 2, 3, Generator().manual_seed(0))
    assert torch.equal(curves[0].losses, curves[1].losses) and torch.equal(curves[0].losses, again.losses)


def test_a_loss_that_is_not_finite_is_left_to_the_training():
    check(changed(loss_and_grad=lambda self, theta, batch: (theta.sum(1) * float("nan"), theta)))
    check(changed(loss=lambda self, theta, batch: (theta.sum() - 9).log()))


def test_what_the_check_draws_globally_is_put_back():
    optimizee = changed(sample=theta_of(lambda t: t + torch.rand(4) + np.random.rand() + random.random()))  # noqa: NPY002
    torch.manual_seed(1)
    before = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    with pytest.raises(ValueError, match="global generator of torch, numpy, Python"):
        check(optimizee)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (str(np.random.get_state()), random.getstate()) == before[1:]  # noqa: NPY002


def test_a_view_of_a_bad_optimizee_is_refused_by_the_optimizee_s_name():
    with pytest.raises(ValueError, match=r"Mine\.loss gives"):
        check(Repeated(changed(loss=lambda self, theta, batch: theta), 2))


def test_float64_is_the_wanted_dtype_where_it_is_the_default(float64):
    check(Good())
    with pytest.raises(ValueError, match=r"float32.*wanted is .*float64"):
        check(changed(sample=theta_of(torch.Tensor.float)))
