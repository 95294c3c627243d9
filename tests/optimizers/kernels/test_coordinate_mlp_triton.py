"""The modern rules' step in Triton against plain torch: compiled on a GPU, else in Triton's interpreter.

Shapes: B tasks, P coordinates, K steps.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import modern_rules
import pytest
import torch
from interpreted import quick_interpreter  # noqa: F401  (a fixture)
from modern_rules import LAYOUT, TOLERANCE, assert_alike, data, made, random_layout, with_phi_of_each_task
from torch import Tensor

from l2o.native import triton_device
from l2o.optimizees import Layout
from l2o.optimizers import AdafacMLP, UpdateRule
from l2o.optimizers.adafac_mlp import RECIPE
from l2o.optimizers.kernels import (
    coordinate_mlp,
    coordinate_mlp_arguments,
    coordinate_mlp_cpp,
    coordinate_mlp_torch,
    coordinate_mlp_triton,
    coordinate_mlp_units,
)
from l2o.optimizers.kernels.dispatch import donated_state

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SERVED = [name for name in modern_rules.RULES if not name.startswith("hierarchical")]
TASKS = 2

SMALL = Layout({"weight": (3, 5), "bias": (3,), "conv": (2, 2, 3, 3), "norm/b": (2,)})
SOME = Layout(
    {
        "scalar": (),
        "empty": (0, 3),
        "none": (4, 0, 2),
        "vector": (77,),
        "row": (1, 130),
        "tall": (300, 5),
        "conv": (3, 3, 7, 10),
        "kernel": (10, 6, 3, 3),
        "five": (2, 3, 4, 1, 5),
        "same": (5, 5, 5),
        "norm/b": (9,),
    }
)
"""Some of these are cut into several units, and some into several tiles."""


def given(layout: Layout, dtype: torch.dtype, steps: int = 2, tasks: int = TASKS) -> list[Tensor]:
    """Gradients (K, B, P), θ (B, P), losses (K, B)."""
    grads, theta, losses = data(layout, dtype)
    return [part.to(DEVICE) for part in (grads[:steps, :tasks], theta[:tasks], losses[:steps, :tasks])]


@torch.no_grad()
def results(rule: UpdateRule, monkeypatch, kernel, inputs: list[Tensor], layout: Layout) -> dict[str, Tensor]:
    """The updates (K, B, P) and the last state, by one implementation."""
    monkeypatch.setattr(coordinate_mlp, "kernel_for", lambda *_: kernel)
    updates, state = modern_rules.run(rule.to(DEVICE), *inputs, layout)
    return {"updates": updates} | state


def assert_equals_torch(monkeypatch, rule: UpdateRule, inputs: list[Tensor], layout: Layout) -> None:
    kernels = (coordinate_mlp_triton, coordinate_mlp_torch)
    found, wanted = (results(rule, monkeypatch, kernel, inputs, layout) for kernel in kernels)
    assert wanted["updates"].any()
    assert_alike(found, wanted, TOLERANCE[inputs[0].dtype])


@pytest.mark.parametrize("name", SERVED)
def test_equals_torch(monkeypatch, name: str) -> None:
    assert_equals_torch(monkeypatch, made(name), given(LAYOUT, torch.float32), LAYOUT)


@pytest.mark.parametrize("name", ["adafac_mlp", "celo2 base"])
def test_equals_torch_in_float64_for_several_steps(monkeypatch, name: str) -> None:
    assert_equals_torch(monkeypatch, made(name).double(), given(SMALL, torch.float64, 4, 1), SMALL)


def test_large_tensors_of_many_shapes(monkeypatch) -> None:
    assert_equals_torch(monkeypatch, made("adafac_mlp"), given(SOME, torch.float32, 1, 1), SOME)


@pytest.mark.parametrize("name", ["celo phase 1", "celo2 base"])
def test_a_unit_of_several_blocks(monkeypatch, name: str) -> None:
    """The tensors of a large layout are cut into about as many units as a small one's."""
    monkeypatch.setattr(coordinate_mlp_units, "UNITS", 2)
    layout = Layout({"weight": (40, 31), "bias": (300,), "kernel": (2, 20, 31)})
    table = coordinate_mlp_units.tables(layout, tuple(layout.shapes), False, DEVICE)
    assert (table.units[:, 2] - table.units[:, 1]).max() > 2 * coordinate_mlp_units.BLOCK
    assert_equals_torch(monkeypatch, made(name), given(layout, torch.float32, 1, 1), layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", [SOME, *map(random_layout, range(3))], ids=lambda layout: layout.size)
def test_random_shapes(monkeypatch, name: str, dtype: torch.dtype, layout: Layout) -> None:
    assert_equals_torch(monkeypatch, made(name).to(dtype), given(layout, dtype, 2), layout)


@pytest.mark.parametrize("name", ["adafac_mlp"])
def test_one_phi_for_each_task(monkeypatch, name: str) -> None:
    """What each task's rule gives by itself."""
    rules = [made(name, seed) for seed in range(TASKS)]
    grads, theta, losses = given(SMALL, torch.float32, 1)
    together = with_phi_of_each_task(name, rules)
    found = results(together, monkeypatch, coordinate_mlp_triton, [grads, theta, losses], SMALL)
    for b, rule in enumerate(rules):
        own = [grads[:, b : b + 1], theta[b : b + 1], losses[:, b : b + 1]]
        alone = results(rule, monkeypatch, coordinate_mlp_torch, own, SMALL)
        of_task = {key: value[:, b : b + 1] if key == "updates" else value[b : b + 1] for key, value in found.items()}
        assert_alike(of_task, alone, TOLERANCE[torch.float32])


def test_a_donated_state_is_overwritten_and_no_other(monkeypatch) -> None:
    rule = made("adafac_mlp")
    inputs = given(SMALL, torch.float32, 1)
    state = results(rule, monkeypatch, coordinate_mlp_triton, inputs, SMALL)
    del state["updates"]
    copies = {key: value.clone() for key, value in state.items()}
    told = modern_rules.seen(inputs[0][0], inputs[1], 3, 20.0, inputs[2][0])
    with torch.no_grad():
        update, kept = rule(told, state, SMALL)
        assert all(torch.equal(value, copies[key]) for key, value in state.items())
        with donated_state():
            again, overwritten = rule(told, state, SMALL)
    assert torch.equal(update, again)  # equal calls give equal bits
    for key in state:
        assert overwritten[key].data_ptr() == state[key].data_ptr() and torch.equal(overwritten[key], kept[key])


def test_any_strides_will_do(monkeypatch) -> None:
    """Gradients, parameters and states that lie otherwise in memory, rows of a wider tensor among them."""
    rule, (grads, theta, losses) = made("adafac_mlp"), given(SMALL, torch.float32, 2)
    plain = results(rule, monkeypatch, coordinate_mlp_triton, [grads, theta, losses], SMALL)
    state = rule.init_state(theta, SMALL)
    wide = torch.zeros(TASKS, 2 * SMALL.size, device=DEVICE)
    with torch.no_grad(), donated_state():
        for t, grad in enumerate(grads):
            wide[:, SMALL.size :] = theta
            told = modern_rules.seen(grad.t().contiguous().t(), wide[:, SMALL.size :], t, 20.0, losses[t])
            update, state = rule(told, {key: value.contiguous() for key, value in state.items()}, SMALL)
            assert torch.equal(update, plain["updates"][t])
            theta = theta + update


@pytest.mark.parametrize("name", ["adafac_mlp", "celo2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_where_it_does_in_torch(monkeypatch, name: str, value: float) -> None:
    """A gradient that is not finite spoils its own tensor of its own task, and no other."""
    rule, inputs = made(name), given(SMALL, torch.float32, 2)
    for part in ("bias", "weight", "conv"):
        inputs[0][1, 1, SMALL.slices[part].start + 1] = value
    kernels = (coordinate_mlp_triton, coordinate_mlp_torch)
    found, wanted = (results(rule, monkeypatch, kernel, inputs, SMALL) for kernel in kernels)
    for key, right in wanted.items():
        assert torch.equal(found[key].isfinite(), right.isfinite()), key
    assert_alike({"of others": found["updates"][:, 0]}, {"of others": wanted["updates"][:, 0]}, 1e-4)


@pytest.mark.parametrize("shapes", [{}, {"none": (0,), "empty": (0, 3)}])
def test_nothing_to_do(monkeypatch, shapes: dict) -> None:
    layout = Layout(shapes)
    found = results(made("celo2 base"), monkeypatch, coordinate_mlp_triton, given(layout, torch.float32, 1), layout)
    wanted = results(made("celo2 base"), monkeypatch, coordinate_mlp_torch, given(layout, torch.float32, 1), layout)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in wanted.items()}
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def kernel_for(rule: AdafacMLP, theta: Tensor) -> object:
    layout = Layout({"weight": (3, 4)})
    told, state = modern_rules.seen(theta, theta), rule.init_state(theta, layout)
    decays = rule.decays(theta)
    return coordinate_mlp.kernel_for(RECIPE, rule.mlp.weights, decays, told, state, torch.ones(1, 1))


class TestChoice:
    @pytest.fixture(autouse=True)
    def pretend(self, monkeypatch) -> None:
        """Let the kernels be offered on this device, as on a GPU where they work."""
        monkeypatch.setattr(coordinate_mlp_cpp, "serves", lambda *_: False)
        monkeypatch.setattr(triton_device, "offered", lambda device: True)
        monkeypatch.setattr(coordinate_mlp_triton, "_works", lambda *_: True)

    def test_where_nothing_is_recorded(self) -> None:
        rule, theta = AdafacMLP(), torch.randn(2, 12)
        assert kernel_for(rule, theta) is coordinate_mlp_torch
        with torch.no_grad():
            assert kernel_for(rule, theta) is coordinate_mlp_triton
        assert kernel_for(rule.requires_grad_(False), theta) is coordinate_mlp_triton
        assert kernel_for(rule, theta.requires_grad_()) is coordinate_mlp_torch

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_other_dtypes_are_left_to_torch(self, dtype: torch.dtype) -> None:
        rule = AdafacMLP().to(dtype).requires_grad_(False)
        assert kernel_for(rule, torch.randn(2, 12, dtype=dtype)) is coordinate_mlp_torch
        assert kernel_for(rule.float(), torch.randn(2, 12, dtype=dtype)) is coordinate_mlp_torch

    @pytest.mark.parametrize(("hidden", "kernel"), [(64, coordinate_mlp_triton), (65, coordinate_mlp_torch)])
    def test_large_layers_are_left_to_torch(self, hidden: int, kernel: object) -> None:
        assert kernel_for(AdafacMLP(hidden).requires_grad_(False), torch.randn(2, 12)) is kernel

    def test_where_it_fails(self, monkeypatch) -> None:
        monkeypatch.setattr(coordinate_mlp_triton, "_works", lambda *_: False)
        assert kernel_for(AdafacMLP().requires_grad_(False), torch.randn(2, 12)) is coordinate_mlp_torch


def test_offered_on_a_gpu_unless_disabled(monkeypatch) -> None:
    monkeypatch.delenv("L2O_KERNEL", raising=False)
    assert triton_device.offered(torch.device("cuda", 0))
    assert not triton_device.offered(torch.device("cpu")) and not triton_device.offered(torch.device("mps"))
    monkeypatch.setenv("L2O_KERNEL", "0")
    assert not triton_device.offered(torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("version", "tiles"), [("3.6.0", [16, 16, 32]), ("3.8.0+git1", [8, 16, 32]), (None, [8, 16, 32])]
)
def test_tiles_are_as_large_as_this_version_of_triton_wants_them(monkeypatch, version: str | None, tiles: list) -> None:
    monkeypatch.setitem(sys.modules, "triton", version and SimpleNamespace(__version__=version, __spec__=object()))
    if version is None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    triton_device._smallest_tile.cache_clear()
    assert [triton_device.padded(size) for size in (1, 9, 17)] == tiles
    triton_device._smallest_tile.cache_clear()


def test_equals_torch_with_the_tiles_of_an_older_triton(monkeypatch) -> None:
    monkeypatch.setattr(triton_device, "_smallest_tile", lambda: 16)
    coordinate_mlp_arguments.rule_of.cache_clear()
    assert_equals_torch(monkeypatch, made("adafac_mlp"), given(SMALL, torch.float32, 1), SMALL)
    coordinate_mlp_arguments.rule_of.cache_clear()


class TestTrial:
    """What decides whether the kernels work on a device: a tiny step of the rule at hand."""

    GIVEN = (DEVICE, RECIPE, (3, 1, 3), (39, 4, 4, 2))

    @pytest.fixture(autouse=True)
    def pretend(self, monkeypatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def test_succeeds(self) -> None:
        assert coordinate_mlp_triton._works.__wrapped__(*self.GIVEN)

    def test_where_it_fails_one_line_says_so(self, monkeypatch, caplog) -> None:
        def fail(*arguments):
            raise RuntimeError("out of resource: shared memory\nMore.")

        monkeypatch.setattr(coordinate_mlp_triton, "launch", fail)
        assert not coordinate_mlp_triton._works.__wrapped__(*self.GIVEN)
        start = f"the Triton kernel of the coordinates' network is not available on {DEVICE}"
        assert caplog.messages == [f"{start}: out of resource: shared memory"]


def test_importable_without_triton(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it raises
    spec = importlib.util.spec_from_file_location("without_triton", coordinate_mlp_triton.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module._works(torch.device("cuda", 0), *TestTrial.GIVEN[1:])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiles_for_a_gpu() -> None:
    """To an H100's machine code, by the ptxas that comes with Triton; no GPU is needed. A change that makes the
    compiler spill registers shows here."""
    command = [sys.executable, str(BENCHMARKS / "gpu_registers.py"), "modern"]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    stacks = re.findall(r"(.+): (\w+): \d+ registers, (\d+) bytes of stack", output)
    kernels = {"tile_sums", "update_factors", "line_means", "accumulate", "find_scales", "directions", "normalise"}
    kernels |= {"remember", "of_tensors", "direct", "rescale"}
    assert {kernel for _, kernel, _ in stacks} == kernels
    # ptxas of Triton 3.9 keeps two numbers of one kernel there, also where it may use twice the registers.
    assert all(int(stack) <= 8 for *_, stack in stacks), output
    assert sum(int(stack) > 0 for *_, stack in stacks) <= 1, output
