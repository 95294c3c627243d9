"""Residual networks, transformers, mixers and recurrent networks, against torch's own modules where there are such.

Shapes: N examples of a minibatch, T positions, D width.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from l2o.optimizees import CharGRU, CharTransformer, Mixer, VisionTransformer, mlp, res_net
from l2o.optimizees.networks import image_autoencoder, image_mlp, plain_conv_net
from l2o.optimizees.networks.patches import Patches
from l2o.optimizees.networks.residual import ResidualBlock
from l2o.optimizees.networks.transformer import Block, SelfAttention

pytestmark = pytest.mark.usefixtures("float64")


def test_the_recurrent_network_is_torch_s_gru():
    ours, torchs = CharGRU(5, 3, letters=11), nn.GRU(3, 5, batch_first=True)
    for name, parameter in ours.cell.named_parameters():
        getattr(torchs, f"{name}_l0").data.copy_(parameter)
    x = torch.randint(11, (2, 7))
    assert_close(ours(x), ours.head(torchs(ours.embedding(x))[0]))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_torch_s(causal):
    ours, torchs = SelfAttention(6, 3, causal), nn.MultiheadAttention(6, 3, batch_first=True)
    torchs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(2, 5, 6)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    assert_close(ours(x), torchs(x, x, x, attn_mask=mask, need_weights=False)[0])


def test_a_block_is_torch_s_encoder_layer():
    ours = Block(6, 2, causal=False)
    torchs = nn.TransformerEncoderLayer(6, 2, 24, 0.0, F.gelu, batch_first=True, norm_first=True)
    parts = [*ours.attention.qkv.parameters(), *ours.attention.out.parameters()]
    parts += [*ours.up.parameters(), *ours.down.parameters(), *ours.norm_1.parameters(), *ours.norm_2.parameters()]
    for theirs, part in zip(torchs.parameters(), parts, strict=True):
        theirs.data.copy_(part)
    x = torch.randn(2, 5, 6)
    assert_close(ours(x), torchs(x))


@pytest.mark.parametrize("network", [CharGRU(5, 3), CharTransformer(8, 2, 2, 6)], ids=lambda one: type(one).__name__)
def test_a_model_of_characters_sees_no_later_letter(network):
    x = torch.randint(256, (2, 6))
    changed = x.clone()
    changed[:, 3] = (x[:, 3] + 1) % 256
    before, after = network(x), network(changed)
    assert before.shape == (2, 6, 256)
    assert_close(after[:, :3], before[:, :3], rtol=0, atol=0)
    assert (after[:, 3:] - before[:, 3:]).abs().amax((0, 2)).min() > 1e-6


def test_positions_matter_to_a_transformer():
    network = CharTransformer(8, 1, 2, 4)
    same = network(torch.full((1, 4), 7))[0]
    assert all(not torch.allclose(same[i], same[i + 1]) for i in range(3))


def test_patches_are_squares_row_by_row():
    x = torch.arange(16.0).reshape(1, 4, 4)
    expected = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert_close(Patches(4, 2, 1)(x)[0], torch.tensor(expected, dtype=torch.float64))
    colours = torch.randn(3, 4, 4, 2)
    cut = Patches(4, 2, 2)(colours)
    assert cut.shape == (3, 4, 8)
    assert_close(cut[:, 1], colours[:, :2, 2:].flatten(1))


@pytest.mark.parametrize("kind", [VisionTransformer, Mixer])
def test_image_networks_mix_all_squares(kind):
    """The logits' gradient reaches every pixel, and every parameter."""
    network = kind(4, 2, 3, width=4, layers=1, out_features=5, **({"heads": 2} if kind is VisionTransformer else {}))
    x = torch.randn(2, 4, 4, 3, requires_grad=True)
    logits = network(x)
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert (x.grad.abs() > 0).all()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def test_a_residual_block_adds_what_came_in():
    block = ResidualBlock(2, 2, 1)
    x = torch.randn(3, 2, 4, 4)
    inner = F.conv2d(normalised(F.conv2d(x, block.conv_1.weight, padding=1)).relu(), block.conv_2.weight, padding=1)
    assert_close(block(x), (normalised(inner) + x).relu())
    wider = ResidualBlock(2, 5, 2)
    assert wider(x).shape == (3, 5, 2, 2) and isinstance(wider.shortcut, nn.Conv2d)


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 8, 8, 1)])
def test_a_residual_network_takes_images_with_and_without_colours(shape):
    network = res_net(1, [4, 6, 8], 7)
    assert network(torch.randn(shape)).shape == (6, 7)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 7 and not any(norm.track_running_stats for norm in norms)


@pytest.mark.parametrize(("side", "channels"), [(8, [3]), (7, [3, 4]), (4, [2, 2, 2])])
def test_a_plain_convolutional_network_fits_every_side(side, channels):
    assert plain_conv_net(side, channels, 5, "tanh", 2)(torch.randn(3, side, side, 2)).shape == (3, 5)


def test_networks_of_images_are_mlps_of_their_size():
    shapes = lambda network: [tuple(parameter.shape) for parameter in network.parameters()]  # noqa: E731
    assert shapes(image_mlp(4, [5], 3, in_channels=2)) == shapes(mlp(32, [5], 3))
    assert shapes(image_autoencoder(4, [5, 2, 5])) == shapes(mlp(16, [5, 2, 5], 16))
    assert isinstance(image_mlp(4, [5])[2], nn.ReLU)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CharTransformer(6, 1, 4), "multiple of its heads, got 6 and 4"),
        (lambda: CharTransformer(4, 1, 2, 3)(torch.zeros(1, 4, dtype=torch.long)), "has 3 positions, got 4 letters"),
        (lambda: VisionTransformer(7, 2), "squares of 2×2 pixels cut no image of 7×7×1"),
        (lambda: Mixer(4, 2)(torch.zeros(1, 5, 5)), r"takes images of shape \(4, 4, 1\), got \(5, 5, 1\): set side"),
        (lambda: res_net(1, []), "at least one unit"),
        (lambda: res_net(0, [2]), "at least one unit"),
        (lambda: plain_conv_net(4, [0]), "at least one unit"),
        (lambda: plain_conv_net(4, [2], activation="step"), "activation must be one of .*, got 'step'"),
    ],
)
def test_what_fits_nothing_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
