"""A trained rule as files: what goes in comes out, and what does not belong there is refused in one line."""

import copy
import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, nn

from l2o.deploy import export
from l2o.evaluation.curves import learning_curves
from l2o.optimizees import Classifier, Quadratic, mlp
from l2o.optimizers import (
    LSTM,
    SGD,
    Adam,
    Identity,
    LogAndSign,
    Momentum,
    Partitioned,
    Preprocessing,
    RMSprop,
    Scale,
    Scope,
    UpdateRule,
)

RULES = {
    "paper": lambda: LSTM(LogAndSign(10), output_scale=0.1),
    "identity": lambda: LSTM(hidden_size=3, num_layers=1, forget_bias=0.5, head_init=0.0),
    "scale": lambda: LSTM(Scale(0.1), hidden_size=3),
    "no layer": lambda: LSTM(LogAndSign(5), num_layers=0),
    "sgd": lambda: SGD(0.01),
    "nesterov": lambda: Momentum(0.02, momentum=0.8, nesterov=True),
    "rmsprop": lambda: RMSprop(0.01, alpha=0.9),
    "adam": lambda: Adam(0.01, beta2=0.99),
    "partitioned": lambda: Partitioned(
        {
            "first": LSTM(LogAndSign(10), hidden_size=3, output_scale=0.1),
            "rest": Partitioned({"all": SGD(0.01)}, {"all": ".*"}),
        },
        {"first": r"theta|1\..*", "rest": r"3\..*"},
    ),
    "custom": lambda: ScaledSigns(LearnedPower(0.3), rate=0.01),
}


class LearnedPower(Preprocessing):
    """sgn ∇ |∇|^power."""

    num_features = 1

    def __init__(self, power: float = 1.0):
        super().__init__()
        self.power = power
        self.exponent = nn.Parameter(torch.tensor(power))

    def forward(self, grad):
        return (grad.sign() * grad.abs() ** self.exponent)[..., None]


class ScaledSigns(UpdateRule):
    """A rule of one's own, with a preprocessing, a parameter and a buffer."""

    scope = Scope.COORDINATE

    def __init__(self, seen: Preprocessing, rate: float = 0.1):
        super().__init__()
        self.seen, self.rate = seen, rate
        self.factor = nn.Parameter(torch.tensor(rate))
        self.register_buffer("shift", torch.tensor(0.5))

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return -self.factor * self.seen(seen.grad)[..., 0] * self.shift, state


class Forgetful(UpdateRule):
    """It does not keep its argument."""

    scope = Scope.COORDINATE

    def __init__(self, rate: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(rate))

    def init_state(self, theta, layout):
        return {}

    def state_axes(self):
        return {}

    def forward(self, seen, state, layout):
        return -self.factor * seen.grad, state


@pytest.fixture(params=RULES)
def rule(request):
    """A rule whose φ is not the one it started with."""
    rule = RULES[request.param]()
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for buffer in rule.buffers():
            buffer.mul_(2)
    return rule


@pytest.fixture
def folder(tmp_path):
    """An exported LSTM."""
    return export.save(LSTM(LogAndSign(10), hidden_size=3), tmp_path / "trained")


def refusal(path):
    """The message, one line, that names the file."""
    with pytest.raises(ValueError) as caught:
        export.load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit(folder, change):
    """Apply `change` to the config."""
    config = json.loads((folder / "config.json").read_text())
    config = change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# -------------------------------------------------------------------------------------------------------- round trips


def test_what_is_saved_and_loaded_has_the_same_curves_bit_for_bit(tmp_path, rule, dataset):
    loaded = export.load(export.save(rule, tmp_path / "trained"))
    assert type(loaded) is type(rule) and loaded is not rule and not loaded.training
    assert loaded.state_dict().keys() == rule.state_dict().keys()
    assert all(torch.equal(value, rule.state_dict()[key]) for key, value in loaded.state_dict().items())
    for optimizee in (Quadratic(4), Classifier(mlp(16, [3], 3), dataset, batch_size=5)):
        curves = [learning_curves(r, optimizee, 2, 8, Generator().manual_seed(0)) for r in (rule, loaded)]
        assert torch.equal(curves[0].losses, curves[1].losses)
        assert curves[0].losses.isfinite().all()


