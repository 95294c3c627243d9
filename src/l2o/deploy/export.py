"""A trained rule as files: `config.json` (class, arguments, card), `model.safetensors` (φ), `README.md` (the card).

A file names a rule by its class's name and can only mean a class that is already defined: loading runs no code of the
file's author. A rule of one's own is loaded after `import`ing the module that defines it.
"""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from l2o.deploy import model_card
from l2o.deploy.description import build, describe
from l2o.deploy.locations import CONFIG, README, WEIGHTS, locate
from l2o.deploy.reasons import one_line, refuse_lfs_pointer, why_no_checkpoint, why_no_config
from l2o.deploy.soundness import refuse_not_finite, refuse_sizes
from l2o.files import replacing, write_text
from l2o.optimizers.base import UpdateRule

__all__ = ["CONFIG", "README", "WEIGHTS", "build", "describe", "load", "read_checkpoint", "save"]

FORMAT = 1


def save(
    rule: UpdateRule, folder: str | Path, card: Mapping[str, Any] | None = None, address: str | None = None
) -> Path:
    """Write a rule into a folder and return the folder; each file is written whole or not at all.

    `card` says what the rule was trained on, its results and its licence; by default it is the rule's own. `address`
    is what a reader of the README gives to `from_pretrained`; by default the folder itself. Weights keep their dtype.
    Raises ValueError, naming the argument or the card's key, for what JSON cannot hold.
    """
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"only an UpdateRule can be saved, got a {type(rule).__name__}")
    folder = Path(folder).expanduser()
    card = model_card.checked((rule.card or {}) if card is None else card)
    config = {"format": FORMAT, "rule": describe(rule), "card": card}
    texts = {
        CONFIG: json.dumps(config, indent=2, allow_nan=False) + "\n",
        README: model_card.readme(config, rule, folder.absolute().name, address),
    }
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in rule.state_dict().items()}
    try:
        refuse_not_finite(weights)
    except ValueError as error:
        raise ValueError(f"this {type(rule).__name__} is not saved, as no update could come of it: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder


def load(path: str | Path) -> UpdateRule:
    """Return the rule in an exported folder, or the best one in a training checkpoint (`.ckpt`), on the CPU.

    The folder may also be given by a file in it, or by the run's folder that holds it as `best/`. Weights have the
    file's dtype, whatever the default dtype and device are. Raises ValueError, in one line, for anything else: missing,
    truncated, foreign.
    """
    try:
        place = locate(path)
        with torch.device("cpu"):
            return _load_folder(place) if place.is_dir() else _load_checkpoint(place)
    except ValueError as error:
        raise ValueError(one_line(error)) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a training checkpoint's contents; ValueError where it is missing, damaged or written by something else."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no checkpoint at '{path}'")
    try:
        refuse_lfs_pointer(path)
        checkpoint = _intact(path)
    except ValueError as error:
        raise ValueError(one_line(f"'{path}' is damaged or no checkpoint: {error}: use another one")) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("l2o"), dict):
        raise ValueError(f"'{path}' is no checkpoint of l2o's train.py")
    return checkpoint


def _intact(path: Path) -> Any:
    """What a checkpoint holds; torch writes a checksum of each part, but does not check it."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise many kinds for damaged files
        raise ValueError(why_no_checkpoint(path, error)) from error
    raise ValueError(f"{damaged} has another checksum than when it was written")


def _load_checkpoint(path: Path) -> UpdateRule:
    saved = read_checkpoint(path)["l2o"]
    try:
        description, weights = json.loads(saved["rule"]), saved["best_phi"]
        refuse_sizes(description, weights, build)
        rule = build(description)
    except (KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is no checkpoint of l2o's train.py: {error}") from error
    return _with_weights(rule, weights, path)


def _load_folder(folder: Path) -> UpdateRule:
    try:
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise ValueError(f"there is no file {name}")
            refuse_lfs_pointer(folder / name)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))  # some editors of Windows mark UTF-8
        if reason := why_no_config(config):
            raise ValueError(reason)
        weights = load_file(folder / WEIGHTS)
        refuse_sizes(config["rule"], weights, build)
        rule = build(config["rule"])
        rule.card = config.get("card") if isinstance(config.get("card"), dict) else {}
    except SafetensorError as error:
        raise ValueError(
            f"the trained optimizer in '{folder}' cannot be read: {WEIGHTS} is damaged ({error})"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the trained optimizer in '{folder}' cannot be read: {CONFIG} is damaged ({error})"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"the trained optimizer in '{folder}' cannot be read: {error}") from error
    return _with_weights(rule, weights, folder)


def _with_weights(rule: UpdateRule, weights: Any, path: Path) -> UpdateRule:
    """Give the rule a file's weights, in the file's dtype."""
    try:
        if not isinstance(weights, Mapping):
            raise TypeError(f"they are a {type(weights).__name__}")
        for name, own in rule.state_dict().items():
            if name in weights and not _same_kind(weights[name], own):
                raise TypeError(f"{name} is {getattr(weights[name], 'dtype', type(weights[name]).__name__)}")
        copies = {name: value.clone() for name, value in weights.items()}
        rule.load_state_dict(copies, assign=True)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"the weights in '{path}' do not fit its own config: {error}") from error
    try:
        refuse_not_finite(copies)
    except ValueError as error:
        raise ValueError(f"the trained optimizer in '{path}' is damaged: {error}; use another one") from error
    return rule.eval()


def _same_kind(given: Any, own: Tensor) -> bool:
    """Whether both are tensors of real numbers, or both of the same other dtype."""
    if not isinstance(given, Tensor):
        return False
    return given.dtype == own.dtype or (given.is_floating_point() and own.is_floating_point())
