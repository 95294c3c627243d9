"""`python -m l2o`: its list, its helps, its answers."""

import os
import subprocess
import sys

import numpy as np
import pytest

import l2o
from l2o.__main__ import main
from l2o.deploy import export
from l2o.deploy.hub import shipped
from l2o.deploy.listing import Shipped, table
from l2o.optimizers import SGD
from l2o.optimizers.card import trained_on

COMMANDS = ("import", "figure6", "list")


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "l2o", *arguments], capture_output=True, text=True, cwd=cwd, timeout=120,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip


def test_as_a_user_types_it(tmp_path):
    """In processes of their own, in a folder that is not the clone."""
    listed = run(cwd=tmp_path)
    assert listed.returncode == 0 and all(f"  {name} " in listed.stdout for name in COMMANDS)
    (tmp_path / "mine").touch()
    refused = run("import", "mine", "folder", cwd=tmp_path)
    assert refused.returncode == 1 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: 'mine' is no file of weights that l2o reads: those are .npz, ")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help(capsys, name):
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0 and text.startswith(f"usage: python -m l2o {name}") and len(text) > 150


@pytest.mark.parametrize("arguments", [["lst"], ["import"], ["import", "one"], ["figure6"], ["list", "more"]])
def test_what_is_no_command_is_refused_with_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2 and "usage: python -m l2o" in capsys.readouterr().err


def test_a_scoreboard_that_is_not_there_is_asked_for(tmp_path):
    for given, wanted in ((tmp_path / "nope", tmp_path / "nope"), (tmp_path, tmp_path / "scoreboard.json")):
        with pytest.raises(SystemExit) as exit_:
            main(["scoreboard", str(given), str(tmp_path / "page.md")])
        assert str(exit_.value.code).startswith(f"error: there is no file '{wanted}': give what evaluate.py suite=NAME")


def test_the_system_s_own_messages_stand_without_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr("l2o.__main__._list", lambda given: (tmp_path / "absent").read_text())
    with pytest.raises(SystemExit) as exit_:
        main(["list"])
    assert exit_.value.code == f"error: No such file or directory: '{tmp_path / 'absent'}'"


def test_the_list_says_what_each_was_trained_on_and_for_how_long(capsys):
    main(["list"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "name" and head.endswith("horizon (steps)")
    assert [line.split()[0] for line in lines] == l2o.list_pretrained()
    by_name = {row.name: row for row in shipped()}
    assert by_name["quadratic"] == Shipped("quadratic", "LSTM", "Quadratic: 10 coordinates", "N(0, 0.01²)", "100")
    assert by_name["cifar10"] == Shipped(
        "cifar10", "LSTM", "Classifier: conv_net 16–16–16–32, cifar10.npz", "N(0, 0.01²)", "200"
    )
    assert "classes 5, 6, 7, 8, 9" in by_name["cifar_small"].trained_on


def test_columns_are_aligned():
    rows = [Shipped("a", "LSTM", "x", "–", "1"), Shipped("long name", "A", "something longer", "–", "1000")]
    lines = table(rows).splitlines()
    assert len({line.index(word) for line, word in zip(lines, ("trained", "x", "something"), strict=True)}) == 1


@pytest.mark.parametrize(
    ("optimizee", "text"),
    [
        (None, "–"),
        ("my problems", "my problems"),
        ({}, "?"),
        ({"_target_": "my_problems.Valleys", "steepness": 10.0}, "Valleys"),
        ({"_target_": "a.Classifier", "network": {"_target_": "a.mlp", "hidden": [20]}, "dataset": {"_target_": "a.d"}},
         "Classifier: mlp 20, d"),
    ],
)  # fmt: skip
def test_any_card_is_listed(optimizee, text):
    assert trained_on(optimizee) == text


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros(2)}, "holds x, which is in no known convention. Known are: DeepMind's"),
        ({}, "holds no array, which is in no known convention"),
        ({"ff_mod_stack/~/b0": np.zeros(2)}, "nearly Celo's or Celo2's, but 'ff_mod_stack/~/w0__0' is missing"),
        ({"linear/w": np.zeros((2, 1)), "linear/b": np.zeros(1), "other": np.zeros(1)}, "an array other, which these"),
        ({"linear/w": np.array([["a"]]), "linear/b": np.zeros(1)}, "linear/w holds <U1, not real numbers"),
        ({"linear/w": np.full((2, 1), np.nan), "linear/b": np.zeros(1)}, "linear/w holds numbers that are nan"),
        ({"linear/w": np.array([[None]]), "linear/b": np.zeros(1)}, "it holds objects that are no plain numbers"),
        ({"linear/w": np.zeros(()), "linear/b": np.zeros(1)}, "conventions"),
        ({"linear/\x1b[31mw": np.zeros(1)}, "holds linear/w, which is in no known convention"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_other_npz_is_refused_with_our_reason(tmp_path, arrays, says):
    np.savez(tmp_path / "it.npz", **arrays)
    with pytest.raises(SystemExit) as exit_:
        main(["import", str(tmp_path / "it.npz"), str(tmp_path / "rule")])
    line = exit_.value.code
    assert isinstance(line, str) and line.startswith("error: ") and line.isprintable() and says in line
    assert not (tmp_path / "rule").exists()


def test_a_pointer_of_lfs_and_a_single_array_are_called_what_they_are(tmp_path):
    (tmp_path / "it.npz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, says in (("it.npz", "git lfs pull"), ("one.npy", "those are .npz")):
        with pytest.raises(SystemExit, match=says):
            main(["import", str(tmp_path / name), str(tmp_path / "rule")])


def test_l2o_traceback_shows_the_source(tmp_path, monkeypatch):
    monkeypatch.setenv("L2O_TRACEBACK", "1")
    with pytest.raises(ValueError, match="no file"):
        main(["import", str(tmp_path / "missing.npz"), str(tmp_path)])


def test_a_rule_without_a_card_is_listed(tmp_path, monkeypatch):
    from l2o.deploy import hub

    monkeypatch.setattr(hub, "PRETRAINED", tmp_path)
    export.save(SGD(0.1), tmp_path / "plain")
    assert shipped() == [Shipped("plain", "SGD", "–", "–", "–")]