def test_describe_and_build_are_inverse(rule):
    description = export.describe(rule)
    again = export.build(json.loads(json.dumps(description)))
    assert type(again) is type(rule) and export.describe(again) == description
    assert [(n, p.shape) for n, p in again.named_parameters()] == [(n, p.shape) for n, p in rule.named_parameters()]


def test_a_description_is_the_class_and_its_arguments_nested():
    assert export.describe(LSTM(LogAndSign(5), hidden_size=7, output_scale=0.1, head_init=0.0)) == {
        "class": "LSTM",
        "preprocessing": {"class": "LogAndSign", "p": 5},
        "hidden_size": 7,
        "num_layers": 2,
        "output_scale": 0.1,
        "forget_bias": 1.0,
        "head_init": 0.0,
        "max_timescale": None,
    }
    assert export.describe(LSTM(Identity()))["preprocessing"] == {"class": "Identity"}


def test_left_out_arguments_take_their_defaults():
    rule = export.build({"class": "LSTM", "preprocessing": {"class": "LogAndSign"}, "hidden_size": 4})
    assert isinstance(rule, LSTM) and (rule.hidden_size, rule.num_layers, rule.preprocessing.p) == (4, 2, 10.0)


def test_the_config_is_readable_and_keeps_the_card(tmp_path):
    card = {"optimizee": "Quadratic", "horizon": 100, "validation_loss": 0.25}
    folder = export.save(LSTM(Scale(0.5), hidden_size=3), tmp_path / "trained", card)
    config = json.loads((folder / "config.json").read_text())
    assert config["card"] == card
    assert config["rule"]["class"] == "LSTM" and config["rule"]["preprocessing"] == {"class": "Scale", "factor": 0.5}
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_saving_leaves_the_rule_alone(tmp_path, rule):
    before, training = copy.deepcopy(rule.state_dict()), rule.training
    export.save(rule, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in rule.state_dict().items())
    assert rule.training == training


def test_saving_twice_keeps_the_second(tmp_path):
    for size in (3, 5):
        export.save(LSTM(hidden_size=size), tmp_path)
    assert export.load(tmp_path).hidden_size == 5


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_paths_may_be_text(tmp_path, kind):
    assert export.load(kind(export.save(SGD(0.5), kind(tmp_path / "a" / "b")))).lr == 0.5


