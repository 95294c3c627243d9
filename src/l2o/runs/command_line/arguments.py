"""Whether what a configuration gives to a `_target_` is what that takes: its arguments' names and kinds."""

import inspect
import pkgutil
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from l2o.runs.command_line.kinds import NOT_NEGATIVE, POSITIVE, Bound, as_written, fits, in_words
from l2o.runs.command_line.nearest import did_you_mean
from l2o.runs.problem import compared_optimizee

BY_THE_PROGRAM = {"learner": {"rule", "optimizee"}, "trainer": {"callbacks", "logger"}}
"""Arguments that the program itself gives."""

BOUNDS = {
    **dict.fromkeys(("init_std", "head_init", "eps", "lr", "clip_norm"), NOT_NEGATIVE),
    **dict.fromkeys(("content_weight", "style_weight", "smoothness_weight"), NOT_NEGATIVE),
    **dict.fromkeys(("beta", "beta1", "beta2", "alpha", "momentum"), Bound(lambda x: 0 <= x < 1, "in [0, 1)")),
    "final_lr_fraction": Bound(lambda x: 0 <= x <= 1, "from 0 to 1"),
    "clip_norm": POSITIVE,
}
"""What numbers of this package's own classes must fulfil, by the name of the argument."""

HYDRAS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def refuse_arguments(cfg: DictConfig, read: Collection[str]) -> None:
    """Raise ValueError, which names the key, for a `_target_` that there is not, an argument that it does not take or
    lacks, and a value of another kind than it takes. `read` has the first parts of the keys that the program reads."""
    for top in sorted(set(read) - {"evaluation_optimizee"}):
        for key, node in targets(cfg.get(top), top):
            refuse_node(key, node)
    for part in ("launcher", "sweeper"):
        for key, node in targets(OmegaConf.select(cfg, f"hydra.{part}"), f"hydra.{part}"):
            refuse_node(key, node)
    if cfg.get("evaluation_optimizee"):
        for key, node in targets(compared_optimizee(cfg), "optimizee"):
            refuse_node("evaluation_" + key, node)


def taken_beside(cfg: DictConfig, key: str) -> list[str]:
    """The keys that the `_target_` above a key takes as its arguments, set or not; none without a `_target_`."""
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(cfg, parent) if parent else None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return []
    try:
        parameters = _parameters(locate(parent, str(node._target_))) or {}
    except ValueError:
        return []
    return [f"{parent}.{name}" for name in parameters if name not in BY_THE_PROGRAM.get(parent, ())]


def targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node of a configuration that names a `_target_`, with its key. One that is taken from another key is found
    there."""
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        if key and node.get("_target_"):
            yield key, node
        names: list[Any] = list(node.keys())
    elif isinstance(node, ListConfig) and not node._is_none() and not node._is_missing():
        names = list(range(len(node)))
    else:
        return
    for name in names:
        if not OmegaConf.is_interpolation(node, name) and not OmegaConf.is_missing(node, name):
            yield from targets(node[name], f"{key}.{name}" if key else str(name))


def locate(key: str, target: str) -> Any:
    """What a `_target_` names. Raises ValueError where there is nothing of that name."""
    try:
        return pkgutil.resolve_name(target)
    except ModuleNotFoundError as error:
        if error.name is None or not target.startswith(error.name):
            raise
        raise ValueError(
            f"{key}._target_={target}: there is no module '{error.name}' in {Path.cwd()}, nor installed"
        ) from error
    except AttributeError as error:
        module, _, name = target.rpartition(".")
        near = get_close_matches(name, dir(getattr(error, "obj", None)), 1)
        hint = f": did you mean {module}.{near[0]}?" if near else ""
        raise ValueError(f"{key}._target_={target}: there is no such thing{hint}") from error
    except ValueError as error:
        raise ValueError(f"{key}._target_={target} is no name of a class or function") from error


def refuse_node(key: str, node: DictConfig) -> None:
    """Raise ValueError where a node gives its `_target_` what that does not take."""
    target = locate(key, str(node._target_))
    if not callable(target):
        raise ValueError(f"{key}._target_={node._target_} is neither a class nor a function")
    parameters = _parameters(target)
    if parameters is None:
        return
    given = [str(name) for name in node if name not in HYDRAS]
    own = BY_THE_PROGRAM.get(key, set())
    for name in given:
        _refuse_name(key, name, str(node._target_), parameters, own)
    lacking = [name for name, p in parameters.items() if _is_required(p) and name not in {*given, *own}]
    if lacking and not node.get("_partial_") and "_args_" not in node:
        raise ValueError(f"{key}.{lacking[0]} is missing: {node._target_} needs it")
    hints = _hints(target)
    for name in given:
        if name in hints and not OmegaConf.is_missing(node, name):
            _refuse_value(node, f"{key}.{name}", name, hints[name])


def _refuse_name(key: str, name: str, target: str, parameters: Mapping[str, inspect.Parameter], own: set[str]) -> None:
    if name in own:
        raise ValueError(f"{key}.{name} has no effect: the program sets it by itself")
    named = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if name in named or any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        return
    takes = sorted(named - own)
    hint = did_you_mean(f"{key}.{name}", [f"{key}.{known}" for known in takes])
    hint = hint or (f": it takes {', '.join(takes)}" if takes else ": it takes nothing")
    raise ValueError(f"unknown key {key}.{name}{hint if 'mean' in hint else f' of {target}{hint}'}")


def _refuse_value(node: DictConfig, key: str, name: str, hint: Any) -> None:
    written = OmegaConf.to_container(node, resolve=False)
    assert isinstance(written, dict)
    source = re.fullmatch(r"\$\{([\w.]+)\}", str(written[name]))
    try:
        value = node[name]
    except (MissingMandatoryValue, InterpolationToMissingValueError):  # Hydra says which
        return
    if OmegaConf.is_config(value):
        if "_target_" in value:
            return
        value = OmegaConf.to_container(value, resolve=True, throw_on_missing=False)
    shown = source[1] if source else key
    if not fits(value, hint):
        raise ValueError(f"{shown} must be {in_words(hint)}, got {as_written(value)}")
    bound = BOUNDS.get(name) if str(written.get("_target_")).startswith("l2o.") else None
    if bound and isinstance(value, int | float) and not bound.holds(value):
        raise ValueError(f"{shown} must be {bound.wanted}, got {value}")


def _parameters(target: Any) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a class or function; None where Python does not know them."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None


def _hints(target: Any) -> dict[str, Any]:
    """The kinds of the arguments, as annotated; none where an annotation cannot be resolved."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )
