"""The modern rules, small, with the shapes of tensors that they meet; and the authors' golden trajectories.

Shapes: B tasks, P coordinates, K steps.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.testing import assert_close

from l2o.optimizees import Layout
from l2o.optimizers import AdafacMLP, Celo, Celo2, Hierarchical, MLPLOpt, Observation, UpdateRule

PEERS = Path(__file__).parent / "golden/peers"

SHAPES = {
    "scalar": (),
    "empty": (0, 3),
    "weight": (3, 5),
    "row": (1, 4),
    "bias": (3,),
    "embed": (4, 2),
    "square": (3, 3),
    "none": (0,),
    "conv": (4, 2, 3, 3),
    "norm/b": (2,),
}
LAYOUT = Layout(SHAPES)

B, K = 3, 4

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""How far a kernel's numbers may be from plain torch's, relative to the largest of a tensor."""

RULES = {
    "adafac_mlp": lambda: AdafacMLP(),
    "adafac_mlp fixed decays": lambda: AdafacMLP(8, 1, learned_decays=False, step_mult=1e-2),
    "adafac_mlp by fan-in": lambda: AdafacMLP(step_scale="fan_in"),
    "adafac_mlp by fan-in and name": lambda: AdafacMLP(step_scale="fan_in", unscaled="weight|conv"),
    "mlp_lopt": lambda: MLPLOpt(6),
    "celo phase 1": lambda: Celo(1),
    "celo phase 2": lambda: Celo(2, scheduler_size=5),
    "celo2": lambda: Celo2(),
    "celo2 as trained": lambda: Celo2(adam_vectors=False, adam_pattern="/b$", bias_correction=False),
    "celo2 base": lambda: Celo2(4, orthogonal=False, adam_vectors=False, adam_pattern=None),
    "hierarchical": lambda: Hierarchical(5, 6, 2),
    "hierarchical and orthogonal": lambda: Hierarchical(5, 6, 2, orthogonal=True, exempt=None),
    "hierarchical with adam's direction": lambda: Hierarchical(5, 6, 2, direction="adam"),
    "hierarchical with a cosine": lambda: Hierarchical(5, 6, 2, schedule="cosine"),
    "scheduled": lambda: Celo2(weight_decay=0.1, warmup=0.3, schedule="cosine", final=0.1),
}


def made(name: str, seed: int = 0) -> UpdateRule:
    """The rule with random φ: what starts at 0, biases and learned initial states, is moved away from it."""
    torch.manual_seed(seed)
    rule = RULES[name]()
    for parameter in rule.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return rule


def seen(grad: Tensor, theta: Tensor, step: int = 0, horizon: float = 20.0, loss: Tensor | None = None) -> Observation:
    full = lambda value: theta.new_full((len(theta),), value)  # noqa: E731
    return Observation(grad, theta, full(1.0) if loss is None else loss, full(step), full(horizon))


def run(
    rule: UpdateRule, grads: Tensor, theta: Tensor, losses: Tensor, layout: Layout, horizon: float = 20.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Updates (K, B, P) for given gradients (K, B, P) and losses (K, B), and the last state."""
    state, updates = rule.init_state(theta, layout), []
    for t, grad in enumerate(grads):
        update, state = rule(seen(grad, theta, t, horizon, losses[t]), state, layout)
        theta = theta + update.detach()
        updates.append(update)
    return torch.stack(updates), state


def random_layout(seed: int) -> Layout:
    """Some tensors with up to five axes, of sizes that are often 0, 1 or equal, and now and then long."""
    draw = random.Random(seed)
    size = lambda: draw.choice((0, 1, 1, 2, 3, 3, 5, 8, 17, 33))  # noqa: E731
    shapes = {f"{i}{draw.choice(('', '/b', 'embed'))}": [size() for _ in range(draw.randrange(5))] for i in range(6)}
    shapes["long"] = [draw.choice((1, 2, 150)), draw.choice((1, 65, 700))]
    return Layout(shapes)


def data(layout: Layout, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients (K, B, P) of many sizes, θ (B, P), losses (K, B)."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    sizes = torch.tensor([1.0, 1e-3, 20.0, 1e-6], dtype=dtype)[:, None, None]
    return sizes * draw(K, B, layout.size), draw(B, layout.size), 2 + 0.3 * draw(K, B)


def assert_alike(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """Each tensor within the tolerance, relative to its largest element."""
    assert found.keys() == wanted.keys()
    for key, right in wanted.items():
        largest = right.abs().max().item() if right.numel() else 0.0
        assert_close(found[key], right, rtol=0, atol=tolerance * largest, msg=lambda text, key=key: f"{key}: {text}")


def with_phi_of_each_task(name: str, rules: list[UpdateRule]) -> UpdateRule:
    """A rule whose φ has a leading task axis."""
    together = made(name)
    for key in dict(together.named_parameters()):
        owner, _, last = key.rpartition(".")
        module, value = together.get_submodule(owner), torch.stack([rule.get_parameter(key) for rule in rules])
        delattr(module, last)
        setattr(module, last, value)
    return together


def golden(name: str) -> dict[str, Any]:
    """A golden file's arrays."""
    with np.load(PEERS / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def golden_names(arrays: dict[str, Any]) -> list[str]:
    return [key.removeprefix("p0|") for key in arrays if key.startswith("p0|")]


def flat(arrays: dict[str, Any], kind: str, step: int | None = None) -> Tensor:
    """θ or ∇ of all tensors, (P,)."""
    parts = [arrays[f"{kind}|{name}"] for name in golden_names(arrays)]
    return torch.cat([torch.from_numpy(part if step is None else part[step]).flatten() for part in parts])


def replayed(rule: UpdateRule, arrays: dict[str, Any], order: list[list[int]]) -> Iterator[Tensor]:
    """θ (B, P) after every step, where task b is given the recorded gradients in `order[b]`."""
    layout = Layout({name: arrays[f"p0|{name}"].shape for name in golden_names(arrays)})
    theta = flat(arrays, "p0").expand(len(order), -1)
    state = rule.init_state(theta, layout)
    for t in range(len(order[0])):
        grad = torch.stack([flat(arrays, "grads", own[t]) for own in order])
        loss = torch.tensor([arrays["losses"][own[t]] for own in order])
        with torch.no_grad():
            update, state = rule(seen(grad, theta, t, float(arrays["num_steps"]), loss), state, layout)
        theta = theta + update
        yield theta
