"""Why a file cannot be read, in this project's words and on one line, with what to do about it."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal would obey instead of showing: a file's own text must not move the reader's cursor."""

POINTER = b"version https://git-lfs"


def one_line(text: object) -> str:
    """Return an error's or a file's text on one line, without what a terminal would obey."""
    return " ".join(ESCAPES.sub("", str(text)).split())


def refuse_lfs_pointer(path: Path) -> None:
    """Raise ValueError for what Git leaves in a large file's place where LFS is not installed."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(f"{path.name} is only Git LFS's pointer to the file: run `git lfs pull` in its folder")


def why_no_config(config: Any) -> str | None:
    """Return why the contents of a config.json are none of ours; None where they may be."""
    if not isinstance(config, dict):
        return "its config.json holds no mapping"
    if config.get("format", 1) is True or config.get("format", 1) != 1:
        return f"its format is {json.dumps(config['format'])}, this version of l2o reads format 1: upgrade l2o"
    if "rule" in config:
        return None if isinstance(config["rule"], dict) else "its config.json's 'rule' describes no optimizer"
    if config.keys() & {"model_type", "architectures", "transformers_version"}:
        return "its config.json is that of a transformers model, not of an optimizer"
    return "its config.json has no 'rule': it was not written by l2o.save_pretrained"


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip archive; `zipfile.is_zipfile` raises for some that are damaged."""
    try:
        return zipfile.is_zipfile(path)
    except Exception:
        return False


def why_no_checkpoint(path: Path, error: Exception) -> str:
    """Return why torch could not read a checkpoint, from the file rather than from torch's advice to trust it."""
    if not is_archive(path):
        return "it is cut off, or was not written by a current torch.save"
    if type(error).__name__ == "UnpicklingError":
        return "it holds objects that are no plain data, and reading them would run their author's code"
    return one_line(str(error).partition("\n")[0]) or type(error).__name__
