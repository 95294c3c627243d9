"""Whether a value of a configuration is of the kind that an argument is annotated with, and within its bounds."""

import math
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
    timedelta: "a time",
}
LISTS = (list, tuple, set, Sequence, Iterable, Collection)


class Bound(NamedTuple):
    """What a value must fulfil, and how a refusal says so."""

    holds: Callable[[Any], bool]
    wanted: str


POSITIVE, NOT_NEGATIVE = Bound(lambda value: value > 0, "more than 0"), Bound(lambda value: value >= 0, "at least 0")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value (plain, as a config file has it) is of the kind of an annotation. True is no integer, and neither
    nan nor inf is a number. An annotation that says nothing about plain values allows every one of them."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments and type(value) in {type(argument) for argument in arguments}
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        numbers = int if hint is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    if hint in (str, Path):
        return isinstance(value, str)
    if (origin or hint) in LISTS:
        return isinstance(value, list) and _items_fit(value, origin or hint, arguments)
    if (origin or hint) in (dict, Mapping):
        return isinstance(value, dict)
    if inspectable(hint):
        return isinstance(value, (dict, hint))
    return True


def in_words(hint: Any) -> str:
    """The kind as people call it: "an integer or null", "a list of two: a number, a number"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        plain = [argument for argument in arguments if not inspectable(argument) or argument in WORDS]
        return " or ".join(dict.fromkeys(in_words(argument) for argument in plain or arguments))
    if origin is Literal:
        return " or ".join(str(argument) for argument in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)}, each {' or '.join(dict.fromkeys(map(in_words, arguments)))}"
    if (origin or hint) in LISTS:
        return "a list" + (f", each item {in_words(arguments[0])}" if arguments else "")
    if (origin or hint) in (dict, Mapping):
        return "a table of keys"
    return WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def as_written(value: Any) -> str:
    """A value as config files have it: null, true, [1, 2]."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def _items_fit(value: list[Any], origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is tuple and arguments and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def inspectable(hint: Any) -> bool:
    """Whether an annotation is a class of which values can be instances; no protocol, no callable, not Any."""
    return isinstance(hint, type) and hint not in (object, Callable) and not getattr(hint, "_is_protocol", False)
