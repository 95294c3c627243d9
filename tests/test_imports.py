"""What an import costs, and what the library needs: each tried in a process of its own."""

import subprocess
import sys

HEAVY = ["torchvision", "PIL", "hydra", "omegaconf", "pytorch_lightning", "rich", "sklearn", "matplotlib", "wandb"]


def python(code: str, cwd: object = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> list[str]:
    """Which heavy packages a piece of code has imported."""
    return python(f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])").split()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_by("import l2o") == []


def test_a_folder_of_the_package_needs_no_import_of_its_own() -> None:
    assert python("import l2o; print(l2o.optimizers.SGD(0.1).lr)") == "0.1\n"
