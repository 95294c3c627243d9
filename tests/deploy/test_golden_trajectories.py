"""`LearnedOptimizer` moves parameters as the authors' own code has moved them, at every step.

The files in `golden/peers` hold twelve steps of the authors' JAX (and PyLO's torch) code over recorded gradients.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import l2o

PEERS = Path(__file__).parents[1] / "golden" / "peers"
FILES = ("adafac4", "adafac32", "mlp", "celo", "celo2base", "celo2", "pylo_small_fc")


def largest_errors(path: Path, together: bool = True) -> dict[str, float]:
    """For every tensor the largest error at any step, relative to the tensor's largest change since the start."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    names = [key.removeprefix("p0|") for key in arrays if key.startswith("p0|")]
    params = {name: nn.Parameter(torch.from_numpy(arrays[f"p0|{name}"].copy())) for name in names}
    steps = int(arrays["num_steps"])
    given = list(params.items()) if together else [{"params": [pair]} for pair in params.items()]
    rule = l2o.from_published(path)
    optimizer = l2o.LearnedOptimizer(given, rule, horizon=steps, axes="as_given")
    errors = dict.fromkeys(names, 0.0)
    for t, loss in enumerate(arrays["losses"]):
        for name, param in params.items():
            param.grad = torch.from_numpy(arrays[f"grads|{name}"][t].copy())
        optimizer.step(loss=None if np.isnan(loss) else float(loss))
        for name, param in params.items():
            after, start = arrays[f"after|{name}"], arrays[f"p0|{name}"]
            scale = np.abs(after - start).max()
            errors[name] = max(errors[name], float(np.abs(param.detach().numpy() - after[t]).max() / scale))
    return errors


@pytest.mark.parametrize("together", [True, False], ids=["one group", "a group for each tensor"])
@pytest.mark.parametrize("name", FILES)
def test_the_authors_trajectory(name: str, together: bool) -> None:
    errors = largest_errors(PEERS / f"{name}.npz", together)
    assert len(errors) >= 4
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("name", ["celo2", "celo2base"])
def test_the_trajectory_tells_celo2_from_its_base_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    path = tmp_path / "base_or_not.npz"
    path.write_bytes((PEERS / f"{name}.npz").read_bytes())
    assert max(largest_errors(path).values()) < 1e-5


def test_the_state_may_be_saved_and_loaded_on_the_way() -> None:
    """Factored moments, the scheduler's state and the count of steps come back, to the last bit."""
    for name in FILES:
        with np.load(PEERS / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        names = [key.removeprefix("p0|") for key in arrays if key.startswith("p0|")]
        found = []
        for resumed in (False, True):
            params = {key: nn.Parameter(torch.from_numpy(arrays[f"p0|{key}"].copy())) for key in names}
            rule = l2o.from_published(PEERS / f"{name}.npz")
            make = lambda params=params, rule=rule: l2o.LearnedOptimizer(  # noqa: E731
                list(params.items()), rule, horizon=12, axes="as_given"
            )
            optimizer = make()
            for t in range(6):
                if resumed and t == 3:
                    saved = optimizer.state_dict()
                    optimizer = make()
                    optimizer.load_state_dict(saved)
                for key, param in params.items():
                    param.grad = torch.from_numpy(arrays[f"grads|{key}"][t].copy())
                optimizer.step(loss=float(arrays["losses"][t]))
            found.append([param.detach() for param in params.values()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), name
