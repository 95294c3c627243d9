"""Several ranks: together they do what one process would."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from programs import ROOT, Server
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Generator, Tensor
from torch.testing import assert_close
from two_ranks import CASES, SEED, STEPS, TASKS, VALIDATION, learner, optimizee

from l2o import seeds
from l2o.meta_gradients.truncated_bptt import TruncatedBPTT
from l2o.optimizees import Optimizee
from l2o.optimizees.base import Batch
from l2o.seeds import Stream
from l2o.training.families import number_of
from l2o.training.horizons import Progress
from l2o.training.slots import slots_of
from l2o.training.validation import Problems, share_of, validate
from l2o.unroll import start_episode


class Joint(Optimizee):
    """The draws of all ranks, one after the other."""

    def __init__(self, inner: Optimizee, generators: list[Generator]):
        self.inner, self.generators, self.layout = inner, generators, inner.layout

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        draws = [self.inner.sample(num_tasks // len(self.generators), own) for own in self.generators]
        return torch.cat([theta for theta, _ in draws]), self._cat([task for _, task in draws])

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        each = num_tasks // len(self.generators)
        tasks = [{key: value[r * each : (r + 1) * each] for key, value in task.items()} for r in range(2)]
        return self._cat([self.inner.sample_batch(t, each, g) for t, g in zip(tasks, self.generators, strict=True)])

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.inner.loss(theta, batch)

    def _cat(self, batches: list[Batch]) -> Batch:
        return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


@pytest.fixture(scope="module")
def reports(programs: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run = programs.script("tests/two_ranks.py", folder, str(folder))
    assert run.wait() == 0, run.output[-3000:]
    return folder


@pytest.mark.parametrize(("problem", "second_order"), CASES)
@pytest.mark.usefixtures("float64")
class TestTwoRanks:
    def reports(self, folder: Path, problem: str, second_order: bool) -> list[dict[str, Any]]:
        return [torch.load(folder / f"{problem}-{second_order}-{rank}.pt") for rank in range(2)]

    def test_have_the_meta_gradient_of_one_process(self, reports: Path, problem: str, second_order: bool) -> None:
        """… on the concatenation of their draws."""
        module = learner(problem, second_order)
        generators = [seeds.generator(SEED, Stream.TRAINING, rank, 0) for rank in range(2)]
        joint = Joint(module.optimizee, generators)
        episode = start_episode(module.rule, joint, 2 * TASKS, generators[0])
        estimator = TruncatedBPTT(second_order)
        gradient = estimator(module.rule, joint, episode, STEPS, generators[0]).gradient
        for report in self.reports(reports, problem, second_order):
            for (name, before), change in zip(module.rule.named_parameters(), gradient, strict=True):
                assert change.abs().max() > 0
                assert_close(report["phi"][name], before.detach() - change, rtol=1e-12, atol=1e-12)

    def test_validate_as_one_process_would(self, reports: Path, problem: str, second_order: bool) -> None:
        first, second = self.reports(reports, problem, second_order)
        rule = learner(problem, second_order).rule
        rule.load_state_dict(first["phi"])
        problems = {"": Problems([optimizee(problem)], STEPS)}
        expected = validate(rule, problems, VALIDATION, SEED, SingleDeviceStrategy("cpu")).overall
        assert_close((first["best_loss"], first["initial_loss"]), expected[:2], rtol=1e-12, atol=0.0)
        assert_close(first["mean_loss"], expected.mean, rtol=1e-6, atol=0.0)  # went through Lightning's float32
        assert first["best_loss"] == second["best_loss"]
        for name, value in first["best_phi"].items():
            assert torch.equal(value, second["best_phi"][name])
            assert torch.equal(value, first["phi"][name])

    def test_hand_the_best_back_to_the_process_that_started_them(
        self, reports: Path, problem: str, second_order: bool
    ) -> None:
        main = torch.load(reports / f"{problem}-{second_order}-main.pt")
        assert main == self.reports(reports, problem, second_order)[0]["best_loss"]


@pytest.mark.usefixtures("float64")
def test_three_windows_on_families_are_those_of_one_process(reports: Path) -> None:
    """… on the concatenation of the two ranks' draws in every slot, with the same architectures and horizons."""
    module = learner("families", False)
    slots = module.slots
    for _ in range(3):
        total = [torch.zeros_like(parameter) for parameter in module.rule.parameters()]
        for slot in slots:
            if slot.carry is None:
                key = slot.name, slot.index, slot.counter
                drawn = seeds.generator(SEED, Stream.FAMILIES, number_of(slot.name), *key[1:])
                optimizee = slot.family.draw(drawn, torch.device("cpu"))
                steps = slot.family.horizon(drawn, Progress(0, 0.0, 0)) * (1 if slot.counter else slot.phase)
                horizon = STEPS * max(1, round(steps / STEPS))
                place = number_of(slot.name), slot.index
                slot.own = [seeds.generator(SEED, Stream.TRAINING, rank, slot.counter, *place) for rank in range(2)]
                slot.joint = Joint(optimizee, slot.own)
                slot.counter += 1
                slot.carry = start_episode(module.rule, slot.joint, 2 * slot.family.num_tasks, slot.own[0], horizon)
            found = TruncatedBPTT()(module.rule, slot.joint, slot.carry, STEPS, slot.own[0])
            slot.carry = None if found.done else found.carry
            for part, own in zip(total, found.gradient, strict=True):
                part += {"images": 2 / 3 / 2, "quadratics": 1 / 3}[slot.name] * own
        with torch.no_grad():
            for parameter, part in zip(module.rule.parameters(), total, strict=True):
                parameter -= part
    for rank in range(2):
        report = torch.load(reports / f"families-False-{rank}.pt")
        assert (report["windows"], report["episodes"], report["skipped"]) == (3, sum(s.counter for s in slots), 0)
        assert_close(report["phi"], dict(module.rule.state_dict()), rtol=1e-12, atol=1e-12)
        problems = {name: Problems(f.architectures(name, SEED), STEPS) for name, f in module.families.items()}
        expected = validate(module.rule, problems, VALIDATION, SEED, SingleDeviceStrategy("cpu")).overall
        assert_close(report["best_loss"], expected.final, rtol=1e-10, atol=0.0)