def test_a_rule_that_does_not_keep_its_arguments_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Forgetful cannot be saved: keep its argument rate as an attribute"):
        export.save(Forgetful(0.1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_may_be_read_by_whoever_reads_others(tmp_path):
    """As the umask says, not for the owner alone: an optimizer is there to be shared."""
    (tmp_path / "plain").touch()
    folder = export.save(SGD(0.1), tmp_path / "trained")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {stat.S_IMODE((tmp_path / "plain").stat().st_mode)}


# ------------------------------------------------------------------------------------------------- interrupted saves


@pytest.mark.parametrize("victim", ["save_file", "describe", "json.dumps", "Path.replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["full", "interrupted"])
def test_an_interrupted_save_leaves_the_old_rule(folder, monkeypatch, victim, error):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*arguments, **keywords):
        if victim == "save_file":  # half a file is written
            with open(arguments[1], "wb") as file:
                file.write(b"half")
        raise error

    with monkeypatch.context() as patch:
        if victim == "json.dumps":
            patch.setattr(json, "dumps", fail)
        elif victim == "Path.replace":
            patch.setattr(type(folder), "replace", fail)
        else:
            patch.setattr(export, victim, fail)
        with pytest.raises(type(error)):
            export.save(LSTM(hidden_size=5), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert export.load(folder).hidden_size == 3


def test_a_card_that_json_does_not_know_leaves_the_old_rule(folder):
    with pytest.raises(ValueError, match=r"card\['tensor'\] is an array of shape \(1,\)"):
        export.save(LSTM(hidden_size=5), folder, {"tensor": torch.ones(1)})
    assert export.load(folder).hidden_size == 3


def test_a_full_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    export.save(SGD(0.1), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", ["nothing", "", "nothing.ckpt"])
def test_a_missing_optimizer_is_refused(tmp_path, name):
    message = refusal(tmp_path / name)
    assert str(tmp_path) in message and message.startswith("no ")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_half_an_optimizer_is_refused(folder, name):
    (folder / name).unlink()
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 0.98])
def test_a_truncated_file_is_refused(folder, name, fraction):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(fraction * len(content))])
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"hello\nworld\n", b"\x00" * 64, b"PK\x03\x04"], ids=str)
def test_a_foreign_file_is_refused(folder, name, content):
    (folder / name).write_bytes(content)
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_in_a_file_s_place_is_refused(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize(
    "config",
    [
        None,
        3,
        "LSTM",
        [],
        {},
        {"rule": None},
        {"rule": "LSTM"},
        {"rule": ["LSTM"]},
        {"rule": {}},
        {"rule": {"class": None}},
        {"rule": {"class": ["LSTM"]}},
        {"rule": {"class": {"class": "LSTM"}}},
        {"rule": {"class": "LSTM", "hidden_size": "20"}},
        {"rule": {"class": "LSTM", "hidden_size": None}},
        {"rule": {"class": "LSTM", "hidden_size": 2.5}},
        {"rule": {"class": "LSTM", "hidden_size": -1}},
        {"rule": {"class": "LSTM", "unknown": 1}},
        {"rule": {"class": "LSTM", "preprocessing": "LogAndSign"}},
        {"rule": {"class": "LSTM", "preprocessing": 10}},
        {"rule": {"class": "LSTM", "preprocessing": {"class": "LogAndSign", "p": -1}}},
        {"rule": {"class": "LSTM", "preprocessing": {"class": "LogAndSign", "p": "ten"}}},
        {"rule": {"class": "LSTM", "preprocessing": {"class": "Scale"}}},
        {"rule": {"class": "LSTM", "hidden_size": 10**12}},
        {"model_type": "bert", "hidden_size": 768},
        {"rule": {"class": "Partitioned"}},
        {"rule": {"class": "Partitioned", "rules": 3, "patterns": 3}},
        {"rule": {"class": "Partitioned", "rules": {"all": 3}, "patterns": {"all": ".*"}}},
        {"rule": {"class": "Partitioned", "rules": {"all": {"class": "SGD"}}, "patterns": {"all": 3}}},
        {"rule": {"class": "Partitioned", "rules": {"all": {"class": "SGD"}}, "patterns": {"all": "("}}},
        {"rule": {"class": "Partitioned", "rules": {"all": {"class": "SGD"}}, "patterns": {"other": ".*"}}},
        {"rule": {"class": "Partitioned", "rules": {"all": {"class": "LogAndSign"}}, "patterns": {"all": ".*"}}},
    ],
    ids=str,
)
def test_a_foreign_config_is_refused(folder, config):
    edit(folder, lambda _: config)
    refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["os.system", "system", "Linear", "torch.nn.Linear", "Module", "eval", "UpdateRule", "HandDesigned", "LogAndSign"],
)
def test_a_config_can_only_mean_an_update_rule(folder, name):
    edit(folder, lambda config: config | {"rule": {"class": name}})
    message = refusal(folder)
    assert f"unknown UpdateRule '{name}'" in message and "LSTM" in message and "import the module" in message


