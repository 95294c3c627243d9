"""Downloads: a file that was cut off is never used."""

import gzip
import hashlib
import runpy
import struct
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, SMALL
from torchvision.datasets import MNIST

from l2o.data import downloads


class Mirror(ThreadingHTTPServer):
    """MNIST's files, 20 images a split; while `cut`, half of each and then silence."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut, self.files = True, {}
        for prefix in ("train", "t10k"):
            images = struct.pack(">4i", 2051, 20, 28, 28) + np.random.default_rng(0).bytes(20 * 28 * 28)
            labels = struct.pack(">2i", 2049, 20) + bytes(range(10)) * 2
            self.files[f"/{prefix}-images-idx3-ubyte.gz"] = gzip.compress(images)
            self.files[f"/{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(labels)


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[self.path])))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        data = self.server.files[self.path]
        self.wfile.write(data[: len(data) // 2] if self.server.cut else data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with Mirror() as server:
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        sums = [(path[1:], hashlib.md5(data).hexdigest()) for path, data in server.files.items()]
        monkeypatch.setattr(MNIST, "resources", sums)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


SHORT = ("learner.horizon=4", "trainer.max_epochs=1", "trainer.log_every_n_steps=1")


def train(monkeypatch: pytest.MonkeyPatch, folder: Path, data: Path) -> None:
    chosen = [override for override in SMALL if not override.startswith("experiment")]
    problem = ["experiment=mnist", "optimizee.batch_size=4", f"dataset.root={data}", f"hydra.run.dir={folder}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *chosen, *problem, *SHORT])
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def test_a_cut_download_is_answered_in_one_line_and_made_good(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as refused:
        train(monkeypatch, tmp_path / "cut", tmp_path / "data")
    assert "MNIST could not be loaded" in str(refused.value.code)
    assert not list((tmp_path / "data").rglob("*ubyte*")), "half a file"
    mirror.cut = False
    train(monkeypatch, tmp_path / "whole", tmp_path / "data")
    assert (tmp_path / "whole/summary.json").exists()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".lock", "MNIST"]


def read(folder: Path, download: bool) -> str:
    """A loader like torchvision's: it takes whatever stands there."""
    if download:
        folder.mkdir(exist_ok=True)
        (folder / "file").write_text("whole")
    if not (folder / "file").exists():
        raise RuntimeError("Dataset not found")
    return (folder / "file").read_text()


def test_what_is_there_is_read_without_a_trace(tmp_path: Path) -> None:
    read(tmp_path, True)
    assert downloads.whole(read, tmp_path) == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_process_killed_while_it_downloads_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    def killed(folder: Path, download: bool) -> str:
        if download:
            read(folder, True)
            (folder / "file").write_text("ha")
            raise KeyboardInterrupt
        return read(folder, False)

    with pytest.raises(KeyboardInterrupt):
        downloads.whole(killed, tmp_path)
    (tmp_path / ".part").mkdir()  # as kill -9 leaves it
    (tmp_path / ".part/other").write_text("ha")
    assert downloads.whole(read, tmp_path) == "whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "file"]