@pytest.mark.usefixtures("float64")
def test_the_particles_of_all_ranks_make_one_estimate(reports: Path) -> None:
    """PES on families: φ moves by the mean over the pairs of both ranks, in slots that both ranks have alike."""
    module = learner("pes", False)
    ranks = [slots_of(module.families, SEED) for _ in range(2)]
    place, noise = (module.rule, module.meta_gradient, STEPS), ([], [])
    for _ in range(3):
        total = [torch.zeros_like(parameter) for parameter in module.rule.parameters()]
        for rank, slots in enumerate(ranks):
            for slot in slots:
                if slot.carry is None:
                    slot.start(*place, Progress(0, 0.0, 0), rank, torch.device("cpu"))
                found = slot.window(*place)
                slot.settle(found, finite=True)
                noise[rank].append(found.carry.noise)
                for part, own in zip(total, found.gradient, strict=True):
                    part += slot.weight * own / 2
        assert [slot.horizon for slot in ranks[0]] == [slot.horizon for slot in ranks[1]]
        with torch.no_grad():
            for parameter, part in zip(module.rule.parameters(), total, strict=True):
                parameter -= part
    assert len(noise[0]) == 9 and not any(torch.equal(a, b) for a, b in zip(*noise, strict=True))
    for rank in range(2):
        report = torch.load(reports / f"pes-False-{rank}.pt")
        assert_close(report["phi"], dict(module.rule.state_dict()), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_window_that_is_nan_on_one_rank_is_skipped_on_both(reports: Path) -> None:
    """φ stays where it was, on both alike."""
    first, second = (torch.load(reports / f"nan-False-{rank}.pt") for rank in range(2))
    for report in (first, second):
        assert (report["windows"], report["episodes"], report["skipped"], report["skipped_in_a_row"]) == (1, 1, 1, 1)
        for name, value in learner("nan", False).rule.state_dict().items():
            assert torch.equal(report["phi"][name], value)


@pytest.mark.parametrize("trainer", ["ddp", "ddp_spawn", "ddp_cpu"])
def test_several_nodes_are_composed_and_wait_longer_than_a_checkpoint_takes(trainer: str) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"trainer={trainer}", "trainer.num_nodes=8", "trainer.devices=4"])
    assert (cfg.trainer.num_nodes, cfg.trainer.devices) == (8, 4)
    assert instantiate(cfg.trainer.strategy)._timeout >= timedelta(minutes=10)


@pytest.mark.parametrize("tasks", [1, 2, 5, 16, 17])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_task_is_validated_by_one_rank(tasks: int, ranks: int) -> None:
    shares = [range(tasks)[share_of(tasks, rank, ranks)] for rank in range(ranks)]
    assert [task for share in shares for task in share] == list(range(tasks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_ranks_that_would_run_the_sweep_again_are_refused(programs: Server, tmp_path: Path) -> None:
    run = programs.finish(tmp_path, "--multirun", "seed=0,1", "trainer=ddp_cpu", status=1)
    (line,) = [line for line in run.output.splitlines() if line.startswith("error:")]
    assert "start_method=spawn" in line


@pytest.mark.slow
def test_a_sweep_on_spawned_ranks(programs: Server, tmp_path: Path) -> None:
    trials = tmp_path / "sweep"
    programs.finish(tmp_path, "--multirun", "seed=0,1", "trainer=ddp_cpu", "trainer.strategy.start_method=spawn",
                    "logger=wandb", f"hydra.sweep.dir={trials}")  # fmt: skip
    for trial in ("0", "1"):
        assert (trials / trial / "summary.json").exists()
        assert (trials / trial / "best/model.safetensors").exists()
        assert len(list((trials / trial / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.slow
def test_another_number_of_ranks_is_refused(programs: Server, tmp_path: Path) -> None:
    folder, two = f"hydra.run.dir={tmp_path / 'run'}", ("trainer=ddp_cpu", "trainer.strategy.start_method=fork")
    for before, now, says in (((), two, "1 ranks, this one has 2"), (two, (), "2 ranks, this one has 1")):
        programs.finish(tmp_path, folder, *before)
        run = programs.finish(tmp_path, folder, *now, "ckpt_path=auto", status=1)
        (line,) = [line for line in run.output.splitlines() if line.startswith("error:")]
        assert says in line
        assert "trainer.devices" in line
