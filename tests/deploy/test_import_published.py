"""Published weights in this project's rules, against their own conventions written out in numpy."""

import numpy as np
import pytest
import torch
from observations import seen

from l2o.__main__ import main as commands
from l2o.deploy import export, import_published
from l2o.optimizees import Layout
from l2o.optimizers import LSTM, RNNProp

HIDDEN, P, STEPS = 4, 5, 6


def weights(features, rnnprop=False):
    draw = np.random.default_rng(0).standard_normal
    arrays = {"linear/w": draw((HIDDEN, 1)), "linear/b": draw(1)}
    for layer, inputs in ((1, features), (2, HIDDEN)):
        arrays[f"lstm_{layer}/w_gates"] = draw((inputs + HIDDEN, 4 * HIDDEN))
        arrays[f"lstm_{layer}/b_gates"] = draw(4 * HIDDEN)
    if rnnprop:
        arrays |= {"input_projection/w": draw((2, features)), "input_projection/b": draw(features)}
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def network(arrays, x, state):
    """gates = [x, h] · w_gates + b_gates, split i, j, f, o; c = σ(f + 1) c + σ(i) tanh(j); h = tanh(c) σ(o)."""
    after = []
    for layer, (h, c) in enumerate(state, 1):
        gates = np.concatenate([x, h], 1) @ arrays[f"lstm_{layer}/w_gates"] + arrays[f"lstm_{layer}/b_gates"]
        i, j, f, o = np.split(gates, 4, 1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        x = np.tanh(c) * sigmoid(o)
        after.append((x, c))
    return (x @ arrays["linear/w"] + arrays["linear/b"])[:, 0], after


def log_and_sign(g):
    clamped = np.log(np.abs(g)) / 5
    return np.stack([np.maximum(clamped, -1), np.clip(g * np.exp(5), -1, 1)], 1)


def expected(arrays, grads, rnnprop):
    state, m, v, updates = [(np.zeros((P, HIDDEN)),) * 2] * 2, 0.0, 0.0, []
    for t, g in enumerate(grads, 1):
        if rnnprop:
            m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * g**2
            root = np.sqrt(v / (1 - 0.95**t)) + 1e-8
            x = np.stack([m / (1 - 0.95**t) / root, g / root], 1) @ arrays["input_projection/w"]
            x = x + arrays["input_projection/b"]
            out, state = network(arrays, np.where(x > 0, x, np.expm1(x)), state)
            updates.append(0.01 * np.tanh(out))
        else:
            out, state = network(arrays, log_and_sign(g), state)
            updates.append(0.01 * out)
    return np.stack(updates)


@pytest.mark.parametrize("rnnprop", [False, True], ids=["dm", "rnnprop"])
def test_a_file_becomes_an_exported_rule_with_the_same_updates(tmp_path, capsys, path, rnnprop):
    arrays = weights(HIDDEN if rnnprop else 2, rnnprop)
    np.savez(tmp_path / "published.npz", **arrays)
    commands(["import", str(tmp_path / "published.npz"), str(tmp_path / "rule")])
    assert str(tmp_path / "rule") in capsys.readouterr().out
    rule = export.load(tmp_path / "rule").double()
    assert type(rule) is (RNNProp if rnnprop else LSTM) and rule.card == {"source": "published weights, published.npz"}
    grads = np.random.default_rng(1).standard_normal((STEPS, P)) * 10.0 ** np.arange(-4, 1)
    theta = torch.zeros(1, P, dtype=torch.float64)
    state, updates = rule.init_state(theta, Layout({"theta": (P,)})), []
    with torch.no_grad():
        for grad in grads:
            update, state = rule(seen(torch.from_numpy(grad)[None], theta), state, Layout({"theta": (P,)}))
            updates.append(update[0].numpy())
    np.testing.assert_allclose(np.stack(updates), expected(arrays, grads, rnnprop), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["linear/w", "lstm_2/w_gates", "lstm_1/b_gates"])
@pytest.mark.parametrize("change", ["missing", "shape"])
def test_a_foreign_file_is_refused_in_one_line(tmp_path, name, change):
    arrays = weights(2)
    if change == "missing":
        del arrays[name]
    else:
        arrays[name] = np.zeros((3, 3), np.float32)
    np.savez(tmp_path / "foreign.npz", **arrays)
    with pytest.raises(ValueError, match="conventions") as caught:
        import_published.from_published(tmp_path / "foreign.npz")
    assert "\n" not in str(caught.value)


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and then nothing")
    for name, says in (("damaged.npz", "no intact .npz"), ("missing.npz", "there is no file")):
        with pytest.raises(SystemExit, match=says):
            commands(["import", str(tmp_path / name), str(tmp_path / "rule")])
    assert not (tmp_path / "rule").exists()
