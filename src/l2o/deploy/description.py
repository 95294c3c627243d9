"""An untrained rule as plain JSON: the name of its class and its constructor's arguments, nested.

JSON knows text, numbers, true, false, null, lists and mappings by text. A tuple is written as a list, a number of numpy
or torch as a number, a path as text, and inf or nan, for which JSON has no word, as {"float": "inf"}.
"""

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from l2o.optimizers import registry
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.preprocessing import Preprocessing

FLOAT = "float"
"""The one key of what stands for a number that is not finite; its value is what `float` reads: "inf", "-inf", "nan"."""


def describe(module: nn.Module) -> dict[str, Any]:
    """Return the class's name under "class" and each constructor argument, read from the attribute of its name.

    The result is plain JSON: two rules are built alike if and only if their descriptions are equal. Raises ValueError,
    naming the argument, where an argument is not kept or JSON cannot hold it.
    """
    kind = type(module)
    if not isinstance(module, UpdateRule | Preprocessing):
        raise ValueError(f"a file can hold update rules and preprocessings, not a {kind.__name__}")
    return {"class": kind.__name__} | {
        name: _described(_kept(module, name), f"{kind.__name__}'s argument {name}") for name in _arguments(kind)
    }


def build(description: dict[str, Any]) -> UpdateRule:
    """Return the untrained rule that `describe` described; ValueError where it describes none."""
    try:
        rule = _build(description, UpdateRule)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"{description} describes no optimizer: {' '.join(str(error).split())}") from error
    assert isinstance(rule, UpdateRule)
    return rule


def changed(rule: UpdateRule, changes: Mapping[str, Any]) -> UpdateRule:
    """Return a rule with the class, the φ and the card of another, but with other arguments of the constructor.

    Raises ValueError, naming them, for arguments that the class does not have, and where φ no longer fits.
    """
    description = describe(rule)
    if unknown := [name for name in changes if name == "class" or name not in description]:
        takes = ", ".join(name for name in description if name != "class")
        raise ValueError(f"{rule.label} has no argument {unknown[0]}: it takes {takes}")
    found = build(description | {name: _described(value, f"the argument {name}") for name, value in changes.items()})
    weights = {name: value.clone() for name, value in rule.state_dict().items()}
    try:
        found.load_state_dict(weights, assign=True)  # in their dtype
    except RuntimeError as error:
        names = ", ".join(f"{name}={value}" for name, value in changes.items())
        raise ValueError(f"the trained weights of {rule.label} do not fit it with {names}") from error
    found.card = rule.card
    return found.train(rule.training)


def plain(value: Any, what: str) -> Any:
    """Return `value` as JSON knows it, numbers that are not finite as they are; `what` names it in the ValueError."""
    if isinstance(value, nn.Parameter):
        raise ValueError(f"{what} is learned: keep what it starts with under that name, the parameter under another")
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        if value.ndim:
            raise ValueError(f"{what} is an array of shape {tuple(value.shape)}: give a number, or .tolist()")
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {_key(key, what): plain(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, f"{what}[{index}]") for index, item in enumerate(value)]
    raise ValueError(
        f"{what} is a {type(value).__name__}, which a config.json cannot hold: give numbers, text, lists or mappings"
    )


def _arguments(kind: type[nn.Module]) -> list[str]:
    """The names of a class's constructor arguments."""
    if kind.__init__ is nn.Module.__init__:
        return []
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    if several := [str(p) for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]:
        raise ValueError(f"{kind.__name__} cannot be saved: its constructor takes {several[0]}; name each argument")
    return [parameter.name for parameter in parameters]


def _kept(module: nn.Module, name: str) -> Any:
    if not hasattr(module, name):
        raise ValueError(
            f"{type(module).__name__} cannot be saved: keep its argument {name} as an attribute of that name"
        )
    return getattr(module, name)


def _described(value: Any, what: str) -> Any:
    """An argument: rules and preprocessings in it described, however they are nested; all else plain and finite."""
    if isinstance(value, nn.ModuleDict | Mapping):
        return {_key(key, what): _described(item, f"{what}[{key!r}]") for key, item in value.items()}
    if isinstance(value, nn.ModuleList | Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return [_described(item, f"{what}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, UpdateRule | Preprocessing):
        return describe(value)
    value = plain(value, what)
    return {FLOAT: str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _key(key: Any, what: str) -> str:
    if not isinstance(key, str) or key in ("class", FLOAT):
        raise ValueError(f"{what} has the key {key!r}: keys must be text, and neither 'class' nor '{FLOAT}'")
    return key


def _build(description: dict[str, Any], *kinds: type[nn.Module]) -> nn.Module:
    cls = registry.find(description.get("class"), *kinds)
    arguments = {key: _argument(value) for key, value in description.items() if key != "class"}
    for key, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value) and cls.__module__.startswith("l2o."):
            raise ValueError(f"{cls.__name__}'s argument {key} is {value}: it must be a finite number")
    return cls(**arguments)


def _argument(value: Any) -> Any:
    """What `_described` described."""
    if isinstance(value, list):
        return [_argument(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return _build(value, Preprocessing, UpdateRule)
    if value.keys() == {FLOAT}:
        return float(value[FLOAT])
    return {name: _argument(part) for name, part in value.items()}
