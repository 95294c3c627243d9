"""Distributions of optimizees: other architectures, activations, sizes and starts at every draw.

Each of these is called with a generator on the CPU and returns an optimizee. A family of meta-training draws some
sixteen of them from a fixed seed (`drawn`), because code is compiled, and validation is done, for each. What a
distribution does not fix, as points, labels or a standard deviation of θ_0, differs between the tasks of one optimizee.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import exp, log
from typing import TypeVar

import torch
from torch import Generator, nn

from l2o.data.datasets import Dataset
from l2o.data.sizes import averaged
from l2o.optimizees.autoencoder import Autoencoder
from l2o.optimizees.base import Optimizee
from l2o.optimizees.classifier import Classifier
from l2o.optimizees.networks import image_autoencoder, image_mlp, plain_conv_net

Pair = Sequence[int]
"""The least and the largest of a range, both included."""

INITS = ("torch", "normal", "orthogonal")
ACTIVATIONS = ("relu", "relu", "tanh", "sigmoid", "silu", "gelu", "leaky_relu")

T = TypeVar("T")


def drawn(make: Callable[[Generator], Optimizee], count: int = 16, seed: int = 0) -> list[Optimizee]:
    """Draw `count` optimizees from a distribution. The seed alone decides which."""
    generator = Generator().manual_seed(seed)
    return [make(generator) for _ in range(count)]


def one_of(choices: Sequence[T], generator: Generator) -> T:
    """Draw one of some values, all equally likely."""
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def uniform(pair: Pair, generator: Generator) -> int:
    """Draw a whole number between two, both included, all equally likely."""
    return int(torch.randint(pair[0], pair[1] + 1, (), generator=generator))


def log_uniform(pair: Pair, generator: Generator) -> int:
    """Draw a whole number between two, both included, uniformly in the logarithm before it is rounded."""
    low, high = log(pair[0]), log(pair[1])
    return round(exp(low + (high - low) * float(torch.rand((), generator=generator))))


def refuse_ranges(least: int = 1, **pairs: Pair) -> None:
    """Raise ValueError, naming the argument, for a range that is not two whole numbers in order, from `least` on."""
    for name, pair in pairs.items():
        if len(pair) != 2 or not all(isinstance(end, int) for end in pair) or not least <= pair[0] <= pair[1]:
            raise ValueError(f"{name} must be [low, high], whole numbers from {least} on, got {[*pair]}")


def refuse_no_choice(**choices: object) -> None:
    """Raise ValueError, naming the argument, for what is no list to choose from, or an empty one."""
    for name, values in choices.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
            raise ValueError(f"{name} must be a list of at least one value to choose from, got {values!r}")


class Images:
    """Holds a data set in every side between two, each averaged once. A side above the images' own is not drawn."""

    def __init__(self, dataset: Dataset, sides: Pair):
        refuse_ranges(sides=sides)
        own = min(dataset.x_train.shape[1:3])
        if own < sides[0]:
            raise ValueError(f"the images have {own} pixels a side, and sides={[*sides]} wants {sides[0]} or more")
        self.dataset, self.sides = dataset, (sides[0], min(sides[1], own))
        self.colours = dataset.x_train.shape[3] if dataset.x_train.ndim == 4 else 1
        self.by_side: dict[int, Dataset] = {}

    def draw(self, generator: Generator) -> tuple[int, Dataset]:
        """Draw a side, and return it with the images that have it."""
        side = uniform(self.sides, generator)
        if side not in self.by_side:
            self.by_side[side] = averaged(self.dataset, side)
        return side, self.by_side[side]


class OnImages:
    """What the distributions on images have in common: sizes of images and of minibatches, activations and starts."""

    def __init__(
        self,
        dataset: Dataset,
        sides: Pair = (4, 14),
        batch_sizes: Pair = (32, 512),
        activations: Sequence[str] = ACTIVATIONS,
        inits: Sequence[str] = INITS,
        init_std: Sequence[float] = (0.01, 0.2),
        **unknown: object,
    ):
        if unknown:
            known = "sides, batch_sizes, activations, inits and init_std"
            raise ValueError(f"{type(self).__name__} has no setting {', '.join(unknown)}; all images have {known}")
        refuse_ranges(batch_sizes=batch_sizes)
        refuse_no_choice(activations=activations, inits=inits, init_std=init_std)
        self.images, self.batch_sizes, self.activations = Images(dataset, sides), batch_sizes, activations
        self.inits, self.init_std = inits, tuple(init_std)

    def optimizee(
        self,
        kind: Callable[..., Optimizee],
        network: Callable[..., nn.Module],
        generator: Generator,
        **sizes: Sequence[int],
    ) -> Optimizee:
        """Build a kind of optimizee with a network that is called with the images' side and colours."""
        side, dataset = self.images.draw(generator)
        activation, init = one_of(self.activations, generator), one_of(self.inits, generator)
        built = network(side, activation=activation, in_channels=self.images.colours, **sizes)
        batch_size = log_uniform(self.batch_sizes, generator)
        return kind(built, dataset, batch_size=batch_size, init_std=self.init_std, init=init)


class MLPImages(OnImages):
    """Classifies images by MLPs with 0 to 4 hidden layers of one width.

    The three distributions on images also take `sides` and `batch_sizes`, ranges; `activations` and `inits`, lists to
    choose from; and `init_std`, the range of standard deviations of the start "normal".
    """

    def __init__(self, dataset: Dataset, widths: Pair = (8, 128), depths: Pair = (0, 4), **shape: Sequence):
        super().__init__(dataset, **shape)
        refuse_ranges(widths=widths)
        refuse_ranges(0, depths=depths)
        self.widths, self.depths, self.classes = widths, depths, dataset.num_classes

    def __call__(self, generator: Generator) -> Optimizee:
        hidden = [log_uniform(self.widths, generator)] * uniform(self.depths, generator)
        network = partial(image_mlp, out_features=self.classes)
        return self.optimizee(Classifier, network, generator, hidden=hidden)


class AutoencoderImages(OnImages):
    """Autoencodes images by MLPs: a narrow layer alone, or between two wide ones."""

    def __init__(self, dataset: Dataset, widths: Pair = (16, 128), codes: Pair = (2, 16), **shape: Sequence):
        super().__init__(dataset, **shape)
        refuse_ranges(widths=widths, codes=codes)
        self.widths, self.codes = widths, codes

    def __call__(self, generator: Generator) -> Optimizee:
        outer = [log_uniform(self.widths, generator) for _ in range(uniform((0, 1), generator))]
        hidden = [*outer, log_uniform(self.codes, generator), *outer]
        return self.optimizee(Autoencoder, image_autoencoder, generator, hidden=hidden)


class ConvImages(OnImages):
    """Classifies images by small convolutional networks without norms."""

    def __init__(self, dataset: Dataset, channels: Pair = (4, 16), depths: Pair = (1, 2), **shape: Sequence):
        super().__init__(dataset, **shape)
        refuse_ranges(channels=channels, depths=depths)
        self.channels, self.depths, self.classes = channels, depths, dataset.num_classes

    def __call__(self, generator: Generator) -> Optimizee:
        channels = [log_uniform(self.channels, generator) for _ in range(uniform(self.depths, generator))]
        network = partial(plain_conv_net, out_features=self.classes)
        return self.optimizee(Classifier, network, generator, channels=channels)
