"""A trained rule as a `torch.optim.Optimizer`."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from l2o.deploy import groups, knowledge, nonfinite
from l2o.deploy.arrangement import Axes
from l2o.deploy.fit import saved_entries
from l2o.deploy.flats import Flats
from l2o.deploy.told import Numbers, Told
from l2o.optimizers.base import UpdateRule


class LearnedOptimizer(torch.optim.Optimizer):
    """θ ← (1 − lr · weight_decay) θ + lr · m(∇, h, φ), for any update rule m, learned or hand-designed.

    `lr` scales what the rule proposes; 1 is what it was trained for. `weight_decay` is decoupled (Loshchilov & Hutter
    2019). With `maximize` the rule is given −∇, as in torch's optimizers. Each parameter group may have its own of all
    arguments, its own `rule` included; `param_groups` hold plain values, a group's rule being an index into `rules`.

    A coordinate rests until its first gradient that is not exactly 0: what a model does not use (an embedding's padding
    row, pruned weights) is not moved, although a learned rule may answer 0 with an update. Only the update is left out;
    weight decay acts on a resting coordinate as AdamW's does. `resting=False` moves everything from the start.

    A `Partitioned` rule shares parameters out by their names, then by their number of axes; `patterns`
    (group: regular expression of names) decide before that.

    All parameters of a group that have a gradient go through the rule in one batched call, or in chunks of `chunk_size`
    coordinates (None: as suits the device), which bounds temporary memory and changes no result: a rule whose scope is
    a tensor is given whole tensors, a rule that sees all parameters at once all of them. The parts are called as
    `named_parameters()` calls them, where those are given, else "0", "1", …

    `horizon` tells the rule how many steps the training will take; rules that need it are refused without it. Rules
    that read the loss are given it at each step: `step(loss=loss)`, or a closure. What a rule remembers of a parameter
    lies in the state under that parameter; what it remembers for all of them together, under each of them alike.
    `axes="torch"` shows kernels of convolutions, (out, in, height, width), as (height, width, in, out), which is how
    the published rules have seen them in training; `axes="as_given"` shows every shape as it is.

    What it costs for each parameter: the LSTM of 2 layers of 20 units, which all shipped rules are made of, remembers
    320 bytes in float32, beside 9 bytes for two flat buffers and a mark (Adam: 8 and 9). A step for a million
    parameters took 0.1 s on two cores with AVX-512 and the compiled kernel, so 0.1 µs for each, where torch's Adam took
    0.0035 s (docs/performance.md).

    Arithmetic and state are in the rule's dtype, in float32 at least, whatever the parameters' dtype. `state_dict`
    holds the state and each group's numbers, not the rule: an optimizer is resumed by one that was made with the same
    rule. Gradients that are nan or infinite are given to the rule as they are, counted, and warned of once.
    """

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
    ):
        self.rules: list[UpdateRule] = []
        defaults = {"rule": rule, "lr": lr, "weight_decay": weight_decay, "chunk_size": chunk_size}
        defaults |= {"patterns": patterns, "maximize": maximize, "resting": resting}
        defaults |= {"horizon": horizon, "axes": axes, "step": 0}
        groups.adopt(defaults, self.rules)
        self._forget()
        super().__init__(params, defaults)

    def _forget(self) -> None:
        """Drop what is derived from the state: it is built anew at the next step."""
        self._flats = Flats()
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rules": self.rules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()  # unpickled, copied or loaded

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        steps = max((group["step"] for group in self.param_groups), default=0)
        joins_late = "step" not in param_group
        super().add_param_group(param_group)
        if joins_late:  # where the other groups are by now
            self.param_groups[-1]["step"] = steps
        known = len(self.rules)
        try:
            groups.check(self.param_groups[-1], self.rules)
        except ValueError:
            self.param_groups.pop()
            del self.rules[known:]
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: float | Tensor | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient. A closure computes the gradients anew and returns the loss.

        Rules that read the loss are given the closure's, or `loss`: a number, or a tensor of one. It is the loss before
        a scaler scales it, and where gradients are accumulated the mean of the batches' losses. Where a process group
        exists, its mean over the ranks is what such rules read. Where no rule needs it, a closure may return anything.
        Raises ValueError where a rule needs a loss and there is none, for a sparse gradient, and for a parameter whose
        shape has changed since the last step.
        """
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        self._step_groups(loss, returned)  # type: ignore[reportAttributeAccessIssue]
        return returned

    def nonfinite_gradients(self) -> dict[str, int]:
        """Return at how many steps a parameter's gradient was nan or infinite, by the names of those parameters."""
        return self._flats.nonfinite_gradients()

    # A rule gains no speed from being traced into a model's graph. torch's optimizers use this name, which imports no
    # compiler before there is one; `torch.compiler.disable` imports it at once.
    @torch._disable_dynamo  # type: ignore[reportPrivateImportUsage]
    def _step_groups(self, loss: float | Tensor | None, returned: Any) -> None:
        known = knowledge.checked_loss(loss, returned, self.param_groups, self.rules)
        moved = self._flats.of(self.param_groups, self.rules, self.state)
        after = []
        for group, own in zip(self.param_groups, moved, strict=True):
            if knowledge.only_shows(group, self.rules, known):
                continue
            horizon = math.inf if group["horizon"] is None else group["horizon"]
            told = Told(math.nan if known is None else known, group["step"], horizon)
            numbers = Numbers(*(group[name] for name in Numbers._fields))
            after += [(flat, flat.step(told, numbers)) for flat in own]
            group["step"] += 1
        self._flats.share(after)  # now that all have read what they share
        suspicious = not self._warned and any(flat.may_have_nonfinite for own in moved for flat in own)
        if suspicious and (counts := self.nonfinite_gradients()):
            self._warned = True
            warnings.warn(nonfinite.warning(counts), stacklevel=2)

    # ------------------------------------------------------------------------------------------------- state_dict

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the state and the groups' numbers, as torch's optimizers do; rules are left out."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            del group["rule"]
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError, and leaves everything as it was, for the state of another rule or other parameters."""
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
