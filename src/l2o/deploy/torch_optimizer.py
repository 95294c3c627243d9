"""A trained rule as a `torch.optim.Optimizer`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from l2o.deploy.flat import Flat, check_fit, remembered
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.partitioned import Partitioned


class LearnedOptimizer(torch.optim.Optimizer):
    """θ ← (1 − lr · weight_decay) θ + lr · m(∇, h, φ), for any update rule m, learned or hand-designed.

    `lr` scales what the rule proposes; 1 is what it was trained for. `weight_decay` is decoupled (Loshchilov & Hutter
    2019). Each parameter group may have its own of both, and its own `rule`. All parameters of a group with a gradient
    go through the rule in one batched call, a coordinatewise rule's in chunks of `chunk_size` coordinates (None: as
    suits the device), which bounds temporary memory and changes no result. Another rule sees the group as one problem
    whose parts are called as `named_parameters()` calls them, where those are given, else "0", "1", …

    Arithmetic and state are the rule's, float32 as a rule, whatever the parameters' dtype. `state_dict` holds the state
    and each group's numbers, not the rule: an optimizer is resumed by one that was made with the same rule.
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: UpdateRule,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        chunk_size: int | None = None,
    ):
        self._flats: dict[int, tuple[list[int], list[Flat]]] = {}  # by group: whose gradients there were, in what
        super().__init__(params, {"rule": rule, "lr": lr, "weight_decay": weight_decay, "chunk_size": chunk_size})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._flats = {}  # unpickled, copied or loaded: built anew from the state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_groups()  # type: ignore[reportAttributeAccessIssue]
        return loss

    @torch.compiler.disable  # a rule's own speed does not come from tracing it into the model's graph
    def _step_groups(self) -> None:
        for index, group in enumerate(self.param_groups):
            for flat in self._flats_of(index, group):
                flat.step(group["lr"], group["weight_decay"], group["chunk_size"])

    def _flats_of(self, index: int, group: dict[str, Any]) -> list[Flat]:
        """The group's parameters that have a gradient now, flattened; as in the last step while those are the same."""
        present = {name: param for name, param in _named(group) if param.grad is not None}
        for name, param in present.items():
            if param.grad is not None and param.grad.layout != torch.strided:
                raise ValueError(f"the gradient of '{name}' is sparse: use a dense one (sparse=False in nn.Embedding)")
        key = [id(param) for param in present.values()]
        known, flats = self._flats.get(index, ([], []))
        if key != known or not all(flat.intact(self.state) for flat in flats):
            by_rule: dict[UpdateRule, dict[str, Tensor]] = {}
            for name, param in present.items():
                by_rule.setdefault(_rule_for(group, name), {})[name] = param
            cohorts = [(rule, part) for rule, own in by_rule.items() for part in self._cohorts(rule, own, group)]
            flats = [self._flatten(rule, part) for rule, part in cohorts]
            self._flats[index] = key, flats
        return flats

    def _cohorts(self, rule: UpdateRule, present: dict[str, Tensor], group: dict[str, Any]) -> list[dict[str, Tensor]]:
        """Parameters that go through the rule together: on one device, with the same shared state (Adam's count)."""
        if not rule.coordinatewise:
            known = {name for name, param in _named(group) if param in self.state and _rule_for(group, name) is rule}
            if known and known != present.keys():
                raise ValueError(
                    f"{type(rule).__name__} is not coordinatewise and needs gradients of the same parameters at every "
                    f"step; what has changed: {', '.join(sorted(known ^ present.keys()))}"
                )
            return [present]
        _, shared = remembered(rule)
        cohorts: dict[Any, dict[str, Tensor]] = {}
        for name, param in present.items():
            entry = self.state.get(param)
            age = [entry[key].tolist() if entry else None for key in shared]
            cohorts.setdefault((param.device, str(age)), {})[name] = param
        return list(cohorts.values())

    def _flatten(self, rule: UpdateRule, params: dict[str, Tensor]) -> Flat:
        flat = Flat(list(params.values()), list(params), rule, [self.state.get(p, {}) for p in params.values()])
        self.state.update(zip(flat.params, flat.entries, strict=True))
        return flat

    # ------------------------------------------------------------------------------------------------- state_dict

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        saved = super().state_dict()
        for group in saved["param_groups"]:
            del group["rule"]
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError, and leaves everything as it was, for the state of another rule or other parameters."""
        rules, given = [group["rule"] for group in self.param_groups], {}

        def before(_: Any, saved: dict[str, Any]) -> None:
            given.update(self._saved_entries(saved))

        def after(_: Any) -> None:
            for group, rule in zip(self.param_groups, rules, strict=True):
                group["rule"] = rule
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

    def _saved_entries(self, saved: dict[str, Any]) -> dict[Tensor, dict[str, Tensor]]:
        """A state dict's entries by parameter, checked against the rules of the groups."""
        entries = {}
        for group, saved_group in zip(self.param_groups, saved["param_groups"], strict=False):  # torch refuses
            for (name, param), key in zip(_named(group), saved_group["params"], strict=False):
                if key in saved["state"]:
                    entries[param], rule = saved["state"][key], _rule_for(group, name)
                    if rule.coordinatewise:  # else its shapes are not known before the next step
                        each, shared = remembered(rule)
                        check_fit(name, entries[param], {k: (*param.shape, *v) for k, v in each.items()} | shared)
        return entries


def _named(group: dict[str, Any]) -> Iterable[tuple[str, Tensor]]:
    names = group.get("param_names") or map(str, range(len(group["params"])))
    return zip(names, group["params"], strict=True)


def _rule_for(group: dict[str, Any], name: str) -> UpdateRule:
    """A partitioned rule's own rule for this parameter: each then has its chunks and its state for itself."""
    rule = group["rule"]
    while isinstance(rule, Partitioned):
        rule = rule.rule_for(name)
    return rule


def _check(group: dict[str, Any]) -> None:
    rule = group["rule"]
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"rule must be an UpdateRule, e.g. l2o.from_pretrained(…), got {type(rule).__name__}")
    if not (group["lr"] >= 0 and group["weight_decay"] >= 0):
        raise ValueError(f"lr and weight_decay must be >= 0, got {group['lr']} and {group['weight_decay']}")
    if group["chunk_size"] is not None and group["chunk_size"] < 1:
        raise ValueError(f"chunk_size must be at least 1, or None, got {group['chunk_size']}")
    for name, param in _named(group):
        if not param.is_floating_point():
            raise ValueError(f"'{name}' is {param.dtype}: an update rule moves real numbers only (torch.view_as_real)")
        own = _rule_for(group, name)
        if hasattr(param, "to_local") and not own.coordinatewise:
            raise ValueError(
                f"'{name}' is sharded, but {type(own).__name__} is not coordinatewise and needs whole parameters: "
                "use DDP, or a coordinatewise rule"
            )
