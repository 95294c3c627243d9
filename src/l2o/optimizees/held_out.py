"""What must stay out of the training of an optimizer, so that a scoreboard can say what the optimizer never saw.

An optimizee is told by what it is made of, not by its name: a family that is called otherwise is found all the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from l2o.optimizees.base import Optimizee
from l2o.optimizees.matrix_factorisation import MatrixFactorisation
from l2o.optimizees.networks import BatchNorm
from l2o.optimizees.networks.transformer import SelfAttention
from l2o.optimizees.views import View

Combination = Sequence[str]
"""Features that an optimizee is held out for if it has all of them."""

LARGEST_SIDE, MOST_HIDDEN_LAYERS = 14, 4

ATTENTION = (SelfAttention, nn.MultiheadAttention)
BATCH_NORMS = (BatchNorm, _NormBase)
OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
RECURRENCE = (nn.RNNBase, nn.RNNCellBase)
LINEAR = (nn.Linear, nn.Bilinear, _ConvNd)


def _contains(*kinds: type[nn.Module]) -> Callable[[Optimizee], bool]:
    return lambda optimizee: any(isinstance(module, kinds) for module in _modules(optimizee))


def _modules(optimizee: Optimizee) -> list[nn.Module]:
    """Return every module of the network that an optimizee trains; none where it trains none."""
    network = vars(optimizee).get("network")
    return [*network.modules()] if isinstance(network, nn.Module) else []


def _has_large_images(optimizee: Optimizee) -> bool:
    x_train = getattr(vars(optimizee).get("dataset"), "x_train", None)
    return x_train is not None and x_train.ndim >= 3 and max(x_train.shape[1:3]) > LARGEST_SIDE


def _is_deep(optimizee: Optimizee) -> bool:
    return sum(isinstance(module, LINEAR) for module in _modules(optimizee)) > MOST_HIDDEN_LAYERS + 1


FEATURES: dict[str, Callable[[Optimizee], bool]] = {
    "convolution": _contains(_ConvNd),
    "batch norm": _contains(*BATCH_NORMS),
    "layer norm": _contains(*OTHER_NORMS),
    "attention": _contains(*ATTENTION),
    "recurrence": _contains(*RECURRENCE),
    "embedding": _contains(nn.Embedding, nn.EmbeddingBag),
    "images above 14×14": _has_large_images,
    "more than four hidden layers": _is_deep,
    "matrix factorisation": lambda optimizee: isinstance(optimizee, MatrixFactorisation),
}
"""What an optimizee may have, by name. The depth of a network is the number of its linear and convolutional layers."""


def features(optimizee: Optimizee) -> frozenset[str]:
    """Return the features of `FEATURES` that an optimizee has; of a view, those of the optimizee behind it."""
    while isinstance(optimizee, View):
        optimizee = optimizee.inner
    return frozenset(name for name, has in FEATURES.items() if has(optimizee))


def held_out_for(optimizee: Optimizee, held_out: Iterable[Combination]) -> list[str]:
    """Return why an optimizee is held out: every combination that it has, in words. None: training may see it.

    Raises ValueError for a combination that is empty or names a feature that does not exist.
    """
    found = features(optimizee)
    return [" with ".join(combination) for combination in _checked(held_out) if found >= {*combination}]


def refuse_held_out(families: Mapping[str, Iterable[Optimizee]], held_out: Iterable[Combination]) -> None:
    """Raise a ValueError that names the family and the reason, where a family of training has a held-out optimizee."""
    combinations = _checked(held_out)
    for name, optimizees in families.items():
        for number, optimizee in enumerate(optimizees):
            if reasons := held_out_for(optimizee, combinations):
                raise ValueError(
                    f"the family '{name}' would train on what is held out: its optimizee {number} "
                    f"({type(optimizee).__name__}) has {' and '.join(reasons)}. Leave it out of the training, or "
                    "out of held_out, and no longer call it never seen"
                )


def _checked(held_out: Iterable[Combination]) -> list[Combination]:
    combinations = [*held_out]
    for combination in combinations:
        if isinstance(combination, str) or not len(combination) or not {*combination} <= FEATURES.keys():
            raise ValueError(
                f"held_out must be a list of lists of features, each of {', '.join(FEATURES)}; got {combination}"
            )
    return combinations
