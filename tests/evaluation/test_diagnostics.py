"""A diagnosis finds the signal, the noise, the bias and the cost that are known.

Shapes: M estimates, D meta-parameters.
"""

import importlib
import json
import math

import numpy as np
import pytest
import torch
from linear_dynamics import influence_balancing, small
from torch import Generator
from torch.testing import assert_close

from l2o import save_pretrained
from l2o.__main__ import main
from l2o.evaluation.diagnostics import advice, cosine, diagnose, estimates, moments
from l2o.figures.diagnosis import plot_diagnosis
from l2o.meta_gradients import EvolutionStrategies, FullBPTT, FullES, Mean, PersistentES, TruncatedBPTT
from l2o.optimizers import SGD


def drawn(mean, sigma, count, seed=0):
    noise = torch.randn(count, len(mean), generator=Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tensor(mean, dtype=torch.float64) + sigma * noise


def test_moments_are_unbiased():
    """‖g‖² = 0.25 and E‖ĝ − g‖² = 3, in the mean over many pairs of estimates: a plain ‖ḡ‖² would give 1.75."""
    found = torch.tensor([moments(drawn([0.3, 0.4, 0.0], 1.0, 2, seed)) for seed in range(1500)])
    assert_close(found.mean(0), torch.tensor([0.25, 3.0]), rtol=0, atol=0.2)


def test_the_cosine_is_freed_of_noise():
    exact = drawn([1.0, 0.0, 0.0, 0.0], 1.0, 2000, seed=1)
    assert cosine(drawn([1.0, 1.0, 0.0, 0.0], 1.0, 2000), exact) == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert cosine(drawn([-2.0, 0.0, 0.0, 0.0], 1.0, 2000), exact) == pytest.approx(-1, abs=0.05)
    noisy = drawn([1.0, 0.0] + [0.0] * 98, 1.0, 400)
    assert noisy.mean(0).square().sum() > 1.2, "its plain norm is mostly noise"
    assert cosine(noisy, drawn([1.0, 0.0] + [0.0] * 98, 1.0, 400, seed=1)) == pytest.approx(1, abs=0.1)


def test_without_signal_there_is_no_cosine():
    exact = torch.tensor([[1.0, 0.0], [1.1, 0.0]])
    assert math.isnan(cosine(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), exact))
    assert math.isnan(cosine(torch.tensor([[1.0, 0.0]]), exact))


@pytest.mark.usefixtures("float64")
def test_bias_is_seen_where_it_is_known():
    """On influence balancing a window alone has the wrong sign, and persistent estimators have the right one."""
    rule, optimizee = influence_balancing()
    estimators = {
        "full_es": FullES(0.1, cap=None),
        "es": EvolutionStrategies(0.1, cap=None),
        "nres": PersistentES("episode", 0.1, cap=None),
        "tbptt": TruncatedBPTT(objective=Mean()),
    }
    given = [100], [10], 20, 4, 6
    rows = {row.estimator: row for row in diagnose(rule, optimizee, estimators, FullES(0.1, cap=None), *given)}
    assert [rows[name].cosine for name in estimators] == pytest.approx([1, -1, 1, -1])
    assert rows["nres"].snr == pytest.approx(rows["full_es"].snr), "with φ as it is, both are one estimate"
    assert rows["tbptt"].snr > 1e9, "without minibatches and perturbations there is no noise"
    steps = {name: row.inner_steps for name, row in rows.items()}
    assert steps == {"full_es": 2 * 20 * 101, "es": 2 * 20 * 101, "nres": 2 * 20 * 101, "tbptt": 20 * 101}


@pytest.mark.usefixtures("float64")
def test_the_signal_to_noise_ratio_is_that_of_one_estimate():
    """Of twice as many pairs it is twice as large; a linear-quadratic problem has few other noises."""
    rule, optimizee = small()
    found = {}
    for pairs in (10, 40):
        (row,) = diagnose(
            rule, optimizee, {"pes": PersistentES(sigma=0.1, cap=None)}, FullES(0.1), [6], [3], pairs, 80, 2
        )
        found[pairs] = row
    assert found[40].snr / found[10].snr == pytest.approx(4, rel=0.5)
    assert found[40].signal == pytest.approx(found[10].signal, rel=0.2)


@pytest.mark.usefixtures("float64")
def test_an_estimate_is_the_mean_over_the_windows_of_an_episode():
    rule, optimizee = small()
    whole, _ = estimates(rule, optimizee, FullES(0.1), 3, 6, 6, 2, 5)
    windows, _ = estimates(rule, optimizee, PersistentES("episode", 0.1), 3, 6, 2, 2, 5)
    assert_close(whole, windows, rtol=1e-9, atol=1e-12)
    _, steps = estimates(rule, optimizee, FullBPTT(), 3, 6, 6, 2, 5)
    assert steps == 3 * (1 + 2 * 6), "each step is evaluated again, with a graph"


