"""Trained rules by name: those in the package, those on the Hugging Face Hub, those in a folder."""

import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from l2o.deploy import export
from l2o.optimizers.base import UpdateRule

PRETRAINED = Path(__file__).with_name("pretrained")
"""One folder for each rule in the package, as train.py leaves it in `best/`: `cp -r outputs/…/best pretrained/NAME`."""


def list_pretrained() -> list[str]:
    """The names of the trained rules in the package."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{export.CONFIG}"))


def from_pretrained(name: str | Path, revision: str | None = None) -> UpdateRule:
    """A trained rule: `list_pretrained()` names one in the package, "owner/name" one on the Hugging Face Hub, a path an
    exported folder or a checkpoint. What exists on this disk comes first.

    Only a config and weights are read, no code. Its card (what it was trained on, results, licence) is `rule.card`.
    Raises ValueError, in one line, where nothing is found or what is found is no intact optimizer.
    """
    if Path(name).exists() or str(name).endswith(".ckpt"):
        return export.load(name)
    if str(name) in list_pretrained():
        return export.load(PRETRAINED / name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        return export.load(_download(str(name), revision))
    raise ValueError(f"no trained optimizer '{name}': {_available()}")


def push_to_hub(rule: UpdateRule, repo_id: str, card: dict[str, Any] | None = None, **create: Any) -> str:
    """Upload a rule with its card to the Hugging Face Hub; `create` goes to `HfApi.create_repo` (private, token, …).
    Returns the commit's address."""
    api = HfApi(token=create.pop("token", None))
    with tempfile.TemporaryDirectory() as parent:
        folder = export.save(rule, Path(parent) / repo_id.rpartition("/")[2], card)
        try:
            repo_id = api.create_repo(repo_id, exist_ok=True, **create).repo_id
            return str(
                api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a learned optimizer")
            )
        except OSError as error:  # HTTP and network errors are
            raise ValueError(f"'{repo_id}' could not be uploaded: {_first_line(error)}") from error


def _download(repo_id: str, revision: str | None) -> Path:
    try:
        files = [hf_hub_download(repo_id, name, revision=revision) for name in (export.CONFIG, export.WEIGHTS)]
    except (OSError, ValueError) as error:
        reason = "no network and not in the cache" if isinstance(error, LocalEntryNotFoundError) else _first_line(error)
        raise ValueError(f"no trained optimizer '{repo_id}' on the Hub ({reason}): {_available()}") from error
    return Path(files[0]).parent


def _available() -> str:
    names = ", ".join(list_pretrained()) or "none"
    return f"give a folder, a .ckpt, a Hub id 'owner/name', or one that comes with l2o ({names})"


def _first_line(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError) and error.server_message:
        return error.server_message
    return (str(error).splitlines() or [type(error).__name__])[0]
