"""Meta-train AdafacMLP by the published code of PES, on the job of `tests/meta_training_runs.py`.

The code is google/learned_optimization's, as PyPI has it: its AdafacMLPLOpt (h = 4), TruncatedPES, truncation
schedules, task and Adam. What is not its own are the images, scikit-learn's digits, whose minibatches are drawn
independently, and the loop over meta-updates. It runs in an environment of its own, without this package:

    python3.11 -m venv published
    published/bin/pip install --no-deps learned-optimization==0.0.1
    published/bin/pip install jax==0.4.20 jaxlib==0.4.20 numpy==1.26.4 "scipy<1.12" dm-haiku==0.0.11 optax==0.1.7 \\
        chex==0.1.85 flax==0.7.5 gin-config==0.5.0 absl-py tqdm scikit-learn
    sed -i 's/(fac_vec_v)\\*\\*-0.5/(fac_vec_v + 1e-6)**-0.5/' \\
        published/lib/python3.11/site-packages/learned_optimization/learned_optimizers/adafac_mlp_lopt.py

The last command brings in the one line in which the rule that was published later, and which is the one here, differs.
Of TensorFlow, which the package imports for data and logs that are not needed here, stand-ins take the place. Then

    published/bin/python benchmarks/published_meta_training.py courses theirs.json --starts starts.json

trains one φ after another for 500 meta-updates, ten at a time, and goes on where it was interrupted. It writes the
meta-losses, the norms of the meta-gradients, and φ at the start and now. `starts.json` holds {NAME: φ}, where φ is a
list of the 197 numbers of `AdafacMLP.parameters()`, or null, where the published code shall draw it; without the option
it draws one. And

    published/bin/python benchmarks/published_meta_training.py record persistent_es.npz --starts starts.json

writes what `tests/meta_gradients/test_published_course.py` compares with, from the file's first start: ten
meta-updates in episodes of 2000 steps, with all losses, perturbations, initial networks and meta-gradients.

Shapes: N = 8 pairs, K = 50 steps of a window, W windows, D = 197 numbers of φ.
"""

import argparse
import json
import pickle
import sys
import types
from pathlib import Path

import flax.training.checkpoints  # noqa: F401  # it asks for the real TensorFlow, and must do so before the stand-ins
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

UPDATES, PAIRS, WINDOW, SIGMA, RATE, BATCH = 500, 8, 50, 0.01, 3e-4, 64
SHORTEST, LONGEST, RECORDED, AT_ONCE = 100, 2000, 10, 10


class StandIn(types.ModuleType):
    """Stands for a module that the package imports and that is not used here."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


for absent in ("", ".compat", ".compat.v2"):
    sys.modules[f"tensorflow{absent}"] = StandIn(f"tensorflow{absent}")
sys.modules["tensorflow"].compat = sys.modules["tensorflow.compat"]
sys.modules["tensorflow.compat"].v2 = sys.modules["tensorflow.compat.v2"]
for absent in ("tensorflow_datasets", "flax.metrics.tensorboard"):
    sys.modules[absent] = StandIn(absent)
jax.tree_multimap, jax.ShapedArray = jax.tree_util.tree_map, jax.core.ShapedArray  # names that jax has given up

from learned_optimization import training  # noqa: E402
from learned_optimization.learned_optimizers import adafac_mlp_lopt  # noqa: E402
from learned_optimization.optimizers import base as optimizers  # noqa: E402
from learned_optimization.outer_trainers import common, gradient_learner, truncated_pes  # noqa: E402
from learned_optimization.outer_trainers.truncation_schedule import (  # noqa: E402
    ConstantTruncationSchedule,
    LogUniformLengthSchedule,
)
from learned_optimization.tasks import base as tasks  # noqa: E402
from learned_optimization.tasks.datasets import base as datasets  # noqa: E402
from learned_optimization.tasks.fixed import image_mlp  # noqa: E402


def digits():
    """Return the images (…, 8, 8, 1) in [0, 1] and labels of the train split, the first 80 %."""
    images, labels = load_digits(return_X_y=True)
    split = round(0.8 * len(labels))
    return (images[:split] / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels[:split].astype(np.int32)


IMAGES, LABELS = digits()


def batches(family, shape, *_, **__):
    """Draw a minibatch for every step and task, `shape`, in the place of the package's `training.get_batches`."""
    index = family.datasets.extra_info["random"].randint(len(LABELS), size=(*shape, BATCH))
    return {"image": IMAGES[index], "label": LABELS[index]}


