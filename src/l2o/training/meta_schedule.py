"""The course of the meta learning rate: any scheduler of `torch.optim.lr_scheduler`, one step for each meta-update."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pytorch_lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, ReduceLROnPlateau, SequentialLR

from l2o.training.training_state import TrainingState

# Rates are scaled by powers of two, which is exact: a schedule that was scaled half way has the same rates, to the last
# bit, as one that is laid out anew and scaled afterwards.

LENGTHS = ("T_max", "total_iters", "total_steps")
"""The arguments by which torch's schedulers are told how many steps they have."""

RATES = ("initial_lr", "max_lr", "min_lr", "lr")
"""The learning rates that a parameter group may hold."""

Factory = Callable[..., Any]
"""A scheduler without its optimizer, as Hydra's `_partial_: true` gives it."""


def refuse(factory: object) -> None:
    """Raise ValueError, which names the key, for what makes no scheduler, and for one that lacks an argument."""
    if factory is None:
        return
    if not callable(factory):
        example = "{_target_: torch.optim.lr_scheduler.LinearLR, _partial_: true}"
        raise ValueError(f"learner.meta_scheduler must be null or a scheduler, as '{example}', got {factory}")
    given = {"eta_min", *LENGTHS, *(factory.keywords if isinstance(factory, partial) else ())}
    for name, one in list(inspect.signature(factory).parameters.items())[1:]:  # the first is the optimizer
        named = one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        if named and one.default is one.empty and name not in given:
            raise ValueError(f"learner.meta_scheduler.{name} is missing: {_function(factory).__name__} needs it")


def make(factory: Factory | None, optimizer: Optimizer, total: int, final_lr_fraction: float) -> Any:
    """Return the scheduler of an optimizer for `total` meta-updates; without a factory the rate stays constant.

    What the factory leaves open is filled in: each of `LENGTHS` by `total`, and `eta_min` by `final_lr_fraction` of
    the learning rate. A scheduler that does not know `eta_min` has its own way to say where it ends.
    """
    if factory is None:
        return LambdaLR(optimizer, constant)
    known = inspect.signature(factory).parameters
    given = set(factory.keywords) if isinstance(factory, partial) else set()
    values = dict.fromkeys(LENGTHS, total) | {"eta_min": final_lr_fraction * float(optimizer.param_groups[0]["lr"])}
    return factory(optimizer, **{name: value for name, value in values.items() if name in known and name not in given})


def warm_up(
    optimizer: Optimizer, total_iters: int, eta_min: float, steps: int, then: Factory | None = CosineAnnealingLR
) -> Any:
    """Return a scheduler that raises the learning rate linearly over `steps` meta-updates, and then goes on as `then`.

    The first meta-update has 1/steps of the rate, number `steps` has all of it. `then` gets the meta-updates that are
    left, and with None the rate stays constant. As `learner.meta_scheduler` it needs `steps` alone; `total_iters` and
    `eta_min` are filled in by `make`. A run that is shorter than its warm-up ends while the rate rises. Raises
    ValueError for a warm-up without a meta-update, and for a `then` that follows validations.
    """
    if steps < 1:
        raise ValueError(f"a warm-up needs at least one meta-update, got learner.meta_scheduler.steps={steps}")
    fraction = eta_min / float(optimizer.param_groups[0]["lr"] or 1.0)
    for group in optimizer.param_groups:  # what each of the two schedulers counts as the rate at the start
        group["initial_lr"] = group["lr"]
    rising = LinearLR(optimizer, start_factor=1 / steps, total_iters=max(1, steps - 1))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    falling = make(then, optimizer, max(1, total_iters - steps), fraction)
    if isinstance(falling, ReduceLROnPlateau):
        raise ValueError("a warm-up cannot go on with ReduceLROnPlateau, which follows validations: use another `then`")
    return SequentialLR(optimizer, [rising, falling], milestones=[steps])


def in_words(factory: Factory | None, total: int, final_lr_fraction: float) -> str:
    """Return a description of a schedule that differs where two schedules do."""
    return "constant" if factory is None else f"{_named(factory)} over {total} updates, down to {final_lr_fraction}"


def _named(factory: Factory) -> str:
    """Return a factory's name and its settings, those of factories inside it included."""
    inner = _function(factory)
    keywords = sorted(factory.keywords.items()) if isinstance(factory, partial) else []
    words = [(name, _named(value) if isinstance(value, partial | type) else value) for name, value in keywords]
    return f"{getattr(inner, '__name__', inner)} {words}"


def _function(factory: Factory) -> Any:
    return factory.func if isinstance(factory, partial) else factory


def constant(update: int) -> float:
    """Return the factor of a rate that does not change."""
    return 1.0


def step(scheduler: Any) -> None:
    """Move a scheduler on after a meta-update. A scheduler that waits for a plateau is moved by `saw` instead."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()


def saw(scheduler: Any, loss: float) -> None:
    """Show a validation loss, which must be finite, to a scheduler that waits for a plateau."""
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step(loss)


def scale(optimizer: Optimizer, scheduler: Any, factor: float) -> None:
    """Scale all learning rates: the scheduler's base rates and its floor, and the optimizer's current rates.

    From there the schedule goes on as it would have, at `factor` times the rate.
    """
    for group in optimizer.param_groups:
        for name in RATES:
            if name in group:
                group[name] = group[name] * factor
    for part in _parts(scheduler):
        for name in ("base_lrs", "_last_lr", "min_lrs", "max_lrs"):
            if isinstance(values := getattr(part, name, None), list):
                setattr(part, name, [value * factor for value in values])
        if hasattr(part, "eta_min"):
            part.eta_min *= factor


def resume(trainer: Trainer, state: TrainingState, factory: Factory | None, total: int, fraction: float) -> None:
    """Give a resumed run the schedule that its configuration asks for, at the place where the run stands.

    Where that is the checkpoint's schedule, its scheduler goes on. Where it is not, because the number of epochs has
    changed, for example, or because the checkpoint is an older one, all rates are as if the run had had the new
    schedule from its start.
    """
    schedule, optimizer = in_words(factory, total, fraction), trainer.optimizers[0]
    config = trainer.lr_scheduler_configs[0]
    if state.scheduler is not None and state.schedule == schedule:
        config.scheduler.load_state_dict(state.scheduler)
    elif state.scheduler is not None:
        # Older checkpoints hold the rates at the start without what falls to chance level have scaled them by.
        scaled = 1.0 if state.schedule is None else state.lr_factor
        config.scheduler = replay(factory, optimizer, total, fraction, state.updates, scaled)
        scale(optimizer, config.scheduler, state.lr_factor)
    state.schedule, state.scheduler = schedule, None


def replay(
    factory: Factory | None, optimizer: Optimizer, total: int, fraction: float, updates: int, scaled: float = 1.0
) -> Any:
    """Return a scheduler that stands after `updates` of `total` meta-updates, and set the optimizer's rates so.

    `scaled` is what the groups' `initial_lr`, their rates at the start, have been scaled by since.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr", group["lr"]) / scaled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants to see the optimizer step first
        scheduler = make(factory, optimizer, total, fraction)
        for _ in range(updates):
            step(scheduler)
    return scheduler


def _parts(scheduler: Any) -> Iterator[Any]:
    """Yield a scheduler and those that it is made of, as SequentialLR is."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)
