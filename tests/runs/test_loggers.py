"""W&B: online where a key is set and the server answers, else offline; never a question, never a long wait."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from l2o.runs import loggers


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


def test_any_http_answer_counts(server: str) -> None:
    assert loggers._refusal(server, 5.0) is None


def test_a_closed_port_is_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert "refused" in str(loggers._refusal(f"http://127.0.0.1:{port}", 5.0))


def test_silence_is_waited_for_no_longer_than_asked(silence: str) -> None:
    start = time.monotonic()
    assert loggers._refusal(silence, 0.5)
    assert time.monotonic() - start < 2


def test_without_a_key_a_run_is_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(loggers.wandb, "login", lambda **_: False)
    assert loggers._mode(5.0) == "offline"


@pytest.mark.parametrize("answers", [True, False])
def test_with_a_key_a_run_is_online_if_the_server_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr(loggers.wandb, "login", lambda **_: True)
    monkeypatch.setattr(loggers, "_refusal", lambda url, timeout: None if answers else "no route")
    assert loggers._mode(5.0) == ("online" if answers else "offline")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (0 if answers else 1)
    assert answers or "wandb sync" in lines[0]


@pytest.mark.parametrize("mode", ["offline", "disabled", "online"])
def test_the_environment_decides_where_it_says_so(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    assert loggers._mode(5.0) == mode
