"""Neural art: a picture with the content of one and the style of another (Gatys et al. 2015).

Shapes: B tasks, H × W pixels, P = 3·H·W coordinates, C channels of a layer, S styles.
"""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor

from l2o.checks import at_least_one
from l2o.data import images, memory
from l2o.optimizees.base import Batch, Optimizee, Split
from l2o.optimizees.features import MEAN, STD, Features
from l2o.optimizees.layout import Layout
from l2o.optimizees.picture_losses import gram, relative_error, roughness
from l2o.optimizees.picture_sizes import crop_size, sized

ACTIVATIONS_AT_ONCE = 2
"""So many times the activations are in memory during a backward pass, with their gradients and differences."""

BYTES_PER_COORDINATE = 720
"""What a learned rule takes: the state of an LSTM of two layers of 20 units before and after a step, 320 bytes each,
and θ, gradient and update. Measured with SqueezeNet, activations included: 2.9 GB for a picture of a megapixel."""


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
        sides = {"content_side": content_side, "style_side": style_side}
        at_least_one("optimizee", **{name: side for name, side in sides.items() if side is not None})
        contents = images.read_all(content or images.sample_photograph("china.jpg"), content_side)
        styles = images.read_all(style or images.sample_photograph("flower.jpg"), style_side)
        self.height, self.width = crop_size(size, contents)
        for name, picture in styles.items():
            if style_side is not None and min(picture.shape[1:]) < style_side:
                raise ValueError(f"the style {sized(name, picture)} is smaller than optimizee.style_side={style_side}")
        self.splits = images.split(len(contents), validation, test, split_seed)
        self.chosen = self.splits["train"]
        self.contents, self.styles = list(contents.values()), list(styles.values())
        self.features = Features(network, weights, {*content_layers, *style_layers})
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        self.layout = Layout({"pixels": (3, self.height, self.width)})
        self._refuse_styles_that_do_not_fit(styles)
        if not torch.cuda.is_available():  # else `to` does it, once the device is known
            self._refuse_crops_that_do_not_fit("cpu")
        self.grams = self._grams_of_styles()

    def sample(self, num_tasks: int, generator: Generator) -> tuple[Tensor, Batch]:
        """Draw contents and styles. No content comes twice before all of the split have come once."""
        rounds = -(-num_tasks // len(self.chosen))
        order = [torch.randperm(len(self.chosen), generator=generator, device=generator.device) for _ in range(rounds)]
        pictures = (self.contents[self.chosen[number]] for number in torch.cat(order)[:num_tasks].tolist())
        crops = [images.crop(picture, self.height, self.width, generator) for picture in pictures]
        content = self._normalised(torch.stack(crops))
        noise = torch.randn(num_tasks, self.layout.size, generator=generator, device=generator.device)
        theta = self.init_content * content.flatten(1) + self.init_std * noise
        style = torch.randint(len(self.styles), (num_tasks,), generator=generator, device=generator.device)
        return theta, {"content": content, "style": style} | self._targets(content)

    def loss(self, theta: Tensor, batch: Batch) -> Tensor:
        return self.losses(theta[None], {key: value[None] for key, value in batch.items()})[0]

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Send all tasks through the network as one batch, because vmap takes twice as long."""
        pictures = theta.view(-1, 3, self.height, self.width)
        found = self.features(pictures)
        content = [relative_error(found[name], batch[name]) for name in self.content_layers]
        style = [relative_error(gram(found[name]), self.grams[name][batch["style"]]) for name in self.style_layers]
        terms = (
            self.content_weight * torch.stack(content).mean(0)
            + self.style_weight * torch.stack(style).mean(0)
            + self.smoothness_weight * roughness(pictures)
        )
        return self.height * self.width / 64**2 * terms

    def tasks_at_once(self, theta: Tensor) -> int:
        """Take as many pictures as have a megapixel together, for which SqueezeNet needs about 1 GB."""
        return max(1, 2**20 // (self.height * self.width))

    def pictures(self, theta: Tensor, task: Batch) -> dict[str, list[Tensor]]:
        shown = self._shown(theta.view(-1, 3, self.height, self.width))
        styles = [self.styles[number] / 255 for number in task["style"].tolist()]
        return {"content": list(self._shown(task["content"])), "style": styles, "theta": list(shown)}

    def split(self, name: Split) -> "NeuralArt":
        other = copy.copy(self)
        other.chosen = self.splits[name]
        return other

    def to(self, device: torch.device | str) -> Self:
        self._refuse_crops_that_do_not_fit(device)
        self.features.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self.contents, self.styles = ([x.to(device) for x in part] for part in (self.contents, self.styles))
        self.grams = {name: wanted.to(device) for name, wanted in self.grams.items()}
        return self

    @torch.no_grad()
    def _grams_of_styles(self) -> dict[str, Tensor]:
        """Give the Gram matrices that the styles ask for, as layer: (S, C, C)."""
        grams: dict[str, list[Tensor]] = {name: [] for name in self.style_layers}
        for style in self.styles:
            found = self.features(self._normalised(style)[None])
            for name, of_styles in grams.items():
                of_styles.append(gram(found[name]))
        return {name: torch.cat(of_styles) for name, of_styles in grams.items()}

    @torch.no_grad()
    def _targets(self, content: Tensor) -> Batch:
        """Give the activations that the contents (B, 3, H, W) ask for, as content layer: (B, C, H', W')."""
        found = [self.features(part) for part in content.split(self.tasks_at_once(content))]
        return {name: torch.cat([activations[name] for activations in found]) for name in self.content_layers}

    def _refuse_styles_that_do_not_fit(self, styles: dict[str, Tensor]) -> None:
        for shape, (name, picture) in {picture.shape: (name, picture) for name, picture in styles.items()}.items():
            what = f"the style {sized(name, picture)}"
            needed = self._bytes_for(shape[1], shape[2], what, "raise optimizee.style_side, or give a larger style")
            memory.refuse_if_too_large(needed, what, "set optimizee.style_side=256")

    def _refuse_crops_that_do_not_fit(self, device: torch.device | str) -> None:
        """Raise ValueError where one picture is too small for the layers, or too large for the device's free memory."""
        what = f"a picture of {self.height}×{self.width}"
        remedy = "raise optimizee.size and optimizee.content_side, or give larger contents"
        activations = self._bytes_for(self.height, self.width, what, remedy)
        needed = ACTIVATIONS_AT_ONCE * activations + BYTES_PER_COORDINATE * self.layout.size
        free = torch.cuda.mem_get_info(device)[0] if torch.device(device).type == "cuda" else None
        remedy = "reduce it, with optimizee.content_side=1000 or less"
        memory.refuse_if_too_large(needed, f"optimizing {what}", remedy, free)

    def _bytes_for(self, height: int, width: int, what: str, remedy: str) -> int:
        """Return the bytes of one picture's activations. Raises ValueError for a picture too small for the layers."""
        try:
            return self.features.bytes_for(height, width)
        except ValueError as error:
            raise ValueError(f"{what} is too small: {error}; {remedy}") from error

    def _normalised(self, pictures: Tensor) -> Tensor:
        return (pictures.to(self.mean.dtype) / 255 - self.mean) / self.std

    def _shown(self, pictures: Tensor) -> Tensor:
        return (pictures * self.std + self.mean).clamp(0, 1)
