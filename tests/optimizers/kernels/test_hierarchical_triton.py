"""The hierarchical rule's step in Triton against plain torch: compiled on a GPU, else in Triton's interpreter.

Shapes: B tasks, P coordinates, K steps.
"""

import importlib.util
import math
import sys

import modern_rules
import pytest
import torch
from interpreted import quick_interpreter  # noqa: F401  (a fixture)
from modern_rules import TOLERANCE
from torch import Tensor
from torch.testing import assert_close

from l2o.native import triton_device
from l2o.optimizees import Layout
from l2o.optimizers import Hierarchical, hierarchical
from l2o.optimizers.kernels import coordinate_mlp_units, hierarchical_cpp, hierarchical_triton
from l2o.optimizers.kernels.dispatch import donated_state
from l2o.optimizers.kernels.hierarchical import kernel_for
from l2o.optimizers.kernels.hierarchical_memory import Settings
from l2o.optimizers.phi import with_phi

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
TASKS, STEPS = 2, 3
LAYOUT = Layout({"scalar": (), "empty": (0, 3), "weight": (3, 5), "bias": (3,), "conv": (2, 2, 3, 3)})
LONG = Layout({"weight": (40, 31), "none": (0,), "bias": (300,), "row": (1, 130)})
"""Some of its tensors are cut into several units."""

SETTINGS = Settings(0.01, 0.1, cosine=False, adam=False, reads_loss=True, gain=3.0, largest_exponent=4.0)
SIZES = (8, 8, 5)


def noisy(dtype: torch.dtype = torch.float32, seed: int = 0, **options) -> Hierarchical:
    """Make a rule whose φ is far from its start."""
    torch.manual_seed(seed)
    rule = Hierarchical(**options).to(dtype)
    for parameter in rule.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return rule.requires_grad_(False).to(DEVICE)


