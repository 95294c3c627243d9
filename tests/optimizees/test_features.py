"""Features of a network's layers, against torchvision's own modules."""

import copy
import pickle
import re

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.testing import assert_close

from l2o.optimizees.features import Features

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


PLACES = {
    "vgg16": {"conv1_1": 1, "conv1_2": 3, "conv2_1": 6, "conv4_2": 20, "conv5_1": 25, "conv5_3": 29},
    "vgg19": {"conv1_1": 1, "conv2_2": 8, "conv3_4": 17, "conv4_2": 22, "conv5_1": 29, "conv5_4": 35},
    "squeezenet1_1": {"conv1_1": 1, "fire2": 3, "fire4": 6, "fire6": 9, "fire9": 12},
}
COUNTS = {"vgg16": 13, "vgg19": 16, "squeezenet1_1": 9}


@pytest.mark.parametrize("network", PLACES)
def test_layers_are_named_as_in_the_papers_and_give_the_bits_of_the_layers_in_turn(network):
    """A VGG layer is the ReLU behind the convolution of that name. Every convolution has its name."""
    places = PLACES[network]
    features = Features(network, None, places, seed=3)
    layers = torchvision.models.get_model(network).features.eval()
    missing = layers.load_state_dict(features.extractor.state_dict(), strict=False).missing_keys
    beyond = {f"{index}." for index in range(max(places.values()) + 1, len(layers))}
    assert all(key.startswith(tuple(beyond)) for key in missing), "nothing up to the last layer is left out"
    x = images = torch.randn(2, 3, 40, 36)
    found, kept = features(images), images.clone()
    with torch.no_grad():
        for index, layer in enumerate(layers):
            x = layer(x.clone())  # a ReLU overwrites what it is given
            for name in (name for name, place in places.items() if place == index):
                assert torch.equal(found[name], x), name
    assert found.keys() == places.keys() and torch.equal(images, kept)
    with pytest.raises(ValueError, match="choose among") as error:
        Features(network, None, ["nothing"])
    assert len(str(error.value).split("among ")[1].split(", ")) == COUNTS[network]


def test_features_are_copied_and_sent_to_other_processes():
    """Lightning's launchers pickle the whole learner."""
    features, images = Features("squeezenet1_1", None, LAYERS), torch.randn(1, 3, 33, 33)
    expected = features(images)
    for other in (copy.deepcopy(features), pickle.loads(pickle.dumps(features)), features.train()):
        assert all(torch.equal(other(images)[name], expected[name]) for name in LAYERS)


def test_activations_take_the_bytes_that_autograd_keeps():
    features, images = Features("squeezenet1_1", None, ["fire3"]), torch.randn(1, 3, 65, 50, requires_grad=True)
    kept = {}

    def note(tensor):
        if not any(tensor.data_ptr() == parameter.data_ptr() for parameter in features.parameters()):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = features(images)
    assert features.bytes_for(65, 50) == sum(kept.values()) > 4 * found["fire3"].numel()
    assert features.bytes_for(260, 200) == pytest.approx(16 * features.bytes_for(65, 50), rel=0.1)


SMALLEST = [("squeezenet1_1", "fire4", 9), ("squeezenet1_1", "fire3", 5), ("vgg19", "conv4_2", 8)]


@pytest.mark.parametrize(("network", "layer", "side"), SMALLEST)
def test_the_smallest_picture_is_named_and_taken(network, layer, side):
    features = Features(network, None, [layer])
    for height, width in ((side - 1, 99), (99, side - 1)):
        with pytest.raises(ValueError, match=f"the layers of {network} need pictures of at least {side}×{side} pixels"):
            features.bytes_for(height, width)
        with pytest.raises(RuntimeError):
            features(torch.zeros(1, 3, height, width))
    assert features.bytes_for(side, 99) > 0
    assert features(torch.zeros(1, 3, side, 99))[layer].numel() > 0


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
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "noise.safetensors").write_bytes(bytes(range(200)))
    (tmp_path / "folder.pth").mkdir()
    damaged = "damaged or no state dict"
    says = {"other": "holds no weights of squeezenet1_1", "text": "holds no weights of", "list": "no state dict"}
    says |= {"pickled": damaged, "damaged": damaged, "page": damaged, "empty": damaged, "noise.safetensors": damaged}
    says |= {"missing": "no weights at", "folder": "no weights at", "pointer": "a pointer of Git LFS and no weights"}
    for name, line in says.items():
        path = tmp_path / (name if "." in name else f"{name}.pth")
        with pytest.raises(ValueError, match=line) as error:
            Features("squeezenet1_1", str(path), LAYERS)
        message = str(error.value)
        assert "\n" not in message and "\x1b" not in message and "weights_only" not in message


def test_weights_are_found_in_the_home_folder_in_safetensors_and_without_a_suffix(tmp_path, monkeypatch, squeezenet):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(squeezenet.state_dict(), tmp_path / "a.safetensors")
    torch.save(squeezenet.state_dict(), tmp_path / "plain")
    images = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        expected = squeezenet.features[:4](images)
    for place in ("~/a.safetensors", "~/plain"):
        assert torch.equal(Features("squeezenet1_1", place, ["fire2"])(images)["fire2"], expected)


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
