"""W&B: online where a key is set and the server answers, else offline; never a question, never a long wait."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb

from l2o.runs.loggers import wandb_logger

ModeOf = Callable[..., str]


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server that answers everything with 404."""
    with HTTPServer(("127.0.0.1", 0), NotFound) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def silence() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def mode_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModeOf]:
    """The mode in which a run is begun by a user with a key or without, whose server is at `url`."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # a key may lie there
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    begin, modes = wandb.init, []

    def init(mode: str, **settings: Any) -> Any:
        modes.append(mode)
        return begin(mode="disabled", **settings)

    def begun(url: str, key: str | None = "0123456789" * 4, timeout: float = 5.0) -> str:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)
        wandb.teardown()  # W&B reads the environment once
        wandb_logger(str(tmp_path), timeout)
        wandb.finish()
        return modes.pop()

    monkeypatch.setattr(wandb, "init", init)
    yield begun
    wandb.teardown()


def test_a_run_is_online_where_a_server_answers_whatever_it_answers(
    mode_of: ModeOf, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert mode_of(server) == "online"
    assert not [record for record in caplog.records if record.name == "l2o.runs.loggers"]


def test_a_run_is_offline_where_nobody_listens(mode_of: ModeOf, closed: str, caplog: pytest.LogCaptureFixture) -> None:
    assert mode_of(closed) == "offline"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "l2o.runs.loggers"]
    assert "refused" in line and "wandb sync" in line


def test_silence_is_waited_for_no_longer_than_asked(
    mode_of: ModeOf, silence: str, caplog: pytest.LogCaptureFixture
) -> None:
    start = time.monotonic()
    assert mode_of(silence, timeout=0.5) == "offline"
    assert 0.5 <= time.monotonic() - start < 5
    assert any("does not answer" in record.getMessage() for record in caplog.records)


def test_without_a_key_a_run_is_offline(mode_of: ModeOf, server: str, caplog: pytest.LogCaptureFixture) -> None:
    assert mode_of(server, key=None) == "offline"
    assert not [record for record in caplog.records if record.name == "l2o.runs.loggers"]


@pytest.mark.parametrize("mode", ["offline", "disabled", "online"])
def test_the_environment_decides_where_it_says_so(
    mode_of: ModeOf, closed: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert mode_of(closed) == mode
