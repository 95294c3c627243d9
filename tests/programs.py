"""The repository's programs as processes of their own, started through `fork_server.py`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SMALL = [
    *("experiment=quadratic", "logger=csv", "trainer.max_epochs=4", "trainer.enable_progress_bar=false"),
    *("learner.num_tasks=2", "learner.horizon=12", "learner.window=4", "learner.episodes_per_epoch=2"),
    *("learner.validation_tasks=3", "optimizer.hidden_size=3", "optimizer.num_layers=1", "evaluation.num_tasks=2"),
    *("evaluation.num_steps=4", "evaluation.tuning_tasks=1", "evaluation.rates_count=2"),
    "evaluation.cache=false",
]
FEW_EVALUATIONS = ["experiment=quadratic", "logger=csv", *(word for word in SMALL if word.startswith("evaluation."))]


class Run:
    """A program that runs."""

    def __init__(self, server: "Server", pid: int, output: Path):
        self.server, self.pid, self.path = server, pid, output
        self.status: int | None = None
        self.started = time.time()

    @property
    def output(self) -> str:
        """What it has written to stdout and stderr."""
        return self.path.read_text()

    def poll(self) -> int | None:
        if self.status is None:
            self.status = self.server.ask(poll=self.pid)
        return self.status

    def wait(self, seconds: float = 300) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < deadline, f"still running after {seconds} s: {self.output[-2000:]}"
            time.sleep(0.01)
        assert self.status is not None
        return self.status

    def wait_for(self, path: Path, seconds: float = 300) -> None:
        """Until a file is there that has been written since the start."""
        deadline = time.monotonic() + seconds
        while not (path.exists() and path.stat().st_mtime >= self.started):
            assert self.poll() is None and time.monotonic() < deadline, self.output[-2000:]
            time.sleep(0.01)

    def kill(self, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill_all(self) -> None:
        """Whatever is left of it and its children."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Server:
    """Starts programs."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self.process = process
        self.runs: list[Run] = []

    def ask(self, **request: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def script(self, script: str, cwd: Path, *arguments: str, file_size: int = 0, **env: str | None) -> Run:
        """A script of the repository, started in `cwd`, where its output goes too."""
        output, argv = cwd / f"output{len(self.runs)}", [str(ROOT / script), *arguments]
        pid = self.ask(argv=argv, cwd=str(cwd), env=env, output=str(output), file_size=file_size)
        self.runs.append(Run(self, pid, output))
        return self.runs[-1]

    def start(self, cwd: Path, *overrides: str, **options: Any) -> Run:
        """train.py on small quadratics."""
        given = {override.split("=")[0] for override in overrides}
        chosen = [override for override in SMALL if override.split("=")[0] not in given]
        return self.script("train.py", cwd, *overrides, *chosen, **options)

    def finish(self, cwd: Path, *overrides: str, status: int = 0, **options: Any) -> Run:
        run = self.start(cwd, *overrides, **options)
        assert run.wait() == status, run.output[-3000:]
        return run


@contextmanager
def server() -> Iterator[Server]:
    command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline().strip() == "ready"
        running = Server(process)
        try:
            yield running
        finally:
            for run in running.runs:
                run.kill_all()
            assert process.stdin
            process.stdin.close()
            process.wait(60)
