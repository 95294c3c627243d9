"""The commit that files of results name: that of this project's code and no other, and never a reason to fail."""

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import l2o
from l2o.runs import provenance as module
from l2o.runs.provenance import commit, provenance

OURS = '[project]\nname = "l2o"\n'


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def project(folder: Path, pyproject: str = OURS) -> Path:
    """Write the files of a project, without a repository."""
    for name in ("src/l2o/a.py", "conf/train.yaml", "docs/page.md", "train.py", ".gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("__pycache__/\noutputs/\n")
    (folder / "pyproject.toml").write_text(pyproject)
    return folder


def repository(folder: Path, pyproject: str = OURS) -> Path:
    """Make a project with one commit."""
    project(folder, pyproject)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "Start")
    return folder


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def commit_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str | None]:
    """Return what finds the commit of a package in ROOT/src/l2o, as if it were this one in a new process."""
    for name in module.ELSEWHERE:  # the tests themselves may be run by a hook of git's
        monkeypatch.delenv(name, raising=False)

    def found(root: Path) -> str | None:
        monkeypatch.setattr(module, "ROOT", root.resolve())
        return commit.__wrapped__()

    return found


def test_the_commit_of_a_checkout_and_of_a_worktree_is_found(tmp_path, commit_in):
    root = repository(tmp_path / "a checkout")
    first = head(root)
    assert commit_in(root) == first and len(first) == 40
    git(root, "commit", "-q", "--allow-empty", "-m", "Go on")
    git(root, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"), first)
    assert commit_in(tmp_path / "tree") == first != head(root) == commit_in(root)
    (tmp_path / "link").symlink_to(root)
    assert commit_in(tmp_path / "link") == head(root)


@pytest.mark.parametrize(
    ("change", "dirty"),
    {
        "a changed module": (lambda root: (root / "src/l2o/a.py").write_text("1"), True),
        "a removed module": (lambda root: (root / "src/l2o/a.py").unlink(), True),
        "a new module": (lambda root: (root / "src/l2o/b.py").write_text(""), True),
        "a new file of the configuration": (lambda root: (root / "conf/new.yaml").write_text(""), True),
        "a change that waits for its commit": (
            lambda root: ((root / "train.py").write_text("1"), git(root, "add", ".")),
            True,
        ),
        "a renamed module": (lambda root: git(root, "mv", "src/l2o/a.py", "src/l2o/b.py"), True),
        "a page of the documentation": (lambda root: (root / "docs/page.md").write_text("1"), False),
        "a file beside the code": (lambda root: (root / "mnist.npz").write_text("1"), False),
        "what git ignores": (
            lambda root: [(root / "src/__pycache__").mkdir(), (root / "src/__pycache__/a.pyc").write_text("")],
            False,
        ),
    }.values(),
)
def test_changed_code_is_dirty_and_nothing_else_is(tmp_path, commit_in, change, dirty):
    root = repository(tmp_path)
    git(root, "config", "status.showUntrackedFiles", "no")  # a user's setting, which must not hide a new module
    change(root)
    assert commit_in(root) == head(root) + "-dirty" * dirty


@pytest.mark.parametrize(
    "make",
    {
        "no repository": project,
        "not even a project": lambda folder: folder,
        "another project": lambda folder: repository(folder, '[project]\nname = "theirs"\n'),
        "another project without a name": lambda folder: repository(folder, "[tool.ruff]\nline-length = 100\n"),
        "another kind of project": lambda folder: repository(folder, 'project = "l2o"\n'),
        "a damaged project": lambda folder: repository(folder, "[project\n"),
        "a project in another one": lambda folder: project(repository(folder) / "vendor/l2o"),
        "an environment in another one": lambda folder: repository(folder) / "env/lib/python3.12",
        "a repository without a commit": lambda folder: (git(project(folder), "init", "-q"), folder)[1],
        "a damaged repository": lambda folder: ((repository(folder) / ".git/HEAD").write_text("?"), folder)[1],
    }.values(),
)
def test_the_commit_of_anything_else_is_not_taken_for_ours(tmp_path, commit_in, make):
    assert commit_in(make(tmp_path)) is None


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"])
def test_what_a_hook_of_another_repository_sets_does_not_matter(tmp_path, commit_in, monkeypatch, name):
    root, other = repository(tmp_path / "ours"), repository(tmp_path / "theirs")
    git(other, "commit", "-q", "--allow-empty", "-m", "Go on")
    values = {"GIT_DIR": other / ".git", "GIT_INDEX_FILE": other / ".git/no index", "GIT_WORK_TREE": other}
    expected = head(root)
    monkeypatch.setenv(name, str(values[name]))
    assert commit_in(root) == expected


@pytest.mark.parametrize("script", [None, "exit 1", "exec sleep 60", "printf '\\377'", "kill -9 $$"])
def test_without_a_git_that_answers_the_commit_is_unknown(tmp_path, commit_in, monkeypatch, script):
    root = repository(tmp_path / "root")
    (tmp_path / "bin").mkdir()
    if script is not None:
        (tmp_path / "bin/git").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin/git").chmod(0o755)
        (tmp_path / "bin/sleep").symlink_to("/bin/sleep")
    monkeypatch.setattr(module, "SECONDS", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert commit_in(root) is None


def test_asking_writes_nothing_into_the_repository(tmp_path, commit_in):
    root = repository(tmp_path)
    (root / "train.py").touch()  # git would note in its index that the file has not changed
    before = (root / ".git/index").read_bytes(), sorted(path.name for path in (root / ".git").iterdir())
    commit_in(root)
    assert before == ((root / ".git/index").read_bytes(), sorted(path.name for path in (root / ".git").iterdir()))


def test_a_process_names_the_commit_that_it_started_with(tmp_path, commit_in, monkeypatch):
    root = repository(tmp_path)
    monkeypatch.setattr(module, "ROOT", root.resolve())
    commit.cache_clear()
    try:
        first = provenance()
        git(root, "commit", "-q", "--allow-empty", "-m", "Go on")
        assert provenance()["commit"] == first["commit"] != head(root)
    finally:
        commit.cache_clear()
    assert first.keys() == {"version", "commit", "date"} and first["version"] == l2o.__version__
    date = datetime.fromisoformat(str(first["date"]))
    assert date.utcoffset() == timedelta(0) and abs(datetime.now(UTC) - date) < timedelta(minutes=5)
