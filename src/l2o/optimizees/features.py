"""Activations of an image classifier's convolutional part, by which neural art measures pictures.

Shapes: B pictures, C channels, H × W positions.
"""

import itertools
from collections.abc import Collection

import torch
import torchvision
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.squeezenet import Fire

from l2o.optimizees import weights as weight_files

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The mean and the deviation of each colour by which torchvision's classifiers want their inputs normalised."""


class Features(nn.Module):
    """The frozen `features` of a torchvision network (vgg16, vgg19, squeezenet1_1), as far as the last layer asked for.

    `weights` is the file of a state dict (of the features alone, or of the whole network), or the name of weights that
    torchvision downloads (IMAGENET1K_V1), or None: random features, He-initialised from `seed`. Layers are named
    conv1_1, conv1_2, conv2_1, …, counted anew after each pooling (Simonyan & Zisserman 2015), each after its ReLU, and
    fire2, fire3, … (Iandola et al. 2016). Raises ValueError for a network, a layer or weights that are not there.
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
            weight_files.load(convolutions, network, weights)
        convolutions.requires_grad_(False).eval()
        self.network = network
        self.extractor = create_feature_extractor(convolutions, {str(index[layer]): layer for layer in layers})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Give the activations of normalised pictures (B, 3, H, W), as layer: (B, C, H', W')."""
        return self.extractor(images)

    def bytes_for(self, height: int, width: int) -> int:
        """Return how many bytes of activations autograd keeps of one picture for the backward pass.

        Nothing is computed for it. Raises ValueError where the picture is too small for the layers.
        """
        weights = self._weights_without_memory()
        known = {value.untyped_storage()._cdata for value in weights.values()}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            activations = self._activations_without_memory(weights, height, width)
        if activations is None:
            side = next(side for side in itertools.count(2) if self._activations_without_memory(weights, side, side))
            raise ValueError(f"the layers of {self.network} need pictures of at least {side}×{side} pixels")
        return sum(size for storage, size in kept.items() if storage not in known)

    def _weights_without_memory(self) -> dict[str, Tensor]:
        """Give the weights on torch's meta device, where a tensor has a shape and no numbers."""
        return {name: torch.empty_like(value, device="meta") for name, value in self.extractor.named_parameters()}

    def _activations_without_memory(
        self, weights: dict[str, Tensor], height: int, width: int
    ) -> dict[str, Tensor] | None:
        """Give one picture's activations on the meta device; None where the picture is too small for the layers."""
        if min(height, width) < 2:  # one pixel has no neighbour
            return None
        dtype = next(iter(weights.values())).dtype
        picture = torch.empty(1, 3, height, width, dtype=dtype, device="meta", requires_grad=True)
        try:
            return functional_call(self.extractor, weights, (picture,))
        except RuntimeError:  # of a pooling or a convolution that would give no pixel at all
            return None


def _convolutions(network: str) -> nn.Sequential:
    """Give the network's `features` without memory, because a whole VGG would first initialise half a gigabyte."""
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
