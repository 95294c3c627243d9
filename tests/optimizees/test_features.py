"""Features of a network's layers, against torchvision's own modules."""

import re

import pytest
import torch
import torchvision
from torch.testing import assert_close

from l2o.optimizees.features import Features, _convolutions, _layer_index

LAYERS = ["conv1_1", "fire2", "fire5"]


@pytest.fixture(scope="module")
def squeezenet():
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1().eval()


@pytest.mark.parametrize("part", ["features", "whole network"])
def test_activations_are_those_of_torchvisions_network(tmp_path, squeezenet, part):
    """The layers' places, from a file of the features alone or of the whole network."""
    state = (squeezenet.features if part == "features" else squeezenet).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    images = torch.randn(2, 3, 33, 33)
    found = Features("squeezenet1_1", str(tmp_path / "weights.pth"), LAYERS)(images)
    with torch.no_grad():
        expected = {
            name: squeezenet.features[: index + 1](images) for name, index in zip(LAYERS, (1, 3, 7), strict=True)
        }
    assert found.keys() == expected.keys()
    for name in LAYERS:
        assert_close(found[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("network", "places"),
    [
        ("vgg16", {"conv1_1": 1, "conv1_2": 3, "conv2_1": 6, "conv4_2": 20, "conv5_1": 25, "conv5_3": 29}),
        ("vgg19", {"conv1_1": 1, "conv2_2": 8, "conv3_4": 17, "conv4_2": 22, "conv5_1": 29, "conv5_4": 35}),
        ("squeezenet1_1", {"conv1_1": 1, "fire2": 3, "fire4": 6, "fire6": 9, "fire9": 12}),
    ],
)
def test_layers_are_named_as_in_the_papers(network, places):
    """A VGG layer is the ReLU behind the convolution of that name."""
    index = _layer_index(_convolutions(network))
    assert {name: index[name] for name in places} == places
    assert len(index) == {"vgg16": 13, "vgg19": 16, "squeezenet1_1": 9}[network]


def test_random_features_are_always_the_same_and_keep_activations_of_order_one():
    images = torch.randn(4, 3, 64, 64)
    first = Features("squeezenet1_1", None, LAYERS)(images)
    before = torch.get_rng_state()
    again, other = (Features("squeezenet1_1", None, LAYERS, seed=seed)(images) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    for name in LAYERS:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert 0.1 < first[name].square().mean() < 10


def test_nothing_is_trained_and_nothing_beyond_the_last_layer_is_kept():
    features = Features("squeezenet1_1", None, ["fire2"])
    assert not any(parameter.requires_grad for parameter in features.parameters())
    assert sum(parameter.numel() for parameter in features.parameters()) == 64 * 3 * 9 + 64 + 11_408


def test_bad_weights_are_refused_in_one_line(tmp_path, squeezenet):
    torch.save(torchvision.models.squeezenet1_0().state_dict(), tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"0.weight": "text"}, tmp_path / "text.pth")
    torch.save(squeezenet, tmp_path / "pickled.pth")
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:5000])
    says = {"other": "holds no weights of squeezenet1_1", "text": "holds no weights of", "list": "no state dict"}
    says |= {"pickled": "damaged or no state dict", "damaged": "damaged or no state dict", "missing": "no weights at"}
    for name, line in says.items():
        with pytest.raises(ValueError, match=line) as error:
            Features("squeezenet1_1", str(tmp_path / f"{name}.pth"), LAYERS)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("network", "weights", "layers", "says"),
    [
        ("squeezenet1_1", None, ["fire10"], "no layer fire10: choose among conv1_1, fire2"),
        ("squeezenet1_1", None, [], "no layer"),
        ("vgg16", None, ["conv1_3"], "no layer conv1_3"),
        ("resnet18", None, ["conv1_1"], "choose vgg16, vgg19 or squeezenet1_1"),
        ("nothing", None, ["conv1_1"], "choose vgg16, vgg19 or squeezenet1_1"),
        ("squeezenet1_1", "IMAGENET1K_V9", ["fire2"], "give IMAGENET1K_V1, DEFAULT or a state dict's .pth"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(network, weights, layers, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        Features(network, weights, layers)


def test_a_download_that_fails_names_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match="could not be downloaded \\(no route to host\\): give a state dict"):
        Features("squeezenet1_1", "IMAGENET1K_V1", ["fire2"])
