"""A trained rule as a `torch.optim.Optimizer`."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from l2o.deploy import groups, nonfinite
from l2o.deploy.cohorts import together
from l2o.deploy.fit import check_shape, saved_entries
from l2o.deploy.flat import Flat
from l2o.deploy.groups import named
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

    All parameters of a group with a gradient go through the rule in one batched call, a coordinatewise rule's in chunks
    of `chunk_size` coordinates (None: as suits the device), which bounds temporary memory and changes no result.
    Another rule sees the group as one problem whose parts are called as `named_parameters()` calls them, where those
    are given, else "0", "1", …

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
        chunk_size: int | None = None,
        *,
        patterns: Mapping[str, str] | None = None,
        maximize: bool = False,
        resting: bool = True,
    ):
        self.rules: list[UpdateRule] = []
        defaults = {"rule": rule, "lr": lr, "weight_decay": weight_decay, "chunk_size": chunk_size}
        defaults |= {"patterns": patterns, "maximize": maximize, "resting": resting}
        groups.adopt(defaults, self.rules)
        self._forget()
        super().__init__(params, defaults)

    def _forget(self) -> None:
        """Drop what is derived from the state: it is built anew at the next step."""
        self._flats: dict[int, tuple[list[int], list[Flat]]] = {}  # by group: whose gradients there were, in what
        self._counted: dict[str, int] = {}  # of flats that are no more
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rules": self.rules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()  # unpickled, copied or loaded

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        known = len(self.rules)
        try:
            groups.check(self.param_groups[-1], self.rules)
        except ValueError:
            self.param_groups.pop()
            del self.rules[known:]
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient. A closure computes the gradients anew and returns the loss.

        Raises ValueError for a sparse gradient, and for a parameter whose shape has changed since the last step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_groups()  # type: ignore[reportAttributeAccessIssue]
        return loss

    def nonfinite_gradients(self) -> dict[str, int]:
        """Return at how many steps a parameter's gradient was nan or infinite, by the names of those parameters."""
        total = dict(self._counted)
        for _, flats in self._flats.values():
            _add(total, flats)
        return total

    @torch.compiler.disable  # a rule's own speed does not come from tracing it into the model's graph
    def _step_groups(self) -> None:
        flats = [self._flats_of(index, group) for index, group in enumerate(self.param_groups)]  # or nothing moves
        for group, own in zip(self.param_groups, flats, strict=True):
            for flat in own:
                flat.step(group["lr"], group["weight_decay"], group["chunk_size"], group["maximize"])
        suspicious = not self._warned and any(flat.may_have_nonfinite for own in flats for flat in own)
        if suspicious and (counts := self.nonfinite_gradients()):
            self._warned = True
            warnings.warn(nonfinite.warning(counts), stacklevel=2)

    def _flats_of(self, index: int, group: dict[str, Any]) -> list[Flat]:
        """The group's parameters that have a gradient now, flattened; as in the last step while those are the same."""
        present = {name: param for name, param in named(group) if param.grad is not None}
        for name, param in present.items():
            if param.grad is not None and param.grad.layout != torch.strided:
                raise ValueError(f"the gradient of '{name}' is sparse: use a dense one (sparse=False in nn.Embedding)")
        key = [id(param) for param in present.values()]
        known, flats = self._flats.get(index, ([], []))
        if key != known or not all(flat.intact(self.state) for flat in flats):
            self._retire(index)
            for name, param in present.items():
                check_shape(name, param, self.state.get(param, {}))
            cohorts = together(group, self.rules, present, self.state)
            flats = [self._flatten(rule, part, group["resting"]) for rule, part in cohorts]
            self._flats[index] = key, flats
        return flats

    def _retire(self, index: int) -> None:
        """Drop a group's flat buffers, but not what they have counted."""
        for flat in (flats := self._flats.pop(index, ([], []))[1]):
            flat.refuse_other_shapes()
        _add(self._counted, flats)

    def _flatten(self, rule: UpdateRule, params: dict[str, Tensor], resting: bool) -> Flat:
        saved = [self.state.get(param, {}) for param in params.values()]
        flat = Flat(list(params.values()), list(params), rule, saved, resting)
        self.state.update(zip(flat.params, flat.entries, strict=True))
        return flat

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


def _add(total: dict[str, int], flats: Iterable[Flat]) -> None:
    for flat in flats:
        for name, count in flat.nonfinite.counts().items():
            total[name] = total.get(name, 0) + count
