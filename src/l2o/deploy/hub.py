"""Trained rules by name: those in the package, those on the Hugging Face Hub, those in a folder."""

import difflib
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from l2o.deploy import export, locations
from l2o.deploy.description import changed
from l2o.deploy.listing import Shipped, described, table
from l2o.deploy.reasons import one_line
from l2o.optimizers.base import UpdateRule

PRETRAINED = Path(__file__).with_name("pretrained")
"""One folder for each rule in the package; its README.md says how a rule is added."""


class Names(list[str]):
    """A list of names of trained rules, which is shown as a table of what is known of them."""

    def __repr__(self) -> str:
        return table(shipped(self))


def list_pretrained() -> Names:
    """Return the names of the trained rules in the package.

    The list shows itself as a table: what each was trained on, from which start, and for how many steps.
    """
    return Names(sorted(path.parent.name for path in PRETRAINED.glob(f"*/{export.CONFIG}")))


def shipped(names: Iterable[str] | None = None) -> list[Shipped]:
    """Return what is known of the package's rules of these names, by default of all."""
    names = list_pretrained() if names is None else names
    return [described(name, export.load(PRETRAINED / name)) for name in names]


def from_pretrained(
    name: str | Path, revision: str | None = None, changes: Mapping[str, Any] | None = None
) -> UpdateRule:
    """Return a trained rule, on the CPU, with the weights and the dtype of its file.

    A name of `list_pretrained()` means the one in the package, "owner/name" one on the Hugging Face Hub (at `revision`,
    a branch, tag or commit, if given), a path an exported folder, the run's folder around it, or a checkpoint. What
    exists on this disk comes first; a folder without an exported optimizer hides no name of the package. `changes` are
    arguments of the rule's constructor that are to have other values than in the file, as `{"direction": "adam"}`; the
    weights must still fit.

    Only a config and weights are read, no code. Its card (what it was trained on, results, licence) is `rule.card`.
    Raises ValueError, in one line, where nothing is found, what is found is no intact optimizer, or it has no argument
    of a name in `changes`.
    """
    if not (changes is None or isinstance(changes, Mapping)):
        raise ValueError(f"changes is a table of arguments, as {{'direction': 'adam'}}, got {changes!r}")
    rule = _found(name, revision)
    return changed(rule, changes) if changes else rule


def _found(name: str | Path, revision: str | None) -> UpdateRule:
    if not isinstance(name, str | Path) or not str(name):
        raise ValueError(f"no trained optimizer {name!r}: {_available()}")
    path, text = Path(name).expanduser(), str(name)
    is_repository = bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text))
    if revision is not None:
        if not is_repository:
            raise ValueError(f"a revision belongs to a Hub id 'owner/name', got '{one_line(name)}'")
        return export.load(_download(text, revision))
    if path.exists() and locations.is_here(path):
        return export.load(path)
    if text in list_pretrained():
        return export.load(PRETRAINED / text)
    try:
        if path.exists() or path.suffix == ".ckpt":
            return export.load(path)  # it says what is wrong there
        if is_repository:
            return export.load(_download(text, None))
    except ValueError as error:
        if path.name not in list_pretrained():
            raise
        raise ValueError(f"{error}; {_of_the_package(path.name)}") from error
    if path.name in list_pretrained():
        raise ValueError(f"there is no folder '{one_line(name)}'; {_of_the_package(path.name)}")
    raise ValueError(f"no trained optimizer '{one_line(name)}': {_nearest(path.name)}{_available()}")


def push_to_hub(rule: UpdateRule, repo_id: str, card: Mapping[str, Any] | None = None, **create: Any) -> str:
    """Upload a rule with its card to the Hugging Face Hub and return the commit's address.

    `create` goes to `HfApi.create_repo` (private, token, …). Raises ValueError, in one line, where the Hub cannot be
    reached or refuses.
    """
    from huggingface_hub import HfApi  # slow to import

    api = HfApi(token=create.pop("token", None))
    with tempfile.TemporaryDirectory() as parent:
        folder = export.save(rule, Path(parent) / repo_id.rpartition("/")[2], card, address=repo_id)
        try:
            repo_id = api.create_repo(repo_id, exist_ok=True, **create).repo_id
            return str(
                api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a learned optimizer")
            )
        except (ValueError, *_network_errors()) as error:
            raise ValueError(f"'{repo_id}' could not be uploaded: {_reason(error)}") from error


def _download(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download  # slow to import

    try:
        files = [hf_hub_download(repo_id, name, revision=revision) for name in (export.CONFIG, export.WEIGHTS)]
    except (ValueError, *_network_errors()) as error:
        place = f"'{repo_id}' on the Hub" + (f" at revision '{revision}'" if revision else " or on this disk")
        raise ValueError(f"no trained optimizer {place} ({_reason(error)}): {_available()}") from error
    return Path(files[0]).parent


def _network_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises: its own errors, and those of whichever HTTP library it is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, *(base for base in HfHubHTTPError.__mro__ if base.__name__ in ("HTTPError", "RequestException"))


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError):
        return "no network and not in the cache"
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub's client is told to be offline: unset HF_HUB_OFFLINE"
    if "Connect" in type(error).__name__ or "Timeout" in type(error).__name__:
        return f"the Hub cannot be reached: is there a network? ({one_line(error) or type(error).__name__})"
    if isinstance(error, HfHubHTTPError) and error.server_message:
        return one_line(error.server_message)
    return one_line(str(error).partition("\n")[0]) or type(error).__name__


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), list_pretrained(), n=1)
    return f"did you mean '{near[0]}'? " if near else ""


def _of_the_package(name: str) -> str:
    return f"the one that comes with l2o is called '{name}', without a folder"


def _available() -> str:
    names = ", ".join(list_pretrained()) or "none"
    return f"give a folder, a .ckpt, a Hub id 'owner/name', or one that comes with l2o ({names})"
