"""What optimizes: an update rule m(∇, h, φ), learned or designed by hand.

Shapes: B tasks, P coordinates of one optimizee, K steps of a window.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from l2o.optimizees.layout import Axis, Cut, Layout
from l2o.optimizers import registry
from l2o.optimizers.card import in_words

State = dict[str, Tensor]
"""What an update rule remembers. Axis 0 counts tasks, axis 1 what `UpdateRule.state_axes` says; others are free."""


class Observation(NamedTuple):
    """Hold what an update rule is told at step t. Each rule reads what it needs."""

    grad: Tensor  # (B, P)  ∇f(θ_t)
    theta: Tensor  # (B, P)  θ_t; detached in first order, as is the loss
    loss: Tensor  # (B,)    f(θ_t); nan where nobody knows it
    step: Tensor  # (B,)    t, from 0
    horizon: Tensor  # (B,)    T, the steps of the episode; inf where nobody knows it


class Scope(Enum):
    """Say what a coordinate's update depends on. That is the finest unit that may be chunked, sharded or left out."""

    COORDINATE = "coordinate"  # on that coordinate alone
    TENSOR = "tensor"  # on its own tensor
    ALL = "all"  # on all of θ


class Part(NamedTuple):
    """Name what one rule serves: spans of coordinates, and the layout that these make by themselves.

    The part's share of the whole rule's state has the keys that begin with `prefix`.
    """

    prefix: str
    rule: "UpdateRule"
    spans: list[slice]
    layout: Layout


class Recording(NamedTuple):
    """Hold what a window leaves for the replay of its K steps."""

    grads: Tensor  # (K, B, P)  ∇f(θ_0) … ∇f(θ_{K−1})
    losses: Tensor  # (K, B)  f(θ_0) … f(θ_{K−1})
    theta: Tensor  # (B, P)  at the window's start, as is the state
    state: State
    step: int  # of the episode, at the window's start
    horizon: float
    layout: Layout

    def seen(self, t: int, theta: Tensor) -> Observation:
        """Give what the rule was told at the window's step t, at which θ was `theta`."""
        step, horizon = (for_each_task(value, theta) for value in (self.step + t, self.horizon))
        return Observation(self.grads[t], theta, self.losses[t], step, horizon)


def for_each_task(value: float, theta: Tensor) -> Tensor:
    """Give every task of θ (B, P) the same number: (B,). The tensor is made once and kept, since nobody changes it."""
    return _filled(float(value), theta.shape[0], theta.dtype, theta.device)


@functools.lru_cache(maxsize=4096)
def _filled(value: float, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in that mode could never be used in training again
        return torch.full((count,), value, dtype=dtype, device=device)


class UpdateRule(nn.Module, ABC):
    """[g_t, h_{t+1}] = m(∇_t, h_t, φ), then θ_{t+1} = θ_t + g_t (Andrychowicz et al. 2016, equation 3).

    φ are the module's parameters. A subclass keeps the arguments of its constructor as attributes of the same names,
    because that is how a trained rule is exported and built again.
    """

    card: dict[str, Any] | None = None
    """What an exported rule says of itself: what it was trained on, its results, its licence."""

    scope: Scope
    """What a coordinate's update may depend on. A state that is SHARED may depend on loss, step and horizon alone."""

    needs: frozenset[str] = frozenset()
    """Which of "loss" and "horizon" the rule cannot do without."""

    batched_phi: bool = False
    """Whether `init_state` and `forward` deal with parameters that have a leading axis of B tasks (`with_phi`)."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Make the class known by its name, so that exported files can name it."""
        super().__init_subclass__(**keywords)
        registry.register(cls)

    @property
    def label(self) -> str:
        """Name the rule as tables and figures do."""
        return type(self).__name__

    def extra_repr(self) -> str:
        """Say by what name the rule goes, what it was trained on, for how many steps and from which start."""
        return in_words(self.card)

    @abstractmethod
    def init_state(self, theta: Tensor, layout: Layout) -> State:
        """Give h_0 for θ_0 (B, P)."""

    @abstractmethod
    def state_axes(self) -> dict[str, Axis]:
        """Say what the second axis of the state counts, for every key. A state is not cut where the scope is ALL."""

    @abstractmethod
    def forward(self, seen: Observation, state: State, layout: Layout) -> tuple[Tensor, State]:
        """Give g_t (B, P) and h_{t+1}. Pure: no argument is changed.

        In first order `seen.theta` and `seen.loss` are detached: the paper's meta-gradient has no path through what a
        rule reads.
        """

    def stepper(self, state: State, layout: Layout) -> tuple[Callable[[Tensor], Tensor], State] | None:
        """Give a function that does the next step from h, ∇f (B, P) -> g (B, P), and the state that it moves on.

        The given state stays as it is, and nothing is recorded. The function is for a loop in which φ and the rule do
        not change, and saves what is the same at every step. None stands for a rule that has to be called at each of
        them, as one that reads more than gradients.
        """
        return None

    def parts(self, layout: Layout) -> list[Part]:
        """Share θ out among the rules that serve it; by default this rule serves all of it."""
        return [Part("", self, [slice(0, layout.size)], layout)]

    def has_kernel(self, like: Tensor) -> bool:
        """Say whether the rule has a `window_gradient` for tensors of this device and dtype."""
        return False

    def window_gradient(self, recording: Recording, cotangents: Tensor) -> list[Tensor]:
        """Give Σ_t ⟨λ_t, ∂g_t/∂φ⟩ for each of `parameters()`, λ (K, B, P), faster than autograd does (`l2o.replay`)."""
        raise NotImplementedError


def is_called_plainly(rule: UpdateRule, kind: type[UpdateRule]) -> bool:
    """Say whether a call does what `kind` says: a subclass, a hook, and another `forward` may do more."""
    hooks = rule._forward_hooks or rule._forward_pre_hooks or _has_any_global_hook()
    return type(rule) is kind and not hooks and "forward" not in vars(rule)  # `with_phi` may put one there


def state_of(part: Part, state: Mapping[str, Tensor]) -> State:
    """Return a part's own share of a whole rule's state, under the keys of the part's rule."""
    return {key.removeprefix(part.prefix): value for key, value in state.items() if key.startswith(part.prefix)}


def cut_state(rule: UpdateRule, state: State, cut: Cut) -> State:
    """Return the share of a rule's state that belongs to some of the coordinates."""
    axes = rule.state_axes()
    return {key: value[:, cut.places[axes[key]]] for key, value in state.items()}


def take(tensor: Tensor, spans: list[slice]) -> Tensor:
    """Take the coordinates of the spans one after another: (…, P) -> (…, G), a view where there is one span."""
    return tensor[..., spans[0]] if len(spans) == 1 else torch.cat([tensor[..., span] for span in spans], -1)


def spans_within(spans: list[slice], inner: slice) -> list[slice]:
    """Return the spans for which `take(tensor, …)` gives `take(tensor, spans)[..., inner]`."""
    found, before = [], 0
    for span in spans:
        start = span.start + max(0, inner.start - before)
        stop = min(span.stop, span.start + inner.stop - before)
        if start < stop:
            found.append(slice(start, stop))
        before += span.stop - span.start
    return found or [slice(0, 0)]