@pytest.mark.parametrize("name", ["os.system", "Linear", "ModuleDict", "UpdateRule", "Preprocessing"])
@pytest.mark.parametrize("nest", [lambda part: part, lambda part: {"conv": part}], ids=["argument", "mapping"])
def test_an_argument_can_only_mean_a_preprocessing_or_an_update_rule(folder, name, nest):
    edit(folder, lambda config: config | {"rule": config["rule"] | {"preprocessing": nest({"class": name})}})
    message = refusal(folder)
    assert f"unknown Preprocessing or UpdateRule '{name}'" in message and "LogAndSign" in message


@pytest.mark.parametrize("name", ["LSTM", "SGD"])
def test_an_update_rule_in_a_preprocessing_s_place_is_refused(folder, name):
    edit(folder, lambda config: config | {"rule": config["rule"] | {"preprocessing": {"class": name}}})
    assert "describes no optimizer" in refusal(folder)


def test_a_class_that_is_not_imported_is_refused(folder):
    edit(folder, lambda config: config | {"rule": {"class": "SomebodysRule"}})
    assert "unknown UpdateRule 'SomebodysRule'" in refusal(folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "none"])
def test_weights_of_another_rule_are_refused(folder, change):
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        weights.pop("head.bias")
    elif change == "extra":
        weights["extra"] = torch.zeros(1)
    elif change == "shape":
        weights["head.weight"] = torch.zeros(1, 4)
    else:
        weights = {}
    save_file(weights, folder / "model.safetensors")
    message = refusal(folder)
    assert "do not fit its own config" in message and str(folder) in message


def test_a_config_for_other_weights_is_refused(folder):
    edit(folder, lambda config: config | {"rule": config["rule"] | {"hidden_size": 4}})
    assert "do not fit its own config" in refusal(folder)


def test_loading_runs_no_pickle(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    for path in (folder / "model.safetensors", tmp_path / "last.ckpt"):
        torch.save({"head.bias": Trap(), "l2o": Trap()}, path)
    refusal(folder)
    refusal(tmp_path / "last.ckpt")
    assert not (tmp_path / "trapped").exists()


# --------------------------------------------------------------------------------------------------------- checkpoints


def checkpoint(path, rule, changes=None):
    """The part of a training checkpoint that loading reads."""
    saved = {"rule": json.dumps(export.describe(rule)), "best_phi": rule.state_dict()} | (changes or {})
    torch.save({"l2o": saved, "state_dict": {}}, path)
    return path


def test_a_checkpoint_s_best_rule_has_the_same_curves_bit_for_bit(tmp_path, rule):
    loaded = export.load(checkpoint(tmp_path / "last.ckpt", rule))
    curves = [learning_curves(r, Quadratic(4), 2, 8, Generator().manual_seed(0)) for r in (rule, loaded)]
    assert torch.equal(curves[0].losses, curves[1].losses) and not loaded.training


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1, 2], torch.ones(2)], ids=["{}", "other", "list", "1"])
def test_a_foreign_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    assert "is no checkpoint of l2o's train.py" in refusal(tmp_path / "last.ckpt")


@pytest.mark.parametrize("content", [b"", b"hello\nworld", b"PK\x03\x04"], ids=str)
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    message = refusal(tmp_path / "last.ckpt")
    assert "is damaged or no checkpoint" in message and "last.ckpt" in message


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_a_truncated_checkpoint_is_refused(tmp_path, fraction):
    path = checkpoint(tmp_path / "last.ckpt", LSTM(hidden_size=3))
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    assert "is damaged or no checkpoint" in refusal(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "{"},
        {"rule": json.dumps({"class": "os.system"})},
        {"rule": 3},
        {"best_phi": {}},
        {"best_phi": None},
    ],
    ids=str,
)
def test_a_checkpoint_that_was_tampered_with_is_refused(tmp_path, changes):
    refusal(checkpoint(tmp_path / "last.ckpt", LSTM(hidden_size=3), changes))
