"""What every file of results says of its origin: which code made it, by which command, and when."""

import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
"""The folder of the checkout, where the package lies in one, as ROOT/src/l2o."""

CODE = ("src", "conf", "benchmarks", "examples", "train.py", "evaluate.py")
"""What decides about results. A changed page of the documentation does not make results doubtful."""

ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE")
"""Variables that would make git answer for another repository; git's hooks, for example, set them."""

SECONDS = 20
"""How long git may take to answer; on a slow network file system it may take longer, and is not waited for."""


def provenance() -> dict[str, str | None]:
    """Return the origin of results that are written now, for the key "provenance" of their file.

    `version` is that of the package, and `commit` is what the function `commit` returns. `date` is now, in UTC, as
    ISO 8601 writes it. `command` is the command line of train.py or evaluate.py, without the user's folders; elsewhere
    the key is missing.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    version = sys.modules["l2o"].__version__  # the package itself lies on a floor above this module
    return {"version": version, "commit": commit(), "date": now, **_command()}


@cache
def commit() -> str | None:
    """Return the commit of the code that runs, with "-dirty" behind it where the code has been changed since.

    None stands where nobody knows it: the package is installed and no checkout, git is missing, or git does not answer.
    A repository of another project around the package does not count. git is asked once in a process, at the first
    call: the programs call this function when they start, because the checkout may change while they run.
    """
    if not _is_our_checkout():
        return None
    said = _git("status", "--porcelain=v2", "--branch", "--untracked-files=normal", "--", *CODE)
    lines = said.splitlines() if said else []
    found = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if not found.isalnum():  # "(initial)" before the first commit
        return None
    return f"{found}-dirty" if any(not line.startswith("#") for line in lines) else found


def _command() -> dict[str, str | None]:
    hydra_config = sys.modules.get("hydra.core.hydra_config")  # Hydra's programs have imported it, others need not
    if hydra_config is None or not hydra_config.HydraConfig.initialized():
        return {}
    from l2o.runs.card import command  # it is slow to import

    return {"command": command()}


def _is_our_checkout() -> bool:
    """Tell whether ROOT is the top of a git checkout, and the project in it is this one."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return False
    if not isinstance(project, dict) or project.get("name") != "l2o":
        return False
    top = _git("rev-parse", "--show-toplevel")
    return bool(top) and Path(top.rstrip("\n")).resolve() == ROOT


def _git(*words: str) -> str | None:
    """Return what git answers in ROOT; None where there is no git or it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # asking must not write into the repository
    try:
        asked = subprocess.run(
            ["git", "-C", str(ROOT), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
            env=environment,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout
