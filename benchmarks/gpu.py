"""Everything that this package does on a GPU, in one script of at most ten minutes: is it right, and how fast is it?

First the kernels are checked against float64, side by side in processes of their own, which also compiles them.
Then, one after another: `general` in the training of models (`gpu_use`), a step of the modern rules (`gpu_rules`),
meta-training of the LSTM (`gpu_lstm`), and evolution strategies (`gpu_estimators`). A part that fails says so, and the
others go on; what has been measured is in the file after every part.

    python benchmarks/gpu.py [results.json]
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gpu_estimators
import gpu_lstm
import gpu_networks
import gpu_rules
import gpu_use
import torch

from l2o.runs.provenance import provenance

CHECKS: dict[str, Callable[[torch.device], float]] = {
    **{f"{name}, meta-gradient": lambda device, name=name: gpu_lstm.error_of(name, device) for name in gpu_lstm.SHAPES},
    **{f"{name}, loss and gradient": make for name, make in gpu_networks.CHECKS.items()},
    **{
        f"{name}, update": lambda device, make=make: gpu_rules.largest_error(make, device)
        for name, make in gpu_rules.RULES.items()
    },
}
PARTS = {"use": gpu_use, "networks": gpu_networks, "rules": gpu_rules, "lstm": gpu_lstm, "estimators": gpu_estimators}
"""The last one records graphs: where that fails, the process may be good for nothing more."""

TIMEOUT = 120  # seconds of a check, most of which is compilation


def checked(name: str) -> float | str:
    """Give the largest relative error of a kernel, found in a process of its own; or why there is none."""
    command = [sys.executable, __file__, "--check", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT} seconds"
    said = done.stderr.strip().splitlines()
    if done.returncode or any("is not available" in line for line in said):  # plain torch would be compared with itself
        return next((line for line in said if "is not available" in line), said[-1] if said else "no word of why")
    return float(done.stdout.split()[-1])


def main(path: str | None = None) -> None:
    """Check, measure, print, and write JSON."""
    device, start = torch.device("cuda", 0), time.perf_counter()
    found: dict = {"provenance": provenance(), "device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    print(found["device"], found["torch"], flush=True)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        found["errors"] = dict(zip(CHECKS, pool.map(checked, CHECKS), strict=True))
    for name, error in found["errors"].items():
        print(f"largest relative error of {name:42} {error if isinstance(error, str) else f'{error:.1e}'}", flush=True)
    _save(found, path)
    for name, part in PARTS.items():
        try:
            found[name] = part.report(device)
        except Exception as error:  # of whatever kind: the other parts are still worth having
            found[name] = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{name}: {found[name]}", flush=True)
        torch.cuda.empty_cache()
        print(f"({name}: done after {time.perf_counter() - start:.0f} s)", flush=True)
        _save(found, path)


def _save(found: dict, path: str | None) -> None:
    if path:
        Path(path).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA GPU and a torch that can use it; there is none here")
    if sys.argv[1:2] == ["--check"]:
        print(CHECKS[sys.argv[2]](torch.device("cuda", 0)))
    else:
        main(*sys.argv[1:2])
