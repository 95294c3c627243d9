"""Every kind of update rule, small, and a layout with every kind of tensor: for tests that hold all rules to something.

A new rule is tested by being listed in `RULES`.
"""

import torch

from l2o.optimizees import Layout
from l2o.optimizers import (
    GAC,
    LSTM,
    NTMBFGS,
    SGD,
    AdafacMLP,
    Adam,
    AdamW,
    Celo,
    Celo2,
    CeloAdam,
    Hierarchical,
    LogAndSign,
    MLPLOpt,
    Momentum,
    Muon,
    Partitioned,
    RMSprop,
    RNNProp,
    Scale,
    Scaled,
    Scheduled,
    ScheduleFreeAdamW,
)


def moved(rule: Scheduled) -> Scheduled:
    """Move a schedule away from its start, at which it leaves the inner rule as it is."""
    for parameter in rule.mlp.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return rule


RULES = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: Momentum(0.1),
    "nesterov": lambda: Momentum(0.1, nesterov=True),
    "rmsprop": lambda: RMSprop(0.1),
    "adam": lambda: Adam(0.1),
    "scaled": lambda: Scaled(Momentum(0.1), 3.0),
    "lstm": lambda: LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1),
    "linear": lambda: LSTM(Scale(2.0), num_layers=0, output_scale=0.1),
    "lstm with timescales": lambda: LSTM(LogAndSign(10.0), hidden_size=3, num_layers=1, max_timescale=20.0),
    "rnnprop": lambda: RNNProp(hidden_size=3),
    "averaging": lambda: GAC(LogAndSign(10.0), hidden_size=3, averaging_cells=2, output_scale=0.1),
    "memory": lambda: NTMBFGS(LogAndSign(10.0), hidden_size=3, averaging_cells=1, output_scale=0.1),
    "adamw": lambda: AdamW(0.1, warmup=0.1, schedule="cosine"),
    "muon": lambda: Muon(0.1),
    "schedule-free": lambda: ScheduleFreeAdamW(0.1),
    "adafac mlp": lambda: AdafacMLP(),
    "adafac mlp, fixed decays": lambda: AdafacMLP(hidden_size=5, learned_decays=False, warmup=0.2, schedule="cosine"),
    "adafac mlp by fan-in": lambda: AdafacMLP(step_scale="fan_in"),
    "mlp lopt": lambda: MLPLOpt(hidden_size=5),
    "celo, phase 1": lambda: Celo(phase=1),
    "celo, phase 2": lambda: Celo(phase=2, scheduler_size=5),
    "celo2": lambda: Celo2(),
    "celo2 base": lambda: Celo2(orthogonal=False, adam_vectors=False, adam_pattern=None),
    "celo-adam": lambda: CeloAdam(scheduler_size=5),
    "hierarchical": lambda: Hierarchical(hidden_size=5, tensor_hidden_size=6, told=2),
    "partitioned": lambda: Partitioned(
        {"a": LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1), "b": RNNProp(hidden_size=2)},
        {"a": "matrix|scalar", "b": "(?!matrix|scalar).*"},
    ),
    "partitioned of partitioned": lambda: Partitioned(
        {"a": Partitioned({"x": Adam(0.1), "y": SGD(0.1)}, {"x": "matrix", "y": "scalar"}), "b": LSTM(hidden_size=2)},
        {"a": "matrix|scalar", "b": "(?!matrix|scalar).*"},
    ),
    "partitioned with one that sees all": lambda: Partitioned(
        {"a": GAC(hidden_size=3, averaging_cells=1), "b": Adam(0.1)}, {"a": "matrix|vector", "b": "(?!matrix|vector).*"}
    ),
    "scheduled": lambda: moved(Scheduled(LSTM(LogAndSign(10.0), hidden_size=3, output_scale=0.1), 2)),
    "scheduled, with a hidden layer": lambda: moved(Scheduled(Celo(phase=2, scheduler_size=5), 3, hidden_size=2)),
    "scheduled, without restarts": lambda: moved(
        Scheduled(RNNProp(hidden_size=3), 2, restarts=False, reads_loss=False, frozen=False)
    ),
    "partitioned of scheduled": lambda: Partitioned(
        {"a": moved(Scheduled(LSTM(hidden_size=3), 2)), "b": Scheduled(Adam(0.1), 20)},
        {"a": "matrix|scalar", "b": "(?!matrix|scalar).*"},
    ),
}
LAYOUT = Layout({"matrix": (2, 3), "scalar": (), "vector": (4,), "empty": (0, 2), "kernel": (2, 1, 3)})
