"""One thread per process: two busy processes with two threads each on two cores slow each other down tenfold."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton
    os.environ.setdefault("TRITON_INTERPRET", "1")

from compositions import compose_once, parse_configs_once
from programs import Server, server

from l2o.data import Dataset
from l2o.optimizers.kernels import lstm_cpp


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def quick_composition() -> Iterator[None]:
    """Programs in this process compose their configuration quickly; those that `programs` starts, as ever."""
    with pytest.MonkeyPatch.context() as patch:
        parse_configs_once(patch.setattr)
        compose_once(patch.setattr)
        yield


@pytest.fixture(scope="session")
def programs() -> Iterator[Server]:
    """What starts programs: one process for all tests, because it takes long to import what a program needs."""
    with server() as running:
        yield running


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything in float64, for tests of exact mathematics."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=["kernel", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the LSTM where no graph is wanted: the compiled kernel and plain torch."""
    if request.param == "torch":
        monkeypatch.setenv("L2O_KERNEL", "0")
    else:
        monkeypatch.delenv("L2O_KERNEL", raising=False)
        if not lstm_cpp.available():
            pytest.skip("no C++ compiler on this machine")
    return request.param


@pytest.fixture
def dataset() -> Dataset:
    """40 train and 24 test images of 4×4, three classes, uint8. A train pixel is even, a test pixel odd."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda count: 2 * torch.randint(0, 128, (count, 4, 4), generator=generator, dtype=torch.uint8)  # noqa: E731
    labels = lambda count: torch.randint(0, 3, (count,), generator=generator)  # noqa: E731
    return Dataset(draw(40), labels(40), draw(24) + 1, labels(24))
