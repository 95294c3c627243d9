"""The meta learning rate: any of torch's schedulers, exact through resumes, falls to chance level and older files."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import lr_scheduler
from training_runs import SaveAlways, learner, phi, trainer

from l2o.training.learner import MetaLearner
from l2o.training.meta_schedule import warm_up

LR, WINDOWS = 1e-3, 18  # three epochs of six windows


class Rates(pl.Callback):
    """Keeps the meta learning rate after every window."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


class FallAfter(pl.Callback):
    """Makes φ useless before the validation of an epoch, so that the run falls back to its best φ."""

    def __init__(self, epoch: int):
        self.epoch = epoch

    def on_validation_start(self, trainer: pl.Trainer, module: MetaLearner) -> None:
        if trainer.current_epoch == self.epoch:
            module.state.best_loss = 0.9 * module.state.initial_loss  # as of a run that was making progress
            torch.nn.init.constant_(module.rule.get_parameter("head.bias"), 10.0)

    def on_validation_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
        if trainer.current_epoch == self.epoch:
            module.state.best_loss = math.inf  # once is enough


def rates(*callbacks: pl.Callback, epochs: int = 3, ckpt_path: Path | None = None, **changes: Any) -> list[float]:
    watch = Rates()
    trainer(epochs, watch, *callbacks).fit(learner(**changes), ckpt_path=ckpt_path, weights_only=True)
    return watch.rates


def cosine(window: int, total: int = WINDOWS, final: float = 0.01) -> float:
    return LR * (final + (1 - final) * (1 + math.cos(math.pi * window / total)) / 2)


@pytest.mark.parametrize("final", [0.01, 0.1, 1.0, 0.0])
def test_by_default_it_falls_along_a_cosine_to_a_part_of_itself(final: float) -> None:
    expected = [cosine(window, final=final) for window in range(1, WINDOWS + 1)]
    assert rates(final_lr_fraction=final) == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (None, lambda t: LR),
        (partial(lr_scheduler.CosineAnnealingLR, eta_min=2e-4), lambda t: cosine(t, final=0.2)),
        (partial(lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.1), lambda t: LR * (1 - 0.9 * t / 18)),
        (lr_scheduler.PolynomialLR, lambda t: LR * (1 - t / 18)),
        (partial(lr_scheduler.ExponentialLR, gamma=0.9), lambda t: LR * 0.9**t),
        (partial(lr_scheduler.StepLR, step_size=6), lambda t: LR * 0.1 ** (t // 6)),
        (partial(lr_scheduler.LambdaLR, lr_lambda=lambda t: 1 / (1 + t)), lambda t: LR / (1 + t)),
    ],
    ids=["constant", "cosine", "linear", "polynomial", "exponential", "steps", "lambda"],
)  # fmt: skip
def test_every_scheduler_of_torch_can_be_chosen(factory: Any, expected: Any) -> None:
    """What it is not told of its length is the whole run."""
    want = [expected(window) for window in range(1, WINDOWS + 1)]
    assert rates(meta_scheduler=factory) == pytest.approx(want, rel=1e-9, abs=1e-15)


def test_a_warm_up_rises_and_goes_on_with_another_schedule() -> None:
    """Four meta-updates up, then a half cosine over the fourteen that are left, or a constant rate."""
    rising = [LR * t / 4 for t in range(2, 5)]  # the rate of the second update, …
    falling = [cosine(t, 14) for t in range(15)]
    assert rates(meta_scheduler=partial(warm_up, steps=4)) == pytest.approx(rising + falling, rel=1e-9)
    assert rates(meta_scheduler=partial(warm_up, steps=4, then=None)) == pytest.approx(rising + [LR] * 15, rel=1e-9)
    assert rates(meta_scheduler=partial(warm_up, steps=36)) == pytest.approx([LR * t / 36 for t in range(2, 20)])


@pytest.mark.parametrize("fall", [False, True])
def test_a_run_is_resumed_in_its_warm_up_and_after_it(tmp_path: Path, fall: bool) -> None:
    falls = [FallAfter(1)] if fall else []
    factory = partial(warm_up, steps=8, then=partial(lr_scheduler.StepLR, step_size=3))
    undisturbed = learner(meta_scheduler=factory)
    trainer(3, *falls, SaveAlways(tmp_path)).fit(undisturbed)
    for window in (2, 7, 8, 9, 14, 17):
        module = learner(meta_scheduler=factory)
        path = tmp_path / f"window{window}.ckpt"
        trainer(3, *[FallAfter(1) for _ in falls]).fit(module, ckpt_path=path, weights_only=True)
        assert torch.equal(phi(module), phi(undisturbed)), window


