"""Starts programs of the repository without paying for their imports each time: one process imports, then forks.

Each line of stdin is a JSON request, each answered by one line: {"argv", "cwd", "env", "output", "file_size"} starts a
program and answers its pid; {"poll": pid} answers its exit status, negative for a signal, null while it runs.
"""

import atexit
import json
import os
import resource
import runpy
import signal
import sys
from typing import Any

import hydra
import matplotlib.pyplot
import pytorch_lightning
import torch
import wandb
from wandb.sdk.data_types._private import MEDIA_TMP

import l2o.figures
import l2o.runs.checkpoints
import l2o.runs.loggers

IMPORTED = hydra, matplotlib.pyplot, pytorch_lightning, wandb, l2o.runs.checkpoints, l2o.runs.loggers, l2o.figures


def become(request: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a shell's background job
    atexit.unregister(MEDIA_TMP.cleanup)  # the folder is shared with the programs to come
    MEDIA_TMP._finalizer.atexit = False  # type: ignore[attr-defined]
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(request["output"], os.O_WRONLY | os.O_CREAT, 0o644)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.chdir(request["cwd"])
    for name, value in request["env"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    if request["file_size"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], resource.RLIM_INFINITY))
    sys.argv = request["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    torch.set_num_threads(1)
    print("ready", flush=True)
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "poll" in request:
            done, status = os.waitpid(request["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if done else None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            become(request)
            return
        print(pid, flush=True)


if __name__ == "__main__":
    main()
