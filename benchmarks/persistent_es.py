"""How many inner steps a second of PES: this package, and the same in plain eager torch with `torch.func.vmap`.

AdafacMLP learns on a ReLU network 64–32–10 and scikit-learn's digits (8×8), minibatches of 64. A window is K = 50 steps
of 8 antithetic pairs, and a step of every episode of both signs counts. The plain way is what one would write with
torch's own tools: the rule in one task's shapes and f in one task's shapes, both mapped over 16 particles by vmap. Both
ways compute the same window from the same draws; they take turns in one process, and medians are reported, and the
fastest window of each. `--processor-time` counts this thread's own processor time and ignores what else the machine
does. `--rule hierarchical` and `--estimator nres` are what `experiment=general` trains with. `--no-plain` leaves the
plain way out.

    python benchmarks/persistent_es.py [--hidden 4] [--pairs 8] [--windows 7] [--threads 1]

Shapes: N pairs, B = 2N particles, P coordinates, D meta-parameters, K steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.func import functional_call, grad_and_value, vmap

from l2o import data, seeds
from l2o.meta_gradients import PersistentES
from l2o.meta_gradients.antithetic import Pairs
from l2o.optimizees import Classifier, Repeated, mlp
from l2o.optimizers import AdafacMLP, Hierarchical, Observation, UpdateRule
from l2o.runs.errors import in_one_line

HORIZON = 1000


class Plain(NamedTuple):
    """Hold a PES job in plain torch: a rule whose `forward` knows of one task and one φ, and an optimizee's `loss`."""

    rule: UpdateRule
    optimizee: Classifier
    sigma: float
    renews: bool = True  # ε, after every window, as PES does and NRES does not

    def window(self, pairs: Pairs, num_steps: int, generator: Generator) -> tuple[Tensor, Tensor, Pairs]:
        """Give the losses (K, 2N), the gradient (D,), and the pairs after K steps."""
        noise, credit = pairs.noise, pairs.credit
        if pairs.episode.step and self.renews:
            noise = self.sigma * torch.randn(noise.shape, generator=generator, dtype=noise.dtype)
            credit = credit + noise
        phi, drawn = self.perturbed(noise), Repeated(self.optimizee, 2)
        episode, losses = pairs.episode, []
        theta, grad, loss, state = episode.theta, episode.grad, episode.loss, episode.state
        move, evaluate = vmap(self.move, in_dims=(0, 0, 0, 0, 0, None)), vmap(grad_and_value(self.optimizee.loss))
        for t in range(episode.step, episode.step + num_steps):
            update, state = move(phi, theta, grad, loss, state, torch.tensor(float(t)))
            theta = theta + update
            grad, loss = evaluate(theta, drawn.sample_batch(episode.task, len(theta), generator))
            losses.append(loss)
        curves = torch.stack(losses)
        plus, minus = curves.mean(0).chunk(2)
        gradient = ((plus - minus)[:, None] * credit).mean(0) / (2 * self.sigma**2)
        last = episode._replace(theta=theta, grad=grad, loss=loss, state=state, step=episode.step + num_steps)
        return curves, gradient, Pairs(last, noise, credit, pairs.before)

    def perturbed(self, noise: Tensor) -> dict[str, Tensor]:
        """Give φ + ε_i and then φ − ε_i by name, each (2N, …)."""
        signed, start, found = torch.cat((noise, -noise)), 0, {}
        for name, parameter in self.rule.named_parameters():
            own = signed[:, start : start + parameter.numel()].reshape(len(signed), *parameter.shape)
            found[name] = parameter.detach() + own
            start += parameter.numel()
        return found

    def move(
        self, phi: dict[str, Tensor], theta: Tensor, grad: Tensor, loss: Tensor, state: dict[str, Tensor], step: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Give g (P,) and the next state of one task."""
        seen = Observation(grad[None], theta[None], loss[None], step[None], torch.full_like(step, HORIZON)[None])
        own = {key: value[None] for key, value in state.items()}
        update, after = functional_call(self.rule, phi, (seen, own, self.optimizee.layout))
        return update[0], {key: value[0] for key, value in after.items()}


def job(hidden: int, rule: str = "adafac") -> tuple[UpdateRule, Classifier]:
    """Make the rule and the problem."""
    torch.manual_seed(0)
    kind = {"adafac": AdafacMLP, "hierarchical": Hierarchical}[rule]
    return kind(hidden_size=hidden), Classifier(mlp(64, [32], 10, activation="relu"), data.digits(), 64, 0.1)


def seconds(
    windows: dict[str, Callable[[], object]], count: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Give the times of each of some windows, which take turns, after one turn that does not count."""
    found: dict[str, list[float]] = {name: [] for name in windows}
    for turn in range(count + 1):
        for name, window in windows.items():
            begin = clock()
            window()
            if turn:
                found[name].append(clock() - begin)
    return found


@in_one_line
@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", choices=("adafac", "hierarchical"), default="adafac")
    parser.add_argument("--estimator", choices=("pes", "nres"), default="pes")
    parser.add_argument("--hidden", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="K, the steps of a window")
    parser.add_argument("--windows", type=int, default=7, help="of each way; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor-time", action="store_true", help="of one thread, on a machine with other work")
    parser.add_argument("--no-plain", action="store_true", help="measure this package alone")
    given = parser.parse_args()
    threads = 1 if given.processor_time else given.threads
    torch.set_num_threads(threads)
    rule, optimizee = job(given.hidden, given.rule)
    estimator = PersistentES("window" if given.estimator == "pes" else "episode", sigma=0.01, cap=None)
    plain = Plain(rule, optimizee, 0.01, renews=given.estimator == "pes")
    pairs = estimator.start(rule, optimizee, given.pairs, HORIZON, seeds.generator(0))
    draw = seeds.generator(1)
    windows: dict[str, Callable[[], object]] = {
        "ours": lambda: estimator(rule, optimizee, pairs, given.steps, draw),
        "plain": lambda: plain.window(pairs, given.steps, draw),
    }
    if given.no_plain:
        del windows["plain"]
    took = seconds(windows, given.windows, time.thread_time if given.processor_time else time.perf_counter)
    count = 2 * given.pairs * given.steps
    print(
        f"{type(rule).__name__} h = {given.hidden}, {given.estimator}, {given.pairs} pairs, K = {given.steps}, "
        f"{threads} threads{', processor time' if given.processor_time else ''}: inner steps per second"
    )
    for name, times in took.items():
        print(f"{name:6} {count / statistics.median(times):8.0f}, at best {count / min(times):8.0f}")
    if "plain" in took:
        ratio, best = (of(took["plain"]) / of(took["ours"]) for of in (statistics.median, min))
        print(f"ratio  {ratio:8.2f}, of the best {best:8.2f}")


if __name__ == "__main__":
    main()
