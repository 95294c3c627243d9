"""A trained rule as a `torch.optim.Optimizer`."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from l2o.deploy import divergence, groups, knowledge
from l2o.deploy.arrangement import Axes
from l2o.deploy.divergence import OnDivergence, Watch
from l2o.deploy.fit import saved_entries
from l2o.deploy.flats import Flats, Moved
from l2o.deploy.told import Numbers, Told
from l2o.optimizers.base import UpdateRule


class LearnedOptimizer(torch.optim.Optimizer):
    """θ ← (1 − lr · weight_decay) θ + lr · m(∇, h, φ), for any update rule m, learned or hand-designed.

    `lr` scales what the rule proposes; 1 is what it was trained for. `weight_decay` is decoupled (Loshchilov & Hutter
    2019). With `maximize` the rule is given −∇, as in torch's optimizers. Each parameter group may have its own of all
    arguments but the last, its own `rule` included; `param_groups` hold plain values, a group's rule being an index
    into `rules`. Parameters are called as `named_parameters()` calls them, where names are given, else "0", "1", …

    - `horizon` tells the rule how many steps the training will take; rules that need it are refused without it.
    - `patterns` (group: regular expression of names) decide which rule of a `Partitioned` rule serves a parameter,
      before the rule's own patterns and the number of axes do. One that matches no parameter is refused.
    - `axes="torch"` shows kernels of convolutions, (out, in, height, width), as (height, width, in, out), which is how
      rules have seen them in training; `axes="as_given"` shows every shape as it is.
    - `chunk_size` bounds how many coordinates go through the rule at once, and so temporary memory (None: as suits the
      device). It changes no result: a rule whose scope is a tensor is given whole tensors.
    - `resting`: a coordinate rests until its first gradient that is not exactly 0, so that what a model does not use
      (an embedding's padding row, pruned weights) is not moved, although a learned rule may answer 0 with an update.
      Weight decay acts on a resting coordinate as AdamW's does.
    - `on_divergence="warn"` says once what goes wrong: a gradient that is nan or infinite, by the name of its
      parameter, and a loss that is nan, infinite, or ten times what it was at the start, where the optimizer is told
      the loss. "raise" raises `l2o.deploy.divergence.Diverged` instead, before anything is moved where all lies on the
      CPU, and at every tenth step on other devices; None says nothing.

    Rules that read the loss are given it at each step: `step(loss=loss)`, or a closure. A step beyond the horizon that
    the rule was trained for (`rule.card`), or beyond `horizon`, is warned of once. Arithmetic and state are in the
    rule's dtype, in float32 at least, whatever the parameters' dtype. What a rule remembers of a parameter lies in the
    state under that parameter. An optimizer is resumed by one made with the same rule, which no `state_dict` holds.

    What it costs for each parameter: the LSTM of 2 layers of 20 units remembers 320 bytes in float32, beside 9 for two
    buffers and a mark, and a step takes 0.1 µs on two cores with AVX-512; the modern rules remember 16 to 24 bytes
    beside 5 (torch's Adam: 8 and 9), and a step of the smallest takes five times Adam's (docs/performance.md).
    """

    _made = False  # until all groups are there

    def __init__(
        self,
        params: Iterable[Any],
        rule: UpdateRule,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        horizon: int | None = None,
        patterns: Mapping[str, str] | None = None,
        axes: Axes = "torch",
        chunk_size: int | None = None,
        *,
        maximize: bool = False,
        resting: bool = True,
        on_divergence: OnDivergence = "warn",
    ):
        self.on_divergence: OnDivergence = divergence.checked(on_divergence)
        self.rules: list[UpdateRule] = []
        defaults = {"rule": rule, "lr": lr, "weight_decay": weight_decay, "chunk_size": chunk_size, "step": 0}
        defaults |= {"patterns": patterns, "maximize": maximize, "resting": resting, "horizon": horizon, "axes": axes}
        groups.adopt(defaults, self.rules)
        self._forget()
        super().__init__(params, defaults)
        groups.refuse_idle_patterns(self.param_groups, self.rules)
        self._made = True

    def _forget(self) -> None:
        """Drop what is derived from the state: it is built anew at the next step."""
        self._flats = Flats()
        self._watch = Watch(self.on_divergence)

    def __repr__(self) -> str:
        """Say which rules it has, as far as their cards know it, and the values of its groups."""
        named = [f"{index}: {rule.label} ({rule.extra_repr() or 'no card'})" for index, rule in enumerate(self.rules)]
        return "\n".join([*(f"rule {line}" for line in named), super().__repr__()])

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rules": self.rules, "on_divergence": self.on_divergence}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._made = True
        self.__dict__.setdefault("on_divergence", "warn")  # pickled before there was one
        self._forget()  # unpickled, copied or loaded

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        steps = max((group["step"] for group in self.param_groups), default=0)
        joins_late = "step" not in param_group
        super().add_param_group(param_group)
        if joins_late:  # where the other groups are by now
            self.param_groups[-1]["step"] = steps
        groups.drop_repeated(self.param_groups[-1])
        known = len(self.rules)
        try:
            groups.check(self.param_groups[-1], self.rules)
            if self._made and "patterns" in param_group and param_group["patterns"] != self.defaults["patterns"]:
                groups.refuse_idle_patterns(self.param_groups[-1:], self.rules)
        except ValueError:
            self.param_groups.pop()
            del self.rules[known:]
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: float | Tensor | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient. A closure computes the gradients anew and returns the loss.

        Rules that read the loss are given the closure's, or `loss`: a number, or a tensor of one. It is the loss before
        a scaler scales it, and where gradients are accumulated the mean of the batches' losses. Where a process group
        exists, its mean over the ranks is taken, so that all ranks have to give one. Where no rule needs a loss, a
        closure may return anything. A rule takes up the losses of those steps at which it moves a parameter.
        Raises ValueError where a rule needs a loss and there is none, for a loss in the closure's place, for a sparse
        gradient, and for a parameter whose shape has changed since the last step.
        """
        returned = None
        if closure is not None:
            if not callable(closure):
                raise ValueError(f"step takes a closure, got {type(closure).__name__}: give a loss as step(loss=loss)")
            with torch.enable_grad():
                returned = closure()
        self._step_groups(loss, returned)  # type: ignore[reportAttributeAccessIssue]
        return returned

    def nonfinite_gradients(self) -> dict[str, int]:
        """Count gradients that were nan or infinite, by the parameter's name: "NAME (group 1)" where two share NAME."""
        return self._flats.nonfinite_gradients(self.param_groups)

    # A rule gains no speed from being traced into a model's graph. torch's optimizers use this name, which imports no
    # compiler before there is one; `torch.compiler.disable` imports it at once.
    @torch._disable_dynamo  # type: ignore[reportPrivateImportUsage]
    def _step_groups(self, loss: float | Tensor | None, returned: Any) -> None:
        known = knowledge.checked_loss(loss, returned, self.param_groups, self.rules)
        moved = self._flats.of(self.param_groups, self.rules, self.state)
        self._look(known, moved)
        after = []
        for group, own in zip(self.param_groups, moved, strict=True):
            if knowledge.only_shows(group, self.param_groups, self.rules, known):
                continue
            horizon = math.inf if group["horizon"] is None else group["horizon"]
            told = Told(math.nan if known is None else known, group["step"], horizon)
            numbers = Numbers(*(group[name] for name in Numbers._fields))
            after += [(flat, flat.step(told, numbers)) for flat in own]
            group["step"] += 1
        self._flats.share(after)  # now that all have read what they share

    def _look(self, loss: Tensor | None, moved: list[list[Moved]]) -> None:
        """Take up the gradients, and see whether anything has gone wrong before the parameters are moved."""
        for group, own in zip(self.param_groups, moved, strict=True):
            for flat in own:
                flat.take_gradients(group["maximize"])
            if own:
                self._watch.horizon(group, groups.adopt(group, self.rules))
        if loss is not None and not any(group["maximize"] for group in self.param_groups):
            self._watch.loss(loss)
        if any(flat.nonfinite.is_worth_asking(flat.steps + 1) for own in moved for flat in own):
            self._watch.gradients(self.nonfinite_gradients())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state. That of another rule or other parameters raises ValueError, and changes nothing."""
        own, given = [{**group} for group in self.param_groups], {}

        def before(_: Any, saved: dict[str, Any]) -> None:
            given.update(saved_entries(self.param_groups, self.rules, saved))

        def after(_: Any) -> None:
            for group, former in zip(self.param_groups, own, strict=True):
                group["rule"] = former["rule"]
                for name, value in former.items():  # a file may be older than an argument
                    if name in self.defaults:
                        group.setdefault(name, value)
            for param, entry in given.items():  # torch has cast them to the parameter's dtype
                self.state[param] = {name: value.to(param.device) for name, value in entry.items()}

        hooks = [
            self.register_load_state_dict_pre_hook(before),
            self.register_load_state_dict_post_hook(after, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()
