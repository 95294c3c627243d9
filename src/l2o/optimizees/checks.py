"""One check of a user's own optimizee before it is used, so that a mistake is named and not met deep inside torch.

Shapes: B = 2 tasks, P coordinates of one optimizee.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import torch
from torch import Generator, Tensor

from l2o.optimizees import global_generators
from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.layout import Layout
from l2o.optimizees.unchanged import changed, cloned
from l2o.optimizees.views import View

NUM_TASKS = 2
"""One task alone would show no mistake in the leading axis, and `losses` would not go through vmap."""

CHECKED = "_checked_by_l2o"
"""The attribute that an optimizee which has passed carries. A copy of it carries the attribute, too."""

T = TypeVar("T")


def check(optimizee: Optimizee, device: torch.device | str = "cpu") -> None:
    """Raise a ValueError where an optimizee breaks the contract of `Optimizee`, and say how.

    Two tasks are drawn from a generator of the check's own: no caller's generator moves, and what the optimizee draws
    from the global generators of torch, numpy and Python is found and put back. Each object is checked once; of a view,
    the optimizee behind it. The optimizees of `l2o` itself are left out: their tests hold them to the same contract.
    An exception that the optimizee's own code raises passes through as it is.
    """
    while isinstance(optimizee, View):
        optimizee = optimizee.inner
    if type(optimizee).__module__.startswith("l2o.") or getattr(optimizee, CHECKED, False):
        return
    _Check(_copied(optimizee), torch.device(device)).run()
    with suppress(AttributeError):  # of a class with __slots__, which is checked again
        object.__setattr__(optimizee, CHECKED, True)


def _copied(optimizee: Optimizee) -> Optimizee:
    """Return a shallow copy, so that what an optimizee counts or remembers by itself does not see the check."""
    try:
        return copy.copy(optimizee)
    except Exception:  # of a class that refuses to be copied
        return optimizee


class _Check:
    """The check of one optimizee, step by step. Each step relies on the steps before it."""

    def __init__(self, optimizee: Optimizee, device: torch.device):
        self.optimizee, self.device, self.name = optimizee, device, type(optimizee).__name__

    def run(self) -> None:
        layout = getattr(self.optimizee, "layout", None)
        if not isinstance(layout, Layout):
            self._refuse("layout", f"is {_told(layout)}", "a Layout that names the parts of θ and their shapes")
        theta, batch = self._repeatable("sample or sample_batch", lambda: self._drawn(layout))
        with torch.enable_grad():
            each = [self._one_loss(theta[b], {key: value[b] for key, value in batch.items()}) for b in range(NUM_TASKS)]
            self._all_losses(theta, batch, torch.stack(each))

    def _drawn(self, layout: Layout) -> tuple[Tensor, Batch]:
        """Draw θ (2, P) and a minibatch, from equal generators every time."""
        generator = Generator(self.device).manual_seed(0)
        drawn = self.optimizee.sample(NUM_TASKS, generator)
        if not isinstance(drawn, tuple) or len(drawn) != 2:
            self._refuse("sample", f"gives {_told(drawn)}", "a pair: θ (B, P) and a dict of tensors")
        theta, task = drawn
        wanted = f"a tensor ({NUM_TASKS}, {layout.size}) of {torch.get_default_dtype()} on {self.device} for two tasks"
        shape = (NUM_TASKS, layout.size)
        if not isinstance(theta, Tensor) or theta.shape != shape or theta.dtype != torch.get_default_dtype():
            self._refuse("sample", f"gives as θ {_told(theta)}", f"{wanted}: its layout has {layout.size} coordinates")
        if theta.device.type != self.device.type:
            self._refuse("sample", f"gives θ on {theta.device}", f"{wanted}: draw with device=generator.device")
        self._batch("sample", task)
        before = cloned(task)
        batch = self.optimizee.sample_batch(task, NUM_TASKS, generator)
        if name := changed(before, task):
            wanted = "one that leaves the task alone: .clone() it first"
            self._refuse("sample_batch", f"changes the task's '{name}' in place", wanted)
        self._batch("sample_batch", batch)
        return theta.detach(), batch

    def _batch(self, source: str, batch: Any) -> None:
        """Refuse anything but a dict of tensors whose leading axis counts the tasks."""
        if not isinstance(batch, dict):
            self._refuse(source, f"gives {_told(batch)}", "a dict of tensors, one row for each task")
        for key, value in batch.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                self._refuse(source, f"gives {key!r}: {_told(value)}", "a dict of names and tensors")
            if value.ndim < 1 or len(value) != NUM_TASKS:
                wanted = f"a leading axis of {NUM_TASKS} for two tasks: value.expand(num_tasks, …) repeats a value"
                self._refuse(source, f"gives '{key}' of shape {tuple(value.shape)}", wanted)
            if value.device.type != self.device.type:
                wanted = f"a tensor on {self.device}: pass device=generator.device, or move the data in `to`"
                self._refuse(source, f"gives '{key}' on {value.device}", wanted)

    def _one_loss(self, theta: Tensor, batch: Batch) -> Tensor:
        """Give f of one task, once it is sure to be a differentiable number that only θ and the batch decide."""
        with global_generators.restored():  # a copy that is no leaf, so that torch lets the loss change it
            copied = cloned({"θ": theta, **batch})
            own = copied.pop("θ").requires_grad_() + 0
            self.optimizee.loss(own, _Given(self.name, copied))
        if name := changed({"θ": theta, **batch}, {"θ": own, **copied}):
            self._refuse("loss", f"changes '{name}' in place", "one that leaves what it is given alone: .clone() it")
        theta = theta.clone().requires_grad_()
        given = _Given(self.name, batch)
        loss = self._repeatable("loss", lambda: self.optimizee.loss(theta, given))
        if not isinstance(loss, Tensor) or loss.shape != ():
            self._refuse("loss", f"gives {_told(loss)} for one task", "one number, a tensor of shape (): sum or mean")
        if loss.dtype != theta.dtype:
            self._refuse("loss", f"gives a number of {loss.dtype}", f"one of θ's {theta.dtype}")
        if not loss.requires_grad or torch.autograd.grad(loss, theta, allow_unused=True)[0] is None:
            wanted = "one that torch can differentiate by θ: no .item(), .detach(), numpy or no_grad on the way"
            self._refuse("loss", "gives a number without a gradient", wanted)
        return loss.detach()

    def _all_losses(self, theta: Tensor, batch: Batch, each: Tensor) -> None:
        """Give f of both tasks at once, as an unroll asks for it."""
        overridden = ("losses", "loss_and_grad")
        own = any(getattr(type(self.optimizee), name) is not getattr(Optimizee, name) for name in overridden)
        try:
            losses, grad = self.optimizee.loss_and_grad(theta, batch)
        except Exception as error:
            if own:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
            wanted = (
                "one that torch.func.vmap can batch: torch.where instead of `if` on values, no .item(), nothing "
                f"written into fixed tensors (or override `losses`); torch says: {reason}"
            )
            self._refuse("loss", "works for one task and not for two at once", wanted, error)
        if losses.shape != (NUM_TASKS,) or grad.shape != theta.shape:
            got = f"gives losses {tuple(losses.shape)} and gradients {tuple(grad.shape)} for two tasks"
            self._refuse("loss_and_grad", got, f"({NUM_TASKS},) and {tuple(theta.shape)}")
        finite = losses.isfinite() & each.isfinite()  # what is not finite is for the training to meet
        if not torch.allclose(losses[finite], each[finite], rtol=1e-3, atol=1e-5):
            got = f"gives {losses.tolist()} for two tasks at once"
            self._refuse("losses", got, f"what loss gives for each alone, {each.tolist()}")

    def _repeatable(self, source: str, call: Callable[[], T]) -> T:
        """Return what `call` gives, if it gives the same twice and leaves the global generators alone."""
        with global_generators.restored() as moved:
            first = call()
            before = [value.clone() for value in _tensors(first)]
            second = call()
            if by := moved():
                wanted = "every random number from the generator that sample and sample_batch are given"
                self._refuse(source, f"draws from the global generator of {by}", f"{wanted}; loss draws none")
        if not all(_equal(a, b) for a, b in zip(before, _tensors(second), strict=False)):
            wanted = "the same result whenever the generator or the batch is the same"
            self._refuse(source, "gives two results for equal generators and equal data", wanted)
        return first

    def _refuse(self, source: str, got: str, wanted: str, cause: BaseException | None = None) -> NoReturn:
        message = f"{self.name}.{source} {got}; wanted is {wanted} (L2O_TRACEBACK=1 shows where)"
        raise ValueError(message) from cause


class _Given(dict[str, Tensor]):
    """The batch of one task, which says what it holds where a loss asks for something else."""

    def __init__(self, name: str, batch: Batch):
        super().__init__(batch)
        self.name = name

    def __missing__(self, key: str) -> NoReturn:
        known = ", ".join(self) or "nothing"
        raise ValueError(
            f"{self.name}.loss reads '{key}'; wanted is one of what sample_batch gives, or by default sample: {known} "
            "(L2O_TRACEBACK=1 shows where)"
        )


def _tensors(result: Any) -> list[Tensor]:
    """Yield the tensors in what an optimizee gives, in order."""
    if isinstance(result, Tensor):
        return [result.detach()]
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-6, atol=0, equal_nan=True)


def _told(value: Any) -> str:
    """Say what a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype} on {value.device}"
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.40}"
