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
import threading
from typing import Any, NoReturn

import huggingface_hub.repocard
import matplotlib.pyplot
import pytorch_lightning
import torch
import wandb
from compositions import compose_all, parse_configs_once
from hydra.core.plugins import Plugins
from wandb.sdk.data_types._private import MEDIA_TMP

import l2o.figures
import l2o.runs.command_line.preflight
import l2o.runs.drawing
import l2o.runs.mapping
import l2o.runs.meta_training
import l2o.runs.scoring

IMPORTED = huggingface_hub.repocard, matplotlib.pyplot, pytorch_lightning, wandb, l2o.figures, l2o.runs


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
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    leave(0)


def leave(status: int) -> NoReturn:
    """End as Python does, but leave it to the kernel to free what was imported, which takes longer than a small run."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    torch.set_num_threads(1)
    Plugins.instance()  # finds them, which imports them
    parse_configs_once()
    compose_all()
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
