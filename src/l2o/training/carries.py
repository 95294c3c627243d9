"""What an estimator carries between two windows, as a table of its leaves: so it is moved, saved and read back.

A carry is any nesting of dictionaries, lists and (named) tuples (`l2o.meta_gradients.base.Carry`). A checkpoint holds
the leaves under their paths, as "episode.state.hidden", and names no class. The nesting comes from a carry that the
estimator has just started, which is then filled with the leaves that were saved.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from l2o.unroll import Episode

Leaves = dict[str, Any]
"""Tensors, numbers, strings and None by their paths in a carry."""


def leaves_of(carry: Any) -> Leaves:
    """Return the leaves of a carry by path, with copies of its tensors on the CPU."""
    return {path: _on_cpu(leaf) for path, leaf in _walk(carry, "")}


def filled(like: Any, leaves: Leaves) -> Any | None:
    """Return a carry that is nested as `like` and holds the leaves given, on the devices of the leaves of `like`.

    The state of an episode may have gained keys since its start, as the memory of NTM-BFGS does: these are added.
    Returns None where `like` has other leaves: other paths, or tensors for other numbers of tasks or coordinates.
    """
    like = _grown(like, "", leaves)
    own = dict(_walk(like, ""))
    if own.keys() != leaves.keys() or not all(_fits(own[path], leaf) for path, leaf in leaves.items()):
        return None
    placed = {path: leaf.to(own[path].device) if isinstance(leaf, Tensor) else leaf for path, leaf in leaves.items()}
    return _mapped(like, "", lambda path, _: placed[path])


def of_older_checkpoint(episode: Mapping[str, Any], horizon: float) -> list[Leaves]:
    """Return the leaves that an older checkpoint's episode may stand for, one entry for each way to read it.

    Older checkpoints hold an episode as nested dictionaries. They may not know its horizon, which is therefore given,
    and never know its first loss. Beside the rule's own state they may hold a teacher's, under keys that begin with
    "teacher/".
    """
    known = dict(episode) | {"horizon": horizon, "start_loss": torch.full_like(episode["loss"], torch.nan)}
    state = {key: value for key, value in known["state"].items() if not key.startswith("teacher/")}
    teacher = {key.removeprefix("teacher/"): value for key, value in known["state"].items() if key not in state}
    alone = known | {"state": state}
    return [leaves_of(alone), leaves_of({"episode": alone, "teacher": teacher})]


def _grown(part: Any, path: str, leaves: Leaves) -> Any:
    """Return a carry in which every rule's state also has the keys that only the leaves know of, for as many tasks."""
    if isinstance(part, Episode):
        inside = _below(path, "state.")
        known = {name.removeprefix(inside): leaf for name, leaf in leaves.items() if name.startswith(inside)}
        late = {
            key: leaf.to(part.theta.device)
            for key, leaf in known.items()
            if key not in part.state and isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == len(part.theta)
        }
        return part._replace(state={**part.state, **late})
    children = _children(part)
    if children is None:
        return part
    return _rebuilt(part, {name: _grown(child, _below(path, name), leaves) for name, child in children.items()})


def _fits(own: Any, leaf: Any) -> bool:
    """Return whether two leaves can stand for each other: the first two axes count tasks and coordinates."""
    if isinstance(own, Tensor) and isinstance(leaf, Tensor):
        return own.dtype == leaf.dtype and own.ndim == leaf.ndim and own.shape[:2] == leaf.shape[:2]
    return isinstance(own, Tensor) == isinstance(leaf, Tensor)


def _walk(part: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every leaf, and of every empty node."""
    children = _children(part)
    if not children:
        yield path, part if children is None else None
        return
    for name, child in children.items():
        yield from _walk(child, _below(path, name))


def _mapped(part: Any, path: str, change: Callable[[str, Any], Any]) -> Any:
    """Return a carry of the same nesting in which every leaf is `change` of its path and itself."""
    children = _children(part)
    if children is None:
        return change(path, part)
    return _rebuilt(part, {name: _mapped(child, _below(path, name), change) for name, child in children.items()})


def _below(path: str, name: str) -> str:
    """Return the path of a child."""
    return f"{path}.{name}" if path else name


def _rebuilt(part: Any, made: Mapping[str, Any]) -> Any:
    """Return a node of the same kind as `part` with other children, given by name."""
    if isinstance(part, Mapping):
        return dict(zip(part, made.values(), strict=True))
    return type(part)(*made.values()) if hasattr(part, "_fields") else type(part)(made.values())


def _children(part: Any) -> dict[str, Any] | None:
    """Return the children of a node by name, or None for a leaf."""
    if isinstance(part, Mapping):
        return {str(key): value for key, value in part.items()}
    if hasattr(part, "_fields"):
        return part._asdict()
    if isinstance(part, list | tuple):
        return {str(index): value for index, value in enumerate(part)}
    return None


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().to("cpu", copy=True)
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return leaf
    raise ValueError(
        f"a carry may hold tensors, numbers, strings and None, got {type(leaf).__name__}: a checkpoint cannot hold it"
    )