def test_a_warm_up_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one meta-update, got learner.meta_scheduler.steps=0"):
        rates(meta_scheduler=partial(warm_up, steps=0))
    with pytest.raises(ValueError, match="cannot go on with ReduceLROnPlateau"):
        rates(meta_scheduler=partial(warm_up, steps=2, then=lr_scheduler.ReduceLROnPlateau))


def test_one_cycle_takes_the_length_of_the_run() -> None:
    found = rates(
        meta_scheduler=partial(lr_scheduler.OneCycleLR, max_lr=1e-2), epochs=3, meta_optimizer=torch.optim.SGD
    )
    assert max(found) == pytest.approx(1e-2, rel=0.1) and found[-2] == pytest.approx(4e-8)  # of the last update


def test_one_that_waits_for_a_plateau_sees_the_validation_losses() -> None:
    still = partial(torch.optim.SGD, lr=1e-12)
    found = rates(meta_scheduler=partial(lr_scheduler.ReduceLROnPlateau, patience=0), meta_optimizer=still, epochs=3)
    assert found == pytest.approx([1e-12] * 12 + [1e-12] * 6, rel=1) and found[-1] <= found[0]


@pytest.mark.parametrize("factory", [lr_scheduler.CosineAnnealingLR, partial(lr_scheduler.StepLR, step_size=4), None])
def test_a_fall_halves_what_is_left_of_the_schedule(factory: Any) -> None:
    undisturbed, fallen = rates(meta_scheduler=factory), rates(FallAfter(1), meta_scheduler=factory)
    assert fallen[:12] == undisturbed[:12]
    assert fallen[12:] == [rate / 2 for rate in undisturbed[12:]]  # to the last bit


def test_resuming_after_a_fall_gives_the_same_bits(tmp_path: Path) -> None:
    undisturbed = learner()
    trainer(3, FallAfter(1), SaveAlways(tmp_path)).fit(undisturbed)
    assert undisturbed.state.lr_factor == 0.5
    for window in (8, 13, 15, 17):
        module = learner()
        path = tmp_path / f"window{window}.ckpt"
        trainer(3, FallAfter(1)).fit(module, ckpt_path=path, weights_only=True)
        assert torch.equal(phi(module), phi(undisturbed)), window


@pytest.mark.parametrize("fall", [False, True])
def test_a_run_with_more_epochs_goes_on_as_if_it_had_had_them_from_the_start(tmp_path: Path, fall: bool) -> None:
    """Also after a fall: the rates of the longer schedule, halved."""
    falls = [FallAfter(1)] if fall else []
    trainer(3, *falls, SaveAlways(tmp_path)).fit(learner())
    longer = rates(epochs=5, ckpt_path=tmp_path / "window15.ckpt")
    factor = 0.5 if fall else 1.0
    assert longer == pytest.approx([factor * cosine(t, 30) for t in range(16, 31)], rel=1e-9)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_an_older_checkpoint_goes_on_at_the_right_rate(tmp_path: Path, factor: float) -> None:
    """Before, a LambdaLR multiplied its cosine with `lr_factor`; its base rates were never scaled."""
    trainer(3, SaveAlways(tmp_path)).fit(learner())
    checkpoint = torch.load(tmp_path / "window8.ckpt", weights_only=True)
    for name in ("schedule", "validated_at"):
        del checkpoint["l2o"][name]
    checkpoint["l2o"]["lr_factor"] = factor
    now = factor * cosine(8)
    state = {"base_lrs": [LR], "last_epoch": 8, "_step_count": 9, "_last_lr": [now], "lr_lambdas": [{}]}
    checkpoint["lr_schedulers"] = [state]
    checkpoint["optimizer_states"][0]["param_groups"][0] |= {"lr": now, "initial_lr": LR}
    torch.save(checkpoint, tmp_path / "older.ckpt")
    found = rates(ckpt_path=tmp_path / "older.ckpt")
    assert found == pytest.approx([factor * cosine(t) for t in range(9, 19)], rel=1e-9)


def test_the_schedule_of_the_configuration_counts_when_a_run_goes_on(tmp_path: Path) -> None:
    trainer(3, SaveAlways(tmp_path)).fit(learner())
    found = rates(ckpt_path=tmp_path / "window8.ckpt", meta_scheduler=None)
    assert found == [LR] * 10


ADAM = partial(torch.optim.Adam, lr=LR)