def data(layout: Layout, dtype: torch.dtype = torch.float32, steps: int = STEPS) -> list[Tensor]:
    """Gradients (K, B, P), θ (B, P), losses (K, B)."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype).to(DEVICE)  # noqa: E731
    return [draw(steps, TASKS, layout.size), draw(TASKS, layout.size), draw(steps, TASKS).exp()]


def results(monkeypatch, kernel, rule: Hierarchical, given: list[Tensor], layout: Layout, horizon: float = 8.0) -> dict:
    """The updates (K, B, P) and the last state, by one implementation."""
    monkeypatch.setattr(hierarchical, "kernel_for", lambda *_: kernel)
    updates, state = modern_rules.run(rule, *given, layout, horizon)
    return {"updates": updates} | state


def assert_equals_torch(
    monkeypatch, rule: Hierarchical, given: list[Tensor], layout: Layout, horizon: float = 8.0
) -> None:
    found, wanted = (
        results(monkeypatch, kernel, rule, given, layout, horizon) for kernel in (hierarchical_triton, None)
    )
    assert found.keys() == wanted.keys() and wanted["updates"].any()
    tolerance = TOLERANCE[given[0].dtype]
    for key, right in wanted.items():
        assert found[key].shape == right.shape and found[key].dtype == right.dtype, key
        largest = right[right.isfinite()].abs().max().item() if right.numel() else 0
        assert_close(found[key], right, rtol=0, atol=tolerance * max(largest, 1e-30), equal_nan=True, msg=key)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_equals_torch(monkeypatch, dtype: torch.dtype) -> None:
    assert_equals_torch(monkeypatch, noisy(dtype), data(LAYOUT, dtype), LAYOUT)


@pytest.mark.parametrize(
    "options",
    [
        {"direction": "adam"},
        {"schedule": "cosine", "warmup": 0.5},
        {"reads_loss": False, "hidden_size": 5},
        {"momentum_decays": [0.8], "tensor_hidden_size": 3, "told": 1},
        {"orthogonal": True, "exempt": None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_equals_torch_with_every_option(monkeypatch, options: dict) -> None:
    rule = noisy(torch.float64, **options)
    assert_equals_torch(monkeypatch, rule, data(LAYOUT, torch.float64, 2), LAYOUT)


@pytest.mark.parametrize("units", [coordinate_mlp_units.UNITS, 2])
def test_tensors_of_several_units_and_units_of_several_blocks(monkeypatch, units: int) -> None:
    monkeypatch.setattr(hierarchical_triton, "UNITS", units)
    hierarchical_triton._tables.cache_clear()
    table = hierarchical_triton._tables(tuple(map(math.prod, LONG.shapes.values())), DEVICE)
    assert table.tensors[0, 1] > 1 and (table.units[:, 2].max() > coordinate_mlp_units.BLOCK) == (units == 2)
    assert_equals_torch(monkeypatch, noisy(torch.float64), data(LONG, torch.float64, 1), LONG)
    hierarchical_triton._tables.cache_clear()


def test_losses_that_come_and_go_are_negative_or_huge_and_a_horizon_that_ends(monkeypatch) -> None:
    layout = Layout({"weight": (2, 3)})
    given = data(layout, torch.float64, 6)
    losses = given[2]
    losses[0], losses[2, 0], losses[3, 1], losses[4, 0], losses[5, 0] = math.nan, math.inf, -1.0, 1e300, 0.0
    for horizon in (4.0, math.inf):
        assert_equals_torch(monkeypatch, noisy(torch.float64), given, layout, horizon)


def test_the_averages_start_long(monkeypatch) -> None:
    """1 − .9999^t is .0001 at the first step, of which single precision would leave three digits."""
    given = data(LAYOUT, torch.float32, 1)
    rule = noisy(momentum_decays=[0.9, 0.9999])
    found = results(monkeypatch, hierarchical_triton, rule, given, LAYOUT)["updates"]
    wanted = results(monkeypatch, None, rule.double(), [part.double() for part in given], LAYOUT)["updates"]
    assert_close(found.double(), wanted, rtol=0, atol=1e-3 * wanted.abs().max().item())


def test_gradients_of_zero_and_what_is_not_a_number_stays_in_its_tensor(monkeypatch) -> None:
    given = data(LAYOUT, torch.float64, 2)
    given[0][:, 0] = 0
    given[0][1, 1, LAYOUT.slices["bias"].start] = math.nan
    given[0][1, 1, LAYOUT.slices["weight"].start] = math.inf
    kernels = (hierarchical_triton, None)
    found, wanted = (results(monkeypatch, kernel, noisy(torch.float64), given, LAYOUT) for kernel in kernels)
    for key, right in wanted.items():
        assert torch.equal(found[key].isfinite(), right.isfinite()), key
    updates = found["updates"]
    assert updates[1, 1, LAYOUT.slices["bias"]].isnan().all()
    assert_close(updates[..., LAYOUT.slices["conv"]], wanted["updates"][..., LAYOUT.slices["conv"]])


@pytest.mark.parametrize("names", [("mlp.bias_0", "tensor_mlp.weight_2"), None], ids=["some", "all"])
def test_phi_of_which_a_part_is_each_task_s_own(monkeypatch, names: tuple[str, ...] | None) -> None:
    rule, given = noisy(torch.float64), data(LAYOUT, torch.float64, 1)
    own = {
        name: p + 0.1 * torch.randn(TASKS, *p.shape, dtype=p.dtype, device=DEVICE)
        for name, p in rule.named_parameters()
        if names is None or name in names
    }
    with with_phi(rule, own):
        assert_equals_torch(monkeypatch, rule, given, LAYOUT)


def test_a_donated_state_is_overwritten_and_no_other(monkeypatch) -> None:
    rule, (grads, theta, losses) = noisy(), data(LAYOUT, steps=1)
    state = results(monkeypatch, hierarchical_triton, rule, [grads, theta, losses], LAYOUT)
    del state["updates"]
    copies = {key: value.clone() for key, value in state.items()}
    told = modern_rules.seen(grads[0], theta, 3, 20.0, losses[0])
    update, kept = rule(told, state, LAYOUT)
    assert all(torch.equal(value, copies[key]) for key, value in state.items())
    with donated_state():
        again, overwritten = rule(told, state, LAYOUT)
    assert torch.equal(update, again)  # equal calls give equal bits
    assert all(torch.equal(overwritten[key], kept[key]) for key in state)
    for key in ("momenta", "square"):
        assert overwritten[key].data_ptr() == state[key].data_ptr()


def test_any_strides_will_do(monkeypatch) -> None:
    """Gradients, parameters and states that lie otherwise in memory, rows of a wider tensor among them."""
    rule, (grads, theta, losses) = noisy(), data(LAYOUT, steps=2)
    plain = results(monkeypatch, hierarchical_triton, rule, [grads, theta, losses], LAYOUT)
    state, at = rule.init_state(theta, LAYOUT), theta
    with donated_state():
        for t, grad in enumerate(grads):
            wide = torch.cat((torch.zeros_like(at), at), 1)
            told = modern_rules.seen(grad.t().contiguous().t(), wide[:, LAYOUT.size :], t, 8.0, losses[t])
            update, state = rule(told, {key: value.contiguous() for key, value in state.items()}, LAYOUT)
            assert torch.equal(update, plain["updates"][t])
            at = at + update


@pytest.mark.skipif(sys.platform != "linux", reason="takes far more memory than there is, of which little is touched")
def test_momenta_that_lie_further_apart_than_32_bits_reach(monkeypatch) -> None:
    """As those of a chunk do in a group of 2³⁰ parameters and more."""
    layout, apart = Layout({"weight": (2, 3)}), 2**30
    try:
        far = torch.empty(3, 1, apart, device=DEVICE)
    except (RuntimeError, MemoryError):
        pytest.skip("this machine gives nobody so much memory, even unused")
    grads, theta, losses = data(layout, steps=1)
    rule, told = noisy(), modern_rules.seen(grads[0, :1], theta[:1], 0, 20.0, losses[0, :1])
    state = rule.init_state(theta[:1], layout)
    wide = {key: value.clone() for key, value in state.items()}
    wide["momenta"] = far[..., : layout.size].zero_().movedim(0, -1)
    updates = []
    for kernel, own in ((hierarchical_triton, wide), (None, state)):
        monkeypatch.setattr(hierarchical, "kernel_for", lambda *_, kernel=kernel: kernel)
        with donated_state():
            updates.append(rule(told, own, layout)[0])
    assert_close(*updates, rtol=0, atol=1e-4 * updates[1].abs().max().item())


def test_an_infinite_mean_stays_infinite(monkeypatch) -> None:
    """As in torch.lerp, where the mean before it was finite."""
    given = data(LAYOUT, torch.float32, 2)
    given[0][0] *= 1e15
    given[0][1] = 0
    rule = noisy(square_decay=0.0)
    kernels = (hierarchical_triton, None)
    found, wanted = (results(monkeypatch, kernel, rule, given, LAYOUT) for kernel in kernels)
    for key, right in wanted.items():
        assert torch.equal(found[key].isnan(), right.isnan()), key


def test_nothing_to_do(monkeypatch) -> None:
    layout = Layout({"none": (0,), "empty": (0, 3)})
    found, wanted = (
        results(monkeypatch, kernel, noisy(), data(layout, steps=1), layout) for kernel in (hierarchical_triton, None)
    )
    for key, value in wanted.items():
        assert_close(found[key], value, msg=key)
    monkeypatch.setattr(hierarchical, "kernel_for", lambda *_: hierarchical_triton)
    grads, theta, losses = data(LAYOUT, steps=1)
    updates, state = modern_rules.run(noisy(), grads[:, :0], theta[:0], losses[:, :0], LAYOUT)
    assert updates.shape == (1, 0, LAYOUT.size) and len(state["step"]) == 0


class TestChoice:
    @pytest.fixture(autouse=True)
    def pretend(self, monkeypatch) -> None:
        """Let the kernels be offered on this device, as on a GPU where they work."""
        monkeypatch.setattr(hierarchical_cpp, "serves", lambda *_: False)
        monkeypatch.setattr(triton_device, "offered", lambda device: True)
        monkeypatch.setattr(hierarchical_triton, "_works", lambda *_: True)

    def test_in_single_precision_where_nothing_is_recorded(self) -> None:
        one = torch.ones(1, 1)
        choose = lambda tensor: kernel_for(SETTINGS, 3, SIZES, [one, tensor], LAYOUT)  # noqa: E731
        assert choose(one) is hierarchical_triton
        assert choose(one.double()) is None and choose(one.bfloat16()) is None
        assert choose(one.clone().requires_grad_()) is None
        with torch.no_grad():
            assert choose(one.clone().requires_grad_()) is hierarchical_triton

    @pytest.mark.parametrize(
        ("momenta", "sizes", "shapes"),
        [(9, SIZES, (3,)), (3, (65, 8, 5), (3,)), (4, (33, 8, 5), (3,)), (3, (8, 65, 5), (3,)), (3, SIZES, None)],
    )
    def test_what_is_too_large_or_nothing_is_left_to_torch(self, momenta: int, sizes: tuple, shapes) -> None:
        layout = Layout({"weight": shapes} if shapes else {})
        assert kernel_for(SETTINGS, momenta, sizes, [torch.ones(1, 1)], layout) is None

    def test_where_it_fails(self, monkeypatch) -> None:
        monkeypatch.setattr(hierarchical_triton, "_works", lambda *_: False)
        assert kernel_for(SETTINGS, 3, SIZES, [torch.ones(1, 1)], LAYOUT) is None


class TestTrial:
    """What decides whether the kernels work on a device: a tiny step of the rule at hand."""

    GIVEN = (DEVICE, SETTINGS, 3, SIZES)

    @pytest.fixture(autouse=True)
    def pretend(self, monkeypatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def test_succeeds(self) -> None:
        assert hierarchical_triton._works.__wrapped__(*self.GIVEN)

    def test_where_it_fails_one_line_says_so(self, monkeypatch, caplog) -> None:
        def fail(*arguments):
            raise RuntimeError("out of resource: shared memory\nMore.")

        monkeypatch.setattr(hierarchical_triton, "launch", fail)
        assert not hierarchical_triton._works.__wrapped__(*self.GIVEN)
        start = f"the Triton kernel of the hierarchical rule is not available on {DEVICE}"
        assert caplog.messages == [f"{start}: out of resource: shared memory"]


def test_shapes_that_do_not_fit_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(hierarchical, "kernel_for", lambda *_: hierarchical_triton)
    rule, (grads, theta, losses) = noisy(), data(LAYOUT, steps=1)
    state, told = rule.init_state(theta, LAYOUT), modern_rules.seen(grads[0], theta, 0, 20.0, losses[0])
    with pytest.raises(ValueError, match="loss must have the shape"):
        rule(told._replace(loss=losses[0, :1]), state, LAYOUT)
    with pytest.raises(ValueError, match="momenta must have the shape"):
        rule(told, state | {"momenta": state["momenta"][..., :-1]}, LAYOUT)


def test_importable_without_triton(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it raises
    spec = importlib.util.spec_from_file_location("without_triton", hierarchical_triton.__file__)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module._works(torch.device("cuda", 0), *TestTrial.GIVEN[1:])
