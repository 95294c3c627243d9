"""What a user gives to `from_pretrained` and `load`: it works, or the reason is ours and names the remedy."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import l2o
from l2o.deploy import export, hub
from l2o.optimizers import LSTM, SGD, LogAndSign, Partitioned

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ESCAPE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x07\r\x9b2J"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return export.save(LSTM(LogAndSign(10), hidden_size=3), tmp_path / "run" / "best", {"name": "mine"})


def refusal(name, load=l2o.from_pretrained):
    with pytest.raises(ValueError) as caught:
        load(name)
    message = str(caught.value)
    assert message.isprintable(), repr(message)
    return message


# ------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize("shipped", l2o.list_pretrained())
@pytest.mark.parametrize("inside", [None, "x_train.npy", "README.md", "best"])
def test_a_folder_called_like_a_shipped_rule_does_not_hide_it(tmp_path, monkeypatch, shipped, inside):
    monkeypatch.chdir(tmp_path)
    (tmp_path / shipped).mkdir()
    if inside:
        (tmp_path / shipped / inside).mkdir()
    assert l2o.from_pretrained(shipped).card["name"] == l2o.from_pretrained(hub.PRETRAINED / shipped).card["name"]


def test_an_exported_folder_of_that_name_comes_first(folder, tmp_path):
    export.save(SGD(0.5), tmp_path / "mnist")
    assert l2o.from_pretrained("mnist").lr == 0.5
    assert "no trained optimizer at 'digits'" in refusal((tmp_path / "digits").mkdir() or "./digits")


@pytest.mark.parametrize(
    "given",
    ["run/best", "run/best/", "run", "run/", "./run/best", "run/best/model.safetensors", "run/best/config.json",
     "run/best/README.md", "~/run/best", "~/run", "~/run/best/model.safetensors", "run/../run/best"],
)  # fmt: skip
@pytest.mark.parametrize("load", [l2o.from_pretrained, l2o.load])
def test_every_way_to_name_a_run_s_optimizer_works(folder, tmp_path, monkeypatch, given, load):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(given).hidden_size == 3


def test_a_checkpoint_in_the_home_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    rule = l2o.load(folder)
    saved = {"rule": json.dumps(export.describe(rule)), "best_phi": rule.state_dict()}
    torch.save({"l2o": saved}, "last.ckpt")
    assert l2o.from_pretrained("~/last.ckpt").hidden_size == 3


@pytest.mark.parametrize(
    ("make", "given", "says"),
    [
        (lambda p: (p / "r").mkdir() or torch.save({}, p / "r/last.ckpt"), "r", "give one of them, e.g. 'r/last.ckpt'"),
        (lambda p: None, ".", "there are runs in it, give one of them, e.g. 'run/best'"),
        (lambda p: (p / "w.npz").touch(), "w.npz", "python -m l2o import"),
        (lambda p: (p / "w.safetensors").touch(), "w.safetensors", "a folder with config.json and model.safetensors"),
        (lambda p: (p / "w.pt").touch(), "w.pt", ".ckpt files of train.py"),
        (lambda p: (p / "notes").touch(), "notes", "give a folder with config.json"),
        (lambda p: None, "./nothing", "no trained optimizer './nothing'"),
        (lambda p: None, "Digits", "did you mean 'digits'?"),
        (lambda p: None, "minst", "did you mean 'mnist'?"),
        (lambda p: None, None, "no trained optimizer None"),
        (lambda p: None, 3, "no trained optimizer 3"),
        (lambda p: None, ESCAPE, "no trained optimizer"),
    ],
)
def test_what_is_near_by_is_named(folder, tmp_path, make, given, says):
    make(tmp_path)
    assert says in refusal(given)


def test_a_revision_of_what_is_on_this_disk_is_refused(folder):
    with pytest.raises(ValueError, match="a revision belongs to a Hub id"):
        l2o.from_pretrained("digits", revision="main")


# ------------------------------------------------------------------------------------------------------- reasons


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_an_export_cloned_without_lfs_says_what_to_run(folder, name):
    (folder / name).write_bytes(POINTER)
    assert "git lfs pull" in refusal(folder)


def test_a_checkpoint_cloned_without_lfs_says_what_to_run(folder, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(POINTER)
    assert "git lfs pull" in refusal("last.ckpt")


@pytest.mark.parametrize(
    "config", [{"model_type": "bert", "hidden_size": 768}, {"architectures": ["Bert"], "transformers_version": "5"}]
)
def test_a_transformers_folder_is_called_one(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    assert "that of a transformers model, not of an optimizer" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"x": 1}, "not written by l2o.save_pretrained"),
        ([1], "holds no mapping"),
        ({"rule": 3}, "describes no optimizer"),
    ],
)
def test_another_config_is_called_what_it_is(folder, config, says):
    (folder / "config.json").write_text(json.dumps(config))
    assert says in refusal(folder)


@pytest.mark.parametrize("format_", [99, 2, 0, "1", None, True, [1], 1.5])
def test_an_unknown_format_is_refused(folder, format_):
    config = json.loads((folder / "config.json").read_text()) | {"format": format_}
    (folder / "config.json").write_text(json.dumps(config))
    assert f"its format is {json.dumps(format_)}" in refusal(folder)


class Foreign:
    """Not what a checkpoint of ours holds."""


@pytest.mark.parametrize(
    "write", [lambda value, path: torch.save(value, path), lambda v, p: p.write_bytes(pickle.dumps(v))]
)
def test_a_pickled_checkpoint_gets_no_advice_to_trust_it(folder, tmp_path, write):
    write({"model": Foreign()}, tmp_path / "last.ckpt")
    message = refusal("last.ckpt")
    assert "weights_only" not in message and "unsafe" not in message and "last.ckpt" in message
    assert "run their author's code" in message or "not written by a current torch.save" in message


@pytest.mark.parametrize("where", ["class", "key", "weights", "card", "folder"])
def test_no_text_of_a_file_reaches_the_terminal_as_a_command(folder, tmp_path, where):
    config = json.loads((folder / "config.json").read_text())
    if where == "class":
        config["rule"]["class"] = ESCAPE
    elif where == "key":
        config["rule"][ESCAPE] = 1
    elif where == "card":
        config = {"format": ESCAPE, "rule": config["rule"]}
    elif where == "weights":
        save_file({ESCAPE: torch.ones(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if where == "folder":
        folder = tmp_path / ESCAPE.replace("/", "")
        folder.mkdir()
    refusal(folder)
    refusal(folder, l2o.load)


# ------------------------------------------------------------------------------------------------ dtypes and devices


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("as_checkpoint", [False, True], ids=["folder", "checkpoint"])
def test_the_file_s_dtype_is_kept(tmp_path, dtype, as_checkpoint):
    rule = Partitioned({"a": LSTM(LogAndSign(10), hidden_size=4).to(dtype)}, {"a": ".*"})
    path = tmp_path / ("last.ckpt" if as_checkpoint else "d")
    if as_checkpoint:
        saved = {"rule": json.dumps(export.describe(rule)), "best_phi": rule.state_dict()}
        torch.save({"l2o": saved}, path)
    else:
        l2o.save_pretrained(rule, path)
    loaded = l2o.from_pretrained(path)
    for name, value in rule.state_dict().items():
        assert loaded.state_dict()[name].dtype == dtype and torch.equal(loaded.state_dict()[name], value)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_default_dtype_does_not_matter(folder, float64):
    assert {p.dtype for p in l2o.from_pretrained(folder).parameters()} == {torch.float32}


def test_on_the_device_meta_a_rule_has_its_weights(folder):
    expected = l2o.from_pretrained(folder).state_dict()
    with torch.device("meta"):
        loaded = l2o.from_pretrained(folder)
    assert all(
        value.device.type == "cpu" and torch.equal(value, expected[n]) for n, value in loaded.state_dict().items()
    )
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    l2o.LearnedOptimizer([parameter], loaded).step()
    assert not torch.equal(parameter, torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_weights_that_are_no_real_numbers_are_refused(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"head.bias": torch.ones(1).to(dtype)}, folder / "model.safetensors")
    assert f"do not fit its own config: head.bias is {dtype}" in refusal(folder)


def test_a_loaded_rule_does_not_depend_on_its_file(folder):
    """Its weights are a copy: the file may be written again."""
    rule, other = l2o.load(folder), LSTM(LogAndSign(10), hidden_size=3)
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    export.save(other, folder)
    assert all(torch.equal(value, before[name]) for name, value in rule.state_dict().items())


# ---------------------------------------------------------------------------------------------------- the Hub offline


def test_an_upload_without_a_network_is_answered_in_one_line(tmp_path):
    """The real client, in a process of its own, with an address where nobody answers."""
    code = "import l2o; l2o.push_to_hub(l2o.from_pretrained('digits'), 'me/mine', token='hf_none')"
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ValueError: 'me/mine' could not be uploaded: the Hub cannot be reached: is there a network?"
    )
