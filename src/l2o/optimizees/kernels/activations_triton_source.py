"""Activations of a network's layers in Triton, and their derivatives; needs triton to be imported.

CHAIN.layers[N] is the layer, with the number of its activation, and with the slope and the scale that some have.
"""

import triton
import triton.language as tl

from l2o.native.triton_source import tanh
from l2o.optimizees.kernels.chain_links import Activation

RELU, SIGMOID, TANH, GELU, SILU, LEAKY_RELU, ELU = (tl.constexpr(int(kind)) for kind in Activation if kind)
HALF_ROOT, DENSITY = tl.constexpr(0.7071067811865476), tl.constexpr(0.3989422804014327)  # √½, 1/√2π


@triton.jit
def sigmoid(x):
    """1 / (1 + e^−x)."""
    return 1 / (1 + tl.exp(-x))


@triton.jit
def activated(z, CHAIN: tl.constexpr, N: tl.constexpr):
    """What the activation makes of z."""
    if CHAIN.layers[N].activation == RELU:
        return tl.where(z < 0, 0.0, z)
    if CHAIN.layers[N].activation == SIGMOID:
        return sigmoid(z)
    if CHAIN.layers[N].activation == TANH:
        return tanh(z)
    if CHAIN.layers[N].activation == GELU:
        return 0.5 * z * (1 + tl.erf(z * HALF_ROOT))
    if CHAIN.layers[N].activation == SILU:
        return z * sigmoid(z)
    if CHAIN.layers[N].activation == LEAKY_RELU:
        return tl.where(z < 0, CHAIN.layers[N].slope * z, z)
    if CHAIN.layers[N].activation == ELU:
        return CHAIN.layers[N].scale * tl.where(z < 0, CHAIN.layers[N].slope * (tl.exp(tl.where(z < 0, z, 0.0)) - 1), z)
    return z


@triton.jit
def slope_of(z, CHAIN: tl.constexpr, N: tl.constexpr):
    """The derivative of the activation at z."""
    if CHAIN.layers[N].activation == RELU:
        return tl.where(z > 0, 1.0, 0.0)
    if CHAIN.layers[N].activation == SIGMOID:
        s = sigmoid(z)
        return s * (1 - s)
    if CHAIN.layers[N].activation == TANH:
        t = tanh(z)
        return 1 - t * t
    if CHAIN.layers[N].activation == GELU:
        return 0.5 * (1 + tl.erf(z * HALF_ROOT)) + z * DENSITY * tl.exp(-0.5 * z * z)
    if CHAIN.layers[N].activation == SILU:
        s = sigmoid(z)
        return s * (1 + z * (1 - s))
    if CHAIN.layers[N].activation == LEAKY_RELU:
        return tl.where(z > 0, tl.zeros_like(z) + 1, CHAIN.layers[N].slope)
    if CHAIN.layers[N].activation == ELU:
        return CHAIN.layers[N].scale * tl.where(
            z > 0, tl.zeros_like(z) + 1, CHAIN.layers[N].slope * tl.exp(tl.where(z > 0, 0.0, z))
        )
    return tl.zeros_like(z) + 1
