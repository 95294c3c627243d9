"""The Triton LSTM kernels against torch.nn.LSTMCell and autograd: compiled on a GPU, else in Triton's interpreter.

Legend: N coordinates, F features, H hidden units, L layers, K steps.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from observations import recording, seen
from torch import Tensor

from l2o.optimizees import Layout
from l2o.optimizers import LSTM, LogAndSign, Preprocessing
from l2o.optimizers.kernels import dispatch, lstm_cpp, lstm_torch, lstm_triton
from l2o.replay import window_gradient

pytest.importorskip("triton")

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
SCALE = 0.5
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
CASES = [  # F, H, L, N, K; with N = 70 one of the interpreter's two programs goes through two blocks
    (2, 20, 2, 70, 2),
    (1, 1, 1, 1, 1),
    (1, 5, 3, 9, 2),
    (9, 8, 1, 33, 4),
    (2, 32, 2, 17, 1),
]
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


class Given(Preprocessing):
    """Any number of features."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, grad: Tensor) -> Tensor:
        return grad[..., None].expand(*grad.shape, self.num_features)


class Problem:
    """A random LSTM, its inputs and the plain torch answers."""

    def __init__(self, f: int, h: int, layers: int, n: int, k: int, dtype: torch.dtype = torch.float64):
        self.rule = LSTM(Given(f), h, layers).to(DEVICE, dtype)
        self.weights = list(self.rule.parameters())
        draw = lambda *shape: torch.randn(shape, dtype=dtype, device=DEVICE)  # noqa: E731
        self.features, self.cotangent = draw(k, n, f), draw(k, n)
        self.hidden, self.cell = [draw(n, h).tanh() for _ in range(layers)], [draw(n, h) for _ in range(layers)]

    def inputs(self) -> list[Tensor]:
        return [*self.weights, self.features, *self.hidden, *self.cell, self.cotangent]

    def step(self) -> list[Tensor]:
        out, hidden, cell = lstm_triton.step(self.weights, self.features[0], self.hidden, self.cell)
        return [out, *hidden, *cell]

    def gradient(self) -> list[Tensor]:
        window = self.weights, self.features, self.hidden, self.cell, self.cotangent
        return lstm_triton.window_gradient(*window, scale=SCALE)

    @torch.no_grad()
    def torch_step(self) -> list[Tensor]:
        out, hidden, cell = lstm_torch.step(self.weights, self.features[0], self.hidden, self.cell)
        return [out, *hidden, *cell]

    def torch_gradient(self) -> list[Tensor]:
        hidden, cell, total = self.hidden, self.cell, torch.zeros((), device=DEVICE)
        for features, cotangent in zip(self.features, self.cotangent, strict=True):
            out, hidden, cell = lstm_torch.step(self.weights, features, hidden, cell)
            total = total + SCALE * (cotangent * out).sum()
        return list(torch.autograd.grad(total, self.weights))


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Shapes, dtypes and nans agree; the rest to a tolerance relative to each tensor's largest entry."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype and not a.requires_grad
        assert torch.equal(a.isnan(), e.isnan())
        scale = e.nan_to_num(0.0).abs().amax().clamp_min(torch.finfo(e.dtype).tiny)
        assert (a - e).nan_to_num(0.0).abs().amax() <= tolerance * scale


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_torch(case, dtype):
    problem = Problem(*case, dtype)
    before = [tensor.detach().clone() for tensor in problem.inputs()]
    assert_close(problem.step(), problem.torch_step(), TOLERANCE[dtype])
    gradient = problem.gradient()
    assert_close(gradient, problem.torch_gradient(), TOLERANCE[dtype])
    assert all(torch.equal(a, b) for a, b in zip(problem.inputs(), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradient, problem.gradient(), strict=True))  # deterministic


