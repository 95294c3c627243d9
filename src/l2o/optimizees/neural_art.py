"""Neural art: a picture with the content of one and the style of another (Gatys et al. 2015).

Shapes: B tasks, H × W pixels, P = 3·H·W coordinates, C channels of a layer, S styles.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor

from l2o.data import images
from l2o.optimizees.base import Batch, Optimizee, Split
from l2o.optimizees.features import MEAN, STD, Features
from l2o.optimizees.layout import Layout


class NeuralArt(Optimizee):
    """f(θ) = H·W/64² · (α L_content + β L_style + γ L_reg), θ the pixels, normalised as torchvision does.

        L_content = mean over layers of ‖F(θ) − F(c)‖² / ‖F(c)‖²      F (C, H'·W'): a layer's activations
        L_style   = mean over layers of ‖G(θ) − G(s)‖² / ‖G(s)‖²      G = F Fᵀ / (H'·W'): its Gram matrix
        L_reg     = mean squared difference of neighbouring pixels    total variation

    Relative to the targets' own size, the weights mean the same for every network and layer; times the picture's area,
    a pixel's gradient does not depend on the picture's size. A task is a content c, cropped at random, and a style s;
    θ_0 = init_content · c + N(0, init_std²).

    `content` and `style` are a picture file, a folder or a list of them (None: the photographs that ship with
    scikit-learn). Contents are reduced until their shorter side has `content_side` pixels, styles `style_side`, and are
    never enlarged. `size` is the crop, a number or (H, W); None takes whole pictures, which must be of one size.
    `validation` and `test` are counts, or fractions, of the contents. For `weights` see `Features`.
    """

    def __init__(
        self,
        content_layers: Sequence[str],
        style_layers: Sequence[str],
        content: str | Sequence[str] | None = None,
        style: str | Sequence[str] | None = None,
        network: str = "squeezenet1_1",
        weights: str | None = None,
        size: int | Sequence[int] | None = 64,
        content_side: int | None = 80,
        style_side: int | None = 64,
        content_weight: float = 10.0,
        style_weight: float = 30.0,
        smoothness_weight: float = 1.0,
        init_content: float = 1.0,
        init_std: float = 0.1,
        validation: float = 0.02,
        test: float = 0.1,
        split_seed: int = 0,
    ):
        self.content_layers, self.style_layers = list(content_layers), list(style_layers)
        self.content_weight, self.style_weight, self.smoothness_weight = content_weight, style_weight, smoothness_weight
        self.init_content, self.init_std = init_content, init_std
        contents = images.read_all(content or images.sample_photograph("china.jpg"), content_side)
        styles = images.read_all(style or images.sample_photograph("flower.jpg"), style_side)
        self.height, self.width = _crop_size(size, contents)
        for name, picture in styles.items():
            if style_side is not None and min(picture.shape[1:]) < style_side:
                raise ValueError(f"the style {_sized(name, picture)} is smaller than optimizee.style_side={style_side}")
        self.splits = images.split(len(contents), validation, test, split_seed)
        self.chosen = self.splits["train"]
        self.contents, self.styles = list(contents.values()), list(styles.values())
        self.features = Features(network, weights, {*content_layers, *style_layers})
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        self.layout = Layout({"pixels": (3, self.height, self.width)})
        self.grams = self._grams_of_styles()

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        """No content comes twice before all of the split have come once."""
        rounds = -(-num_tasks // len(self.chosen))
        order = [torch.randperm(len(self.chosen), generator=generator, device=generator.device) for _ in range(rounds)]
        pictures = (self.contents[self.chosen[number]] for number in torch.cat(order)[:num_tasks].tolist())
        crops = [images.crop(picture, self.height, self.width, generator) for picture in pictures]
        content = self._normalised(torch.stack(crops))
        noise = torch.randn(num_tasks, self.layout.size, generator=generator, device=generator.device)
        theta = self.init_content * content.flatten(1) + self.init_std * noise
        style = torch.randint(len(self.styles), (num_tasks,), generator=generator, device=generator.device)
        with torch.no_grad():
            found = self.features(content)
        return theta, {"content": content, "style": style} | {name: found[name] for name in self.content_layers}

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.losses(theta[None], {key: value[None] for key, value in batch.items()})[0]

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """All tasks as one batch through the network: vmap takes twice as long."""
        pictures = theta.view(-1, 3, self.height, self.width)
        found = self.features(pictures)
        content = [_relative_error(found[name], batch[name]) for name in self.content_layers]
        style = [_relative_error(_gram(found[name]), self.grams[name][batch["style"]]) for name in self.style_layers]
        terms = (
            self.content_weight * torch.stack(content).mean(0)
            + self.style_weight * torch.stack(style).mean(0)
            + self.smoothness_weight * _roughness(pictures)
        )
        return self.height * self.width / 64**2 * terms

    def tasks_at_once(self, theta: Tensor) -> int:
        return max(1, 2**20 // (self.height * self.width))  # a megapixel: SqueezeNet's activations take about 1 GB

    def pictures(self, theta: Tensor, task: Batch) -> dict[str, list[Tensor]]:
        shown = self._shown(theta.view(-1, 3, self.height, self.width))
        styles = [self.styles[number] / 255 for number in task["style"].tolist()]
        return {"content": list(self._shown(task["content"])), "style": styles, "theta": list(shown)}

    def split(self, name: Split) -> "NeuralArt":
        other = copy.copy(self)
        other.chosen = self.splits[name]
        return other

    def to(self, device: torch.device | str) -> Self:
        self.features.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self.contents, self.styles = ([x.to(device) for x in part] for part in (self.contents, self.styles))
        self.grams = {name: gram.to(device) for name, gram in self.grams.items()}
        return self

    @torch.no_grad()
    def _grams_of_styles(self) -> dict[str, Tensor]:
        """Layer: (S, C, C)."""
        found = [self.features(self._normalised(style)[None]) for style in self.styles]
        return {name: torch.cat([_gram(features[name]) for features in found]) for name in self.style_layers}

    def _normalised(self, pictures: Tensor) -> Tensor:
        return (pictures.to(self.mean.dtype) / 255 - self.mean) / self.std

    def _shown(self, pictures: Tensor) -> Tensor:
        return (pictures * self.std + self.mean).clamp(0, 1)


def _gram(features: Tensor) -> Tensor:
    """(B, C, H', W') -> (B, C, C)."""
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[-1]


def _relative_error(found: Tensor, target: Tensor) -> Tensor:
    """‖x − y‖² / ‖y‖² of each task: (B, …) -> (B,)."""
    error, size = (part.flatten(1).square().sum(1) for part in (found - target, target))
    return error / size.clamp(min=torch.finfo(size.dtype).tiny)


def _roughness(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B,)."""
    return sum(pictures.diff(dim=axis).square().mean((1, 2, 3)) for axis in (-1, -2))  # type: ignore[return-value]


def _crop_size(size: int | Sequence[int] | None, contents: dict[str, Tensor]) -> tuple[int, int]:
    if size is None:
        sizes = {(picture.shape[1], picture.shape[2]) for picture in contents.values()}
        if len(sizes) > 1:
            raise ValueError(f"the contents are of {len(sizes)} different sizes: set optimizee.size to crop them")
        return sizes.pop()
    height, width = (size, size) if isinstance(size, int) else size
    for name, picture in contents.items():
        if picture.shape[1] < height or picture.shape[2] < width:
            raise ValueError(
                f"the content {_sized(name, picture)} is smaller than the crop of {height}×{width}: "
                "lower optimizee.size, raise optimizee.content_side, or remove the picture"
            )
    return height, width


def _sized(name: str, picture: Tensor) -> str:
    return f"'{name}' of {picture.shape[1]}×{picture.shape[2]}"
