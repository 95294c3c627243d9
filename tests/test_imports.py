"""What an import costs, and what the library needs: each tried in a process of its own."""

import subprocess
import sys

HEAVY = ["torchvision", "PIL", "hydra", "omegaconf", "pytorch_lightning", "rich", "sklearn", "matplotlib", "wandb"]


BLOCKED = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))  # to import any of them fails
"""

USE = """
import l2o, torch
model = torch.nn.Linear(3, 2)
before = model.weight.detach().clone()
for name in l2o.list_pretrained():
    optimizer = l2o.LearnedOptimizer(torch.nn.Linear(3, 2).parameters(), rule := l2o.from_pretrained("digits"))
optimizer = l2o.LearnedOptimizer(model.named_parameters(), rule)
model(torch.ones(4, 3)).square().mean().backward()
optimizer.step()
assert not torch.equal(before, model.weight)
l2o.save_pretrained(rule, "saved")
assert torch.equal(l2o.load("saved").head.weight, rule.head.weight)
l2o.learning_curves(rule, l2o.Quadratic(3), 2, 3, torch.Generator())
"""


def python(code: str, cwd: object = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> list[str]:
    """Which heavy packages a piece of code has imported."""
    return python(f"{code}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])").split()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_by("import l2o") == []


def test_a_learning_curve_needs_nothing_heavy() -> None:
    """What draws and prints comparisons is needed by the programs alone."""
    code = "import l2o, torch; from l2o.optimizers import SGD\n"
    code += "l2o.learning_curves(SGD(0.1), l2o.Quadratic(2), 2, 3, torch.Generator().manual_seed(0))"
    assert loaded_by(f"{code}; from l2o.evaluation import Evaluation") == []


def test_a_folder_of_the_package_needs_no_import_of_its_own() -> None:
    assert python("import l2o; print(l2o.optimizers.SGD(0.1).lr)") == "0.1\n"


def test_importing_optimizees_and_data_imports_nothing_heavy() -> None:
    code = "import l2o.optimizees, l2o.data; from l2o.data import images, digits, from_npz, from_torchvision"
    assert loaded_by(f"{code}; from l2o.optimizees import Classifier, Quadratic, Repeated, Subset, conv_net, mlp") == []


def test_what_needs_torchvision_is_there_when_it_is_asked_for() -> None:
    code = "import l2o.optimizees as o; print(hasattr(o, 'Nothing'), 'Features' in dir(o), o.Features.__name__)\n"
    code += "from l2o.optimizees import *; print(NeuralArt.__module__)"
    assert python(code) == "False True Features\nl2o.optimizees.neural_art\n"


def test_every_public_name_is_there_and_imports_nothing_heavy() -> None:
    assert loaded_by("import l2o\nfor name in l2o.__all__: getattr(l2o, name)") == []
    assert loaded_by("import l2o\nassert {*l2o.__all__} <= {*dir(l2o)}") == []


def test_a_trained_optimizer_needs_torch_numpy_safetensors_and_the_hub_alone(tmp_path) -> None:
    python(BLOCKED + USE, tmp_path)