@pytest.mark.parametrize("factory", [lr_scheduler.CosineAnnealingLR, None], ids=["cosine", "constant"])
@pytest.mark.parametrize("fall", [False, True])
def test_another_meta_learning_rate_counts_when_a_run_goes_on(tmp_path: Path, fall: bool, factory: Any) -> None:
    """As if the run had had it from the start; after a fall half of it."""
    saving = [FallAfter(1)] if fall else []
    trainer(3, *saving, SaveAlways(tmp_path)).fit(learner(meta_optimizer=ADAM, meta_scheduler=factory))
    twice = partial(torch.optim.Adam, lr=2 * LR)
    found = rates(ckpt_path=tmp_path / "window15.ckpt", meta_optimizer=twice, meta_scheduler=factory)
    usual = [cosine(t) if factory else LR for t in range(16, 19)]
    assert found == pytest.approx([2 * (0.5 if fall else 1) * rate for rate in usual], rel=1e-9)


def test_other_settings_of_the_meta_optimizer_count_when_a_run_goes_on(tmp_path: Path, caplog: Any) -> None:
    """What has not changed goes on to the bit: the rates too, and what Adam remembers."""
    whole = learner(meta_optimizer=ADAM)
    trainer(3, SaveAlways(tmp_path)).fit(whole)
    path, found = tmp_path / "window8.ckpt", {}
    for name, make in {
        "as before": ADAM,
        "no decay": partial(torch.optim.AdamW, lr=LR, weight_decay=0.0),
        "decay": partial(torch.optim.AdamW, lr=LR, weight_decay=0.5),
    }.items():
        module, watch = learner(meta_optimizer=make), Rates()
        caplog.clear()
        with caplog.at_level("INFO", logger="l2o"):
            trainer(3, watch).fit(module, ckpt_path=path, weights_only=True)
        assert watch.rates == pytest.approx([cosine(t) for t in range(9, 19)], rel=1e-12)
        assert ("weight_decay is 0.5 in the place of 0" in caplog.text) == (name == "decay")
        assert ("the meta-optimizer has changed" in caplog.text) == (name != "as before")
        found[name] = phi(module)
    assert torch.equal(found["as before"], phi(whole)) and torch.equal(found["no decay"], phi(whole))
    assert found["decay"].norm() < 0.999 * phi(whole).norm()


def test_another_kind_of_meta_optimizer_is_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    trainer(1, SaveAlways(tmp_path)).fit(learner(meta_optimizer=ADAM))
    module = learner(meta_optimizer=partial(torch.optim.SGD, lr=LR))
    with pytest.raises(ValueError, match="the checkpoint is of another kind of optimizer than SGD: set it as it was"):
        trainer(2).fit(module, ckpt_path=tmp_path / "window3.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"meta_optimizer": None}, "learner.meta_optimizer must be a class of torch.optim, or one like them, got None"),
        ({"meta_optimizer": torch.optim.LBFGS}, "LBFGS wants a closure at every step"),
        ({"meta_optimizer": partial(torch.optim.LBFGS, lr=1.0)}, "LBFGS wants a closure at every step"),
        ({"meta_scheduler": "cosine"}, "learner.meta_scheduler must be null or a scheduler, as .* got cosine"),
        ({"meta_scheduler": lr_scheduler.StepLR}, "learner.meta_scheduler.step_size is missing: StepLR needs it"),
        ({"meta_scheduler": partial(lr_scheduler.OneCycleLR)}, "learner.meta_scheduler.max_lr is missing: OneCycleLR"),
        ({"meta_scheduler": partial(warm_up)}, "learner.meta_scheduler.steps is missing: warm_up needs it"),
    ],
)
def test_what_makes_no_meta_optimizer_or_schedule_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        learner(**changes)


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_a_final_rate_that_is_no_part_of_the_first_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"final_lr_fraction is a part .* got {fraction}"):
        learner(final_lr_fraction=fraction)


def test_the_state_of_every_scheduler_is_plain(tmp_path: Path) -> None:
    """Checkpoints are read with `weights_only=True`."""
    for number, factory in enumerate([None, lr_scheduler.CosineAnnealingLR, lr_scheduler.ReduceLROnPlateau]):
        trainer(1, SaveAlways(tmp_path / str(number))).fit(learner(meta_scheduler=factory))
        saved = torch.load(tmp_path / str(number) / "validated6.ckpt", weights_only=True)
        assert json.loads(saved["l2o"]["rule"])["class"] == "LSTM"
