"""Multinomial logistic regression on points that another model of the kind has labelled.

Shapes: B tasks, D features, C classes, P = C·D + C coordinates, M points of a task, N of a minibatch.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from l2o.optimizees.base import Batch, Optimizee
from l2o.optimizees.kernels import chain
from l2o.optimizees.layout import Layout
from l2o.optimizees.spectra import Range, eigenvalues, ends, log_uniform, rotations


class LogisticRegression(Optimizee):
    """f(θ) = cross-entropy of softmax(W x + b) on N of the task's M points, plus ½ · weight_decay · ‖W‖².

    Points are x ~ N(0, H), where H has eigenvalues from 1 down to 1 / condition in a random basis. A label is drawn
    from the softmax of a random linear map of the point, whose standard deviation is `margin`: the smaller it is, the
    more labels are noise. θ_0 ~ N(0, init_std²). Every task draws its own points, map and, where it is a
    range, condition.
    """

    def __init__(
        self,
        dim: int = 20,
        classes: int = 4,
        num_points: int = 512,
        condition: Range = 100.0,
        margin: float = 5.0,
        weight_decay: float = 1e-3,
        batch_size: int = 64,
        init_std: float = 0.1,
    ):
        if min(dim, num_points, batch_size) < 1 or classes < 2 or min(margin, weight_decay, init_std) < 0:
            raise ValueError(
                "dim, num_points, batch_size must be >= 1, classes >= 2, margin, weight_decay, init_std >= 0, got "
                f"{dim}, {num_points}, {batch_size}, {classes}, {margin}, {weight_decay} and {init_std}"
            )
        self.dim, self.classes, self.num_points, self.batch_size = dim, classes, num_points, batch_size
        self.margin, self.weight_decay, self.init_std = margin, weight_decay, init_std
        self.condition = ends("condition", condition, 1.0)
        self.layout = Layout({"weight": (classes, dim), "bias": (classes,)})
        self.chain = (chain.Link(dim, classes, weight=0, bias=classes * dim),)

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        draw = lambda *shape: torch.randn(num_tasks, *shape, generator=generator, device=generator.device)  # noqa: E731
        roots = eigenvalues(log_uniform(self.condition, num_tasks, generator), self.dim).sqrt()
        x = draw(self.num_points, self.dim) @ (roots[..., None] * rotations(num_tasks, self.dim, generator))
        scores = x @ draw(self.dim, self.classes)
        logits = self.margin * scores / scores.std((1, 2), keepdim=True)
        y = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(x.shape[:2])
        return self.init_std * draw(self.layout.size), {"x": x, "y": y}

    def sample_batch(self, task: Batch, num_tasks: int, generator: Generator) -> Batch:
        shape = num_tasks, self.batch_size
        index = torch.randint(self.num_points, shape, generator=generator, device=generator.device)
        points = index[..., None].expand(-1, -1, self.dim)
        return {"x": task["x"].gather(1, points), "y": task["y"].gather(1, index)}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.losses(theta[None], {key: value[None] for key, value in batch.items()})[0]

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        parts = self.layout.unravel(theta)
        logits = batch["x"] @ parts["weight"].mT + parts["bias"][:, None]  # (B, N, C)
        fit = F.cross_entropy(logits.mT, batch["y"], reduction="none").mean(1)
        return fit + 0.5 * self.weight_decay * parts["weight"].square().sum((1, 2))

    def _loss_and_grad(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        same = type(self).loss is LogisticRegression.loss and type(self).losses is LogisticRegression.losses
        given = chain.Loss.CROSS_ENTROPY, theta, batch["x"], batch["y"], self.weight_decay
        found = chain.loss_and_grad(self.chain, *given) if same else None
        return found or super()._loss_and_grad(theta, batch)
