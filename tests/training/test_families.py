"""Meta-training on families: slots, their horizons, what all of them make of φ, and that resuming changes nothing."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Generator, Tensor
from training_runs import SaveAlways, learner, phi, trainer

from l2o import seeds
from l2o.data import Dataset
from l2o.deploy import export
from l2o.evaluation.curves import loss_curves
from l2o.meta_gradients import Imitation, MetaGradient, Normalised, TruncatedBPTT, WindowResult
from l2o.meta_gradients.evolution import FullES
from l2o.meta_gradients.persistent import PersistentES
from l2o.optimizees import Classifier, LossScaled, MatrixFactorisation, Optimizee, Quadratic, mlp
from l2o.optimizers import LSTM, Adam
from l2o.runs.progress import Progress as Reporter
from l2o.seeds import Stream
from l2o.training.average import Average
from l2o.training.families import Choices, Drawn, Family, named, number_of
from l2o.training.horizons import LogUniform, Progress, Uniform
from l2o.training.learner import MetaLearner
from l2o.training.safeguards import Diverged
from l2o.training.slots import Slot, slots_of
from l2o.training.training_state import TrainingState
from l2o.training.validation import Validation
from l2o.unroll import start_episode

WINDOW = 4


def classifiers(dataset: Dataset) -> Choices:
    networks = [mlp(16, [3], 3), mlp(16, [2, 2], 3, "relu")]
    return Choices(
        [partial(Classifier, network, batch_size=4, init_std=0.3) for network in networks], {"dataset": dataset}
    )


def families(dataset: Dataset, **changes: Any) -> dict[str, Family]:
    return {
        "images": Family(classifiers(dataset), num_tasks=3, num_slots=2, horizon=LogUniform(4, 16), weight=3.0),
        "quadratics": Family(Choices([Quadratic(3), Quadratic(5)]), **changes),
    }


# ------------------------------------------------------------------------------------------------- what a family draws


def test_choices_are_equally_likely_and_share_what_they_are_given(dataset: Dataset) -> None:
    choices = classifiers(dataset)
    first, second = choices.optimizees
    assert isinstance(first, Classifier) and isinstance(second, Classifier)
    assert first.dataset.x_train is second.dataset.x_train is dataset.x_train
    stream = Generator().manual_seed(0)
    drawn = [choices(stream) for _ in range(400)]
    assert 160 < sum(one is first for one in drawn) < 240


def test_moved_data_are_shared_too(dataset: Dataset) -> None:
    meta = [dataset.to("meta") for _ in range(2)]
    assert meta[0].x_train is meta[1].x_train and meta[0].x_train.device.type == "meta"
    assert dataset.to("cpu").x_train is dataset.x_train


def test_drawn_optimizees_are_finitely_many_and_the_same_every_time() -> None:
    def make(generator: Generator) -> Quadratic:
        return Quadratic(int(torch.randint(1, 1000, (), generator=generator)))

    first, second = Drawn(make, count=5, seed=3), Drawn(make, count=5, seed=3)
    dims = [one.layout.size for one in first.optimizees]
    assert dims == [one.layout.size for one in second.optimizees] and len(set(dims)) == 5
    assert dims != [one.layout.size for one in Drawn(make, count=5, seed=4).optimizees]
    stream = Generator().manual_seed(0)
    assert all(first(stream) in first.optimizees for _ in range(20))
    seen = Drawn(make, count=5, seed=3, view=LossScaled).optimizees
    assert all(isinstance(one, LossScaled) for one in seen) and dims == [one.layout.size for one in seen]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choices([]), "at least one optimizee"),
        (lambda: Choices([3]), "optimizees and functions that return one, got 3"),
        (lambda: Choices([lambda: 3]), "must return an Optimizee, it returned int"),
        (lambda: Drawn(lambda generator: None), "must return an Optimizee, it returned NoneType"),  # type: ignore[arg-type, return-value]
        (lambda: Drawn(lambda generator: Quadratic(2), count=0), "count must be at least 1, got 0"),
        (
            lambda: Drawn(lambda g: Quadratic(2), view=lambda one: 3),
            "must return an Optimizee, it returned int",
        ),  # type: ignore[arg-type, return-value]
        (lambda: Drawn(3), "by a function of a generator, got make=3"),  # type: ignore[arg-type]
        (lambda: Choices([partial(Quadratic, 3)], {"data": 1}), r"cannot be called with shared=\['data'\]"),
        (lambda: Family([Quadratic(2)]), "a family's sample_optimizee is an optimizee, Choices"),  # type: ignore[arg-type]
        (lambda: Family(Quadratic(2), num_slots=0), "num_slots must be at least 1, got 0"),
        (lambda: Family(Quadratic(2), num_tasks=0), "num_tasks must be at least 1, got 0"),
        (lambda: Family(Quadratic(2), weight=0.0), "positive number, got 0.0"),
        (lambda: Family(Quadratic(2), weight=math.nan), "positive number, got nan"),
        (lambda: named({}, Quadratic(2)), "has no entry"),
        (lambda: named([Family(Quadratic(2))], Quadratic(2)), "gives each family a name"),  # type: ignore[arg-type]
        (lambda: named({1: Family(Quadratic(2)), "1": Family(Quadratic(2))}, Quadratic(2)), "twice: 1, '1'"),  # type: ignore[dict-item]
        (lambda: named({"a/b": Family(Quadratic(2))}, Quadratic(2)), "without '/', got 'a/b'"),
        (lambda: named({"a": Quadratic(2)}, Quadratic(2)), "learner.families.a must be a Family .* got Quadratic"),  # type: ignore[dict-item]
        (lambda: learner(families={"a": Family(Quadratic(2), horizon=6)}), "families.a: .* 4 does not divide 6"),
        (lambda: learner(families={"a": Family(Quadratic(2), horizon=LogUniform(1, 3))}), "families.a: .* shorter"),
        (lambda: learner(validation={"a": 3}), "learner.validation.a must be an optimizee"),
        (lambda: learner(validation=[Quadratic(2)]), "gives each optimizee a name"),
        (
            lambda: learner(families={"a": Family(MatrixFactorisation())}, held_out=[["matrix factorisation"]]),
            "the family 'a' would train on what is held out",
        ),
        (lambda: learner(held_out=["attention"]), "held_out must be a list of lists of features"),
        (lambda: learner(snapshots=[0]), "from 1 on, or parts of the run between 0 and 1: got 0"),
        (lambda: learner(snapshots=[1.5]), "got 1.5"),
        (lambda: learner(ema_decay=1.0), "below 1, as 0.99, or null: got 1.0"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------------------------------------------------- slots


def started(slots: list[Slot], rank: int) -> list[Slot]:
    rule = LSTM(hidden_size=2)
    for slot in slots:
        slot.start(rule, TruncatedBPTT(), WINDOW, Progress(0, 0.0, 0), rank, torch.device("cpu"))
    return slots


def filled_families(dataset: Dataset) -> dict[str, Family]:
    return {name: family.filled(2, 12) for name, family in families(dataset).items()}


def test_all_ranks_draw_the_same_optimizees_and_horizons_but_other_tasks(dataset: Dataset) -> None:
    own, other = (slots_of(filled_families(dataset), seed=5) for _ in range(2))
    architectures = set()
    for _ in range(6):
        for a, b in zip(started(own, 0), started(other, 1), strict=True):
            assert a.optimizee is not None and b.optimizee is not None
            assert (a.horizon, a.optimizee.layout.shapes) == (b.horizon, b.optimizee.layout.shapes)
            assert not torch.equal(a.carry.theta, b.carry.theta)
            architectures.add((a.name, a.optimizee.layout.size))
    assert len(architectures) == 4  # each of two, of two families
    assert len({tuple(slot.carry.theta.flatten().tolist()) for slot in own[:2]}) == 2  # slots of one family differ


def test_another_seed_draws_others(dataset: Dataset) -> None:
    def course(seed: int) -> list[int]:
        slots = slots_of(filled_families(dataset), seed)
        return [slot.horizon for _ in range(8) for slot in started(slots, 0)]

    assert course(1) == course(1) != course(2)


def test_shares_add_up_to_one_and_first_episodes_are_out_of_step() -> None:
    made = {name: Family(Quadratic(2), 2, 2, 48, weight).filled(2, 40) for name, weight in (("a", 1.0), ("b", 3.0))}
    slots = started(slots_of(made, seed=0), 0)
    assert [slot.weight for slot in slots] == [0.125, 0.125, 0.375, 0.375]
    assert [slot.horizon for slot in slots] == [12, 24, 36, 48]
    assert all(slot.carry.horizon == slot.horizon for slot in slots)  # the rule knows, and every episode is exact
    assert [slot.horizon for slot in started(slots, 0)] == [48] * 4


def test_a_single_optimizee_has_the_stream_that_it_always_had() -> None:
    slot = slots_of({"": Family(Quadratic(3)).filled(2, 12)}, seed=7)[0]
    started([slot], 3)
    generator = seeds.generator(7, Stream.TRAINING, 3, 0)
    expected = start_episode(LSTM(hidden_size=2), Quadratic(3), 2, generator, 12)
    assert torch.equal(slot.carry.theta, expected.theta) and torch.equal(slot.carry.task["W"], expected.task["W"])


# ------------------------------------------------------------------------------------------------- what becomes of φ


def test_the_meta_gradient_is_the_weighted_sum_of_the_slots(dataset: Dataset, float64: None) -> None:
    """With SGD at meta learning rate 1, φ moves by minus the meta-gradient of the first window."""
    plain = {"meta_optimizer": partial(torch.optim.SGD, lr=1.0), "final_lr_fraction": 1.0, "clip_norm": None}
    module = learner(families=families(dataset), **plain)
    before = phi(module)
    run = trainer(1, limit_train_batches=1, limit_val_batches=0, log_every_n_steps=1)
    run.fit(module)

    rule = learner().rule
    expected, losses = torch.zeros_like(before), {}
    keys = [("images", 0, 3, 3.0 / 4 / 2), ("images", 1, 3, 3.0 / 4 / 2), ("quadratics", 0, 2, 1.0 / 4)]
    for place, (name, index, num_tasks, weight) in enumerate(keys):
        drawn = seeds.generator(0, Stream.FAMILIES, number_of(name), index, 0)
        optimizee = families(dataset)[name].draw(drawn, torch.device("cpu"))
        steps = LogUniform(4, 16)(drawn, Progress(0, 0.0, 0)) if name == "images" else 12
        horizon = 4 * max(1, round(steps * (place + 1) / 3 / 4))
        stream = seeds.generator(0, Stream.TRAINING, 0, 0, number_of(name), index)
        episode = start_episode(rule, optimizee, num_tasks, stream, horizon)
        found = TruncatedBPTT()(rule, optimizee, episode, WINDOW, stream)
        expected += weight * torch.cat([part.flatten() for part in found.gradient])
        losses.setdefault(name, []).append(found.losses.mean().item())
        losses.setdefault("", []).append(weight * found.losses.mean().item())
    torch.testing.assert_close(phi(module), before - expected, rtol=1e-12, atol=1e-14)
    logged = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith("train/loss")}
    assert logged == pytest.approx(
        {
            "train/loss": sum(losses[""]),
            "train/loss/images": sum(losses["images"]) / 2,
            "train/loss/quadratics": losses["quadratics"][0],
        },
        rel=1e-5,
    )


class NanIn(Quadratic):
    """A quadratic whose loss is nan in some of its evaluations."""

    def __init__(self, when: range):
        super().__init__(3)
        self.when, self.count = when, 0

    def loss_and_grad(self, theta: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.count += 1
        loss, grad = super().loss_and_grad(theta, batch)
        return (loss * math.nan if self.count in self.when else loss), grad

    def split(self, name: str) -> Optimizee:
        return Quadratic(3)


def test_a_slot_that_is_not_finite_restarts_alone_and_the_others_gradients_count(float64: None) -> None:
    """The window is as if the other family had been there with its own share alone."""
    plain = {"meta_optimizer": partial(torch.optim.SGD, lr=1.0), "final_lr_fraction": 1.0, "clip_norm": None}
    good = Family(Quadratic(2), weight=1.0)

    def moved(bad: Optimizee) -> tuple[MetaLearner, Tensor]:
        module = learner(families={"bad": Family(bad), "good": good}, **plain)
        before = phi(module)
        run = trainer(1, limit_train_batches=1, limit_val_batches=0, log_every_n_steps=1)
        run.fit(module)
        assert run.callback_metrics["train/loss"].isfinite()
        assert ("train/loss/bad" in run.callback_metrics) == (not isinstance(bad, NanIn))
        return module, phi(module) - before

    module, change = moved(NanIn(range(3, 4)))
    bad, fine = module.slots
    assert bad.carry is None and bad.skipped_in_a_row == 1 and bad.counter == 1
    assert fine.carry is not None and fine.carry.step == 4 and fine.skipped_in_a_row == 0
    state = module.state
    assert (state.skipped, state.skipped_in_a_row, state.updates, state.windows) == (1, 1, 1, 1)
    rule, stream = learner().rule, seeds.generator(0, Stream.TRAINING, 0, 0, number_of("good"), 0)
    episode = start_episode(rule, Quadratic(2), 2, stream, 12)
    alone = TruncatedBPTT()(rule, Quadratic(2), episode, WINDOW, stream).gradient
    torch.testing.assert_close(change, -0.5 * torch.cat([part.flatten() for part in alone]), rtol=1e-10, atol=1e-14)


def test_particles_that_are_not_finite_void_no_update_and_are_counted(float64: None) -> None:
    """The diagnostics of an estimator are logged, for each family by itself and for all together."""
    both = {"good": Family(Quadratic(2)), "bad": Family(NanIn(range(2, 10_000)))}
    module = learner(families=both, meta_gradient=PersistentES())
    run = trainer(1, limit_train_batches=1, limit_val_batches=0, log_every_n_steps=1)
    run.fit(module)
    logged = {name: value.item() for name, value in run.callback_metrics.items() if "not_finite" in name}
    assert logged == {"train/not_finite": 0.5, "train/not_finite/bad": 1.0, "train/not_finite/good": 0.0}
    assert (module.state.updates, module.state.skipped) == (1, 0) and "train/snr/good" in run.callback_metrics


def test_a_slot_without_a_number_leaves_it_to_the_others_in_the_logs(float64: None) -> None:
    """A single pair has no signal-to-noise ratio: the mean is that of the other slots, and it is said how many know."""
    families = {"one": Family(Quadratic(2), num_tasks=1, weight=3.0), "good": Family(Quadratic(2), num_slots=2)}
    module = learner(families=families, meta_gradient=PersistentES())
    run = trainer(1, limit_train_batches=1, limit_val_batches=0, log_every_n_steps=1)
    run.fit(module)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert logged["train/snr"] == logged["train/snr/good"] > 0 and math.isnan(logged["train/snr/one"])
    assert logged["train/snr_known"] == pytest.approx(2 / 3)
    assert "train/loss_known" not in logged and "train/capped_known" not in logged  # every slot knows these
    weighted = (3 * logged["train/loss/one"] + logged["train/loss/good"]) / 4
    assert logged["train/loss"] == pytest.approx(weighted)


def test_a_family_that_is_never_finite_ends_the_run_and_is_named() -> None:
    both = {"good": Family(Quadratic(2)), "bad": Family(NanIn(range(1, 10_000)))}
    with pytest.raises(Diverged, match=r"family bad: 3 windows in a row"):
        trainer(3).fit(learner(families=both, max_skipped=3))


def test_going_back_to_the_best_phi_restarts_every_slot_out_of_step(dataset: Dataset) -> None:
    class Break(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            module.state.best_loss = 0.5
            torch.nn.init.constant_(module.rule.get_parameter("head.bias"), 10.0)

        def on_validation_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            assert all(slot.carry is None and not slot.in_phase for slot in module.slots)

    module = learner(families=families(dataset), ema_decay=0.9)
    module.state.best_phi = module.rule.state_dict()
    trainer(1, Break()).fit(module)
    assert module.state.lr_factor == 0.5
    assert module.average is not None and module.average.phi is None


# ---------------------------------------------------------------------------------------------------------- resuming

ESTIMATORS: dict[str, Callable[[], MetaGradient]] = {
    "truncated": lambda: TruncatedBPTT(objective=Normalised()),
    "imitation": lambda: Imitation(Adam(lr=0.01), cooldown=0.5),
    "pes": lambda: PersistentES(objective=Normalised()),
    "nres": lambda: PersistentES("episode", telescoping=True),
    "gpes": lambda: PersistentES(6),
}


def test_inner_steps_are_those_that_an_estimator_does() -> None:
    """FullES does a whole episode in one window: of 12 and 12 steps, or first of 4, 8 and 12 where there are slots."""
    module = learner(meta_gradient=FullES(), families={"a": Family(Quadratic(2), num_slots=3)})
    trainer(1, limit_train_batches=2).fit(module)
    assert (module.state.windows, module.state.inner_steps) == (2, 4 + 8 + 12 + 3 * 12)
    module = learner()
    trainer(1, limit_train_batches=2).fit(module)
    assert module.state.inner_steps == 8


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_resuming_from_every_checkpoint_gives_the_same_bits(tmp_path: Path, dataset: Dataset, estimator: str) -> None:
    """Episodes of several lengths are cut in their middle; the average of φ is among the bits."""

    def make() -> MetaLearner:
        own = families(dataset, horizon=Uniform(8, 24))
        return learner(
            families=own, meta_gradient=ESTIMATORS[estimator](), ema_decay=0.9, rule=LSTM(hidden_size=3),
            validation_tasks=2,
        )  # fmt: skip

    undisturbed = make()
    first = trainer(2, SaveAlways(tmp_path))
    first.fit(undisturbed)
    checkpoints = sorted(tmp_path.iterdir())
    assert len(checkpoints) == 10 + 2
    assert undisturbed.state.episodes == sum(slot.counter for slot in undisturbed.slots) > 6
    for path in checkpoints:
        module = make()
        resumed = trainer(2)
        resumed.fit(module, ckpt_path=path, weights_only=True)
        assert torch.equal(phi(module), phi(undisturbed)), path.name
        assert vars(module.state).keys() == vars(undisturbed.state).keys()
        assert [(s.counter, s.horizon) for s in module.slots] == [(s.counter, s.horizon) for s in undisturbed.slots]
        for slot, other in zip(module.slots, undisturbed.slots, strict=True):
            found, expected = slot.own_state()["generator"], other.own_state()["generator"]
            assert (found is expected is None) or torch.equal(found, expected), path.name
        assert module.best_loss == undisturbed.best_loss, path.name
        assert module.average is not None and undisturbed.average is not None
        assert module.average.phi is not None and undisturbed.average.phi is not None
        assert all(torch.equal(value, undisturbed.average.phi[name]) for name, value in module.average.phi.items())


def test_a_family_that_is_new_or_gone_leaves_the_others_where_they_were(
    tmp_path: Path, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(1, SaveAlways(tmp_path)).fit(learner(families=families(dataset)))
    changed = {"quadratics": families(dataset)["quadratics"], "new": Family(Quadratic(4))}
    module = learner(families=changed)

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            old, new = module.slots
            assert old.carry is not None and old.carry.step == 8 and new.carry is None
            assert module.state.best is None  # what was found on other problems is not comparable

    trainer(1, Look()).fit(module, ckpt_path=tmp_path / "window2.ckpt", weights_only=True)
    assert module.state.windows == 6 and module.slots[1].counter > 0
    given_up = [r.getMessage() for r in caplog.records if "given up" in r.getMessage()]
    assert given_up == [
        f"family images has no slot {slot} in this run: the checkpoint's episode there is given up" for slot in range(2)
    ]


def test_another_architecture_in_a_slot_starts_a_new_episode_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(1, SaveAlways(tmp_path)).fit(learner(families={"a": Family(Quadratic(3))}))
    module = learner(families={"a": Family(Quadratic(4))})
    trainer(1).fit(module, ckpt_path=tmp_path / "window2.ckpt", weights_only=True)
    assert "family a: the checkpoint's episode is one of another meta_gradient or problem" in caplog.text
    assert module.state.windows == 6


# -------------------------------------------------------------------------------------------------------- validation


class Told(Quadratic):
    """A problem whose loss is 2 at the start of an episode, θ = 0, and then what it was told."""

    def __init__(self, dim: int, later: float):
        super().__init__(dim, init_std=0.0)
        self.later = later

    def loss(self, theta: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return torch.where((theta == 0).all(), 2.0, self.later) + 0 * theta.sum()

    def loss_and_grad(self, theta: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.stack([self.loss(one, batch) for one in theta]), torch.ones_like(theta)


def test_phi_is_chosen_by_the_mean_of_normalised_final_losses() -> None:
    both = {"a": Family(Choices([Told(1, 1.0), Told(2, 3.0)])), "b": Family(Told(3, 8.0))}
    module = learner(families=both, validation_tasks=4)
    run = trainer(1)
    run.fit(module)
    found = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith("val/")}
    assert found["val/final_loss/a"] == 2.0 and found["val/final_loss/b"] == 8.0  # two tasks of each architecture
    assert found["val/final_loss"] == pytest.approx(((0.5 + 1.5) / 2 + 4.0) / 2) == module.best_loss
    assert module.state.initial_loss == 1.0


def test_a_suite_chooses_in_the_place_of_the_families() -> None:
    module = learner(families={"a": Family(Quadratic(2))}, validation={"x": Told(2, 1.0), "y": Told(2, 4.0)})
    run = trainer(1)
    run.fit(module)
    found = run.callback_metrics
    assert (found["val/final_loss/x"], found["val/final_loss/y"]) == (1.0, 4.0)
    assert "val/final_loss/a" not in found and found["val/final_loss"] == 1.25
    assert module.state.measured_on == ("x", "y")


def test_names_of_a_suite_may_be_numbers() -> None:
    module = learner(families={"a": Family(Quadratic(2))}, validation={1: Told(2, 1.0), 2: Told(2, 4.0)})
    run = trainer(1)
    run.fit(module)
    assert (run.callback_metrics["val/final_loss/1"], run.callback_metrics["val/final_loss/2"]) == (1.0, 4.0)
    with pytest.raises(ValueError, match="one name twice: 1, '1'"):
        learner(validation={1: Quadratic(2), "1": Quadratic(2)})


def test_several_horizons_are_averaged_by_the_geometric_mean() -> None:
    suite = {"x": Told(2, 1.0), "y": Told(2, 4.0)}
    module = learner(families={"a": Family(Quadratic(2))}, validation=suite, validation_horizons=[2, 6])
    run = trainer(1)
    run.fit(module)
    found = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith("val/final_loss/")}
    assert found == {f"val/final_loss/{name}": loss for name, loss in (("x@2", 1), ("x@6", 1), ("y@2", 4), ("y@6", 4))}
    assert run.callback_metrics["val/final_loss"].item() == pytest.approx(1.0)  # sqrt(1/2 · 4/2)
    assert module.state.measured_on == ("x@2", "x@6", "y@2", "y@6")


def test_a_geometric_mean_is_of_every_tasks_logarithm() -> None:
    module = learner(
        families={"a": Family(Choices([Told(1, 1.0), Told(2, 3.0)]))}, validation_tasks=4, validation_horizons=[2, 6]
    )
    run = trainer(1)
    run.fit(module)
    assert run.callback_metrics["val/final_loss/a@6"].item() == 2.0
    assert run.callback_metrics["val/final_loss"].item() == pytest.approx((0.5 * 1.5) ** 0.5)


def test_every_horizon_of_a_validation_has_its_own_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def recorded(*args: Any) -> tuple[Tensor, Tensor]:
        initial, losses = loss_curves(*args)
        shapes.append(tuple(losses.shape))
        return initial, losses

    monkeypatch.setattr("l2o.training.validation.loss_curves", recorded)
    module = learner(validation={"x": Quadratic(2)}, validation_horizons=[3, 8], validation_tasks=4)
    trainer(1).validate(module, verbose=False)  # without a training before it
    assert shapes == [(3, 4), (8, 4)]


@pytest.mark.parametrize(
    "horizons, message",
    [([], "a list of numbers"), ([0], "at least 1"), ([4, 4], "differ"), ("12", "a list"), (7, "a list")],
)
def test_horizons_of_a_validation_that_make_no_sense_are_refused(horizons: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"learner.validation_horizons.*{message}"):
        learner(validation_horizons=horizons)


def test_a_family_without_a_list_is_validated_on_sixteen_draws() -> None:
    drawn = []

    def sample(generator: Generator) -> Quadratic:
        drawn.append(Quadratic(int(torch.randint(2, 6, (), generator=generator))))
        return drawn[-1]

    module = learner(families={"a": Family(sample)}, validation_tasks=16)
    trainer(1).fit(module)
    assert len(module.selection.problems["a"].optimizees) == 16
    assert len({problem.layout.size for problem in module.selection.problems["a"].optimizees}) == 4


# ------------------------------------------------------------------------------- the average, snapshots, warm starts


class Watch(pl.Callback):
    """Keeps φ after every window."""

    def __init__(self) -> None:
        self.phi: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: MetaLearner, *_: Any) -> None:
        self.phi.append({name: value.clone() for name, value in module.rule.state_dict().items()})


def test_the_average_of_phi_is_exponential_and_quick_at_first() -> None:
    module, watch = learner(ema_decay=0.4), Watch()
    start = {name: value.clone() for name, value in module.rule.state_dict().items()}
    trainer(1, watch).fit(module)
    expected = watch.phi[0]
    for number, current in enumerate(watch.phi, start=1):
        decay = min(0.4, (1 + number) / (10 + number))
        expected = {name: decay * value + (1 - decay) * current[name] for name, value in expected.items()}
    assert module.average is not None and module.average.phi is not None
    torch.testing.assert_close(module.average.phi, expected)
    assert not torch.equal(expected["head.weight"], start["head.weight"])


def test_an_average_that_was_read_before_phi_moved_follows_it_to_its_device() -> None:
    average, rule = Average(0.9), LSTM(hidden_size=2)
    average.update(rule)
    resumed = Average(0.9)
    resumed.load_state_dict(average.state_dict())
    resumed.update(rule.to("meta"))
    assert resumed.updates == 2 and resumed.phi is not None
    assert {value.device.type for value in resumed.phi.values()} == {"meta"}


def test_the_average_is_kept_where_it_is_better_and_training_goes_on_from_phi() -> None:
    """A meta learning rate so large that φ jumps about, but no fall to chance level replaces it."""
    wild = {"meta_optimizer": partial(torch.optim.SGD, lr=0.3), "final_lr_fraction": 1.0}
    with_average, without, ends = learner(ema_decay=0.9, **wild), learner(**wild), []

    class Look(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            values = {name: value.item() for name, value in trainer.callback_metrics.items()}
            pair = values["val/phi_final_loss"], values["val/average_final_loss"]
            assert values["val/final_loss"] == min(pair)
            ends.append(pair)

    trainer(4, Look()).fit(with_average)
    trainer(4).fit(without)
    assert with_average.state.lr_factor == without.state.lr_factor == 1.0
    assert torch.equal(phi(with_average), phi(without))
    best = min(min(pair) for pair in ends)
    assert with_average.best_loss == pytest.approx(best, rel=1e-6)
    assert with_average.best_loss <= without.best_loss
    assert any(average < own for own, average in ends)


def test_snapshots_are_phi_at_their_moments(tmp_path: Path) -> None:
    from l2o.runs.snapshots import Snapshots

    module, watch = learner(snapshots=[0.5, 5, 18], ema_decay=0.9), Watch()
    trainer(3, watch, Snapshots(str(tmp_path), {"name": "x"})).fit(module)
    folders = {path.name for path in (tmp_path / "snapshots").iterdir()}
    assert folders == {f"window_{n:06}{end}" for n in (5, 9, 18) for end in ("", "_average")}
    for number in (5, 9, 18):
        rule = export.load(tmp_path / f"snapshots/window_{number:06}")
        assert rule.card is not None and rule.card["windows"] == number
        assert all(torch.equal(value, watch.phi[number - 1][name]) for name, value in rule.state_dict().items())
    last = export.load(tmp_path / "snapshots/window_000018_average").state_dict()
    assert module.average is not None and module.average.phi is not None
    assert all(torch.equal(value, module.average.phi[name]) for name, value in last.items())


def warm(tmp_path: Path, dataset: Dataset, **changes: Any) -> tuple[MetaLearner, Path]:
    """A run of two epochs, and the file that it has left to start from."""
    from l2o.runs.checkpoints import Checkpoints

    module = learner(families=families(dataset), ema_decay=0.9, final_lr_fraction=1.0, **changes)
    trainer(2, Checkpoints(str(tmp_path))).fit(module)
    return module, tmp_path / "warm_start.ckpt"


@pytest.mark.parametrize("name", ["warm_start.ckpt", "last.ckpt"])
def test_a_warm_start_goes_on_with_phi_and_counters_and_new_episodes(
    tmp_path: Path, dataset: Dataset, name: str
) -> None:
    before, file = warm(tmp_path, dataset)
    assert file.stat().st_size < 1_000_000
    seen: dict[str, Any] = {}

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            assert torch.equal(phi(module), phi(before)) and trainer.current_epoch == 0
            state = trainer.optimizers[0].state_dict()["state"]
            assert all(entry["step"] == 12 for entry in state.values())
            assert (module.state.windows, module.state.updates, module.total_windows()) == (12, 12, 30)
            assert module.best_loss == before.best_loss
            assert [slot.counter for slot in module.slots[:3]] == [slot.counter for slot in before.slots]
            assert all(slot.carry is None and not slot.in_phase for slot in module.slots)
            assert module.average is not None and before.average is not None and before.average.phi is not None
            assert module.average.phi is not None and module.average.updates == 12
            assert all(torch.equal(v, before.average.phi[k]) for k, v in module.average.phi.items())
            seen["lr"] = trainer.optimizers[0].param_groups[0]["lr"]

    changes = {"meta_optimizer": partial(torch.optim.Adam, lr=0.25), "final_lr_fraction": 1.0}
    module = learner(families=families(dataset), ema_decay=0.9, warm_start=str(tmp_path / name), **changes)
    run = trainer(3, Look())
    run.fit(module)
    assert seen["lr"] == 0.25  # this run's own
    assert module.state.windows == module.state.validated_at == 30 and run.current_epoch == 3


def test_a_warm_start_half_way_has_the_rates_of_the_whole_run(tmp_path: Path) -> None:
    """Three epochs, cut after one of them: the rest has the meta learning rates of the run that was left alone."""
    from l2o.runs.checkpoints import Checkpoints

    class Rates(pl.Callback):
        def __init__(self) -> None:
            self.found: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, module: MetaLearner, *_: Any) -> None:
            self.found.append(trainer.optimizers[0].param_groups[0]["lr"])

    whole, rest = Rates(), Rates()
    trainer(3, whole, SaveAlways(tmp_path)).fit(learner())
    module = learner(warm_start=str(tmp_path / "validated6.ckpt"))
    trainer(2, rest, Checkpoints(str(tmp_path / "rest"))).fit(module)
    assert rest.found == pytest.approx(whole.found[6:], rel=1e-12) and len(rest.found) == 12
    again = learner(warm_start="gone")
    trainer(3).fit(again, ckpt_path=tmp_path / "rest/last.ckpt", weights_only=True)
    assert (again.state.windows, again.state.windows_before) == (24, 6)


def test_a_run_that_was_stopped_goes_on_from_its_own_checkpoint_and_not_from_the_file(
    tmp_path: Path, dataset: Dataset
) -> None:
    _, file = warm(tmp_path / "before", dataset)

    def make() -> MetaLearner:
        return learner(families=families(dataset), warm_start=str(file))

    (tmp_path / "saved").mkdir()
    undisturbed = make()
    trainer(4, SaveAlways(tmp_path / "saved")).fit(undisturbed)
    file.unlink()  # nobody reads it again
    for window in (14, 18, 22, 35):
        module = make()
        path = tmp_path / f"saved/{'validated' if window == 18 else 'window'}{window}.ckpt"
        trainer(4).fit(module, ckpt_path=path, weights_only=True)
        assert torch.equal(phi(module), phi(undisturbed)), window


def test_a_warm_start_on_other_families_forgets_what_was_best(tmp_path: Path, dataset: Dataset) -> None:
    _, file = warm(tmp_path, dataset)
    module = learner(families={"other": Family(Quadratic(2))}, warm_start=str(file))

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            assert module.state.best is None and module.slots[0].counter == 0

    trainer(3, Look()).fit(module)
    assert module.state.best is not None


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ({}, {}, True),
        ({}, {"optimizee": Quadratic(9)}, False),
        ({}, {"seed": 1}, False),
        ({}, {"validation_tasks": 9}, False),
        ({"families": {"a": Family(Quadratic(2))}}, {"families": {"a": Family(Quadratic(9))}}, False),
    ],
)
def test_a_warm_start_on_other_problems_of_the_same_name_forgets_what_was_best(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], kept: bool
) -> None:
    """The best loss of the first run is set so low that the second one comes to none as low."""
    from l2o.runs.checkpoints import Checkpoints

    class Low(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            module.state.best_loss = 1e-9

    trainer(1, Low(), Checkpoints(str(tmp_path))).fit(learner(**before))
    module = learner(**now, warm_start=str(tmp_path / "warm_start.ckpt"))
    run = trainer(2)
    run.fit(module)
    assert (module.best_loss == 1e-9) == kept
    assert kept or module.best_loss == pytest.approx(run.callback_metrics["val/best_final_loss"].item(), rel=1e-6)


@pytest.mark.parametrize(("initial", "kept"), [(1.01, True), (1.0, False)])
def test_only_a_file_may_be_of_other_problems(initial: float, kept: bool) -> None:
    """Within a run the problems stay, and losses at θ_0 that are not repeatable forget nothing."""
    state, resumed = TrainingState(), TrainingState()
    for found in (1.0, 1.01):
        state.measured([found])
        state.saw(Validation(0.5 * found, found, 0.7), LSTM(hidden_size=2))
    assert state.best == 0.5
    resumed.load_found(state.found())
    for found in (initial, 1.02):
        resumed.measured([found])
        assert resumed.best == (0.5 if kept else None)


@pytest.mark.parametrize(("before", "now"), [(None, [8]), ([3, 5], [3, 7])])
def test_a_warm_start_with_other_horizons_of_its_validations_forgets_what_was_best(
    tmp_path: Path, before: list[int] | None, now: list[int]
) -> None:
    """The losses after 8 steps are lower than those after 20, whatever φ is."""
    from l2o.runs.checkpoints import Checkpoints

    trainer(1, Checkpoints(str(tmp_path))).fit(learner(validation_horizons=before))
    best = []

    class Look(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: MetaLearner) -> None:
            best.append(module.state.best)

    for horizons in (before, now):
        module = learner(validation_horizons=horizons, warm_start=str(tmp_path / "warm_start.ckpt"))
        trainer(2, Look()).fit(module)
    assert best[0] is not None and best[1] is None


@pytest.mark.parametrize(
    ("changes", "epochs", "message"),
    [
        ({"meta_optimizer": torch.optim.SGD}, 3, "another kind of meta-optimizer than this run's SGD"),
        ({"rule": LSTM(hidden_size=5)}, 3, "holds another optimizer"),
        ({"warm_start": "nowhere.ckpt"}, 3, "learner.warm_start: no checkpoint at 'nowhere.ckpt'"),
    ],
)
def test_a_file_that_does_not_suit_is_refused(
    tmp_path: Path, dataset: Dataset, changes: dict[str, Any], epochs: int, message: str
) -> None:
    _, file = warm(tmp_path, dataset)
    with pytest.raises(ValueError, match=message):
        trainer(epochs).fit(learner(**{"families": families(dataset), "warm_start": str(file)} | changes))


def test_a_checkpoint_of_other_ranks_names_the_way_to_start_from_it(tmp_path: Path) -> None:
    trainer(1, SaveAlways(tmp_path)).fit(learner())
    path = tmp_path / "window2.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["l2o"]["ranks"] *= 2
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"2 ranks, this one has 1: .* learner.warm_start=FILE"):
        trainer(1).fit(learner(), ckpt_path=path, weights_only=True)
    module = learner(warm_start=str(path))
    trainer(1).fit(module)
    assert (module.state.windows, module.state.windows_before) == (8, 2)


class Noisy(PersistentES):
    """An estimator that finds the signal-to-noise ratio that it was told."""

    def __init__(self, snr: float, capped: float):
        super().__init__()
        self.found = {"snr": snr, "not_finite": 0.0, "capped": capped}

    def __call__(self, *arguments: Any) -> WindowResult:
        return super().__call__(*arguments)._replace(diagnostics=self.found)


@pytest.mark.parametrize(
    ("snr", "capped", "says"),
    [
        (1e-6, 0.0, "a pair's signal-to-noise ratio is 1e-06, where 0.00"),
        (0.5, 0.0, "noise is not what holds it up"),
        (math.nan, 0.0, None),
        (math.nan, 0.9, "90% of the losses are at the cap"),  # where all are, nobody knows the ratio
    ],
)
def test_a_run_that_stalls_is_told_its_noise_once(
    caplog: pytest.LogCaptureFixture, snr: float, capped: float, says: str | None
) -> None:
    """φ does not move, so that no validation is better than the first."""
    still = {"meta_optimizer": partial(torch.optim.SGD, lr=0.0), "meta_gradient": Noisy(snr, capped), "num_tasks": 3}
    trainer(13, Reporter(), log_every_n_steps=1).fit(learner(episodes_per_epoch=1, horizon=4, **still))
    lines = [r.getMessage() for r in caplog.records if "no better φ" in r.getMessage()]
    assert len(lines) == (says is not None)
    for line in lines:
        assert line.startswith("10 validations have found no better φ") and says is not None and says in line
