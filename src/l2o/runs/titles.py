"""A problem in words, as the title of its figures: 'MLP 784–20–10 (sigmoid) on MNIST'."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from l2o.runs.problem import compared_optimizee

Node = Mapping[str, Any]

NETWORKS = {
    "mlp": "MLP",
    "conv_net": "ConvNet",
    "res_net": "residual network",
    "image_mlp": "MLP",
    "image_autoencoder": "autoencoder",
    "Mixer": "MLP-Mixer",
    "VisionTransformer": "vision transformer",
    "CharGRU": "GRU",
    "CharTransformer": "transformer",
}
"""Networks by the function or class that makes them."""

DATASETS = {"mnist": "MNIST", "fashionmnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
"""Data by torchvision's name for them, or that of their file, in small letters."""


def title_of(cfg: DictConfig) -> str:
    """Return the problem of a run's comparison in words; the run's name where the words are not known."""
    return in_words(OmegaConf.to_container(compared_optimizee(cfg), resolve=True)) or str(cfg.name)


def in_words(optimizee: Any) -> str:
    """Return an optimizee's configuration in words, empty where it says nothing.

    The kinds of this package are described with what matters of them; any other, as a user's own, has the name of its
    `_target_`.
    """
    if not isinstance(optimizee, Mapping) or not optimizee.get("_target_"):
        return ""
    kind = _called(optimizee)
    if kind in SENTENCES:
        return SENTENCES[kind](optimizee)
    data = _data(optimizee.get("dataset"))
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", kind)
    return (words[:1].upper() + words[1:].lower() if words else "") + (f" on {data}" if data else "")


def _classifier(optimizee: Node) -> str:
    network, data = _network(optimizee.get("network")), _data(optimizee.get("dataset"))
    return f"{network or 'Classifier'}{f' on {data}' if data else ''}"


def _quadratic(optimizee: Node) -> str:
    noisy = "Noisy" if _called(optimizee).startswith("Noisy") else "Random"
    return f"{noisy} quadratics in {optimizee['dim']} dimensions" if "dim" in optimizee else f"{noisy} quadratics"


def _language_model(optimizee: Node) -> str:
    network = _network(optimizee.get("network"))
    return f"{network or 'Language model'}, next letter of a text"


def _neural_art(optimizee: Node) -> str:
    size = optimizee.get("size")
    sides = [size, size] if isinstance(size, int) else size if isinstance(size, list) else []
    return f"Neural art, {'×'.join(map(str, sides))} pictures" if sides else "Neural art"


def _regression(name: str, size: str) -> Callable[[Node], str]:
    def sentence(optimizee: Node) -> str:
        known = [f"{optimizee[size]} coordinates"] if size in optimizee else []
        if isinstance(condition := optimizee.get("condition"), int | float):
            known.append(f"condition {condition:g}")
        return ", ".join([name, *known])

    return sentence


SENTENCES: dict[str, Callable[[Node], str]] = {
    "Classifier": _classifier,
    "Autoencoder": _classifier,
    "Quadratic": _quadratic,
    "NoisyQuadratic": _quadratic,
    "LanguageModel": _language_model,
    "NeuralArt": _neural_art,
    "LeastSquares": _regression("Least squares", "dim"),
    "LogisticRegression": _regression("Logistic regression", "dim"),
}
"""How the optimizees of this package are described, by their classes."""


def _network(network: Any) -> str:
    """Return a network with the sizes of its layers and its activation, as far as they are given."""
    if not isinstance(network, Mapping) or not network.get("_target_"):
        return "" if network is None else str(network)
    kind = _called(network)
    words = NETWORKS.get(kind, kind)
    hidden = network.get("hidden")
    sizes = [*(network.get("channels") or [])] if kind == "conv_net" else [network.get("in_features")]
    sizes += [*(hidden if isinstance(hidden, Sequence) else []), network.get("out_features")]
    shown = "–".join(str(size) for size in sizes if isinstance(size, int))
    if kind in ("mlp", "image_mlp", "conv_net") and isinstance(hidden, Sequence) and shown:
        words += f" {shown}"
    activation = network.get("activation")
    words += f" ({activation.replace('relu', 'ReLU')})" if isinstance(activation, str) else ""
    return words[:1].upper() + words[1:]


def _data(dataset: Any) -> str:
    """Return the name of a data set, that of its file for one on disk, and how many of its labels are used."""
    if not isinstance(dataset, Mapping) or not dataset.get("_target_"):
        return ""
    path, given = dataset.get("path"), dataset.get("name")
    name = Path(str(path)).stem if path else str(given) if given else _called(dataset)
    words = DATASETS.get(re.sub(r"[^a-z0-9]", "", name.lower()), name)
    labels = dataset.get("labels")
    return f"{len(labels)} labels of {words}" if isinstance(labels, Sequence) and not isinstance(labels, str) else words


def _called(node: Node) -> str:
    return str(node["_target_"]).rpartition(".")[2]
