"""Where an exported rule lies, from what a user gives: its folder, a file in it, its run's folder, a checkpoint."""

from pathlib import Path

CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"

HINTS = {
    ".npz": "published weights become an exported optimizer by `python -m l2o import FILE FOLDER`",
    ".pt": "l2o reads exported folders and .ckpt files of train.py",
    ".pth": "l2o reads exported folders and .ckpt files of train.py",
    ".safetensors": f"an exported optimizer is a folder with {CONFIG} and {WEIGHTS}",
}


def is_exported(folder: Path) -> bool:
    """Whether a folder claims to hold an exported rule (the rule may still be damaged)."""
    return (folder / CONFIG).is_file()


def is_here(path: Path) -> bool:
    """Whether `locate` would find something to read at an existing path."""
    return path.is_file() or any(map(is_exported, (path, path / "best"))) or (path / WEIGHTS).is_file()


def locate(path: str | Path) -> Path:
    """Return the exported folder, or the checkpoint, that a path means; `~` is the home folder.

    An exported folder may be given by itself, by one of its files, or by the folder of the run that left it in `best/`.
    Raises ValueError where there is none, saying what lies near by.
    """
    path = Path(path).expanduser()
    if path.suffix == ".ckpt" and not path.is_dir():
        return path  # whoever reads it says whether it exists
    if path.is_file():
        return _folder_of(path)
    if path.is_dir() and not is_exported(path) and is_exported(path / "best"):
        return path / "best"
    if not is_exported(path) and not (path / WEIGHTS).is_file():
        raise ValueError(f"no trained optimizer at '{path}': {_hint(path)}")
    return path


def _folder_of(file: Path) -> Path:
    """The exported folder that a file belongs to."""
    if file.name in (CONFIG, WEIGHTS, README) and is_exported(file.parent):
        return file.parent
    hint = HINTS.get(file.suffix.lower(), f"give a folder with {CONFIG} and {WEIGHTS}, or a .ckpt")
    raise ValueError(f"'{file}' is no trained optimizer: {hint}")


def _hint(path: Path) -> str:
    if checkpoints := sorted(path.glob("*.ckpt")) if path.is_dir() else []:
        return f"there are checkpoints, give one of them, e.g. '{checkpoints[0]}'"
    if runs := sorted(path.glob("*/best/" + CONFIG)) if path.is_dir() else []:
        return f"there are runs in it, give one of them, e.g. '{runs[-1].parent}'"
    missing = "" if path.exists() else "the path does not exist; "
    return f"{missing}expected a folder with {CONFIG} and {WEIGHTS}, or a .ckpt"
