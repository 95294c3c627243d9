"""A trained rule as files: `config.json` (class, arguments, card), `model.safetensors` (φ), `README.md` (the card).

A file names a rule by its class's name and can only mean a class that is already imported: loading runs no code of the
file's author. A rule of one's own is loaded after `import`ing the module that defines it.
"""

import inspect
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from l2o.deploy import model_card
from l2o.optimizers.base import UpdateRule
from l2o.optimizers.preprocessing import Preprocessing

CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"


def save(rule: UpdateRule, folder: str | Path, card: dict[str, Any] | None = None) -> Path:
    """Write a rule into a folder, with a card (what it was trained on, results, licence), by default the rule's own.
    Never half a file."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in rule.state_dict().items()}
    config = {"format": 1, "rule": describe(rule), "card": card or rule.card or {}}
    texts = {CONFIG: json.dumps(config, indent=2) + "\n", README: model_card.readme(folder.name, config)}
    _replace(folder / WEIGHTS, lambda path: save_file(weights, path))
    for name, text in texts.items():
        _replace(folder / name, lambda path, text=text: path.write_text(text))
    return folder


def load(path: str | Path) -> UpdateRule:
    """The rule in an exported folder, or the best one in a training checkpoint (`.ckpt`).

    Raises ValueError, in one line, for anything else: missing, truncated, foreign.
    """
    path = Path(path)
    return _load_checkpoint(path) if path.suffix == ".ckpt" else _load_folder(path)


def describe(module: nn.Module) -> dict[str, Any]:
    """Class name and constructor arguments, nested; arguments are read from the attributes of the same names."""
    own = type(module).__init__ is not nn.Module.__init__
    arguments = list(inspect.signature(type(module).__init__).parameters)[1:] if own else []
    missing = [name for name in arguments if not hasattr(module, name)]
    if missing:
        raise ValueError(
            f"{type(module).__name__} cannot be saved: keep its argument {missing[0]} as an attribute of that name"
        )
    values = {name: getattr(module, name) for name in arguments}
    return {"class": type(module).__name__} | {name: _described(value) for name, value in values.items()}


def build(description: dict[str, Any]) -> UpdateRule:
    """The untrained rule that `describe` described."""
    try:
        rule = _build(description, UpdateRule)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"{description} describes no optimizer: {' '.join(str(error).split())}") from error
    assert isinstance(rule, UpdateRule)
    return rule


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A training checkpoint's contents, or a ValueError: missing, truncated, or written by something else."""
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint at '{path}'")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as archive:  # torch writes checksums of all parts, but does not check them
            if (part := archive.testzip()) is not None:
                raise ValueError(f"{part} has another checksum than when it was written")
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"'{path}' is damaged or no checkpoint ({reason}): use another one") from error
    if not isinstance(checkpoint, dict) or "l2o" not in checkpoint:
        raise ValueError(f"'{path}' is no checkpoint of l2o's train.py")
    return checkpoint


def _load_checkpoint(path: Path) -> UpdateRule:
    saved = read_checkpoint(path)["l2o"]
    try:
        rule, weights = build(json.loads(saved["rule"])), saved["best_phi"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is no checkpoint of l2o's train.py: {error}") from error
    return _with_weights(rule, weights, path)


def _load_folder(folder: Path) -> UpdateRule:
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"no trained optimizer at '{folder}': expected a folder with {CONFIG} and {WEIGHTS}, or a .ckpt"
        )
    try:
        config = json.loads((folder / CONFIG).read_text())
        rule = build(config["rule"])
        rule.card = config.get("card") if isinstance(config.get("card"), dict) else {}
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"the trained optimizer in '{folder}' cannot be read: {error}") from error
    return _with_weights(rule, weights, folder)


def _with_weights(rule: UpdateRule, weights: dict[str, torch.Tensor], path: Path) -> UpdateRule:
    try:
        rule.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the weights in '{path}' do not fit its own config: {' '.join(str(error).split())}"
        ) from error
    return rule.eval()


def _described(value: Any) -> Any:
    """An argument: a part, or several by name, described; anything else as it is."""
    if isinstance(value, nn.ModuleDict):
        return {name: describe(part) for name, part in value.items()}
    return describe(value) if isinstance(value, nn.Module) else value


def _build(description: dict[str, Any], *kinds: type[nn.Module]) -> nn.Module:
    name = description.get("class")
    known = {cls.__name__: cls for kind in kinds for cls in _subclasses(kind) if not inspect.isabstract(cls)}
    if name not in known:
        raise ValueError(
            f"unknown {' or '.join(kind.__name__ for kind in kinds)} '{name}': known are {', '.join(sorted(known))}; "
            "import the module that defines it first"
        )
    return known[name](**{key: _argument(value) for key, value in description.items() if key != "class"})


def _argument(value: Any) -> Any:
    """What `_described` described."""
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return _build(value, Preprocessing, UpdateRule)
    return {name: _argument(part) for name, part in value.items()}


def _subclasses(kind: type) -> set[type]:
    return {sub for child in kind.__subclasses__() for sub in {child} | _subclasses(child)}


def _replace(path: Path, write: Any) -> None:
    """Write beside `path`, then rename: whoever reads sees the old file or the new one."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        os.umask(umask := os.umask(0))
        temporary.chmod(0o666 & ~umask)  # safetensors' files are their owner's alone
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
