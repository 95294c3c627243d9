"""Everything that this package does on a GPU, in one script of at most ten minutes: is it right, and how fast is it?

First the kernels are checked against float64, side by side in processes of their own, which also compiles them.
Then, one after another: meta-training of the LSTM (`gpu_lstm`), a step of the modern rules (`gpu_rules`), evolution
strategies (`gpu_estimators`), and `general` in the training of models (`gpu_use`). A part that fails says so, and the
others go on; what has been measured is in the file after every part.

    python benchmarks/gpu.py [results.json]
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gpu_estimators
import gpu_lstm
import gpu_rules
import gpu_use
import torch

from l2o.runs.provenance import provenance

CHECKS: dict[str, Callable[[torch.device], float]] = {
    **{f"{name}, meta-gradient": lambda device, name=name: gpu_lstm.error_of(name, device) for name in gpu_lstm.SHAPES},
    **{
        f"{name}, update": lambda device, make=make: gpu_rules.largest_error(make, device)
        for name, make in gpu_rules.RULES.items()
    },
}
PARTS = {"lstm": gpu_lstm, "rules": gpu_rules, "estimators": gpu_estimators, "use": gpu_use}
TIMEOUT = 150  # seconds of a check, most of which is compilation


def checked(name: str) -> float | str:
    """Give the largest relative error of a kernel, found in a process of its own; or why there is none."""
    command = [sys.executable, __file__, "--check", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT} seconds"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return float(done.stdout.split()[-1])


def main(path: str | None = None) -> None:
    """Check, measure, print, and write JSON."""
    device, start = torch.device("cuda", 0), time.perf_counter()
    found: dict = {"provenance": provenance(), "device": torch.cuda.get_device_name(device), "torch": torch.__version__}
    print(found["device"], found["torch"], flush=True)
    with ThreadPoolExecutor(8) as pool:
        found["errors"] = dict(zip(CHECKS, pool.map(checked, CHECKS), strict=True))
    for name, error in found["errors"].items():
        print(f"largest relative error of {name:42} {error if isinstance(error, str) else f'{error:.1e}'}", flush=True)
    for name, part in PARTS.items():
        try:
            found[name] = part.report(device)
        except Exception as error:  # of whatever kind: the other parts are still worth having
            found[name] = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{name}: {found[name]}", flush=True)
        torch.cuda.empty_cache()
        print(f"({name}: done after {time.perf_counter() - start:.0f} s)", flush=True)
        if path:
            Path(path).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA GPU and a torch that can use it; there is none here")
    if sys.argv[1:2] == ["--check"]:
        print(CHECKS[sys.argv[2]](torch.device("cuda", 0)))
    else:
        main(*sys.argv[1:2])
