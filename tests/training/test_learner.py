"""MetaLearner: what a window does to φ, what is skipped, what is kept, and that resuming changes nothing."""

import io
import json
import math
import pickle
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from training_runs import SaveAlways, learner, phi, trainer

from l2o import seeds
from l2o.deploy import export
from l2o.meta_gradients.imitation import Imitation
from l2o.meta_gradients.truncated_bptt import MetaGradient, TruncatedBPTT
from l2o.optimizees import Quadratic
from l2o.optimizers import LSTM, NTMBFGS, SGD, Adam, UpdateRule
from l2o.runs.checkpoints import Checkpoints
from l2o.runs.progress import Progress, in_words
from l2o.seeds import Stream
from l2o.training.learner import MetaLearner
from l2o.training.safeguards import Diverged
from l2o.unroll import start_episode


class NanLoss(Quadratic):
    """A quadratic whose loss is nan in some of its evaluations."""

    def __init__(self, when: set[int]):
        super().__init__(3)
        self.when, self.count = when, 0

    def loss_and_grad(self, theta: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.count += 1
        loss, grad = super().loss_and_grad(theta, batch)
        return (loss * math.nan if self.count in self.when else loss), grad


class WithSplits(Quadratic):
    """A quadratic whose every validation loss is 5."""

    def __init__(self, name: str = "train"):
        super().__init__(3)
        self.name = name

    def split(self, name: str) -> "WithSplits":
        return WithSplits(name)

    def loss(self, theta: Tensor, batch: dict[str, Tensor]) -> Tensor:
        loss = super().loss(theta, batch)
        return 5 + 0 * loss if self.name == "validation" else loss

    def loss_and_grad(self, theta: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss, grad = super().loss_and_grad(theta, batch)
        return (torch.full_like(loss, 5) if self.name == "validation" else loss), grad


def test_a_window_is_one_step_of_adam_on_the_clipped_meta_gradient() -> None:
    module = learner(episodes_per_epoch=1, final_lr_fraction=1.0, clip_norm=0.5)
    rule = export.build(export.describe(module.rule))
    rule.load_state_dict(module.rule.state_dict())
    adam = torch.optim.Adam(rule.parameters())
    trainer(1).fit(module)

    generator = seeds.generator(0, Stream.TRAINING, 0, 0)
    episode = start_episode(rule, module.optimizee, 2, generator)
    for _ in range(3):
        _, _, gradient, episode, *_ = TruncatedBPTT()(rule, module.optimizee, episode, 4, generator)
        for parameter, part in zip(rule.parameters(), gradient, strict=True):
            parameter.grad = part
        torch.nn.utils.clip_grad_norm_(rule.parameters(), 0.5)
        adam.step()
    torch.testing.assert_close(phi(module), torch.cat([p.detach().flatten() for p in rule.parameters()]))


def test_the_best_phi_is_that_of_the_lowest_final_validation_loss() -> None:
    history = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            history.append((trainer.callback_metrics["val/final_loss"].item(), phi(module)))

    wild = partial(torch.optim.SGD, lr=10.0)  # the last φ is not the best
    module = learner(meta_optimizer=wild, final_lr_fraction=1.0)
    trainer(6, Watch()).fit(module)
    loss, best = min(history, key=lambda pair: pair[0])
    assert not torch.equal(best, phi(module))
    assert module.best_loss == pytest.approx(loss)
    assert torch.equal(best, torch.cat([p.detach().flatten() for p in module.best_rule().parameters()]))


def small_lstm() -> UpdateRule:
    return LSTM(hidden_size=4)


def memory() -> UpdateRule:
    """A rule whose state has more and more parts as an episode goes on."""
    return NTMBFGS(hidden_size=3, averaging_cells=1)


@pytest.mark.parametrize(
    ("make", "meta_gradient"),
    [(small_lstm, None), (small_lstm, Imitation(Adam(lr=0.01), cooldown=0.5)), (memory, None)],
)
def test_resuming_from_every_checkpoint_gives_the_same_bits(
    tmp_path: Path, make: Callable[[], UpdateRule], meta_gradient: MetaGradient | None
) -> None:
    undisturbed = learner(rule=make(), meta_gradient=meta_gradient)
    first = trainer(3, SaveAlways(tmp_path))
    first.fit(undisturbed)
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) == 15 + 3
    for path in checkpoints:
        module = learner(rule=make(), meta_gradient=meta_gradient)
        resumed = trainer(3)
        resumed.fit(module, ckpt_path=path, weights_only=True)
        assert torch.equal(phi(module), phi(undisturbed)), path.name
        assert (module.state.windows, resumed.global_step) == (18, first.global_step), path.name
        assert module.best_loss == undisturbed.best_loss, path.name
        assert resumed.callback_metrics.get("val/final_loss", 0) in (0, first.callback_metrics["val/final_loss"])


def test_a_window_that_is_not_finite_is_skipped_whole_and_its_episode_restarted() -> None:
    module = learner(optimizee=NanLoss({4}), episodes_per_epoch=1)  # in the first window: θ_0, then its third step
    run = trainer(1)
    run.fit(module)
    assert module.state.skipped == 1
    assert module.state.skipped_in_a_row == 0
    assert run.global_step == 2  # of three windows
    assert module.state.episodes == 2
    (slot,) = module.slots
    assert slot.carry is not None and slot.carry.step == 8
    assert phi(module).isfinite().all()


def test_too_many_skipped_windows_end_the_run_with_the_remedy() -> None:
    module = learner(optimizee=NanLoss(set(range(10_000))), max_skipped=3)
    with pytest.raises(Diverged, match=r"3 windows in a row .* smaller learner.meta_optimizer.lr"):
        trainer(3).fit(module)


def test_a_run_that_falls_to_chance_level_goes_on_from_the_best_phi(caplog: pytest.LogCaptureFixture) -> None:
    class Break(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            if trainer.current_epoch == 23:
                self.best = module.best_loss
                torch.nn.init.constant_(module.rule.get_parameter("head.bias"), 10.0)

        def on_validation_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            if trainer.current_epoch == 23:
                self.restored = phi(module)

    module, breaks = learner(meta_optimizer=partial(torch.optim.Adam, lr=1e-2)), Break()
    run = trainer(24, breaks)
    run.fit(module)
    assert "fell to chance level" in caplog.text
    assert breaks.best == module.best_loss < module.state.initial_loss
    assert torch.equal(breaks.restored, torch.cat([p.flatten() for p in module.best_rule().state_dict().values()]))
    assert module.state.lr_factor == 0.5
    assert not run.optimizers[0].state


def test_a_run_at_chance_level_says_so(caplog: pytest.LogCaptureFixture) -> None:
    still = learner(meta_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    torch.nn.init.zeros_(still.rule.get_parameter("head.weight"))
    torch.nn.init.zeros_(still.rule.get_parameter("head.bias"))
    trainer(2, Progress()).fit(still)
    assert "learned nothing yet" in caplog.text
    assert "learner.meta_optimizer.lr" in caplog.text


def test_a_run_that_learns_does_not_say_so(caplog: pytest.LogCaptureFixture) -> None:
    module = learner(meta_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    trainer(24, Progress()).fit(module)
    assert module.best_loss < 0.9 * module.state.initial_loss
    assert "learned nothing" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 5}, "5 does not divide 12"),
        ({"window": 24}, "24 does not divide 12"),
        ({"horizon": -12}, "horizon must be at least 1"),
        ({"num_tasks": 0}, "num_tasks must be at least 1"),
        ({"episodes_per_epoch": -1}, "episodes_per_epoch must be at least 1"),
        ({"rule": SGD(0.1)}, "no parameters to train"),
    ],
)
def test_bad_sizes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**changes)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    trainer(1, Checkpoints(str(tmp_path))).fit(learner())
    with pytest.raises(ValueError, match="another optimizer"):
        trainer(2).fit(learner(rule=LSTM(hidden_size=5)), ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_a_checkpoint_from_before_an_argument_existed_is_taken(tmp_path: Path) -> None:
    trainer(1, Checkpoints(str(tmp_path))).fit(learner())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    described = json.loads(checkpoint["l2o"]["rule"])
    del described["max_timescale"]
    checkpoint["l2o"]["rule"] = json.dumps(described)
    torch.save(checkpoint, tmp_path / "older.ckpt")
    module = learner()
    trainer(2).fit(module, ckpt_path=tmp_path / "older.ckpt", weights_only=True)
    assert module.state.windows == 12


class WithTuple(LSTM):
    """A rule with an argument that JSON gives back as a list."""

    def __init__(self, sizes: tuple[int, ...] = (4, 1), hidden_size: int = 4):
        super().__init__(hidden_size=hidden_size)
        self.sizes = sizes


def test_a_rule_with_a_tuple_argument_is_resumed_and_another_tuple_refused(tmp_path: Path) -> None:
    trainer(1, Checkpoints(str(tmp_path))).fit(learner(rule=WithTuple((2, 3))))
    module = learner(rule=WithTuple((2, 3)))
    trainer(2).fit(module, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert module.state.windows == 12
    with pytest.raises(ValueError, match=r"another optimizer, .*\[2, 3\].* than this run's, .*\[2, 4\]"):
        trainer(2).fit(learner(rule=WithTuple((2, 4))), ckpt_path=tmp_path / "last.ckpt", weights_only=True)


# ----------------------------------------------------------------------------------------------- how training ends

UNUSUAL: list[dict[str, Any]] = [
    {"check_val_every_n_epoch": 5},
    {"check_val_every_n_epoch": 2},
    {"max_steps": 1},
    {"max_steps": 8},
    {"val_check_interval": 4},
    {"val_check_interval": 0.5},
    {"val_check_interval": 100, "check_val_every_n_epoch": None},
    {"limit_train_batches": 4},
    {"limit_train_batches": 0.5},
    {"overfit_batches": 2},
    {"fast_dev_run": 2},
    {"num_sanity_val_steps": 1, "check_val_every_n_epoch": 5},
    {"max_time": {"seconds": 0.001}},
]


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("limits", UNUSUAL, ids=str)
def test_however_training_ends_the_last_phi_is_validated_saved_and_exported(
    tmp_path: Path, limits: dict[str, Any]
) -> None:
    module = learner()
    trainer(3, Checkpoints(str(tmp_path)), **limits).fit(module)
    assert 0 < module.state.windows == module.state.validated_at
    assert module.state.best is not None and math.isfinite(module.state.best)
    saved = export.read_checkpoint(tmp_path / "last.ckpt")["l2o"]
    assert (saved["windows"], saved["best_loss"]) == (module.state.windows, module.state.best)
    exported = json.loads((tmp_path / "best/config.json").read_text(), parse_constant=pytest.fail)
    assert exported["card"]["validation_loss"] == module.state.best
    for name, value in export.load(tmp_path / "best").state_dict().items():
        assert torch.equal(value, module.best_rule().state_dict()[name])


@pytest.mark.parametrize("limit", [0, 0.0])
def test_where_nothing_is_validated_the_last_phi_is_exported_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: float
) -> None:
    module = learner()
    trainer(2, Checkpoints(str(tmp_path)), limit_val_batches=limit).fit(module)
    assert module.state.windows == 12 and module.state.best is None
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "never validated" in line and "limit_val_batches" in line
    config = json.loads((tmp_path / "best/config.json").read_text(), parse_constant=pytest.fail)
    assert config["card"]["validation_loss"] is None
    for folder in ("best", "last.ckpt"):
        weights = torch.cat([v.flatten() for v in export.load(tmp_path / folder).state_dict().values()])
        assert torch.equal(weights, phi(module))


def test_where_every_validation_diverges_the_last_phi_is_exported_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class NanInValidation(WithSplits):
        def split(self, name: str) -> Any:
            return NanLoss(set(range(10_000))) if name == "validation" else self

    module = learner(optimizee=NanInValidation())
    trainer(2, Checkpoints(str(tmp_path))).fit(module)
    assert module.state.best is None
    assert "no validation came to a finite loss" in caplog.text
    config = json.loads((tmp_path / "best/config.json").read_text(), parse_constant=pytest.fail)
    assert config["card"]["validation_loss"] is None
    weights = torch.cat([v.flatten() for v in export.load(tmp_path / "best").state_dict().values()])
    assert torch.equal(weights, phi(module))


@pytest.mark.parametrize("limit", [{"max_epochs": 0}, {"max_steps": 0}, {"limit_train_batches": 0}], ids=str)
def test_a_run_that_would_train_nothing_is_refused(tmp_path: Path, limit: dict[str, int]) -> None:
    ((name, _),) = limit.items()
    with pytest.raises(ValueError, match=rf"trainer.{name}=0 trains nothing"):
        trainer(limit.pop("max_epochs", 2), Checkpoints(str(tmp_path)), **limit).fit(learner())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("windows", [2, 8, 17])
def test_a_run_cut_short_by_its_steps_goes_on_exactly(tmp_path: Path, windows: int) -> None:
    """The final validation of the first part finds a φ of its own, and changes nothing that is trained."""
    steady = {"meta_scheduler": None}
    undisturbed = learner(**steady)
    trainer(3).fit(undisturbed)
    trainer(3, Checkpoints(str(tmp_path)), max_steps=windows).fit(learner(**steady))
    module = learner(**steady)
    trainer(3).fit(module, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(phi(module), phi(undisturbed))
    assert module.state.windows == module.state.validated_at == 18


@pytest.mark.parametrize("every", [2, 5])
def test_epochs_without_validation_are_resumed_from_their_ends(tmp_path: Path, every: int) -> None:
    rare = {"check_val_every_n_epoch": every}
    undisturbed = learner()
    trainer(5, **rare).fit(undisturbed)

    class AtEnds(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            if module.state.windows < 30:  # after the last epoch everything is validated and saved at once
                trainer.save_checkpoint(tmp_path / f"end{module.state.windows}.ckpt", weights_only=False)

    trainer(5, AtEnds(), **rare).fit(learner())
    for path in tmp_path.iterdir():
        module = learner()
        trainer(5, **rare).fit(module, ckpt_path=path, weights_only=True)
        assert torch.equal(phi(module), phi(undisturbed)), path.name
        assert module.state.best_loss == undisturbed.state.best_loss, path.name
        assert module.state.windows == 30


def test_a_longer_run_goes_on_from_the_end_of_a_shorter_one(tmp_path: Path) -> None:
    steady = {"meta_scheduler": None}
    undisturbed = learner(**steady)
    trainer(5).fit(undisturbed)
    trainer(3, Checkpoints(str(tmp_path)), check_val_every_n_epoch=5).fit(learner(**steady))
    module = learner(**steady)
    trainer(5).fit(module, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(phi(module), phi(undisturbed))


def test_a_run_with_nothing_left_to_train_leaves_its_checkpoint_as_it_is(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    trainer(2, Checkpoints(str(tmp_path))).fit(learner())
    before, written = last.read_bytes(), last.stat().st_mtime_ns
    trainer(2, Checkpoints(str(tmp_path))).fit(learner(), ckpt_path=str(last))
    assert last.stat().st_mtime_ns == written and last.read_bytes() == before
    (other := tmp_path / "other").mkdir()  # a run in another folder has a checkpoint of its own
    trainer(2, Checkpoints(str(other))).fit(learner(), ckpt_path=str(last))
    assert (other / "last.ckpt").is_file()


def test_a_skipped_window_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    module = learner(optimizee=NanLoss({4, 9, 14}))
    trainer(2, Progress()).fit(module)
    assert module.state.skipped == 3
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "skipped" in r.getMessage()]
    assert len(lines) == 2 and "window 1 is skipped" in lines[0] and "3 of 12 windows were skipped" in lines[1]


def test_each_epoch_has_a_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(3, Progress(), enable_progress_bar=True, check_val_every_n_epoch=2).fit(learner())
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert [line.split(", ")[:2] for line in lines] == [[f"epoch {n}/3", f"window {6 * n}"] for n in (1, 2, 3)]
    assert ["final validation loss" in line for line in lines] == [False, True, False]
    assert "the best" not in lines[0] and "the best" in lines[1] and "the best" in lines[2]


def test_lines_say_how_long_the_rest_takes(capsys, monkeypatch) -> None:
    """At the pace so far, validations included: after one of four epochs three times as long."""
    clock = SimpleNamespace(now=0.0)

    class Hour(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            clock.now += 3600

    monkeypatch.setattr("l2o.runs.progress.time.perf_counter", lambda: clock.now + 1e-9 * time.perf_counter_ns())
    trainer(4, Hour(), Progress()).fit(learner())
    left = [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()]
    assert left[:3] == ["3.0 h left", "2.0 h left", "60 min left"] and "left" not in left[3]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7100, "118 min"), (7200, "2.0 h")]
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_no_tensor_that_a_spawned_rank_is_given_is_made_for_the_pickle_alone() -> None:
    """torch shares memory with a rank that is being spawned by file descriptors, which are closed with the memory: what
    nobody keeps would be gone before the rank looks for it. A generator's state is such a tensor."""
    module = learner()
    trainer(1).fit(module)
    given: list[StorageWeakRef] = []

    class Noting(pickle.Pickler):
        def reducer_override(self, value: object) -> object:
            if isinstance(value, Tensor):
                given.append(StorageWeakRef(value.untyped_storage()))
            return NotImplemented

    slots, states = module.slots, [slot.generator.get_state() for slot in module.slots]
    Noting(written := io.BytesIO()).dump([module.rule, slots])
    assert len(given) > 5 and not any(memory.expired() for memory in given)
    _, copies = pickle.loads(written.getvalue())
    assert all(torch.equal(copy.generator.get_state(), state) for copy, state in zip(copies, states, strict=True))


def test_inference_mode_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="inference_mode=false"):
        trainer(1, inference_mode=True).validate(learner(), verbose=False)


def test_last_ckpt_is_written_within_an_epoch_and_best_is_exported(tmp_path: Path) -> None:
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: MetaLearner, *_: Any) -> None:
            path = tmp_path / "last.ckpt"
            seen.append(torch.load(path, weights_only=True)["l2o"]["windows"] if path.exists() else 0)

    module = learner(episodes_per_epoch=2)
    trainer(2, Checkpoints(str(tmp_path), every_n_minutes=math.inf, every_n_windows=2), Watch()).fit(module)
    assert seen == [0, 2, 2, 4, 4, 4, 6, 8, 8, 10, 10, 10]  # never on an epoch's last window: there after validation
    assert export.read_checkpoint(tmp_path / "last.ckpt")["l2o"]["windows"] == 12
    for saved in (export.load(tmp_path / "best"), export.load(tmp_path / "last.ckpt")):
        for name, value in saved.state_dict().items():
            assert torch.equal(value, module.state.best_phi[name])


def test_the_validation_split_decides_which_phi_is_kept() -> None:
    module = learner(optimizee=WithSplits())
    trainer(1).fit(module)
    assert module.best_loss == module.state.initial_loss == 5