def test_in_place_takes_the_old_state_s_memory():
    problem = Problem(2, 5, 2, 40, 1)
    expected = problem.step()
    hidden, cell = ([part.mT.contiguous().mT for part in parts] for parts in (problem.hidden, problem.cell))
    out, *new = lstm_triton.step(problem.weights, problem.features[0], hidden, cell, in_place=True)
    assert all(torch.equal(a, b) for a, b in zip([out, *new[0], *new[1]], expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip([*hidden, *cell], expected[1:], strict=True))


def test_non_contiguous_inputs():
    problem = Problem(3, 5, 2, 20, 2)
    expected = problem.step() + problem.gradient()
    problem.weights = [w.T.contiguous().T if w.dim() == 2 else w for w in problem.weights]
    problem.features = problem.features.transpose(0, 2).contiguous().transpose(0, 2)
    problem.cotangent = problem.cotangent.T.contiguous().T
    problem.hidden = [h.T.contiguous().T for h in problem.hidden]
    assert all(torch.equal(a, b) for a, b in zip(problem.step() + problem.gradient(), expected, strict=True))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
class TestEveryFloat:
    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    def test_small_cells_keep_their_relative_accuracy(self, dtype):
        """h' = sigmoid(0) tanh(c') with c' = sigmoid(0) c: every entry is nearly exact, however small."""
        problem = Problem(1, 1, 1, 60, 1, dtype)
        problem.cell = [torch.logspace(-12, 1, 60, dtype=dtype, device=DEVICE).view(-1, 1)]
        with torch.no_grad():
            for weight in problem.weights[:4]:
                weight.zero_()
        actual, expected = problem.step(), problem.torch_step()
        assert ((actual[1] - expected[1]) / expected[1]).abs().amax() <= 32 * torch.finfo(dtype).eps

    @pytest.mark.parametrize("scale", [1e2, 1e4])
    def test_large_inputs_saturate(self, scale):
        problem = Problem(2, 8, 2, 20, 2, torch.float32)
        problem.features *= scale
        problem.cell = [scale * cell for cell in problem.cell]
        assert_close(problem.step(), problem.torch_step(), 1e-4)
        assert_close(problem.gradient(), problem.torch_gradient(), 1e-4)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_nan_and_inf_stay_in_their_coordinate(self, value):
        for where in ("features", "hidden", "cell"):
            problem = Problem(2, 5, 2, 20, 1)
            tensor = {"features": problem.features[0], "hidden": problem.hidden[0], "cell": problem.cell[1]}[where]
            tensor[19, 1] = value
            assert_close(problem.step(), problem.torch_step(), 1e-10)

    def test_nan_reaches_the_gradient(self):
        problem = Problem(2, 5, 2, 20, 2)
        problem.features[1, 5, 0] = float("nan")
        assert_close(problem.gradient(), problem.torch_gradient(), 1e-10)


def test_no_coordinates_and_no_steps():
    assert [tuple(t.shape) for t in Problem(2, 5, 1, 0, 1).step()] == [(0,), (0, 5), (0, 5)]
    for n, k in [(0, 2), (3, 0)]:
        problem = Problem(2, 5, 2, n, k)
        gradient = problem.gradient()
        assert [g.shape for g in gradient] == [w.shape for w in problem.weights]
        assert not any(g.any() for g in gradient)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_rule_runs_on_it(dtype, monkeypatch):
    """Updates, states and gradient of a window through `LSTM`, in chunks of coordinates as its caller cuts them."""
    rule, layout = LSTM(LogAndSign(10), hidden_size=6, output_scale=0.1).to(DEVICE, dtype), Layout({"theta": (9,)})
    grads, cotangents = torch.randn(2, 2, 3, 9, dtype=dtype, device=DEVICE)
    state, results = rule.init_state(grads[0], layout), []
    for kernel in (None, lstm_triton):
        monkeypatch.setattr(dispatch, "compiled_kernel", lambda *_, kernel=kernel: kernel)
        with torch.no_grad():
            update, after = rule(seen(grads[0], grads[0]), state, layout)
            part = {name: value[:, 2:7] for name, value in after.items()}
        window = recording(grads[..., 2:7], part, Layout({"theta": (5,)}), grads[0, :, 2:7])
        results.append([update, *after.values(), *window_gradient(rule, window, cotangents[..., 2:7])])
    assert_close(results[1], results[0], TOLERANCE[dtype])


def chosen(features, hidden_size):
    return dispatch.compiled_kernel(features, [torch.empty(0, hidden_size)])


class TestChoice:
    def test_by_device_and_dtype(self, monkeypatch):
        monkeypatch.delenv("L2O_KERNEL", raising=False)
        monkeypatch.setattr(lstm_triton, "_works", lambda device: True)
        monkeypatch.setattr(lstm_cpp, "available", lambda: True)
        on = lambda device, dtype=torch.float32: chosen(Features(device, dtype), 20)  # noqa: E731
        assert on("cpu") is lstm_cpp and on("cuda") is lstm_triton
        assert on("mps") is None and on("cuda", torch.float64) is None
        monkeypatch.setenv("L2O_KERNEL", "0")
        assert on("cuda") is None

    @pytest.mark.parametrize(("hidden", "features", "served"), [(32, 32, True), (33, 2, False), (20, 33, False)])
    def test_large_sizes_are_left_to_torch(self, monkeypatch, hidden, features, served):
        monkeypatch.delenv("L2O_KERNEL", raising=False)
        monkeypatch.setattr(lstm_triton, "_works", lambda device: True)
        given = Features("cuda", torch.float32, features)
        assert (chosen(given, hidden) is lstm_triton) is served

    def test_where_it_fails_one_line_says_so(self, monkeypatch, caplog):
        def fail(*arguments):
            raise RuntimeError("Failed to find C compiler.\nMore.")

        monkeypatch.setattr(lstm_triton, "step", fail)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        assert not lstm_triton._works.__wrapped__(DEVICE)
        assert caplog.messages == [f"the Triton LSTM kernel is not available on {DEVICE}: Failed to find C compiler."]

    def test_importable_without_triton(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "triton", None)  # importing it raises
        spec = importlib.util.spec_from_file_location("without_triton", lstm_triton.__file__)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert not module._works(torch.device("cuda", 0))


class Features:
    """Stands for a tensor on a device that need not be there."""

    def __init__(self, device: str, dtype: torch.dtype, num_features: int = 2):
        self.device, self.dtype, self.shape = torch.device(device), dtype, (7, num_features)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiles_for_a_gpu():
    """To an H100's machine code, by the ptxas that comes with Triton; no GPU is needed. A change that makes the
    compiler give up on registers (32 of them, kilobytes of stack) shows here."""
    command = [sys.executable, str(BENCHMARKS / "gpu_registers.py"), "lstm"]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (_, step_stack), (_, window_stack) = re.findall(r"(\d+) registers, (\d+) bytes of stack", output)
    assert int(step_stack) == 0 and int(window_stack) <= 1024
