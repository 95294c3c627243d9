"""Compile the Triton kernels for an H100 and show what they need of it: the LSTM's, the modern rules', and networks'.

No GPU is used.

Triton's wheel brings the compiler (ptxas) and the disassembler. A stack is where registers are spilled to.

    python benchmarks/gpu_registers.py lstm [H L F]
    python benchmarks/gpu_registers.py modern
    python benchmarks/gpu_registers.py networks
"""

import collections
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import gpu_networks
import gpu_rules
import torch
import triton
from torch import float32, int64
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor

from l2o.native import triton_device
from l2o.optimizees import Layout, mlp
from l2o.optimizees.kernels import chain_triton
from l2o.optimizees.kernels.chain import chain_of
from l2o.optimizees.kernels.chain_links import Loss
from l2o.optimizees.kernels.chain_triton_source import evaluate
from l2o.optimizers import Observation, UpdateRule, hierarchical
from l2o.optimizers.kernels import (
    coordinate_mlp,
    coordinate_mlp_triton,
    hierarchical_triton,
    lstm_triton,
)
from l2o.optimizers.kernels.lstm_triton_source import step_kernel, window_kernel

CAPABILITY, WARP = 90, 32
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHOWN = ("FFMA", "HGMMA", "HMMA", "MUFU", "LDS", "STS", "LDG", "STG", "LDL", "STL", "BAR")


def pretend() -> None:
    """Let Triton compile for a GPU that is not there."""
    target = GPUTarget("cuda", CAPABILITY, WARP)
    no_gpu = SimpleNamespace(
        get_current_device=lambda: 0, get_current_target=lambda: target, get_current_stream=lambda device: 0
    )
    triton.runtime.driver.set_active(no_gpu)


def compiled(name: str, f: int, h: int, layers: int) -> Any:
    """One of the two kernels, for pointers that are aligned and sizes that are not."""
    one = MockTensor(float32)
    constants = [*lstm_triton.sizes(f, h), layers, lstm_triton.BLOCK, triton_device.PRECISION]
    arguments = [((one,) * 4,) * layers, (one, one), one, (one,) * layers, (one,) * layers, one]
    if name == "step":
        arguments += [(one,) * layers, (one,) * layers, 1001, 1001]
        return step_kernel.warmup(*arguments, *constants, grid=(1,), **lstm_triton.OPTIONS)
    arguments += [one, one, 1001, 21, 1001, 1001, 1001, 1001]
    return window_kernel.warmup(*arguments, *constants, grid=(1,), **lstm_triton.OPTIONS)


def report(name: str, kernel: Any) -> None:
    """Print one line."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        run = lambda *command: subprocess.run([*command, file.name], capture_output=True, text=True, check=True).stdout  # noqa: E731
        found = re.search(r"REG:(\d+) STACK:(\d+)", run(TOOLS / "cuobjdump", "-res-usage"))
        code = run(TOOLS / "nvdisasm", "-c")
    assert found
    registers, stack = found.groups()
    count = collections.Counter(re.findall(r"\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]+)", code))
    listed = ", ".join(f"{count[name]} {name}" for name in SHOWN if count[name])
    print(
        f"{name}: {registers} registers, {stack} bytes of stack, {kernel.metadata.shared} bytes shared, "
        f"{count.total()} instructions ({listed})",
        flush=True,
    )


def launches(rule: UpdateRule, layout: Layout, tasks: int) -> list[tuple[Any, tuple[Any, ...]]]:
    """Every kernel of a step of a modern rule, with the arguments that it is given."""
    grad, number, found = torch.zeros(tasks, layout.size), torch.zeros(tasks), []
    seen, state = Observation(grad, grad, number, number, number + 1), rule.init_state(grad, layout)
    note = lambda kernel, table, _, *rest: found.append((kernel, (table, *rest)))  # noqa: E731
    with ExitStack() as stack:
        for chooser, kernels in ((coordinate_mlp, coordinate_mlp_triton), (hierarchical, hierarchical_triton)):
            stack.enter_context(patch.object(chooser, "kernel_for", lambda *_, own=kernels: own))
            stack.enter_context(patch.object(kernels, "launch", note))
        rule(seen, state, layout)
    return found


def mocked(argument: Any) -> Any:
    """The argument, with what stands for a tensor of a GPU in place of every tensor."""
    if isinstance(argument, torch.Tensor):
        return MockTensor(argument.dtype)
    if not isinstance(argument, tuple):
        return argument
    parts = map(mocked, argument)
    return type(argument)(*parts) if hasattr(argument, "_fields") else tuple(parts)


def of_lstm(hidden: int = 20, layers: int = 2, features: int = 2) -> None:
    """Report the LSTM's two kernels."""
    for name in ("step", "window"):
        report(name, compiled(name, features, hidden, layers))


@torch.no_grad()
def of_modern_rules() -> None:
    """Report the kernels of a small network's step for every coordinate, of each rule that the GPU benchmark measures.

    The last two rules are given a single number: what is 1 then is part of what Triton compiles.
    """
    cases = [(name, make, Layout({"weight": (100, 77), "bias": (77,)}), 3) for name, make in gpu_rules.RULES.items()]
    for name in ("AdafacMLP, h = 4", "general"):
        cases.append((f"{name}, of one number", gpu_rules.RULES[name], Layout({"one": (1, 1)}), 1))
    for name, make, layout, tasks in cases:
        for kernel, arguments in launches(make(), layout, tasks):
            needed = kernel.warmup(*map(mocked, arguments), grid=(1,), **triton_device.OPTIONS)
            report(f"{name}: {kernel.__name__}", needed)


def of_networks() -> None:
    """Report the kernel of small networks' losses and gradients, of each network that the GPU benchmark measures."""
    for name, hidden in gpu_networks.NETWORKS.items():
        network = mlp(64, list(hidden), 10, activation="relu")
        links = chain_of(network, Layout.of_module(network))
        assert links
        layers = chain_triton._layers(links, Loss.CROSS_ENTROPY, 64)
        number, integer = map(MockTensor, (float32, int64))
        given = number, 1001, number, 4096, 64, integer, 64, 64, 0.1, number, number, 1001, layers, False
        report(f"{name}: evaluate", evaluate.warmup(*given, chain_triton.BLOCK, grid=(1,), **chain_triton.OPTIONS))


if __name__ == "__main__":
    pretend()
    kinds = {"lstm": of_lstm, "modern": of_modern_rules, "networks": of_networks}
    kind, *numbers = sys.argv[1:] or ["lstm"]
    if kind not in kinds:
        sys.exit(f"say for which kernels, {' or '.join(kinds)}, got {kind!r}")
    kinds[kind](*map(int, numbers))
