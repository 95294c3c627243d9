"""The package's optimizer `general` in the training of models on a GPU, beside the fused Adam.

Of each model: a step with the gradient, the optimizer's step alone, how often twenty steps wait for the GPU, and the
loss after 200 steps on one batch of random data. Then what else a training may do: automatic mixed precision with a
scaled loss, a compiled model, a state that is saved and loaded.

`benchmarks/gpu.py` runs this. By itself:

    python benchmarks/gpu_use.py
"""

import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2o import LearnedOptimizer, from_pretrained

STEPS, WARM_UP, HORIZON = 40, 10, 200
BATCH = 64


def models() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Yield the name of a model, the model, and the shape of what it takes."""
    linear = lambda *sizes: [nn.Linear(a, b) for a, b in pairwise(sizes)]  # noqa: E731
    with_relu = lambda layers: nn.Sequential(*[part for one in layers[:-1] for part in (one, nn.ReLU())], layers[-1])  # noqa: E731
    yield "MLP 64–128–10", with_relu(linear(64, 128, 10)), (64,)
    yield "MLP 784–128–128–10", with_relu(linear(784, 128, 128, 10)), (784,)
    yield "MLP 1024–4096–4096–10", with_relu(linear(1024, 4096, 4096, 10)), (1024,)
    convolutions = [nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 16), (16, 32), (32, 64))]
    layers = [part for one in convolutions for part in (one, nn.ReLU())]
    yield "three convolutions", nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10)), (3, 32, 32)
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    yield "transformer, six layers of 256", nn.Sequential(encoder, nn.Flatten(), nn.Linear(32 * 256, 10)), (32, 256)


def optimizers(model: nn.Module) -> dict[str, Callable[[], torch.optim.Optimizer]]:
    """Give what makes each optimizer."""
    return {
        "fused Adam": lambda: torch.optim.Adam(model.parameters(), 1e-3, fused=True),
        "general": lambda: learned(model),
    }


def learned(model: nn.Module) -> LearnedOptimizer:
    """Make the package's optimizer for a model."""
    return LearnedOptimizer(model.named_parameters(), from_pretrained("general"), horizon=HORIZON)


def training(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Give a step of a training, which returns the loss."""

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step(**({"loss": loss} if isinstance(optimizer, LearnedOptimizer) else {}))
        return loss

    return step


def milliseconds(call: Callable[[], object]) -> float:
    """Give the median time of a call."""
    seconds = []
    for _ in range(WARM_UP + STEPS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[WARM_UP:])


def waits(call: Callable[[], object], count: int = 20) -> int:
    """Count how often some calls make the program wait for the GPU."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(count):
                call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in found)


def compared(name: str, model: nn.Module, shape: tuple[int, ...], device: torch.device) -> dict[str, dict[str, float]]:
    """Train a model with each optimizer from the same start; print and give what is measured."""
    model, rows = model.to(device), {}
    x = torch.randn(BATCH, *shape, device=device)
    y = (x.flatten(1) @ torch.randn(x[0].numel(), 10, device=device)).argmax(1)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    for kind, make in optimizers(model).items():
        model.load_state_dict(start)
        optimizer = make()
        step = training(model, optimizer, x, y)
        whole = milliseconds(step)
        waiting = waits(step)
        for _ in range(HORIZON - WARM_UP - STEPS - 20):
            loss = step()
        alone = milliseconds(make().step)
        rows[kind] = {"whole_ms": whole, "step_ms": alone, "waits_in_20": waiting, "loss": loss.item()}
        print(
            f"{name:32} {kind:12} whole {whole:7.3f} ms, step {alone:7.3f} ms, waits in 20 steps {waiting:3d}, "
            f"loss after {HORIZON} steps {loss.item():.2e}",
            flush=True,
        )
    return rows


def mixed_precision(device: torch.device) -> None:
    """Train with autocast and a scaled loss."""
    model, x, y = _small(device)
    optimizer, scaler = learned(model), torch.amp.GradScaler("cuda")  # type: ignore[reportPrivateImportUsage]
    before = F.cross_entropy(model(x), y)
    for _ in range(50):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert loss < 0.5 * before, (before, loss)


def compiled_model(device: torch.device) -> None:
    """Train a compiled model."""
    model, x, y = _small(device)
    step = training(torch.compile(model), learned(model), x, y)  # type: ignore[reportArgumentType]
    before = step()
    for _ in range(50):
        loss = step()
    assert loss < 0.5 * before, (before, loss)


def saved_state(device: torch.device) -> None:
    """Save a state in the middle, load it, and go on to the same numbers."""
    model, x, y = _small(device)
    step = training(model, optimizer := learned(model), x, y)
    for _ in range(5):
        step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    wanted = [step().item() for _ in range(5)]
    file.seek(0)
    saved = torch.load(file)
    model.load_state_dict(saved["model"])
    other = learned(model)
    other.load_state_dict(saved["optimizer"])
    again = training(model, other, x, y)
    found = [again().item() for _ in range(5)]
    assert found == wanted, (found, wanted)


def _small(device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    x = torch.randn(BATCH, 64, device=device)
    return model, x, (x @ torch.randn(64, 10, device=device)).argmax(1)


def report(device: torch.device) -> dict[str, object]:
    """Print and give what is measured, and what works."""
    torch.manual_seed(0)
    print("\n`general` in a training")
    found: dict[str, object] = {}
    for name, model, shape in models():
        try:
            found[name] = compared(name, model, shape, device)
        except Exception as error:  # whatever it is, the other models go on
            found[name] = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{name}: {found[name]}", flush=True)
    for check in (mixed_precision, compiled_model, saved_state):
        try:
            check(device)
            found[check.__name__] = "works"
        except Exception as error:  # whatever it is, the other checks go on
            found[check.__name__] = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"{check.__name__}: {found[check.__name__]}", flush=True)
    return found


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu_use.py needs a CUDA GPU and a torch that can use it; there is none here")
    report(torch.device("cuda", 0))
