"""Compile the Triton LSTM kernels for an H100 and show what they need of it. No GPU is used.

Triton's wheel brings the compiler (ptxas) and the disassembler. A stack is where registers are spilled to.

    python benchmarks/gpu_registers.py [H L F]
"""

import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton
from torch import float32
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor

from l2o.optimizers.kernels import lstm_triton
from l2o.optimizers.kernels.lstm_triton_source import step_kernel, window_kernel

CAPABILITY, WARP = 90, 32
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHOWN = ("FFMA", "HGMMA", "HMMA", "MUFU", "LDS", "STS", "LDG", "STG", "LDL", "STL", "BAR")


def compiled(name: str, f: int, h: int, layers: int) -> Any:
    """One of the two kernels, for pointers that are aligned and sizes that are not."""
    target = GPUTarget("cuda", CAPABILITY, WARP)
    no_gpu = SimpleNamespace(
        get_current_device=lambda: 0, get_current_target=lambda: target, get_current_stream=lambda device: 0
    )
    triton.runtime.driver.set_active(no_gpu)
    one = MockTensor(float32)
    constants = [*lstm_triton.sizes(f, h), layers, lstm_triton.BLOCK, lstm_triton.PRECISION]
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


def main(hidden: int = 20, layers: int = 2, features: int = 2) -> None:
    """Report both kernels."""
    for name in ("step", "window"):
        report(name, compiled(name, features, hidden, layers))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
