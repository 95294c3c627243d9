"""The compiled LSTM kernel against torch.nn.LSTMCell and autograd.

Legend: N coordinates, F features, H hidden units, L layers, K steps.
"""

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from l2o.native import compilation, libraries
from l2o.optimizers.kernels import lstm_cpp, lstm_torch
from l2o.optimizers.kernels.dispatch import Kernel
from l2o.optimizers.preprocessing import LogAndSign

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
CASES = [  # F, H, L, N, K
    (2, 20, 2, 1000, 5),
    (1, 1, 1, 1, 1),
    (1, 5, 3, 63, 3),
    (5, 33, 2, 64, 2),
    (20, 5, 1, 65, 20),
    (33, 20, 3, 65, 1),
    (3, 4, 1, 1000, 7),
    (2, 8, 2, 1, 20),
    (2, 20, 2, 100, 41),  # a long window: blocks half as large
    (3, 7, 1, 33, 60),
    (6, 32, 2, 70, 3),  # several tiles of gates, of inputs
]
numeric = pytest.mark.skipif(
    os.environ.get("L2O_KERNEL") != "0" and not lstm_cpp.available(), reason="no C++ compiler on this machine"
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("L2O_KERNEL", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Problem:
    """A random LSTM, its inputs and the plain torch answers."""

    def __init__(self, f: int, h: int, layers: int, n: int, k: int, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(f + 10 * h + 100 * layers + n + k)
        self.cells = [nn.LSTMCell(h if layer else f, h, dtype=dtype) for layer in range(layers)]
        self.head = nn.Linear(h, 1, dtype=dtype)
        self.weights: list[Tensor] = [
            *(w for cell in self.cells for w in (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)),
            *(self.head.weight, self.head.bias),
        ]
        self.features = torch.randn(k, n, f, dtype=dtype)
        self.hidden = [torch.randn(n, h, dtype=dtype).tanh() for _ in range(layers)]
        self.cell = [torch.randn(n, h, dtype=dtype) for _ in range(layers)]
        self.cotangent = torch.randn(k, n, dtype=dtype)

    def kernel_step(self) -> list[Tensor]:
        out, hidden, cell = lstm_cpp.step(self.weights, self.features[0], self.hidden, self.cell)
        return [out, *hidden, *cell]

    def kernel_gradient(self) -> list[Tensor]:
        return lstm_cpp.window_gradient(self.weights, self.features, self.hidden, self.cell, self.cotangent)

    def torch_step(self, features: Tensor, hidden: list[Tensor], cell: list[Tensor]) -> list[Tensor]:
        new_hidden, new_cell, x = [], [], features
        for module, h, c in zip(self.cells, hidden, cell, strict=True):
            x, c_next = module(x, (h, c))
            new_hidden.append(x)
            new_cell.append(c_next)
        return [self.head(x).squeeze(-1), *new_hidden, *new_cell]

    def torch_gradient(self) -> list[Tensor]:
        layers, state, total = len(self.cells), [*self.hidden, *self.cell], torch.zeros(())
        for features, cotangent in zip(self.features, self.cotangent, strict=True):
            out, *state = self.torch_step(features, state[:layers], state[layers:])
            total = total + (cotangent * out).sum()
        return list(torch.autograd.grad(total, self.weights))

    def step_pair(self) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            return self.kernel_step(), self.torch_step(self.features[0], self.hidden, self.cell)


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Shapes, dtypes and nans agree; the rest to a tolerance relative to each tensor's largest entry."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        assert torch.equal(a.isnan(), e.isnan())
        scale = e.nan_to_num(0.0).abs().amax().clamp_min(torch.finfo(e.dtype).tiny)
        assert (a - e).nan_to_num(0.0).abs().amax() <= tolerance * scale


@numeric
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
class TestAgainstTorch:
    def test_step(self, case: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
        assert_close(*Problem(*case, dtype).step_pair(), TOLERANCE[dtype])

    def test_window_gradient(self, case: tuple[int, int, int, int, int], dtype: torch.dtype) -> None:
        problem = Problem(*case, dtype)
        assert_close(problem.kernel_gradient(), problem.torch_gradient(), TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", [pytest.param(lstm_cpp, marks=numeric), lstm_torch])
def test_a_factor_of_the_gradient(kernel: Kernel) -> None:
    problem = Problem(2, 5, 2, 63, 3)
    window = problem.weights, problem.features, problem.hidden, problem.cell, problem.cotangent
    expected = [-0.01 * gradient for gradient in problem.torch_gradient()]
    assert_close(kernel.window_gradient(*window, scale=-0.01), expected, 1e-12)


@numeric
@pytest.mark.parametrize("dtype", TOLERANCE)
class TestNonlinearities:
    def test_every_magnitude(self, dtype: torch.dtype) -> None:
        """One unit whose gates see the input alone: sigmoid and tanh over the whole range."""
        problem = Problem(1, 1, 1, 4001, 1, dtype)
        problem.features = torch.linspace(-40, 40, 4001, dtype=dtype).view(1, -1, 1)
        with torch.no_grad():
            problem.weights[0].copy_(torch.tensor([[1.0], [-1.0], [0.5], [2.0]]))
        assert_close(*problem.step_pair(), 16 * torch.finfo(dtype).eps)

    @pytest.mark.parametrize("bias", [1.0, 40.0, 1e3])
    def test_gates_that_are_all_open_or_shut(self, dtype: torch.dtype, bias: float) -> None:
        """Every combination, which is where their denominators are largest, and their product."""
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=dtype)] * 4)
        for row in signs:
            problem = Problem(1, 1, 1, 20, 1, dtype)
            problem.cell = [torch.logspace(-3, 5, 20, dtype=dtype).view(-1, 1)]
            with torch.no_grad():
                problem.weights[2].copy_(bias * row)
            for actual, expected in zip(*problem.step_pair(), strict=True):
                error = (actual - expected).abs() / expected.abs().clamp_min(1)
                assert error.amax() <= 64 * torch.finfo(dtype).eps

    def test_small_cells_keep_their_relative_accuracy(self, dtype: torch.dtype) -> None:
        """h' = sigmoid(0) tanh(c') with c' = sigmoid(0) c: every entry is exact to rounding, however small."""
        problem = Problem(1, 1, 1, 64, 1, dtype)
        problem.cell = [torch.logspace(-12, 0, 64, dtype=dtype).view(-1, 1)]
        with torch.no_grad():
            for weight in problem.weights[:4]:
                weight.zero_()
        actual, expected = problem.step_pair()
        assert ((actual[1] - expected[1]) / expected[1]).abs().amax() <= 8 * torch.finfo(dtype).eps

    @pytest.mark.parametrize("scale", [1e2, 1e4])
    def test_large_inputs_saturate(self, dtype: torch.dtype, scale: float) -> None:
        problem = Problem(2, 20, 2, 130, 4, dtype)
        problem.features *= scale
        problem.cell = [scale * cell for cell in problem.cell]
        assert_close(*problem.step_pair(), TOLERANCE[dtype])
        assert_close(problem.kernel_gradient(), problem.torch_gradient(), TOLERANCE[dtype])

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("where", ["features", "hidden", "cell"])
    def test_nan_and_inf_stay_in_their_coordinate(self, dtype: torch.dtype, where: str, value: float) -> None:
        problem = Problem(2, 8, 2, 70, 1, dtype)
        tensor = {"features": problem.features[0], "hidden": problem.hidden[0], "cell": problem.cell[1]}[where]
        tensor[69, 1] = value
        assert_close(*problem.step_pair(), TOLERANCE[dtype])

    def test_nan_reaches_the_gradient(self, dtype: torch.dtype) -> None:
        problem = Problem(2, 8, 2, 70, 3, dtype)
        problem.features[1, 5, 0] = float("nan")
        assert_close(problem.kernel_gradient(), problem.torch_gradient(), TOLERANCE[dtype])


@numeric
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("p", [1e-3, 1.0, 10.0, 95.0, 1e4])  # e^-95 is subnormal in float32, e^-1e4 is 0
class TestLogAndSign:
    """The features that the kernel makes of gradients are those of `LogAndSign`."""

    def gradients(self, dtype: torch.dtype, p: float) -> Tensor:
        """Every magnitude, both sides of e^-p, and what is special about floats."""
        limits, edge = torch.finfo(dtype), LogAndSign(p).constants(dtype)[1]
        powers = torch.linspace(-1100, 1100, 601, dtype=torch.float64).exp2().to(dtype)
        near_one = torch.linspace(0.3, 3, 301, dtype=dtype)
        near_edge = torch.tensor([edge], dtype=dtype) * torch.linspace(0.9, 1.1, 21, dtype=dtype)
        extremes = [0.0, limits.tiny, limits.smallest_normal / 8, limits.max, torch.inf, torch.nan]
        sizes = torch.cat([powers, near_one, near_edge, torch.tensor(extremes, dtype=dtype)])
        return torch.stack([sizes, -sizes]).T.flatten()

    def test_step(self, dtype: torch.dtype, p: float) -> None:
        """Cells that are all but linear in one feature: the other gates are constant."""
        rule, grads = LogAndSign(p), self.gradients(dtype, p)
        features = rule(grads)
        largest = features.abs().amax(0)
        for column in (0, 1):
            problem = Problem(2, 1, 1, len(grads), 1, dtype)
            with torch.no_grad():
                for weight in problem.weights[:4]:
                    weight.zero_()
                problem.weights[0][2, column] = 1e-3 / largest[column]
            state = problem.hidden, [torch.zeros_like(cell) for cell in problem.cell]
            _, _, (expected,) = lstm_cpp.step(problem.weights, features, *state)
            constants = rule.constants(dtype)
            _, _, (actual,) = lstm_cpp.step(problem.weights, grads[:, None], *state, log_and_sign=constants)
            assert expected.isfinite().all() and expected.abs().max() > 1e-4
            assert ((actual - expected).abs() <= 8 * torch.finfo(dtype).eps * expected.abs()).all()

    def test_window_gradient(self, dtype: torch.dtype, p: float) -> None:
        rule, grads = LogAndSign(p), self.gradients(dtype, p)
        problem = Problem(2, 5, 2, len(grads) // 3, 3, dtype)
        grads = grads[: len(grads) // 3 * 3].view(3, -1)
        states = problem.hidden, problem.cell, problem.cotangent
        expected = lstm_cpp.window_gradient(problem.weights, rule(grads), *states)
        actual = lstm_cpp.window_gradient(problem.weights, grads[..., None], *states, rule.constants(dtype))
        assert_close(actual, expected, 100 * torch.finfo(dtype).eps)


@numeric
@pytest.mark.slow
@pytest.mark.skipif("avx2" not in compilation.processor(), reason="this processor has no AVX2")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64"])
def test_other_instruction_sets(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and tiles for 16 vector registers, of 8 lanes and of 4, which `-march=native` may leave out here."""
    compiler = tmp_path / "compiler"
    arguments = f'set -- "$@" "${{a/#-march=native/-march={target}}}"'
    compiler.write_text(
        f'#!/bin/bash\nfor a; do shift; {arguments}; done\nexec {compilation.find_compiler()[0]} "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    libraries.loaded.cache_clear()
    try:
        for dtype, tolerance in TOLERANCE.items():
            for case in CASES:
                problem = Problem(*case, dtype)
                assert_close(*problem.step_pair(), tolerance)
                assert_close(problem.kernel_gradient(), problem.torch_gradient(), tolerance)
    finally:
        libraries.loaded.cache_clear()


@numeric
class TestContract:
    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize(("n", "k"), [(9000, 3), (2200, 41)])
    def test_bits_do_not_depend_on_threads(self, dtype: torch.dtype, n: int, k: int) -> None:
        problem = Problem(2, 20, 2, n, k, dtype)
        one = problem.kernel_step() + problem.kernel_gradient()
        for threads in (2, 3):
            torch.set_num_threads(threads)
            again = problem.kernel_step() + problem.kernel_gradient()
            assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))

    def test_inputs_are_not_modified(self) -> None:
        problem = Problem(2, 5, 2, 70, 3)
        inputs = [*problem.weights, problem.features, *problem.hidden, *problem.cell, problem.cotangent]
        before = [tensor.detach().clone() for tensor in inputs]
        problem.kernel_step()
        problem.kernel_gradient()
        assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))

    def test_a_step_in_place_is_the_same_step(self) -> None:
        """Into the memory of states that lie unit by unit; others are left alone."""
        problem = Problem(2, 5, 2, 130, 1)
        out, *expected = problem.kernel_step()
        for rows in (True, False):
            states = [(s.T.contiguous().T if rows else s.clone()) for s in (*problem.hidden, *problem.cell)]
            before = [state.clone() for state in states]
            again, hidden, cell = lstm_cpp.step(problem.weights, problem.features[0], states[:2], states[2:], True)
            assert all(torch.equal(a, b) for a, b in zip([again, *hidden, *cell], [out, *expected], strict=True))
            left = expected if rows else before
            assert all(torch.equal(a, b) for a, b in zip(states, left, strict=True))

    def test_columns_of_states_are_stepped_where_they_lie(self) -> None:
        """As a chunk of an optimizer's coordinates: the others' states stay as they are."""
        problem = Problem(2, 5, 2, 130, 3)
        out, *expected = problem.kernel_step()
        gradient = problem.kernel_gradient()
        wide = [torch.full((5, 150), 7.0, dtype=torch.float64) for _ in range(4)]
        states = [part[:, 11:141].mT for part in wide]
        for state, own in zip(states, (*problem.hidden, *problem.cell), strict=True):
            state.copy_(own)
        problem.hidden, problem.cell = states[:2], states[2:]
        assert all(torch.equal(a, b) for a, b in zip(problem.kernel_gradient(), gradient, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(problem.kernel_step(), [out, *expected], strict=True))
        again, *_ = lstm_cpp.step(problem.weights, problem.features[0], states[:2], states[2:], in_place=True)
        assert all(torch.equal(a, b) for a, b in zip([again, *states], [out, *expected], strict=True))
        assert all((part[:, :11] == 7).all() and (part[:, 141:] == 7).all() for part in wide)

    def test_states_that_overlap_are_copied(self) -> None:
        problem = Problem(2, 5, 1, 70, 1)
        problem.hidden = [torch.zeros(70, 1, dtype=torch.float64).expand(70, 5)]
        problem.cell = [torch.zeros(70, 1, dtype=torch.float64).expand(70, 5)]
        out, hidden, _ = lstm_cpp.step(problem.weights, problem.features[0], problem.hidden, problem.cell, True)
        assert_close([out, *hidden], problem.torch_step(problem.features[0], problem.hidden, problem.cell)[:2], 1e-10)

    def test_non_contiguous_inputs(self) -> None:
        problem = Problem(3, 5, 2, 70, 3)
        expected = problem.kernel_step() + problem.kernel_gradient()
        problem.weights = [w.T.contiguous().T if w.dim() == 2 else w for w in problem.weights]
        problem.features = problem.features.transpose(0, 2).contiguous().transpose(0, 2)
        problem.cotangent = problem.cotangent.T.contiguous().T
        problem.hidden = [h.T.contiguous().T for h in problem.hidden]
        actual = problem.kernel_step() + problem.kernel_gradient()
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))

    def test_no_coordinates_and_no_steps(self) -> None:
        assert [tuple(t.shape) for t in Problem(2, 5, 1, 0, 1).kernel_step()] == [(0,), (0, 5), (0, 5)]
        for n, k in [(0, 2), (3, 0)]:
            problem = Problem(2, 5, 2, n, k)
            gradient = problem.kernel_gradient()
            assert [g.shape for g in gradient] == [w.shape for w in problem.weights]
            assert not any(g.any() for g in gradient)

    def test_wrong_inputs_raise(self) -> None:
        problem = Problem(2, 5, 2, 7, 3)
        with pytest.raises(ValueError, match="4 tensors per layer"):
            lstm_cpp.step(problem.weights[:-1], problem.features[0], problem.hidden, problem.cell)
        with pytest.raises(ValueError, match="expected shapes"):
            lstm_cpp.step(problem.weights, problem.features[0, :-1], problem.hidden, problem.cell)
        with pytest.raises(ValueError, match="float32 or all float64"):
            lstm_cpp.step(problem.weights, problem.features[0].float(), problem.hidden, problem.cell)
        logs = LogAndSign(10.0).constants(torch.float64)
        with pytest.raises(ValueError, match="expected shapes"):
            lstm_cpp.step(problem.weights, problem.features[0], problem.hidden, problem.cell, log_and_sign=logs)

    def test_disabled_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("L2O_KERNEL", "0")
        assert not lstm_cpp.available()
        with pytest.raises(RuntimeError, match="not available"):
            Problem(2, 5, 1, 3, 1).kernel_step()

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_works_in_a_forked_child(self) -> None:
        problem = Problem(2, 20, 2, 9000, 1)
        torch.set_num_threads(2)
        problem.kernel_step()
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.write(writer, problem.kernel_step()[0].numpy().tobytes()[:64])
            finally:
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 64) == problem.kernel_step()[0].numpy().tobytes()[:64]
        assert os.waitpid(child, 0)[1] == 0

    @numeric
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_works_where_only_a_forked_child_loads_it(self) -> None:
        """Torch's threads run in the parent, which has imported the kernel but never used it."""
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], timeout=60, check=False)
        assert done.returncode == 0

    def test_without_a_compiler_it_says_so_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("CXX", "/no/compiler")
        libraries.loaded.cache_clear()
        with caplog.at_level(logging.WARNING):
            assert not lstm_cpp.available() and not lstm_cpp.available()
        libraries.loaded.cache_clear()
        assert len(caplog.messages) == 1 and "the compiled LSTM kernel is not available" in caplog.messages[0]

    @numeric
    def test_all_of_torch_s_threads_or_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where there are fewer blocks of coordinates than threads; the rest has nothing to do."""
        problem, calls, original = Problem(2, 20, 2, 130, 40), [], lstm_cpp._threads
        monkeypatch.setattr(lstm_cpp, "_threads", lambda *work: calls.append(original(*work)) or calls[-1])
        expected = problem.kernel_step() + problem.kernel_gradient()
        torch.set_num_threads(7)
        actual = problem.kernel_step() + problem.kernel_gradient()
        assert calls == [1, 1, 1, 7]
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


FORKED = """
import os, signal, torch
from l2o.optimizers.kernels import lstm_cpp
torch.set_num_threads(2)
weights = [torch.zeros(80, 2), torch.zeros(80, 20), *torch.zeros(2, 80), torch.ones(1, 20), torch.ones(1)]
features, state = torch.zeros(2, 9000).mT, [torch.zeros(20, 9000).mT]  # torch itself hangs in such a child
torch.randn(1000, 1000).exp().sum()  # starts torch's threads
if (child := os.fork()) == 0:
    signal.alarm(50)
    assert lstm_cpp._threads(weights, 9000) == 2
    lstm_cpp.step(weights, features, state, state, in_place=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


OUT_OF_MEMORY = """
import resource, torch
from pathlib import Path
from l2o.optimizers.kernels import lstm_cpp

torch.set_num_threads(2)
K, H, N = 2000, 40, 300
size = lambda: int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
weights = [torch.zeros(shape) for shape in ((4 * H, 2), (4 * H, H), (4 * H,), (4 * H,), (1, H), (1,))]
hidden, cell = [torch.zeros(H, N).mT], [torch.zeros(H, N).mT]
run = lambda k: lstm_cpp.window_gradient(weights, torch.zeros(k, 2, N).mT, hidden, cell, torch.zeros(k, N))
run(41)
workspace, before = 7 * K * H * 24 * 4, size()  # that of one thread; the system has room for one, but not for two
resource.setrlimit(resource.RLIMIT_AS, (before + workspace * 8 // 5, -1))
try:
    run(K)
except MemoryError:
    print(size() - before < workspace // 2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workspaces_are_given_back_where_memory_runs_out():
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