def test_what_makes_no_sense_is_refused():
    rule, optimizee = small()
    with pytest.raises(ValueError, match="no window of 4, 5 steps divides the horizon 6"):
        next(iter(diagnose(rule, optimizee, {}, FullES(), [6], [4, 5])))
    with pytest.raises(ValueError, match="at least 2 estimates of each kind, got 1, 16"):
        next(iter(diagnose(rule, optimizee, {}, FullES(), [6], [3], num_estimates=1)))
    with pytest.raises(ValueError, match="no meta-parameters that are trained"):
        next(iter(diagnose(SGD(0.1), optimizee, {}, FullES(), [6], [3])))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((0.005, 197), None),
        ((0.0001, 197), "a pair's signal-to-noise ratio is 0.0001, where 0.005 is the most for 197 meta-parameters"),
        ((0.0, 9), "a pair's signal-to-noise ratio is 0, where 0.1 is the most"),
        ((0.1, 9, 0.2), "20% of the episodes are not finite"),
        ((0.1, 9, 0.0, 0.6), "60% of the losses are at the cap"),
    ],
)
def test_the_advice_names_what_holds_training_up(given, found):
    assert advice(*given) == found if found is None else found in advice(*given)


def test_the_command_writes_a_table_a_file_and_a_figure(tmp_path, capsys):
    images, labels = np.arange(40 * 16, dtype=np.uint8).reshape(40, 4, 4), np.arange(40) % 3
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    sizes = ["--images", str(tmp_path / "images.npz"), "--side", "3"]
    sizes += ["--horizons", "4", "8", "--windows", "2", "4", "--tasks", "2", "--estimates", "2", "--hidden", "3"]
    main(["diagnose", "adafac_mlp", str(tmp_path), *sizes, "--batch", "4", "--estimators", "pes", "gpes:3", "tbptt"])
    said = json.loads((tmp_path / "diagnosis.json").read_text())
    assert said["provenance"].keys() == {"version", "commit", "date"}
    rows = said["rows"]
    assert [(row["horizon"], row["estimator"], row["window"]) for row in rows] == [
        (horizon, name, window) for horizon in (4, 8) for name in ("pes", "gpes:3", "tbptt") for window in (2, 4)
    ]
    assert {row["inner_steps"] for row in rows if row["horizon"] == 8} == {2 * 9, 4 * 9}
    assert (tmp_path / "diagnosis.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "cosine" in printed and "gpes:3" in printed and "diagnosis.png" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--estimators", "reinforce"], "no estimator 'reinforce' to diagnose: choose of full_es"),
        (["--estimators", "gpes:many"], "no estimator 'gpes:many'"),
        (["--tasks", "0"], "diagnose.tasks must be at least 1, got 0"),
        (["--windows", "0"], "must be at least 1, got 0"),
        (["--estimates", "1"], "at least 2 estimates"),
        (["--seed", "-1"], "seed must be an integer"),
        (["--sigma", "0"], "positive sigma"),
        (["--images", "nowhere.npz"], "no dataset at 'nowhere.npz'"),
    ],
)
def test_a_mistake_is_said_in_one_line(tmp_path, more, message):
    with pytest.raises(SystemExit) as stopped:
        main(["diagnose", "adafac_mlp", str(tmp_path), "--horizons", "2", "--windows", "2", *more])
    assert message in str(stopped.value) and "\n" not in str(stopped.value)


@pytest.mark.parametrize("snr", [0.0, 2.5])
@pytest.mark.parametrize("known", [math.nan, 0.5])
def test_a_figure_without_any_signal_or_cosine_is_drawn(tmp_path, snr, known):
    rule, optimizee = small()
    (row,) = diagnose(rule, optimizee, {"pes": PersistentES()}, FullES(), [4], [2], 1, 2, 2)
    empty = row._replace(snr=snr, cosine=known, cosine_error=known)
    assert plot_diagnosis([empty], tmp_path / "empty.png").stat().st_size > 5_000


def test_an_optimizer_of_ones_own_can_be_diagnosed(tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(
        "from l2o.optimizers import AdafacMLP\nclass DiagnosedAlone(AdafacMLP): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = importlib.import_module("own_rules")
    save_pretrained(own.DiagnosedAlone(), tmp_path / "mine")
    sizes = ["--horizons", "2", "--windows", "2", "--tasks", "2", "--estimates", "2", "--hidden", "3", "--batch", "4"]
    given = ["diagnose", "mine", "out", *sizes, "--estimators", "pes"]
    main([*given, "--imports", "own_rules"])
    assert json.loads((tmp_path / "out/diagnosis.json").read_text())["rows"]
    with pytest.raises(SystemExit, match="imports: there is no module 'nothing'"):
        main([*given, "--imports", "nothing"])
