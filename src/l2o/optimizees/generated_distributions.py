"""Distributions of optimizees that need no images: quadratics, regressions, models of characters.

They are used as those of `l2o.optimizees.distributions` are.
"""

from collections.abc import Sequence

from torch import Generator

from l2o.data.texts import Text
from l2o.optimizees.base import Optimizee
from l2o.optimizees.distributions import INITS, Pair, log_uniform, one_of, refuse_no_choice, refuse_ranges
from l2o.optimizees.language_model import LanguageModel
from l2o.optimizees.least_squares import LeastSquares
from l2o.optimizees.logistic_regression import LogisticRegression
from l2o.optimizees.networks import CharGRU
from l2o.optimizees.noisy_quadratic import NoisyQuadratic


class Quadratics:
    """Quadratics of any condition; half of them have noisy gradients. Every task draws its own condition and noise."""

    def __init__(
        self,
        dims: Pair = (5, 100),
        condition: Sequence[float] = (1.0, 1e4),
        noise: Sequence[float] = (0.01, 1.0),
    ):
        refuse_ranges(dims=dims)
        self.dims, self.condition, self.noise = dims, condition, noise

    def __call__(self, generator: Generator) -> Optimizee:
        dim = log_uniform(self.dims, generator)
        return NoisyQuadratic(dim, self.condition, one_of((None, self.noise), generator))


class Regressions:
    """Linear regressions on streams of points. Every task draws its own condition of the points' covariance."""

    def __init__(
        self,
        dims: Pair = (5, 100),
        condition: Sequence[float] = (1.0, 1e4),
        noise: Sequence[float] = (0.03, 0.1, 0.3),
        batch_sizes: Pair = (16, 128),
    ):
        refuse_ranges(dims=dims, batch_sizes=batch_sizes)
        refuse_no_choice(noise=noise)
        self.dims, self.condition, self.noise, self.batch_sizes = dims, condition, noise, batch_sizes

    def __call__(self, generator: Generator) -> Optimizee:
        dim, batch_size = log_uniform(self.dims, generator), log_uniform(self.batch_sizes, generator)
        return LeastSquares(dim, self.condition, one_of(self.noise, generator), batch_size)


class LogisticRegressions:
    """Logistic regressions on generated points. Every task draws its own condition of the points' covariance."""

    def __init__(
        self,
        dims: Pair = (4, 64),
        classes: Pair = (2, 10),
        num_points: Pair = (64, 1024),
        batch_sizes: Pair = (16, 128),
        condition: Sequence[float] = (1.0, 1e3),
        margins: Sequence[float] = (0.5, 2.0, 8.0),
    ):
        refuse_ranges(dims=dims, num_points=num_points, batch_sizes=batch_sizes)
        refuse_ranges(2, classes=classes)
        refuse_no_choice(margins=margins)
        self.dims, self.classes, self.num_points, self.batch_sizes = dims, classes, num_points, batch_sizes
        self.condition, self.margins = condition, margins

    def __call__(self, generator: Generator) -> Optimizee:
        return LogisticRegression(
            log_uniform(self.dims, generator),
            log_uniform(self.classes, generator),
            log_uniform(self.num_points, generator),
            self.condition,
            one_of(self.margins, generator),
            batch_size=log_uniform(self.batch_sizes, generator),
        )


class CharGRUs:
    """GRUs that predict the next byte of a text."""

    def __init__(
        self,
        text: Text,
        hidden_sizes: Pair = (8, 64),
        embedding_sizes: Pair = (4, 32),
        lengths: Pair = (8, 24),
        batch_sizes: Pair = (4, 32),
        inits: Sequence[str] = INITS,
        init_std: Sequence[float] = (0.01, 0.2),
    ):
        refuse_ranges(
            hidden_sizes=hidden_sizes, embedding_sizes=embedding_sizes, lengths=lengths, batch_sizes=batch_sizes
        )
        refuse_no_choice(inits=inits, init_std=init_std)
        self.text, self.hidden_sizes, self.embedding_sizes = text, hidden_sizes, embedding_sizes
        self.lengths, self.batch_sizes, self.inits, self.init_std = lengths, batch_sizes, inits, tuple(init_std)

    def __call__(self, generator: Generator) -> Optimizee:
        sizes = log_uniform(self.hidden_sizes, generator), log_uniform(self.embedding_sizes, generator)
        length, batch_size = log_uniform(self.lengths, generator), log_uniform(self.batch_sizes, generator)
        init = one_of(self.inits, generator)
        return LanguageModel(CharGRU(*sizes), self.text, batch_size, length, self.init_std, init)
