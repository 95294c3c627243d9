"""Activations of an image classifier's convolutional part: what neural art measures pictures with.

Shapes: B pictures, C channels, H × W positions.
"""

from collections.abc import Collection
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Generator, Tensor, nn
from torchvision.models.squeezenet import Fire

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""How torchvision's classifiers want their inputs normalised, per colour."""


class Features(nn.Module):
    """The frozen `features` of a torchvision network (vgg16, vgg19, squeezenet1_1), as far as the last layer asked for.

    `weights` is a state dict's file (of the features alone, or of the whole network), a name of torchvision's weights,
    which are downloaded (IMAGENET1K_V1), or None: random features, He-initialised from `seed`. Layers are named
    conv1_1, conv1_2, conv2_1, …, counted anew after each pooling (Simonyan & Zisserman 2015), each after its ReLU, and
    fire2, fire3, … (Iandola et al. 2016).
    """

    def __init__(self, network: str, weights: str | None, layers: Collection[str], seed: int = 0):
        super().__init__()
        convolutions = _convolutions(network)
        index = _layer_index(convolutions)
        unknown = [layer for layer in layers if layer not in index]
        if unknown or not layers:
            raise ValueError(f"{network} has no layer {', '.join(unknown) or '–'}: choose among {', '.join(index)}")
        convolutions.to_empty(device="cpu")
        if weights is None:
            _initialise(convolutions, Generator().manual_seed(seed))
        else:
            _load(convolutions, network, weights)
        self.names = {index[layer]: layer for layer in layers}
        self.convolutions = convolutions[: max(self.names) + 1].requires_grad_(False).eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised pictures (B, 3, H, W) -> layer: (B, C, H', W')."""
        found = {}
        for position, module in enumerate(self.convolutions):
            images = module(images)
            if position in self.names:
                found[self.names[position]] = images
        return found


def _convolutions(network: str) -> nn.Sequential:
    """The network's `features`, without memory: a whole VGG would first initialise half a gigabyte."""
    try:
        with torch.device("meta"):
            convolutions = torchvision.models.get_model(network).features
        assert isinstance(convolutions, nn.Sequential)
    except (ValueError, AttributeError, AssertionError) as error:
        raise ValueError(f"no features in '{network}': choose vgg16, vgg19 or squeezenet1_1") from error
    for module in convolutions.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # it would overwrite activations that are kept
    return convolutions


def _layer_index(convolutions: nn.Sequential) -> dict[str, int]:
    index: dict[str, int] = {}
    block, layer, fire, name = 1, 0, 1, ""
    for position, module in enumerate(convolutions):
        if isinstance(module, nn.MaxPool2d):
            block, layer = block + 1, 0
        elif isinstance(module, nn.Conv2d):
            layer += 1
            name = f"conv{block}_{layer}"
        elif isinstance(module, nn.ReLU):
            index[name] = position
        elif isinstance(module, Fire):
            fire += 1
            index[f"fire{fire}"] = position
    return index


def _initialise(convolutions: nn.Sequential, generator: Generator) -> None:
    for parameter in convolutions.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)


def _load(convolutions: nn.Sequential, network: str, weights: str) -> None:
    state = _read(weights) if Path(weights).suffix else _download(network, weights)
    if any(key.startswith("features.") for key in state):  # of the whole network
        state = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    try:
        convolutions.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"'{weights}' holds no weights of {network}'s features: save torchvision.models.{network}().state_dict()"
        ) from error


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise ValueError(
            f"no weights at '{path}': give a state dict's .pth, IMAGENET1K_V1 (downloaded), or null for random features"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise ValueError(f"'{path}' is damaged or no state dict: save one with torch.save") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"'{path}' is no state dict: save one with torch.save(model.state_dict(), …)")
    return state


def _download(network: str, weights: str) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(network)
    if weights not in known.__members__:
        raise ValueError(
            f"no weights '{weights}' for {network}: give {', '.join(known.__members__)} or a state dict's .pth"
        )
    try:
        return dict(known[weights].get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{network}'s weights could not be downloaded ({error}): "
            "give a state dict's .pth, or null for random features"
        ) from error
