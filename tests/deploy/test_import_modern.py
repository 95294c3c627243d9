"""Published weights of the modern rules: what is recognised, what is not, and what is nearly so."""

from pathlib import Path

import modern_rules
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from l2o.deploy.import_modern import PYLO_OFFSETS, modern_rule
from l2o.deploy.import_published import from_published
from l2o.deploy.weight_files import read_weights
from l2o.optimizers import AdafacMLP, Celo, Celo2, MLPLOpt

KINDS = {"adafac4": AdafacMLP, "adafac32": AdafacMLP, "mlp": MLPLOpt, "celo": Celo, "celo2": Celo2, "celo2base": Celo2}
KINDS |= {"pylo_small_fc": AdafacMLP}


def weights(name: str) -> dict[str, np.ndarray]:
    """A golden file's meta-parameters alone, under the names that a file of weights has."""
    arrays = modern_rules.golden(name)
    found = {key.removeprefix("theta|").replace("|", "/"): value for key, value in arrays.items() if "theta|" in key}
    if name == "celo":  # as in celo.npz
        hidden, cell = found.pop("lstm_init_state")
        found |= {"lstm_init_state/hidden": hidden, "lstm_init_state/cell": cell}
    return found


@pytest.mark.parametrize("name", KINDS)
def test_weights_alone_give_the_rule_of_the_golden_file(name: str) -> None:
    rule, golden = modern_rule(weights(name), name), modern_rule(modern_rules.golden(name), name)
    assert type(rule) is type(golden) is KINDS[name] and not rule.training
    assert rule.state_dict().keys() == golden.state_dict().keys()
    assert all(torch.equal(value, golden.state_dict()[key]) for key, value in rule.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_weights_alone_is_recognised(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / f"{name}.npz", **weights(name))
    rule = from_published(tmp_path / f"{name}.npz")
    assert type(rule) is KINDS[name]


def test_celo_npz_has_33_arrays_of_which_four_have_no_effect() -> None:
    arrays = weights("celo")
    rule = modern_rule(arrays)
    assert len(arrays) == 33 and isinstance(rule, Celo) and rule.phase == 2 and rule.scheduler_size == 64
    numbers = sum(value.size for value in arrays.values()) - sum(p.numel() for p in rule.parameters())
    assert numbers == 18 * 64 + 64 + 64 + 1
    assert torch.equal(rule.scheduler.initial_cell, torch.from_numpy(arrays["lstm_init_state/cell"][0]))


def test_celo2_is_imported_for_use_and_golden_files_as_trained() -> None:
    used, trained = modern_rule(weights("celo2")), modern_rule(modern_rules.golden("celo2"))
    assert (used.adam_vectors, used.adam_pattern, used.bias_correction, used.mult_1d) == (True, "embed", True, 20.0)
    assert (trained.adam_vectors, trained.adam_pattern, trained.bias_correction) == (False, "/b$", False)
    base = modern_rule(modern_rules.golden("celo2base"), "celo2base_long.npz")
    assert (base.orthogonal, base.adam_vectors, base.adam_pattern) == (False, False, None)


def test_pylo_s_decays_and_step(float64) -> None:
    """The decays that its constructor's defaults amount to."""
    rule = modern_rule(weights("pylo_small_fc"))
    assert isinstance(rule, AdafacMLP) and rule.step_mult == 1e-2 and set(PYLO_OFFSETS) < set(rule.state_dict())
    decays = [float(value) for part in rule.decays(torch.zeros(1)) for value in part.detach()]
    published = [0.542, 0.9584, 0.99802, 0.99889, 0.3562, 0.99663, 0.99946]  # as far as they are printed
    assert decays == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize("arrays", [{}, {"linear/w": np.zeros((20, 1))}, {"p0|a": np.zeros(3), "losses": np.zeros(2)}])
def test_other_files_are_not_recognised(arrays: dict[str, np.ndarray]) -> None:
    assert modern_rule(arrays) is None


@pytest.mark.parametrize("name", KINDS)
def test_every_array_must_be_there_and_fit(name: str) -> None:
    """Without one, with one of another shape, of another type, or with one more: one line that says which."""
    good = weights(name)
    for key in good:
        for change in ("missing", "longer", "rows", "integers"):
            bad = dict(good)
            if change == "missing":
                del bad[key]
            elif change == "longer":
                bad[key] = np.concatenate([bad[key], bad[key]], -1)
            elif change == "rows":
                bad[key] = bad[key][None]
            else:
                bad[key] = bad[key].astype(int)
            with pytest.raises(ValueError, match="nearly") as error:
                modern_rule(bad, name)
            assert "\n" not in str(error.value)
    extra = next(iter(good)).rpartition("/")[0] + "/unknown" if "/" in next(iter(good)) else "unknown"
    with pytest.raises(ValueError, match="should not be there"):
        modern_rule(good | {extra: np.zeros(3, np.float32)}, name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".bin", ".pt", ".pth"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_kind_of_file_is_read(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    path = tmp_path / f"weights{suffix}"
    arrays = {key.replace("/", "."): torch.from_numpy(value).to(dtype) for key, value in weights("mlp").items()}
    if suffix == ".npz":
        np.savez(path, **{key: value.float().numpy() for key, value in arrays.items()})  # type: ignore[arg-type]
    elif suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in arrays.items()}, path)
    else:
        torch.save({"state_dict": arrays, "epoch": 3} if suffix == ".pth" else arrays, path)
    found = read_weights(path)
    assert found.keys() == arrays.keys()
    for key, value in arrays.items():
        assert found[key].dtype == np.float32 and np.array_equal(found[key], value.float().numpy())


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".bin", ".pth"])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, suffix: str, capsys) -> None:
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(ValueError, match="there is no file"):
        read_weights(path)
    whole = tmp_path / f"whole{suffix}"
    array = np.arange(5000, dtype=np.float32)
    if suffix == ".npz":
        np.savez(whole, a=array)
    elif suffix == ".safetensors":
        save_file({"a": torch.from_numpy(array)}, whole)
    else:
        torch.save({"a": torch.from_numpy(array)}, whole)
    for content in (b"", b"nothing of the kind", whole.read_bytes()[:-3000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no intact") as error:
            read_weights(path)
        assert "\n" not in str(error.value)
    if suffix in (".bin", ".pth"):
        for content in ([1, 2], {"a": "text"}, {"a": Evil()}, torch.nn.Linear(1, 1)):
            torch.save(content, path)
            with pytest.raises(ValueError, match="is no intact"):
                read_weights(path)
        assert "run" not in capsys.readouterr().out
    if suffix == ".npz":
        with open(path, "wb") as stream:
            np.save(stream, array)
        with pytest.raises(ValueError, match="without a name"):
            read_weights(path)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.npz, \.safetensors, \.bin, \.pt, \.pth"):
        read_weights(tmp_path / "weights.txt")


@pytest.mark.parametrize("name", ["adafac4", "celo"])
def test_weights_that_are_nan_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    arrays = weights(name)
    key = next(key for key in arrays if key.endswith("b1"))
    np.savez(tmp_path / "damaged.npz", **arrays | {key: np.full_like(arrays[key], np.nan)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"damaged.npz' cannot be imported: '.*' holds numbers that are nan") as error:
        from_published(tmp_path / "damaged.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["celo2", "celo2base"])
@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("after|a/w", lambda array: array[:0]),
        ("after|a/w", lambda array: np.float32(1)),
        ("grads|a/w", lambda array: array[..., :1]),
        ("p0|a/w", lambda array: np.array("x")),
    ],
    ids=["no step", "a number", "another shape", "text"],
)
def test_a_trajectory_that_does_not_fit_is_refused_in_one_line(name: str, key: str, change, tmp_path: Path) -> None:
    """The trajectory tells Celo2 from Celo2-base, so that it is read with the weights."""
    arrays = modern_rules.golden(name)
    np.savez(tmp_path / "damaged.npz", **arrays | {key: change(arrays[key])})
    with pytest.raises(ValueError, match=r"damaged.npz' cannot be imported: the trajectory of 'a/w' does not") as error:
        from_published(tmp_path / "damaged.npz")
    assert "\n" not in str(error.value)