training.get_batches = batches


def network():
    """Return the published task of a ReLU network 64–32–10, on the digits."""
    abstract = {"image": jax.ShapedArray((BATCH, 8, 8, 1), jnp.float32)}
    abstract["label"] = jax.ShapedArray((BATCH,), jnp.int32)
    shapes = iter([{"image": IMAGES[:BATCH], "label": LABELS[:BATCH]}] * PAIRS)  # the estimator looks at their shapes
    extra = {"num_classes": 10, "random": np.random.RandomState(0)}
    return image_mlp._MLPImageTask(datasets.Datasets(shapes, shapes, shapes, shapes, extra, abstract), [32])


def as_tree(phi):
    """Return φ (D,), in the order of `AdafacMLP.parameters()`, as the published code has it."""
    sizes = [3, 1, 3, 4 * 39, 4, 4 * 4, 4, 2 * 4, 2]
    if len(phi) != sum(sizes):
        raise ValueError(f"a start is a list of {sum(sizes)} numbers, got {len(phi)}")
    momentum, square, factored, *layers = np.split(np.asarray(phi, np.float32), np.cumsum(sizes)[:-1])
    nn = {}
    for i, (weight, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        nn |= {f"w{i}": jnp.asarray(weight.reshape(len(bias), -1).T), f"b{i}": jnp.asarray(bias)}
    decays = {"momentum_decays": momentum, "rms_decays": square, "adafactor_decays": factored}
    return {**{name: jnp.asarray(value) for name, value in decays.items()}, "nn": {"~": nn}}


def as_vector(tree):
    """Return φ (D,), or anything of its shape, in the order of `AdafacMLP.parameters()`."""
    parts = [tree["momentum_decays"], tree["rms_decays"], tree["adafactor_decays"]]
    for i in range(3):
        parts += [np.asarray(tree["nn"]["~"][f"w{i}"]).T, tree["nn"]["~"][f"b{i}"]]
    return np.concatenate([np.asarray(part).ravel() for part in parts])


class Rule(adafac_mlp_lopt.AdafacMLPLOpt):
    """The published rule, which starts at a given φ, if there is one."""

    start = None

    def init(self, key):
        return super().init(key) if self.start is None else as_tree(self.start)


class Job:
    """Holds the published parts, which are compiled once for all runs."""

    def __init__(self, schedule, offset):
        self.rule, self.task = Rule(hidden_size=4), network()
        self.learner = gradient_learner.GradientLearner(self.rule, optimizers.Adam(RATE))
        self.estimator = truncated_pes.TruncatedPES(
            tasks.single_task_to_family(self.task),
            self.rule,
            schedule,
            num_tasks=PAIRS,
            trunc_length=WINDOW,
            random_initial_iteration_offset=offset,
            std=SIGMA,
            steps_per_jit=WINDOW,
            stack_antithetic_samples=True,
        )

    def begin(self, seed, start):
        """Return a run before its first meta-update."""
        self.rule.start = start
        key, of_phi, of_networks = jax.random.split(jax.random.PRNGKey(seed), 3)
        state = self.learner.init(of_phi)
        workers = self.estimator.init_worker_state(self.learner.get_state_for_worker(state), of_networks)
        run = {"key": key, "state": state, "workers": workers, "losses": [], "norms": []}
        random = np.random.RandomState(seed)  # whose draws no version of numpy changes
        return {**run, "random": random, "start": self.phi(run)}

    def update(self, run):
        """Do one meta-update."""
        self.task.datasets.extra_info["random"] = run["random"]
        run["key"], of_window, of_update = jax.random.split(run["key"], 3)
        weights = self.learner.get_state_for_worker(run["state"])
        found = gradient_learner.gradient_worker_compute(
            weights, [self.estimator], [run["workers"]], key=of_window, with_metrics=False
        )
        run["workers"] = found.unroll_states[0]
        run["state"], _ = self.learner.update(run["state"], [found.to_put], key=of_update)
        run["losses"].append(float(found.to_put.mean_loss))
        run["norms"].append(float(np.linalg.norm(as_vector(found.to_put.theta_grads))))

    def phi(self, run):
        """Return φ as a list."""
        return as_vector(self.learner.get_lopt_params(run["state"])).tolist()


def courses(file, starts, seed, updates):
    """Train from every start, in turn, and write all of it after every ten meta-updates."""
    job, saved = Job(LogUniformLengthSchedule(SHORTEST, LONGEST), LONGEST), file.with_suffix(".pickle")
    runs = pickle.loads(saved.read_bytes()) if saved.exists() else {}
    for name, start in starts.items():
        if name not in runs:
            runs[name] = job.begin(seed, start)
    while min(len(run["losses"]) for run in runs.values()) < updates:
        for run in runs.values():
            for _ in range(min(AT_ONCE, updates - len(run["losses"]))):
                job.update(run)
        told = {name: {key: run[key] for key in ("losses", "norms", "start")} for name, run in runs.items()}
        for name, run in runs.items():
            told[name]["phi"] = job.phi(run)
        saved.write_bytes(pickle.dumps(jax.device_get(runs)))
        file.write_text(json.dumps(told) + "\n")
        last = {name: (len(run["losses"]), round(np.mean(run["losses"][-AT_ONCE:]), 3)) for name, run in runs.items()}
        print(last, flush=True)


def record(file, starts, seed):
    """Write all of ten meta-updates from the first start, in episodes that do not end meanwhile."""
    job = Job(ConstantTruncationSchedule(LONGEST), 0)
    kept = {"noise": [], "losses": [], "gradients": [], "phi": []}
    sample, compute = common.vector_sample_perturbations, truncated_pes.compute_pes_grad

    def sampled(*arguments):
        noise, *moved = sample(*arguments)
        each = [jax.tree_util.tree_map(lambda leaf, i=i: leaf[i], noise) for i in range(PAIRS)]
        kept["noise"].append(np.stack([as_vector(one) for one in each]))  # (N, D)
        return noise, *moved

    def computed(plus, minus, *arguments):
        assert len(plus) == 1 and np.all(plus[0].mask)
        kept["losses"].append(np.concatenate([plus[0].loss, minus[0].loss], 1))  # (K, 2N)
        found = compute(plus, minus, *arguments)
        kept["gradients"].append(as_vector(found[1]))  # (D,)
        return found

    common.vector_sample_perturbations, truncated_pes.compute_pes_grad = sampled, computed
    run = job.begin(seed, next(iter(starts.values())))
    theta = run["workers"].pos_state.inner_opt_state.params
    kept["phi"].append(run["start"])
    for _ in range(RECORDED):
        job.update(run)
        kept["phi"].append(job.phi(run))
    arrays = {name: np.asarray(values, np.float32) for name, values in kept.items()}
    arrays |= {f"theta|{m.split('/')[-1]}|{n}": np.asarray(v) for m, parts in theta.items() for n, v in parts.items()}
    np.savez_compressed(file, **arrays)
    print(run["losses"])


def main():
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["courses", "record"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--starts", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=UPDATES)
    arguments = parser.parse_args()
    starts = json.loads(arguments.starts.read_text()) if arguments.starts else {"drawn": None}
    if arguments.what == "record":
        record(arguments.file, starts, arguments.seed)
    else:
        courses(arguments.file, starts, arguments.seed, arguments.updates)


if __name__ == "__main__":
    main()
