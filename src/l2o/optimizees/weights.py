"""Weights of torchvision's networks: from a file, or downloaded."""

import pickle
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from l2o.data.reasons import reason

LFS_POINTER = b"version https://git-lfs"

REMEDY = "save one with torch.save(model.state_dict(), …)"


def load(convolutions: nn.Module, network: str, weights: str) -> None:
    """Load weights into a network's `features`: those of a state dict's file, or torchvision's of that name.

    The state dict may be of the features alone or of the whole network. Raises ValueError for a file that is missing,
    is no state dict or is one of another network, and for a name that is unknown or cannot be downloaded.
    """
    names = torchvision.models.get_model_weights(network).__members__
    path = Path(weights).expanduser()
    looks_like_file = path.suffix or len(path.parts) > 1 or path.exists()
    state = _read(path) if weights not in names and looks_like_file else _download(network, weights)
    if any(key.startswith("features.") for key in state):  # of the whole network
        state = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    try:
        convolutions.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"'{weights}' holds no weights of {network}'s features: save torchvision.models.{network}().state_dict()"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(
            f"no weights at '{path}': give a state dict's .pth, IMAGENET1K_V1 (downloaded), or null for random features"
        )
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"'{path}' is a pointer of Git LFS and no weights: run `git lfs pull` where it came from")
    try:
        state = _state_of(path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"'{path}' is damaged or no state dict (a whole model, say, which is not loaded): {REMEDY}"
        ) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise ValueError(f"'{path}' is damaged or no state dict: {REMEDY}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"'{path}' is no state dict: {REMEDY}")
    return state


def _state_of(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


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
            f"{network}'s weights could not be downloaded ({reason(error)}): "
            "give a state dict's .pth, or null for random features"
        ) from error
